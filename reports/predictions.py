"""Texts in, predictions out, for `umbel predict`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..learning.predict import Prediction, Predictor


_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


def read_texts(texts: list[str], file: Path | None, column: str = "text") -> list[str]:
    """Texts of the command line, then those of a file: a column of a table, else its lines.

    A blank one keeps its place, so that answers can be put beside what was asked.
    """
    if file is not None and (file.suffix.lower() in _TABLES or file.is_dir()):
        from ..learning.tables import read_table

        texts = [*texts, *(text or "" for text in read_table(file, column).columns[column])]
    elif file is not None:
        from ..learning.encoding import check_utf8
        from ..learning.signatures import refuse_other_kinds

        try:
            refuse_other_kinds(file)
            check_utf8(file)
            texts = [*texts, *file.read_text(encoding="utf-8-sig").splitlines()]
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror}.") from None
    if not any(text.strip() for text in texts):
        raise DataError(
            'There is no text to try. Give some: umbel predict RUN "..." or --file FILE'
        )
    return texts


def predictions(predictor: Predictor, texts: list[str], tokens: int) -> Iterator[Prediction]:
    """One for each text, in order; of a blank one nothing is said."""
    from ..learning.data import clean_text
    from ..learning.predict import Prediction

    found = predictor.predict([text for text in texts if clean_text(text)], tokens)
    for text in texts:
        yield next(found) if clean_text(text) else Prediction(text, {})


def prediction_line(prediction: Prediction, as_json: bool) -> str:
    """One line a prediction: label and probability, or the text with its continuation."""
    if as_json:
        return json.dumps(asdict(prediction), ensure_ascii=False)
    if prediction.continuation is not None:
        return prediction.text + prediction.continuation
    if not prediction.probabilities:
        return "-  (no text)"
    label, probability = next(iter(prediction.probabilities.items()))
    return f"{label}  {probability:.3f}  {prediction.text}"
