"""One label for each picture."""

from __future__ import annotations

from .text_classification import TextClassification


class ImageClassification(TextClassification):
    """Cross-entropy over `classes` labels, as for texts; ``learning.pictures`` reads the records."""
