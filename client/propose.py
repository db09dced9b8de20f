"""What an owner could declare of a file: looked up in it, for the owner to confirm or to change."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from ..learning.labels import alike_said, class_reader
from ..learning.reading.columns import check_columns
from ..learning.reading.conll import CONLL
from ..learning.reading.dialogues import COLUMNS
from ..learning.reading.header import column_names
from ..learning.reading.layout import USUAL, Layout
from ..learning.reading.names import alike, clean_text, label_name, sort_names
from ..learning.reading.packing import ending
from ..learning.reading.picture_files import IMAGE, holds_pictures
from ..learning.reading.picture_limits import LARGEST_PICTURE
from ..learning.reading.signatures import refuse_other_kinds
from ..learning.reading.tables import find_layout, read_table, splits_of
from .held_spans import held_spans
from .settings import DataSettings

if TYPE_CHECKING:
    from rich.table import Table

_MOST_CLASSES = 50
"""A column with more different values holds ids or scores, unless its classes are named."""


@dataclass(frozen=True)
class Proposal:
    """A declaration, and what its owner should see of the file before it stands."""

    declared: DataSettings
    columns: tuple[str, ...]
    records: int
    classes: dict[str, int]
    """Records of each value of the label column, also of those that are not declared."""
    left_out: dict[str, int]
    """Records that no job would get, by reason; a record may have two reasons."""

    def table(self) -> Table:
        """For the owner's eyes: nothing of it leaves this machine but what is declared."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        declared = self.declared
        table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False, padding=(0, 1))
        table.add_column("Declaration")
        table.add_column("", overflow="fold")
        labels = ", ".join(
            f"{label} ({self.classes.get(label_name(label), 0):,})"
            for label in declared.labels or ()
        )
        rows = {
            "file": f"{declared.path} ({self.records:,} records)",
            "written as": "usual" if declared.layout == USUAL else str(declared.layout),
            "left out": ", ".join(f"{n:,} ({why})" for why, n in self.left_out.items() if n)
            or "none of them",
            "its columns": ", ".join(self.columns),
            "reads": declared.reads
            + (f" of at most {declared.largest:,} pixels" if declared.reads == "pictures" else ""),
            "text_column": declared.text_column,
            **({"answer_column": declared.answer_column} if declared.answer_column else {}),
            "label_column": declared.label_column
            or "none: no job may learn classes (to name one: --label-column)",
            "labels": labels or "none",
            "group_column": declared.group_column or "none: each record counts by itself",
            "unit": declared.unit,
            "training_share": f"{declared.share:g}",
            "held out": declared.test_path or ("the rest" if declared.holds_out else "nothing"),
            "smallest_size": f"{declared.smallest_size:,}" if declared.smallest_size > 1 else "any",
        }
        for name, value in rows.items():
            table.add_row(Text(name), Text(value))
        return table


def propose(data: Path, test_data: Path | None = None, **given: Any) -> Proposal:
    """Fill in what `given` (keys of ``DataSettings``) leaves out, from the file.

    Raises ``DataError`` if the file cannot be read, has no such column, or does not say what its
    classes are.
    """
    given = {key: value for key, value in given.items() if value not in (None, [])}
    for file in filter(None, (data, test_data)):
        if not file.exists():
            raise DataError(f"There is no data file {file}. Check the path.")
        # An agent leaves out what it cannot read, in silence: so its owner is told now.
        refuse_other_kinds(file)
    reads = given.setdefault("reads", _reads(data))
    pictures, dialogues, spans = (reads == one for one in ("pictures", "dialogues", "spans"))
    layout = _layout([data, *([test_data] if test_data else [])], given)
    written = {"encoding": layout.encoding, "quoting": layout.quoting}
    given |= {key: value for key, value in written.items() if value is not None}
    if (
        test_data is None
        and "training_share" not in given
        and "test" in (splits_of(data, pictures) or ())
    ):
        test_data = data  # a saved dataset with a split for tests: they are read from there
    of_records = [
        given[key] for key in ("text_column", "answer_column", "label_column") if key in given
    ]
    columns_of = partial(column_names, layout=layout, pictures=pictures, nested=dialogues or spans)
    for file in filter(None, (data, test_data)):
        check_columns(str(file), of_records, columns_of(file, wanted=of_records))
    wanted = [*of_records, *([given["group_column"]] if "group_column" in given else [])]
    columns = columns_of(data, wanted=wanted)
    check_columns(str(data), wanted, columns)
    label = given.get("label_column") or (None if dialogues else _called("label", columns))
    find = {"pictures": _picture_column, "dialogues": _dialogue_column}.get(reads, _text_column)
    text = given.get("text_column") or find(data, [c for c in columns if c != label], layout)
    if label is None and "labels" in given:
        raise DataError(f"{data} has no column 'label'. Name the column that holds the class.")
    others = [label] if label else []
    largest = given.get("largest_picture", LARGEST_PICTURE)
    found = read_table(
        data,
        text,
        others,
        lenient=True,
        layout=layout,
        pictures=pictures,
        largest=largest,
        dialogues=dialogues,
        answers=given.get("answer_column"),
        spans=spans,
    )
    if not len(found):
        raise DataError(
            f"{data} has no rows to train on. Name the file that holds the records, or the folder: those "
            "within one that is called test or val are for tests."
        )
    paths = {"path": str(data.resolve())}
    if test_data is not None:
        paths["test_path"] = str(test_data.resolve())
    if spans and label:
        held = held_spans(found, text, label, given.get("labels", []), given.get("spellings", {}))
        labels = given.get("labels") or sort_names(held.labels)
        columns_ = {"text_column": text, "label_column": label, "labels": labels}
        declared = DataSettings.build(
            {**given, **paths, **columns_}, "What is declared of the data"
        )
        return Proposal(declared, tuple(columns), len(found), held.labels, held.left_out(labels))
    names = [label_name(value or "") for value in found.columns[label]] if label else []
    classes = dict(Counter(name for name in names if name))
    if label and "labels" not in given:
        given["labels"] = _classes(data, label, classes)
    domain = {label_name(one) for one in given.get("labels", [])}
    read = class_reader(given.get("labels", []), given.get("spellings", {}))
    left_out = {
        f"no picture of at most {largest:,} pixels"
        if pictures
        else "no dialogue that ends with an answer"
        if dialogues
        else "empty or unreadable text": sum(not clean_text(t) for t in found.columns[text]),
        "no class": sum(not name for name in names),
        "another class": sum(bool(name) and read(name) not in domain for name in names),
    }
    values_ = {**given, **paths, "text_column": text, "label_column": label}
    declared = DataSettings.build(values_, "What is declared of the data")
    return Proposal(declared, tuple(columns), len(found), classes, left_out)


