"""Survey a file: read it as a training would, and measure what a person should know beforehand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError
from ..job import DataSpec, Job
from ..learning.data import load_corpus
from ..learning.labels import class_reader
from ..learning.reading.columns import looks_like_data
from ..learning.reading.dialogues import COLUMNS
from ..learning.reading.header import column_names, unread_columns
from ..learning.reading.layout import Layout
from ..learning.reading.names import label_name, sort_names, stands_for_nothing
from ..learning.reading.table import Table
from ..learning.reading.tables import find_layout, read_table
from ..tasks.spec import spec_of, usual_task
from . import columns as look
from .columns import Column
from .lengths import Lengths, lengths_of, quantile
from .texts import Copies, copies, giveaways, odd_characters


@dataclass(frozen=True)
class Survey:
    """What a file holds. Only counts and names of columns and labels: no text of any record."""

    path: str
    rows: int
    columns: tuple[Column, ...]
    text_column: str
    label_column: str | None
    guessed: tuple[str, ...]
    """Which of these columns were not named by the user."""
    group_column: str | None
    unusable: str | None
    """Why training refuses the file as it is, if it does: the first reason."""
    notes: tuple[str, ...]
    """How the file was read, if it needs mention."""
    used: int
    dropped: dict[str, int]
    classes: dict[str, int]
    """Records by label, the most frequent first."""
    copies: Copies
    odd: dict[str, int]
    giveaways: tuple[str, ...]
    tellers: dict[str, float]
    """Other columns whose value determines the label, with the share of rows in which it does."""
    groups: dict[str, dict[str, float]] = field(default_factory=dict)
    """Columns whose values repeat like those of patients or documents: values, mean and largest rows."""
    lengths: Lengths | None = None
    no_lengths: str = ""
    """Why there are none."""
    characters: tuple[int, int, int] = (0, 0, 0)
    """Of the texts: median, 90 % and the longest."""
    max_length: int = 64
    base: str = ""
    lists: tuple[str, ...] = ()
    """Columns that are not read, because they hold lists or bytes."""
    as_value: tuple[str, ...] = ()
    """Columns with few values, one of which is the column's own name: their header may be a record."""
    texts_of_nothing: int = 0
    """Texts that are a word for a missing value."""
    candidates: dict[str, dict[str, float]] = field(default_factory=dict)
    """If no column is the label's: those that may hold classes, each with the columns that determine it."""

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        values = asdict(self)
        values.pop("lengths")
        if self.lengths is not None:
            values["tokens"] = {
                "median": self.lengths.quantile(0.5),
                "90 %": self.lengths.quantile(0.9),
                "99 %": self.lengths.quantile(0.99),
                "longest": self.lengths.quantile(1.0),
                "share_cut": self.lengths.share_cut(self.max_length),
                "share_unknown": self.lengths.unknown,
            }
        return values


class _Look(NamedTuple):
    """What a file seems to hold, as far as its columns say."""

    names: list[str]
    unread: list[str]
    table: Table
    described: tuple[Column, ...]


def seeming_columns(job: Job) -> dict[str, str]:
    """Columns that seem to hold texts and classes, by job key, where a job's file lacks those that it names.

    A key is missing if no column, or more than one, seems to be the one. Raises ``DataError`` as ``survey``.
    """
    layout, names = _named(job)
    data = job.data
    own = [data.text_column, *([data.label_column] if job.kind.labelled else [])]
    if all(name in names for name in own):
        return {}  # without a look at the rows, which may be many
    text, label = _seeming(job, _look(job, layout, names))
    found = {"data.text_column": text, "data.label_column": label}
    return {key: name for key, name in found.items() if name in names and name not in own}


def _named(job: Job) -> tuple[Layout, list[str]]:
    """How a job's file is laid out, and its columns."""
    path = Path(job.data.path or "")
    layout = find_layout(path, Layout(job.data.encoding, job.data.quoting, job.data.sheet))
    return layout, column_names(path, layout, nested=job.kind.reads == "dialogues")


def _look(
    job: Job, layout: Layout, names: list[str], read: Callable[[], None] = lambda: None
) -> _Look:
    """Read a job's file and describe its columns; `read` is called once the rows are there."""
    path = Path(job.data.path or "")
    table = read_table(path, None, [], names, lenient=True, layout=layout)
    _refuse_record_as_header(path, table.columns)
    read()
    unread = unread_columns(path, layout)
    described = tuple(
        look.describe(name, table.columns.get(name, [])) for name in names if name not in unread
    )
    return _Look(names, unread, table, described)


def _seeming(job: Job, seen: _Look) -> tuple[str, str | None]:
    """The columns of texts and of classes: the job's own if they are there, else those that seem to be."""
    text, label = job.data.text_column, job.data.label_column
    if text not in seen.names:
        usual = COLUMNS if job.kind.reads == "dialogues" else ()
        found = next((name for name in usual if name in seen.names), None)
        text = found or look.text_column(seen.described) or text
    label = label if label in seen.names else look.label_column(seen.described, text)
    return text, label if job.kind.labelled else None


