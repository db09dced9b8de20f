"""Texts in, predictions out, for `umbel predict`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError

if TYPE_CHECKING:
    from ..learning.predict import Prediction, Predictor
    from ..learning.reading.layout import Layout
    from ..learning.tasks.task import FoundSpan

_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class Asked:
    """A text to try, where it stands in a file, and why it cannot be read, if so."""

    text: str
    place: str = ""
    fault: str = ""
    shown: str | None = None
    """What stands for it in an answer, if that is not the text itself: the file of a picture, or the last
    message of a dialogue."""


@dataclass(frozen=True)
class Texts:
    """All that is asked, in order, and how the file was read: phrases for a person."""

    asked: list[Asked]
    notes: tuple[str, ...] = ()


def read_texts(
    texts: list[str], file: Path | None, column: str, layout: Layout, reads: str = "texts"
) -> Texts:
    """Texts of the command line, then those of a file: a column of a table, else its lines.

    A blank or unreadable one keeps its place, so that answers can be put beside what was asked.

    reads: what the model of the run reads (``TaskSpec.reads``). In place of a picture stands its path.
    """
    found = Texts([_opening(text) if reads == "dialogues" else Asked(text) for text in texts])
    if file is not None and reads == "pictures":
        found = Texts(found.asked + _of_pictures(file, column, layout))
    elif file is not None and reads == "dialogues":
        found = Texts(found.asked + _of_dialogues(file, column, layout))
    elif file is not None:
        read = (
            _of_table(file, column, layout, lists=reads == "spans")
            if _is_table(file)
            else _of_lines(file, layout)
        )
        found = Texts(found.asked + read.asked, read.notes)
    unreadable = [one for one in found.asked if one.fault]
    if unreadable and not any(one.text.strip() for one in found.asked):
        first = unreadable[0]
        if file is None:
            raise DataError(first.fault)
        raise DataError(
            f"{file}: no {reads.removesuffix('s')} of it can be read. The first is {first.place}: "
            f"{first.fault}"
        )
    if not any(one.text.strip() or one.fault for one in found.asked):
        if file is not None:
            raise DataError(f"{file} holds no {reads.removesuffix('s')} to answer.")
        raise DataError(
            'There is no text to classify or continue. Give one: umbel predict RUN "..." or --file FILE'
            if reads != "pictures"
            else "There is no picture to classify. Give one: umbel predict RUN PICTURE or --file FOLDER"
        )
    return found


def _is_table(file: Path) -> bool:
    from ..learning.reading.packing import ending
    from ..learning.reading.tables import TABLES

    return file.is_dir() or (file.exists() and ending(file) in TABLES)


def _of_table(file: Path, column: str, layout: Layout, *, lists: bool) -> Texts:
    from ..learning.reading.tables import read_table

    table = read_table(file, column, every=True, layout=layout, lists=lists)
    asked = [
        Asked(text or "", f"{table.unit} {number}", table.faults.get(row, ""))
        for row, (number, text) in enumerate(zip(table.numbers, table.columns[column], strict=True))
    ]
    return Texts(asked, table.notes)


def _of_dialogues(file: Path, column: str, layout: Layout) -> list[Asked]:
    """Of one dialogue, a list of messages in a .json file; else of each cell of a table, or of each line."""
    if (one := _dialogue_of(file, column, layout)) is not None:
        return [replace(_opening(json.dumps(one, ensure_ascii=False)), place=file.name)]
    if not _is_table(file):
        return [_opening(one.text, one) for one in _of_lines(file, layout).asked]
    from ..learning.reading.tables import read_table

    table = read_table(file, column, every=True, layout=layout, lists=True)
    return [
        _opening(text or "", Asked("", f"{table.unit} {number}", table.faults.get(row, "")))
        for row, (number, text) in enumerate(zip(table.numbers, table.columns[column], strict=True))
    ]


def _dialogue_of(file: Path, column: str, layout: Layout) -> list[dict[str, Any]] | None:
    """The messages of a .json file that is one dialogue; None for anything else, which is read as a table."""
    if file.suffix != ".json" or not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding=layout.encoding or "utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None  # such as lines of JSON, or what a table's reader explains
    if isinstance(found, dict):
        found = found.get(column)
    if not isinstance(found, list) or not found:
        return None
    whole = all(isinstance(one, dict) and ("role" in one or "from" in one) for one in found)
    return found if whole else None


def _opening(text: str, known: Asked | None = None) -> Asked:
    """A dialogue that waits for an answer, or why it cannot be answered."""
    from ..learning.reading.dialogues import messages_of, opening

    asked = replace(known or Asked(""), text=text)
    if asked.fault:
        return asked
    try:
        record = opening(text)
    except DataError as error:
        return replace(asked, text="", fault=str(error))
    return replace(asked, shown=messages_of(record)[-1].content) if record else asked


def _of_pictures(file: Path, column: str, layout: Layout) -> list[Asked]:
    """Paths of the pictures in a folder, or of those that a table names; of an archive the pictures."""
    from ..learning.reading.picture_files import FILE, PictureFolder, holds_pictures, is_picture
    from ..learning.reading.tables import read_table

    if is_picture(file.name):
        return [Asked(str(file))]
    if file.is_dir() and holds_pictures(file):
        return [Asked(str(file / name)) for name in PictureFolder(file).names]
    table = read_table(file, column, every=True, layout=layout, pictures=True)
    names = table.columns.get(FILE) or [""] * len(table)
    return [
        Asked(
            picture or "",
            place := f"{table.unit} {number}",
            table.faults.get(row, ""),
            name or place,
        )
        for row, (number, picture, name) in enumerate(
            zip(table.numbers, table.columns[column], names, strict=True)
        )
    ]


def _of_lines(file: Path, layout: Layout) -> Texts:
    from ..learning.reading.encoding import find_encoding, is_text, text_of
    from ..learning.reading.sheet import refuse_sheet
    from ..learning.reading.signatures import refuse_other_kinds

    try:
        refuse_other_kinds(file)
        refuse_sheet(file, layout)
        encoding = find_encoding(file, layout.encoding)
        with text_of(file, encoding.codec) as content:
            lines = _LINE_END.split(content.read())
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from None
    if not lines[-1]:
        lines.pop()
    fault = "it holds bytes that are not of the file's encoding."
    asked = [
        Asked(line, f"line {number}", "" if is_text(line) else fault)
        for number, line in enumerate(lines, start=1)
    ]
    return Texts(asked, (encoding.said,) if encoding.said else ())


def predictions(
    predictor: Predictor, asked: list[Asked], tokens: int
) -> Iterator[tuple[Asked, Prediction | None]]:
    """One for each that is asked, in order; None for a text that is blank or unreadable, or has no token."""
    from ..learning.reading.names import clean_text

    readable = [not one.fault and bool(clean_text(one.text)) for one in asked]
    texts = [one.text for one, can in zip(asked, readable, strict=True) if can]
    found = predictor.predict(texts, tokens)
    for one, can in zip(asked, readable, strict=True):
        answer = next(found) if can else None
        yield one, answer if answer and answer.said else None


def prediction_line(asked: Asked, prediction: Prediction | None, as_json: bool) -> str:
    """Label and probability or numbers by name, one line per text; or the text with its continuation."""
    if as_json:
        values: dict[str, Any] = {
            "text": asked.text,
            "probabilities": {},
            "continuation": None,
            "values": {},
        }
        if prediction is not None:
            values = asdict(prediction)
            if prediction.spans is None:
                del values["spans"]
            else:
                values["spans"] = [one._asdict() for one in prediction.spans]
        if asked.shown is not None and values["continuation"] is None:
            values["text"] = asked.shown
        if asked.place:
            values["place"] = asked.place
        if prediction is None:
            values["no_answer"] = asked.fault or "no text"
        return json.dumps(values, ensure_ascii=False)
    if prediction is None:
        place = f"{asked.place}: " if asked.place else ""
        return f"-  ({place}{asked.fault})" if asked.fault else "-  (no text)"
    if prediction.continuation is not None and asked.shown is not None:
        return f"{asked.shown}\n{prediction.continuation.strip()}"
    if prediction.continuation is not None:
        return prediction.text + prediction.continuation
    if prediction.spans is not None:
        return f"{_spans(prediction.spans)}  {_one_line(prediction.text)}"
    if prediction.values:
        found = "  ".join(f"{name} {value:g}" for name, value in prediction.values.items())
        return f"{found}  {_one_line(prediction.text)}"
    label, probability = next(iter(prediction.probabilities.items()))
    said = prediction.text if asked.shown is None else asked.shown
    return f"{label}  {probability:.3f}  {_one_line(said)}"


def _spans(spans: tuple[FoundSpan, ...]) -> str:
    return ", ".join(f"{s.label} {s.start}-{s.end} {_one_line(s.text)}" for s in spans) or "no span"


def _one_line(text: str) -> str:
    """A text without its line ends, so that as many lines are printed as texts were asked."""
    return " ".join(text.split())
