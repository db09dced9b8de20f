"""Texts in, predictions out, for `umbel predict`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError

if TYPE_CHECKING:
    from ..learning.predict import Prediction


def read_texts(texts: list[str], file: Path | None) -> list[str]:
    """Texts of the command line, then the lines of a file; blank lines are left out."""
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file} cannot be read as UTF-8 text: {error}") from None
        texts = [*texts, *lines]
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise DataError(
            'There is no text to try. Give some: umbel predict RUN "..." or --file FILE'
        )
    return texts


def prediction_line(prediction: Prediction, as_json: bool) -> str:
    """One line a prediction: label and probability, or the text with its continuation."""
    if as_json:
        return json.dumps(asdict(prediction), ensure_ascii=False)
    if prediction.continuation is not None:
        return prediction.text + prediction.continuation
    label, probability = next(iter(prediction.probabilities.items()))
    return f"{label}  {probability:.3f}  {prediction.text}"
