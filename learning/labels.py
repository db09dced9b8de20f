"""The classes of a corpus: those that a job names, or those that its rows have."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from ..errors import DataError
from ..job import DataSpec
from ..quantities import counted, quoted, verb
from ..storage.documents import toml_value
from .reading.names import (
    alike,
    canonical,
    clean_text,
    folded,
    label_name,
    sort_names,
    stands_for_nothing,
)
from .rows import Row
from .spans import labels_of, marked

# Above this many classes, of which most stand on one row only, a label column holds ids or scores.
_MOST_CLASSES_OF_ONE_ROW = 20
_PAIRS = 10


def class_reader(
    labels: Iterable[str], spellings: Mapping[str, Sequence[str]]
) -> Callable[[str], str]:
    """What a label is read as, a canonical name (``label_name``) like itself.

    labels: the classes, if they are named. spellings: other names of some classes, by class.
    A label is the class that has its name or spelling; else the only one among them that differs from it
    in no more than case, width, blanks or leading zeros; else itself.

    Guarantee: what a label is read as follows from the label and from what is named, from no other record.
    """
    classes = dict.fromkeys(filter(None, map(label_name, [*labels, *spellings])))
    meant = {name: name for name in classes}
    for name, others in spellings.items():
        for other in filter(None, map(label_name, others)):
            before = meant.setdefault(other, label_name(name))
            if before != label_name(name):
                raise DataError(
                    f"data.spellings gives {other!r} to {label_name(name)!r}, but it is already {before!r}. "
                    "Give each spelling to one class."
                )
    near: dict[str, set[str]] = {}
    for name, of in meant.items():
        near.setdefault(folded(name), set()).add(of)

    def read(label: str) -> str:
        if label in meant or not label:
            return meant.get(label, label)
        found = near.get(folded(label), ())
        return next(iter(found)) if len(found) == 1 else label

    return read


def merged_said(merged: Mapping[tuple[str, str], int]) -> list[str]:
    """A line per class that labels of other spellings were read as; `merged` counts them by both."""
    of_class: dict[str, list[str]] = {}
    for (label, name), count in sorted(merged.items(), key=lambda item: -item[1]):
        of_class.setdefault(name, []).append(f"{quoted(label)} ({count:,})")
    return [
        f"labels read as the class {quoted(name)}: {', '.join(found[:_PAIRS])}"
        + (f" and {len(found) - _PAIRS} more" if len(found) > _PAIRS else "")
        for name, found in of_class.items()
    ]


def encode_labels(
    rows: Sequence[Row], spec: DataSpec, column: str
) -> tuple[tuple[str, ...], np.ndarray]:
    if spec.labels is None:
        names = sort_names(row.label for row in rows)
        _check_found_labels(rows, names, column)
    else:
        names = [clean_text(name) for name in spec.labels]
    index = {canonical(name): i for i, name in enumerate(names)}
    if len(index) < len(names):
        counts = Counter(map(canonical, names))
        twice = ", ".join(repr(name) for name, count in counts.items() if count > 1)
        raise DataError(f"data.labels names {twice} more than once. Name each class once.")
    if "" in index:
        raise DataError("data.labels holds an empty name. Name each class.")
    if len(names) < 2:
        raise DataError(f"data.labels names only one class ({names!r}). Name at least two.")
    unknown = Counter(row.label for row in rows if row.label not in index)
    if unknown:
        value, count = unknown.most_common(1)[0]
        example = next(row for row in rows if row.label == value)
        others = f" {len(unknown) - 1} other unknown labels follow." if len(unknown) > 1 else ""
        raise DataError(
            f"{example.place}: the label {quoted(value)} is not in data.labels "
            f"({', '.join(map(repr, names))}); {counted(count, 'row')} "
            f"{verb(count, 'has', 'have')} it.{others} Add it to data.labels, or correct the rows."
        )
    return tuple(names), np.array([index[row.label] for row in rows], dtype=np.int64)


def span_labels(rows: Sequence[Row], spec: DataSpec, column: str) -> tuple[str, ...]:
    """The labels of spans in order: those that a job names, or those that the rows have."""
    found = labels_of(row.text for row in rows)
    names = sort_names(found) if spec.labels is None else [clean_text(n) for n in spec.labels]
    known = {canonical(name) for name in names}
    if len(known) < len(names) or "" in known:
        raise DataError("data.labels names a label twice, or an empty one. Name each label once.")
    if not names and rows:
        raise DataError(
            f"{rows[0].table.source}: column {column!r} marks no span at all, so there is nothing to learn. "
            "Check data.label_column, or name the labels in data.labels."
        )
    if spec.labels is None and (pairs := alike(names)):
        raise DataError(
            f"{rows[0].table.source}: spans of column {column!r} have the labels {alike_said(pairs)}"
        )
    for row in rows:
        for span in marked(row.text).spans:
            if span.label not in known:
                held = marked(row.text).text[span.start : span.end]
                raise DataError(
                    f"{row.place}: the span {quoted(held)} has the label {quoted(span.label)}, which is not "
                    f"in data.labels ({', '.join(map(repr, names))}). Add it to data.labels, or correct the "
                    "rows."
                )
    return tuple(names)


def _check_found_labels(rows: Sequence[Row], names: Sequence[str], column: str) -> None:
    source = rows[0].table.source
    if len(names) == 1:
        raise DataError(
            f"{source}: every row of column {column!r} has the label {names[0]!r}, so there is "
            "nothing to learn. Check data.label_column, or name all classes in data.labels."
            + _how_read(rows)
        )
    counts = Counter(row.label for row in rows)
    if pairs := alike(names):
        raise DataError(
            f"{source}: column {column!r} has the labels {alike_said(pairs)}{_together(counts)}"
        )
    single = sum(count == 1 for count in counts.values())
    if len(names) > _MOST_CLASSES_OF_ONE_ROW and 2 * single > len(names):
        raise DataError(
            f"{source}: column {column!r} has {len(names)} different labels on {len(rows)} rows, "
            f"{single} of them on one row only, such as {quoted(names[0])}; it seems to hold ids or "
            "scores, not classes. Check data.label_column, or name the classes in data.labels."
        )


def alike_said(pairs: Sequence[tuple[str, str]], how: str = "in data.labels") -> str:
    """All pairs of names that look like one, and what to do about them, as the end of a sentence."""
    said = "; ".join(f"{quoted(one)} and {quoted(other)}" for one, other in pairs[:_PAIRS])
    more = f"; and {len(pairs) - _PAIRS} more" if len(pairs) > _PAIRS else ""
    nothing = all(stands_for_nothing(one) for one, _ in pairs)
    drop = (
        f" They usually stand for a missing value: name the other classes {how}, and these rows are left "
        "out."
    )
    return (
        f"{said}{more}, which look like one. Name all classes {how}: spellings of one class once, which are "
        f"then counted together; different classes one by one.{drop if nothing else ''}"
    )


def _together(counts: Counter[str]) -> str:
    """The setting that counts names that look like one together, under the most frequent of them."""
    named: dict[str, str] = {}
    for name, _ in sorted(counts.items(), key=lambda one: (-one[1], one[0])):
        if not stands_for_nothing(name):
            named.setdefault(folded(name), name)
    if not 2 <= len(named) <= _MOST_CLASSES_OF_ONE_ROW:
        return ""
    labels = toml_value(sort_names(named.values()))
    return f" To count them together: --set data.labels={shlex.quote(labels)}"


def _how_read(rows: Sequence[Row]) -> str:
    """What was met in reading the tables, which may be why a class is missing."""
    notes = [
        note
        for table in {id(row.table): row.table for row in rows}.values()
        for note in table.notes
    ]
    return f" How it was read: {'; '.join(notes)}." if notes else ""


def check_clients_share_labels(rows: Sequence[Row], column: str) -> None:
    """Refuse a client none of whose labels any other client has: it spells its classes apart."""
    of_client: dict[str, set[str]] = {}
    for row in rows:
        of_client.setdefault(row.client, set()).add(row.label)
    if len(of_client) < 2:
        return
    clients_with = Counter(label for labels in of_client.values() for label in labels)
    for client in sort_names(of_client):
        own = of_client[client]
        if all(clients_with[label] == 1 for label in own):
            other = next(name for name in sort_names(of_client) if name != client)
            raise DataError(
                f"{rows[0].table.source}: client {client!r} (column {column!r}) has the labels "
                f"{_some(own)}, which no other client has; {other!r}, for example, has "
                f"{_some(of_client[other])}. If they are the same class, say so in data.spellings; if "
                "they differ, name all classes in data.labels."
            )


def _some(names: Iterable[str]) -> str:
    ordered = [repr(name) for name in sort_names(names)]
    return ", ".join(ordered[:6]) + (", ..." if len(ordered) > 6 else "")
