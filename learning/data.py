"""From a data file to a clean corpus, and its split into training and held-out rows.

Nothing here depends on which machine reads the file, on the order of the rows or on other rows: a
data owner's agent and a simulation that holds the pooled file clean and split a row alike.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..job import DataSpec, TaskName
from .tables import Table, read_table, split_names

_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")
_WHOLE_NUMBER = re.compile(r"([+-]?[0-9]+)\.0+")

# Above this many classes, of which most stand on one row only, a label column holds ids or scores.
_MOST_CLASSES_OF_ONE_ROW = 20


@dataclass(frozen=True)
class Corpus:
    """Clean rows of one data set; all fields run in parallel.

    Text, labels, groups and clients are read by ``clean_text``: NFC, stripped, line ends are "\\n":
    the same document from a Mac, a Windows and a Linux machine is the same string, so that its
    hash decides its side of the split alike at every owner. NFC changes no character's meaning
    (NFKC would).
    """

    texts: list[str]
    """One a row, never empty."""
    labels: np.ndarray | None
    """int64[rows], index into `label_names`; None for causal-lm."""
    label_names: tuple[str, ...]
    """The classes in order; empty for causal-lm."""
    groups: list[str] | None
    """Each row's value of the group column; "" where it has none."""
    clients: list[str] | None
    """Each row's value of the client column, never empty."""
    held_out: np.ndarray | None
    """bool[rows]: True for rows that came as test rows; None when the split is still to be made."""
    dropped: dict[str, int]
    """Rows left out, by reason."""

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
    task: TaskName,
    client_column: str | None = None,
    *,
    grouped: bool = False,
    declared: bool = False,
) -> Corpus:
    """Read, clean and check the data that `spec` describes; raises ``DataError``.

    grouped: the groups are what is protected, so that test rows must tell theirs as well.

    declared: what is wrong with single records leaves them out, and is never an error; nor is it
    that none remain. Then what comes of this tells of each record no more than that record's own
    part: as an owner's agent reads its data.

    The path's rows come first, then those of `spec.test_path`, or of the "test" split when the
    path is a saved DatasetDict that has one (unless `declared`: then what is held out is what the
    owner says). Rows without text, label or client are dropped and
    counted. `spec.limit` takes a fixed random choice of rows from each source, since a file is
    often sorted by class.
    """
    label_column = spec.label_column if task == "text-classification" else None
    sources = _read_sources(spec, label_column, client_column, grouped, declared)
    domain = {label_name(name) for name in spec.labels or ()} if declared else None
    rows = [row for table, held_out in sources for row in _rows_of(table, held_out)]
    dropped: Counter[str] = Counter()
    kept: list[_Row] = []
    for row in rows:
        try:
            _fill(row, spec, label_column, client_column)
        except Exception:
            if not declared:
                raise
            dropped["unreadable"] += 1
            continue
        reason = (
            ("" if row.text else "empty text")
            or ("" if row.label else "no label")
            or ("" if not (domain and label_column) or row.label in domain else "undeclared label")
            or ("" if row.client else "no client")
        )
        if reason:
            dropped[reason] += 1
            continue
        kept.append(row)
    if not kept and not declared:
        reasons = ", ".join(f"{count} with {reason}" for reason, count in dropped.items())
        raise DataError(
            f"{spec.path} has no row that can be used: {reasons}. Check data.text_column "
            "and data.label_column, and fill the empty fields."
        )
    label_names: tuple[str, ...] = ()
    labels = None
    if label_column:
        if client_column and spec.labels is None:
            _check_clients_share_labels(kept, client_column)
        label_names, labels = _encode_labels(kept, spec, label_column)
    return Corpus(
        texts=[row.text for row in kept],
        labels=labels,
        label_names=label_names,
        groups=[row.group for row in kept] if spec.group_column else None,
        clients=[row.client for row in kept] if client_column else None,
        held_out=np.array([row.held_out for row in kept]) if len(sources) > 1 else None,
        dropped=dict(dropped),
    )


def split_secret(seed: int) -> bytes:
    """What stands for an owner's own secret in a simulation or rehearsal: the same for all owners."""
    return hashlib.sha256(f"umbel split {seed}".encode()).digest()