def survey(job: Job, started: Callable[[str], None] = lambda _: None) -> Survey:
    """Survey the file of a job; columns that it does not have are guessed.

    started: hears which stage begins, as ``reports.progress`` names them; a large file takes minutes.

    Raises ``DataError`` for a file of which nothing can be read.
    """
    if job.data.path is None:
        raise DataError("Name the file to look at, with --data FILE.")
    if job.kind.reads == "spans":
        raise DataError(
            f"A look at a file is for texts with classes, but {job.task} reads marked spans: umbel "
            "plan reads them and says what is wrong; so does umbel client init --reads spans for an owner."
        )
    layout, names = _named(job)
    seen = _look(job, layout, names, lambda: started("columns"))
    table, described = seen.table, seen.described
    text, label = _seeming(job, seen)
    dialogues = job.kind.reads == "dialogues"
    data = job.data.model_copy(update={"text_column": text, "label_column": label})
    task = job.task if label or not job.kind.labelled else usual_task(labelled=False).name
    started("data")
    notes, unusable = _as_training(data, task)
    written = {"encoding": layout.encoding, "quoting": layout.quoting}
    data = data.model_copy(update=written)
    if label:
        # All that are there are declared, so that none is a reason to stop.
        read = class_reader(data.labels or (), data.spellings)
        labels_found = {read(label_name(value)) for value in table.columns[label] if value}
        data = data.model_copy(update={"labels": sort_names(labels_found - {""})})
        if len(data.labels or ()) < 2:
            task, label = usual_task(labelled=False).name, None
    corpus = load_corpus(data, task, declared=True)
    labels = None
    if corpus.labels is not None:
        labels = [corpus.label_names[index] for index in corpus.labels]
    started("tokens")
    lengths, no_lengths = lengths_of(spec_of(task), job.model, corpus.texts)
    started("texts")
    return Survey(
        path=str(Path(job.data.path)),
        rows=len(table),
        columns=tuple(replace(c, kind="classes") if c.name == label else c for c in described),
        text_column=text,
        label_column=label,
        guessed=tuple(
            n for n in (text, label) if n and n not in (job.data.text_column, job.data.label_column)
        ),
        group_column=job.data.group_column,
        unusable=unusable,
        notes=notes,
        used=len(corpus),
        dropped=dict(corpus.dropped),
        classes=dict(Counter(labels or ()).most_common()),
        copies=copies(corpus.texts, labels),
        odd=odd_characters(corpus.texts),
        giveaways=tuple(giveaways(corpus.texts, labels)) if labels else (),
        tellers=look.tellers(table.columns, label, [text]) if label else {},
        groups=_groups(table.columns, described, (text, label)),
        lengths=lengths,
        no_lengths=no_lengths,
        characters=_characters(corpus.texts),
        max_length=job.model.max_length,
        base=job.model.base,
        lists=tuple(name for name in seen.unread if not (dialogues and name == text)),
        as_value=tuple(
            c.name for c in described if c.kind == "classes" and c.name in table.columns[c.name]
        ),
        texts_of_nothing=sum(map(stands_for_nothing, corpus.texts)),
        candidates=_candidates(table.columns, described, text) if label is None else {},
    )


def _candidates(
    values: dict[str, list[str | None]], columns: tuple[Column, ...], text: str
) -> dict[str, dict[str, float]]:
    names = look.label_candidates(columns, text)
    return {name: look.tellers(values, name, [text]) for name in names}


def _refuse_record_as_header(path: Path, columns: dict[str, list[str | None]]) -> None:
    """``DataError`` if the names of the columns are a record: data, some of it repeated in other records."""
    again = [name for name, values in columns.items() if name in values]
    if again and looks_like_data(list(columns)):
        raise DataError(
            f"{path}: its first row looks like a record, not like names of columns, so that record would be "
            "lost. Add a row with names above it, such as text,label."
        )


def _characters(texts: list[str]) -> tuple[int, int, int]:
    counts = np.array([len(text) for text in texts], np.int64)
    return quantile(counts, 0.5), quantile(counts, 0.9), quantile(counts, 1.0)


def _as_training(data: DataSpec, task: str) -> tuple[tuple[str, ...], str | None]:
    """How a training reads the file, and why it refuses it, if it does."""
    try:
        return load_corpus(data, task).notes, None
    except DataError as error:
        return (), str(error)


def _groups(
    values: dict[str, list[str | None]], columns: tuple[Column, ...], skip: tuple[str | None, ...]
) -> dict[str, dict[str, float]]:
    found = {}
    for column in columns:
        if column.name in skip or column.kind != "groups":
            continue
        sizes = Counter(value for value in values[column.name] if value)
        found[column.name] = {
            "values": len(sizes),
            "mean": column.filled / len(sizes),
            "largest": max(sizes.values()),
        }
    return found
