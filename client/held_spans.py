"""The spans that a table holds, for an owner who is about to declare it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import DataError
from ..learning.labels import class_reader
from ..learning.reading.names import label_name
from ..learning.reading.table import Table
from ..learning.spans import labels_of, marked, marked_from


@dataclass(frozen=True)
class HeldSpans:
    """What could be read of the records of a table."""

    records: list[str]
    labels: dict[str, int]
    """Spans of each label."""
    unreadable: int
    why: str
    """Of the first unreadable record, with its place."""

    def left_out(self, labels: Sequence[str]) -> dict[str, int]:
        """Records that no job would get if these labels are declared, by reason."""
        domain = {label_name(one) for one in labels}
        others = sum(bool(labels_of([record]) - domain) for record in self.records)
        return {f"unreadable; the first: {self.why}": self.unreadable, "another label": others}


def held_spans(
    table: Table,
    text: str,
    label: str,
    labels: Sequence[str],
    spellings: Mapping[str, Sequence[str]],
) -> HeldSpans:
    """Spans by label; ``DataError`` if no record has any."""
    read = class_reader(labels, spellings)
    known = {label_name(one) for one in labels}
    records, faults = [], dict(table.faults)
    for row, (given, marks) in enumerate(
        zip(table.columns[text], table.columns[label], strict=True)
    ):
        if row in faults:
            continue
        try:
            records.append(marked_from(given or "", marks or "", known, read).record())
        except DataError as error:
            faults[row] = str(error)
    counts = Counter(span.label for record in records for span in marked(record).spans)
    why = f"{table.place(min(faults))}: {faults[min(faults)]}" if faults else ""
    if not counts:
        raise DataError(
            f"{table.source}: column {label!r} marks no span that can be read. {why or 'Check the columns.'}"
        )
    return HeldSpans(records, dict(counts), len(faults), why)