def split_rows(
    corpus: Corpus, training_share: float, secret: bytes
) -> tuple[np.ndarray, np.ndarray]:
    """Training rows and held-out rows, each int64 and ascending; together all rows, once each.

    A row is trained on when BLAKE2b of its unit (its group, or its text where it has no group) under
    the key `secret`, read as a fraction of 2^64, lies below `training_share`. Guarantee: the side
    depends on secret, share and group or text alone. So rows of one group, and equal texts without a
    group, are never separated, also not between two owners with one secret; and who does not know
    the secret cannot choose which records are held out. Rows that came as test rows stay test rows.
    """
    if corpus.held_out is not None:
        held_out = corpus.held_out
    else:
        limit = int(training_share * 2**64)
        sides: dict[bytes, bool] = {}
        held_out = np.zeros(len(corpus), dtype=bool)
        for row, key in enumerate(units_of(corpus)):
            side = sides.get(key)
            if side is None:
                side = sides[key] = _keyed(secret, b"split", key, 8) >= limit
            held_out[row] = side
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def units_of(corpus: Corpus) -> list[bytes]:
    """What each row belongs to: its group, or, where it has none, its text.

    The prefix keeps a group apart from a text that reads the same.
    """
    groups = corpus.groups or [""] * len(corpus)
    return [
        f"group {group}".encode() if group else f"text {text}".encode()
        for group, text in zip(groups, corpus.texts, strict=True)
    ]


def row_marks(corpus: Corpus, secret: bytes) -> np.ndarray:
    """uint64[rows]: keyed hashes of the texts, by which the holder of `secret` knows them again.

    Without the secret they tell nothing but which rows are equal (BLAKE2b as a keyed hash: RFC 7693).
    """
    marks = [_keyed(secret, b"row", text.encode(), 8) for text in corpus.texts]
    return np.array(marks, dtype=np.uint64)


def _keyed(secret: bytes, purpose: bytes, content: bytes, size: int) -> int:
    digest = hashlib.blake2b(content, digest_size=size, key=secret, person=purpose).digest()
    return int.from_bytes(digest, "big")


def fingerprint(texts: Iterable[str], labels: Iterable[object] | None) -> str:
    """SHA-256, in hexadecimal, of the rows as a multiset: neither path nor order matters.

    Give label names rather than indices where the numbering may change.
    """
    digests = []
    if labels is None:
        for text in texts:
            digests.append(hashlib.sha256(b"text " + text.encode()).digest())
    else:
        for text, label in zip(texts, labels, strict=True):
            # The length keeps label and text apart, whatever characters they hold.
            name = str(label).encode()
            head = b"labelled %d " % len(name) + name
            digests.append(hashlib.sha256(head + text.encode()).digest())
    digests.sort()
    return hashlib.sha256(b"".join(digests)).hexdigest()


def sort_names(names: Iterable[str]) -> list[str]:
    """Distinct names in order: by value if all are numbers ("2" before "10"), else by spelling."""
    distinct = sorted(set(names))
    if all(_NUMBER.fullmatch(name) for name in distinct):
        distinct.sort(key=Decimal)
    return distinct


class _Row:
    """One row on its way from a table into the corpus."""

    __slots__ = ("client", "group", "held_out", "label", "row", "table", "text")

    def __init__(self, table: Table, row: int, held_out: bool) -> None:
        self.table, self.row, self.held_out = table, row, held_out
        self.text = self.label = self.group = self.client = ""

    def value(self, column: str) -> str | None:
        values = self.table.columns.get(column)
        return None if values is None else values[self.row]

    @property
    def place(self) -> str:
        return self.table.place(self.row)


def _fill(row: _Row, spec: DataSpec, label_column: str | None, client_column: str | None) -> None:
    """Clean what the row holds; it may fail only in a way that no other row has to do with."""
    row.text = clean_text(row.value(spec.text_column))
    row.label = _canonical(clean_text(row.value(label_column))) if label_column else "-"
    row.client = clean_text(row.value(client_column)) if client_column else "-"
    row.group = _canonical(clean_text(row.value(spec.group_column))) if spec.group_column else ""


def _rows_of(table: Table, held_out: bool) -> list[_Row]:
    return [_Row(table, row, held_out) for row in range(len(table))]


def _read_sources(
    spec: DataSpec,
    label_column: str | None,
    client_column: str | None,
    grouped: bool,
    lenient: bool,
) -> list[tuple[Table, bool]]:
    """The tables to use, each with whether its rows are held out."""
    if spec.path is None:
        raise DataError(
            "data.path is missing: name the file that holds the examples, also with --data FILE. The "
            "job of a deployment has none; plan or try it with a file of about the owners' size, such "
            "as public records."
        )
    path = Path(spec.path)
    needed = [name for name in (label_column, client_column) if name]
    grouping = [spec.group_column] if spec.group_column else []
    tables = [(read_table(path, spec.text_column, needed + grouping, lenient=lenient), False)]
    test_path = Path(spec.test_path) if spec.test_path else path
    splits = split_names(test_path)
    if spec.test_path or (not lenient and splits and len(splits) > 1 and "test" in splits):
        if splits and len(splits) > 1 and "test" not in splits:
            raise DataError(
                f"{test_path} has several splits ({', '.join(splits)}), but none called 'test'. "
                "Point data.test_path to the folder of one of them."
            )
        split = "test" if splits and "test" in splits else None
        # Which side test rows are on is settled, so for the split they need no group.
        must, may = (needed + grouping, []) if grouped else (needed, grouping)
        test = read_table(test_path, spec.text_column, must, may, split, lenient=lenient)
        tables.append((test, True))
    return [(_limited(table, spec.limit), held_out) for table, held_out in tables]


