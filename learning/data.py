"""From a data file to a clean corpus (its split into training and held-out rows: ``split``).

Nothing here depends on which machine reads the file, on the order of the rows or on other rows: a
data owner's agent and a simulation that holds the pooled file clean a row alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..job import DataSpec
from ..tasks.spec import TaskSpec, spec_of
from .labels import (
    check_clients_share_labels,
    class_reader,
    encode_labels,
    merged_said,
    span_labels,
)
from .reading.cells import reason as reason_of
from .reading.class_folders import UNTRAINED
from .reading.layout import Layout
from .reading.names import label_name, stands_for_nothing
from .reading.picture_limits import MOST_PIXELS
from .reading.table import Table
from .reading.tables import is_class_folder, read_table, splits_of
from .rows import Row, fill


@dataclass(frozen=True)
class Corpus:
    """Clean rows of one data set; all fields run in parallel.

    Text, labels, groups and clients are read by ``clean_text``: NFC, stripped, line ends are "\\n":
    the same document from a Mac, a Windows and a Linux machine is the same string, so that its
    hash decides its side of the split alike at every owner. NFC changes no character's meaning
    (NFKC would).
    """

    texts: list[str]
    """One a row, never empty; of texts with marked spans the records (``spans``)."""
    labels: np.ndarray | None
    """int64[rows], index into `label_names`; None if records as a whole have no class."""
    label_names: tuple[str, ...]
    """The labels in order; empty for a task without any."""
    groups: list[str] | None
    """Each row's value of the group column; "" if it has none."""
    clients: list[str] | None
    """Each row's value of the client column, never empty."""
    held_out: np.ndarray | None
    """bool[rows]: True for rows that came as test rows; None when the split is still to be made."""
    dropped: dict[str, int]
    """Rows left out, by reason."""
    notes: tuple[str, ...] = ()
    """How the files were read, if it needs mention: phrases for the person who brought them."""

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: np.ndarray) -> Corpus:
        """The given rows alone."""

        def some(values: list[str] | None) -> list[str] | None:
            return None if values is None else [values[row] for row in rows]

        return replace(
            self,
            texts=[self.texts[row] for row in rows],
            labels=None if self.labels is None else self.labels[rows],
            groups=some(self.groups),
            clients=some(self.clients),
            held_out=None if self.held_out is None else self.held_out[rows],
        )


def load_corpus(
    spec: DataSpec,
    task: str,
    client_column: str | None = None,
    *,
    grouped: bool = False,
    declared: bool = False,
    largest: int = MOST_PIXELS,
) -> Corpus:
    """Read, clean and check the data that `spec` describes; raises ``DataError``.

    grouped: the groups are what is protected, so that test rows must tell theirs as well.

    declared: what is wrong with single records leaves them out, and is never an error; nor is it
    that none remain. Then what comes of this tells of each record no more than that record's own
    part: as an owner's agent reads its data.

    largest: most pixels of a picture, if the task reads pictures; larger ones are left out.

    The path's rows come first, then those of `spec.test_path`, or of the "test" split when the
    path is a saved DatasetDict that has one (unless `declared`: then what is held out is what the
    owner says). Rows without text, label or client are dropped and
    counted. `spec.limit` takes a fixed random choice of rows from each source, since a file is
    often sorted by class. A label that stands for nothing, such as ``nan``, is none if the classes are named
    and it is not one of them.
    """
    label_column = spec.label_column if spec_of(task).labelled else None
    if label_column == spec.text_column:
        raise DataError(
            f"data.text_column and data.label_column both name {label_column!r}. Name the column with the "
            "text (--text-column) and the one with the class (--label-column)."
        )
    reads = spec_of(task).reads
    sources = _read_sources(spec, spec_of(task), client_column, grouped, declared, largest)
    domain = {label_name(name) for name in spec.labels or ()}
    read = class_reader(spec.labels or (), spec.spellings) if label_column else str
    dropped: Counter[str] = Counter()
    merged: Counter[tuple[str, str]] = Counter()
    kept: list[Row] = []
    for row in (
        Row(table, row, held_out) for table, held_out in sources for row in range(len(table))
    ):
        reason = _filled(row, spec, label_column, client_column, domain, read, declared, reads)
        if reason:
            dropped[reason] += 1
        else:
            kept.append(row)
            if row.spelled != row.label:
                merged[row.spelled, row.label] += 1
    if not declared:
        for table, _ in sources:
            table.checked()
    if not kept and not declared:
        reasons = ", ".join(f"{count} with {reason}" for reason, count in dropped.items())
        raise DataError(
            f"{spec.path} has no usable row: {reasons}. Check data.text_column "
            "and data.label_column, and fill the empty fields."
        )
    label_names: tuple[str, ...] = ()
    labels = None
    notes = (*_notes([table for table, _ in sources]), *merged_said(merged))
    if label_column and reads == "spans":
        label_names = span_labels(kept, spec, label_column)
    elif label_column:
        if client_column and spec.labels is None:
            check_clients_share_labels(kept, client_column)
        label_names, labels = encode_labels(kept, spec, label_column)
    return Corpus(
        texts=[row.text for row in kept],
        labels=labels,
        label_names=label_names,
        groups=[row.group for row in kept] if spec.group_column else None,
        clients=[row.client for row in kept] if client_column else None,
        held_out=np.array([row.held_out for row in kept]) if len(sources) > 1 else None,
        dropped=dict(dropped),
        notes=notes,
    )