def _layout(files: list[Path], given: dict[str, Any]) -> Layout:
    """How all of the files are written: what is given, or what is found in one and fits the others."""
    said = Layout(given.get("encoding"), given.get("quoting"), given.get("sheet"))
    found = [find_layout(file, said) for file in files]
    unusual = [layout for layout in found if layout != USUAL] or found
    for file in files:
        if find_layout(file, unusual[0]) != unusual[0] and file.is_file():
            raise DataError(
                f"{files[0]} and {files[-1]} are written differently: "
                f"{', and '.join(map(str, found))}. Save both in the same way, preferably as UTF-8."
            )
    return unusual[0]


def _text_column(data: Path, columns: list[str], layout: Layout) -> str:
    """The column called "text", in any case, or the one with the longest values."""
    named = _called("text", columns)
    if named is not None:
        return named

    found = read_table(data, None, [], columns, lenient=True, layout=layout).columns
    return max(columns, key=lambda name: sum(len(value or "") for value in found.get(name, [])))


def _reads(data: Path) -> str:
    """What a file or a folder holds; a table holds texts unless its owner says otherwise."""
    if holds_pictures(data):
        return "pictures"
    return "spans" if ending(data) in CONLL else "texts"


def _picture_column(data: Path, columns: list[str], layout: Layout) -> str:
    named = _called(IMAGE, columns) or _called("text", columns)
    if named is None:
        raise DataError(
            f"{data} has no column {IMAGE!r}. Name the column of the pictures, or of the paths of "
            "their files: --text-column."
        )
    return named


def _dialogue_column(data: Path, columns: list[str], layout: Layout) -> str:
    named = next(filter(None, (_called(name, columns) for name in COLUMNS)), None)
    if named is None:
        raise DataError(
            f"{data} has no column {COLUMNS[0]!r}. Name the column of the lists of messages "
            "(--text-column), or of the questions, and that of their answers (--answer-column)."
        )
    return named


def _called(name: str, columns: list[str]) -> str | None:
    """The column of that name, else the only one that has it but for case and blanks."""
    if name in columns:
        return name
    alike = [column for column in columns if column.strip().casefold() == name]
    return alike[0] if len(alike) == 1 else None


def _classes(data: Path, column: str, found: dict[str, int]) -> list[str]:
    if not 2 <= len(found) <= _MOST_CLASSES:
        values = {0: "no value at all", 1: f"one value only ({next(iter(found), '')!r:.60})"}
        many = values.get(len(found), f"{len(found)} different values")
        raise DataError(
            f"{data}: column {column!r} has {many}, so they cannot be used as the classes. Name "
            "each class that jobs may learn with --label, or another column with --label-column."
        )
    if pairs := alike(found):
        said = alike_said(pairs, "with --label")
        raise DataError(f"{data}: column {column!r} has the values {said}")
    return sort_names(found)
