"""One row on its way from a table into the corpus."""

from __future__ import annotations

from collections.abc import Callable

from ..job import DataSpec
from .reading.cells import whole
from .reading.names import clean_text, label_name
from .reading.table import Table
from .spans import marked_from


class Row:
    """One row on its way from a table into the corpus."""

    __slots__ = ("client", "group", "held_out", "label", "row", "spelled", "table", "text")

    def __init__(self, table: Table, row: int, held_out: bool) -> None:
        self.table, self.row, self.held_out = table, row, held_out
        self.text = self.label = self.spelled = self.group = self.client = ""

    def value(self, column: str) -> str | None:
        values = self.table.columns.get(column)
        return None if values is None else values[self.row]

    @property
    def place(self) -> str:
        return self.table.place(self.row)


def fill(
    row: Row,
    spec: DataSpec,
    label_column: str | None,
    client_column: str | None,
    read: Callable[[str], str],
    *,
    spans: bool = False,
) -> None:
    """Clean what the row holds; it may fail only in a way that no other row has to do with.

    read: what the label that stands there (`row.spelled`) is read as (``labels.class_reader``).
    spans: the label column marks spans of the text, and `row.text` becomes the record of both; `row.label` is
    then one of their labels, an undeclared one if there is any.
    """
    row.client = label_name(row.value(client_column)) if client_column else "-"
    row.group = label_name(row.value(spec.group_column)) if spec.group_column else ""
    if spans and label_column:
        _fill_marked(row, row.value(spec.text_column), row.value(label_column), spec, read)
        return
    row.text = whole(clean_text(row.value(spec.text_column)))
    row.spelled = label_name(row.value(label_column)) if label_column else "-"
    row.label = read(row.spelled)


def _fill_marked(
    row: Row, text: str | None, marks: str | None, spec: DataSpec, read: Callable[[str], str]
) -> None:
    if not clean_text(text) or not clean_text(marks):
        row.text = clean_text(text)
        return
    declared = list(map(label_name, spec.labels or ()))
    found = marked_from(text or "", marks or "", set(declared), read)
    others = [span.label for span in found.spans if span.label not in declared]
    row.text = found.record() if found.text else ""
    row.label = row.spelled = (*(others if declared else ()), *declared, "-")[0]