def _filled(
    row: Row,
    spec: DataSpec,
    label_column: str | None,
    client_column: str | None,
    domain: set[str],
    read: Callable[[str], str],
    declared: bool,
    reads: str,
) -> str:
    """Clean what the row holds; the reason to leave it out, "" if there is none."""
    if row.row in row.table.faults:
        return "unreadable"
    try:
        fill(row, spec, label_column, client_column, read, spans=reads == "spans")
    except Exception as error:  # whatever it is, it is this row's alone
        row.table.faults[row.row] = reason_of(error)
        return "unreadable"
    return (
        ("" if row.text else "empty text")
        or ("" if row.label else "no label")
        or (
            _outside(row.label, declared)
            if domain and label_column and row.label not in domain
            else ""
        )
        or ("" if row.client else "no client")
    )


def _outside(label: str, declared: bool) -> str:
    """Why a row whose label is none of the named classes is left out; "" if it is an error instead."""
    if declared:
        return "undeclared label"
    return "no label" if stands_for_nothing(label) else ""


def _notes(tables: list[Table]) -> tuple[str, ...]:
    """What was done to read the files; of several, which one is meant."""
    notes = []
    for table in tables:
        before = f"{Path(table.source).name}: " if len(tables) > 1 else ""
        notes += [f"{before}{note}" for note in table.notes]
        if table.faults:
            first = min(table.faults)
            place = f"{table.unit} {table.numbers[first]}"
            notes.append(
                f"{before}{len(table.faults):,} unreadable; the first is {place}: {table.faults[first]}"
            )
    return tuple(notes)


def _read_sources(
    spec: DataSpec,
    kind: TaskSpec,
    client_column: str | None,
    grouped: bool,
    lenient: bool,
    largest: int,
) -> list[tuple[Table, bool]]:
    """The tables to use, each with whether its rows are held out."""
    if spec.path is None:
        raise DataError(
            "data.path is missing: name the file with the examples, in the job file or with --data "
            "FILE. The job of a deployment has no data.path; to plan or try it, give a file of about the "
            "owners' size, such as public records."
        )
    path = Path(spec.path)
    label_column = spec.label_column if kind.labelled else None
    needed = [name for name in (label_column, client_column) if name]
    grouping = [spec.group_column] if spec.group_column else []
    read = partial(
        read_table,
        lenient=lenient,
        layout=Layout(spec.encoding, spec.quoting, spec.sheet),
        pictures=kind.reads == "pictures",
        largest=largest,
        dialogues=kind.reads == "dialogues",
        answers=spec.answer_column if kind.reads == "dialogues" else None,
        spans=kind.reads == "spans",
    )
    train = read(path, spec.text_column, needed + grouping)
    tables = [(train, False)]
    test_path = Path(spec.test_path) if spec.test_path else path
    splits = splits_of(test_path, kind.reads == "pictures")
    if spec.test_path or (not lenient and splits and len(splits) > 1 and "test" in splits):
        if splits and len(splits) > 1 and "test" not in splits:
            raise DataError(
                f"{test_path} has several splits ({', '.join(splits)}), but none called 'test'. "
                "Point data.test_path to the folder of one of them."
            )
        split = "test" if splits and "test" in splits else None
        if lenient and is_class_folder(test_path, kind.reads == "pictures"):
            split = "test" if test_path.resolve() == path.resolve() else UNTRAINED
        # Which side test rows are on is settled, so for the split they need no group.
        must, may = (needed + grouping, []) if grouped else (needed, grouping)
        test = read(test_path, spec.text_column, must, may, split)
        tables.append((test, True))
    return [(_limited(table, spec.limit), held_out) for table, held_out in tables]


def _limited(table: Table, limit: int | None) -> Table:
    if limit is None or limit >= len(table):
        return table
    chosen = np.random.default_rng(0).permutation(len(table))[:limit]
    return table.take(np.sort(chosen).tolist())