def _limited(table: Table, limit: int | None) -> Table:
    if limit is None or limit >= len(table):
        return table
    chosen = np.random.default_rng(0).permutation(len(table))[:limit]
    return table.take(np.sort(chosen).tolist())


def clean_text(text: str | None, *, goes_on: bool = False) -> str:
    """A text as Umbel reads every one, in training, tests and predictions: one text, one answer.

    goes_on: the text is a prompt, whose end decides what comes next and stays as it is.
    """
    if text is None:
        return ""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = unicodedata.normalize("NFC", text)
    return text.lstrip() if goes_on else text.strip()


def alike(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of names that people would take for one: they differ in case, width or blanks alone."""
    first: dict[str, str] = {}
    found = []
    for name in sort_names(names):
        folded = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        other = first.setdefault(folded, name)
        if other != name:
            found.append((other, name))
    return found


def label_name(name: str) -> str:
    """A class as it is compared: cleaned, and a whole number without its decimal point."""
    return _canonical(clean_text(name))


def _canonical(label: str) -> str:
    """ "1.0" is "1": a column of numbers with a gap is written with a decimal point by pandas."""
    whole = _WHOLE_NUMBER.fullmatch(label)
    return whole[1] if whole else label


def _encode_labels(
    rows: Sequence[_Row], spec: DataSpec, column: str
) -> tuple[tuple[str, ...], np.ndarray]:
    if spec.labels is None:
        names = sort_names(row.label for row in rows)
        _check_found_labels(rows, names, column)
    else:
        names = [clean_text(name) for name in spec.labels]
    index = {_canonical(name): i for i, name in enumerate(names)}
    if len(index) < len(names):
        counts = Counter(map(_canonical, names))
        twice = ", ".join(repr(name) for name, count in counts.items() if count > 1)
        raise DataError(f"data.labels names {twice} more than once. Name each class once.")
    if "" in index:
        raise DataError("data.labels holds an empty name. Name each class.")
    if len(names) < 2:
        raise DataError(f"data.labels names one class only ({names!r}). Name at least two.")
    unknown = Counter(row.label for row in rows if row.label not in index)
    if unknown:
        value, count = unknown.most_common(1)[0]
        example = next(row for row in rows if row.label == value)
        others = f" {len(unknown) - 1} other unknown labels follow." if len(unknown) > 1 else ""
        raise DataError(
            f"{example.place}: the label {value!r:.60} is not in data.labels "
            f"({', '.join(map(repr, names))}); it stands on {count} rows.{others} Add it to "
            "data.labels, or correct the rows."
        )
    return tuple(names), np.array([index[row.label] for row in rows], dtype=np.int64)


def _check_found_labels(rows: Sequence[_Row], names: Sequence[str], column: str) -> None:
    source = rows[0].table.source
    if len(names) == 1:
        raise DataError(
            f"{source}: every row of column {column!r} has the label {names[0]!r}, so there is "
            "nothing to tell apart. Check data.label_column, or name all classes in data.labels."
        )
    if pairs := alike(names):
        one, other = pairs[0]
        raise DataError(
            f"{source}: column {column!r} has the labels {one!r:.60} and {other!r:.60}, which look like one. "
            "Give equal classes equal names, or, if they differ in truth, name them all in data.labels."
        )
    counts = Counter(row.label for row in rows)
    single = sum(count == 1 for count in counts.values())
    if len(names) > _MOST_CLASSES_OF_ONE_ROW and 2 * single > len(names):
        raise DataError(
            f"{source}: column {column!r} has {len(names)} different labels on {len(rows)} rows, "
            f"{single} of them on one row only, such as {names[0]!r:.60}; it seems to hold ids or "
            "scores, not classes. Check data.label_column, or name the classes in data.labels."
        )


def _check_clients_share_labels(rows: Sequence[_Row], column: str) -> None:
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
                f"{_some(own)}, which no other client has; {other!r}, for one, has "
                f"{_some(of_client[other])}. Give equal classes equal names, or, if they differ "
                "in truth, name them all in data.labels."
            )


def _some(names: Iterable[str]) -> str:
    ordered = [repr(name) for name in sort_names(names)]
    return ", ".join(ordered[:6]) + (", ..." if len(ordered) > 6 else "")
