"""Spread one corpus over the virtual clients of a simulation.

Schemes: natural clients by a column, or rows at random ("iid"), by Dirichlet label skew, or by
label shards. The seed is not secret, and the same seed gives the same shares.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..errors import DataError, JobError
from ..job import SimulationSpec
from ..learning.data import Corpus
from ..learning.reading.names import sort_names
from ..quantities import counted, verb

_DEFAULT_CLIENTS = 4
_LONGEST_NAME = 60
_MOST_BYTES = 160
"""Bytes of a name: file systems allow 255, and endings follow it."""
_DIRICHLET_DRAWS = 10

_SCHEMES = '"column:NAME", "iid", "dirichlet:ALPHA" and "shards:K"'


@dataclass(frozen=True)
class Scheme:
    """A parsed `simulation.partition`; the field that its kind does not use keeps its default."""

    kind: Literal["column", "iid", "dirichlet", "shards"]
    column: str | None = None
    alpha: float = 0.0
    shards: int = 0


@dataclass(frozen=True)
class Share:
    """One client's rows: int64 row numbers into the corpus, ascending; `train` is never empty."""

    name: str
    train: np.ndarray
    test: np.ndarray


def parse_scheme(text: str) -> Scheme:
    """Read "column:NAME", "iid", "dirichlet:ALPHA" or "shards:K"; raises ``JobError``."""
    kind, _, argument = (part.strip() for part in text.partition(":"))
    if kind == "iid" and not argument:
        return Scheme("iid")
    if kind == "column" and argument:
        return Scheme("column", column=argument)
    if kind == "dirichlet":
        try:
            alpha = float(argument)
        except ValueError:
            alpha = 0.0
        if 0 < alpha < float("inf"):
            return Scheme("dirichlet", alpha=alpha)
        raise JobError(
            f"simulation.partition = {text!r}: ALPHA must be a number above 0, as in "
            '"dirichlet:0.5"'
        )
    if kind == "shards":
        if re.fullmatch(r"0*[1-9][0-9]{0,8}", argument):
            return Scheme("shards", shards=int(argument))
        raise JobError(
            f'simulation.partition = {text!r}: K must be a whole number above 0, as in "shards:2"'
        )
    raise JobError(f"simulation.partition = {text!r} is not known; the schemes are {_SCHEMES}")


def partition(
    corpus: Corpus,
    train: np.ndarray,
    test: np.ndarray,
    spec: SimulationSpec,
    seed: int,
    groups: np.ndarray | None = None,
) -> list[Share]:
    """Shares that together hold each row of `train` and of `test` once.

    Training rows follow the scheme. Held-out rows follow the column for natural clients, and are
    dealt evenly at random otherwise. If `groups` has a number for each row's group, all rows of a
    group follow the group's first row, so that it lies with one client; natural clients keep the rows
    that are theirs, and a group may then lie with several.

    Raises ``JobError`` for a scheme that does not fit the job, ``DataError`` when a client would have
    no training row.
    """
    scheme = parse_scheme(spec.partition)
    if scheme.kind == "column":
        if spec.clients is not None:
            raise JobError(
                f"simulation.clients = {spec.clients} cannot be set together with simulation.partition = "
                f"{spec.partition!r}, because the column names the clients. Remove one of them."
            )
        return _by_column(corpus, train, test)
    clients = spec.clients or _DEFAULT_CLIENTS
    first, leader = _leaders(train, groups)
    if len(first) < clients:
        of = "row" if groups is None else "group"
        raise DataError(
            f"{counted(len(first), f'training {of}')} {verb(len(first), 'is', 'are')} not enough to "
            f"give each of {counted(clients, 'client')} one. Lower simulation.clients, or bring more {of}s."
        )
    train_rng, test_rng = np.random.default_rng(seed).spawn(2)
    if scheme.kind == "iid":
        owners = _evenly(len(first), clients, train_rng)
    elif corpus.labels is None:
        raise JobError(
            f"simulation.partition = {spec.partition!r} needs labels, which this task does not "
            'have. Use "iid" or "column:NAME".'
        )
    elif scheme.kind == "dirichlet":
        owners = _dirichlet(corpus.labels[first], clients, scheme.alpha, train_rng)
    else:
        owners = _shards(corpus.labels[first], clients, scheme.shards, train_rng)
    width = max(4, len(str(clients)))
    names = [f"client-{number:0{width}d}" for number in range(1, clients + 1)]
    first_held_out, held_out_leader = _leaders(test, groups)
    test_owners = _evenly(len(first_held_out), clients, test_rng)
    return _deal(names, train, owners[leader], test, test_owners[held_out_leader])


def _leaders(rows: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each group, ascending, and for each row the place of its own group's there."""
    if groups is None:
        return rows, np.arange(len(rows))
    _, first, of_row = np.unique(groups[rows], return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return rows[first[order]], place[of_row]


def _by_column(corpus: Corpus, train: np.ndarray, test: np.ndarray) -> list[Share]:
    if corpus.clients is None:
        raise ValueError("load_corpus was not told the client column")
    rows = np.concatenate([train, test])
    values = sort_names(corpus.clients[row] for row in rows)
    number = {value: client for client, value in enumerate(values)}
    owners = np.array([number[corpus.clients[row]] for row in rows], dtype=np.int64)
    untrained = np.flatnonzero(np.bincount(owners[: len(train)], minlength=len(values)) == 0)
    if untrained.size:
        held_out = np.bincount(owners[len(train) :], minlength=len(values))
        some = ", ".join(f"{values[i]!r} ({held_out[i]} held out)" for i in untrained[:5])
        more = f" and {untrained.size - 5} more" if untrained.size > 5 else ""
        raise DataError(
            f"No training row is left for {untrained.size} of {len(values)} clients: {some}{more}. "
            "Lower data.test_fraction, or leave these clients out of the file."
        )
    return _deal(_safe_names(values), train, owners[: len(train)], test, owners[len(train) :])


def _safe_names(values: list[str]) -> list[str]:
    """Names for files and reports: letters, digits, ".", "_" and "-" alone."""
    names: list[str] = []
    taken: dict[str, str] = {}
    for value in values:
        name = re.sub(r"[^\w.-]+", "-", unicodedata.normalize("NFC", value))
        name = _cut(name.strip(".-")[:_LONGEST_NAME])
        if not name:
            raise DataError(
                f"The client {value!r:.80} has no letter or digit in its name. Rename it in the "
                "data."
            )
        # Many file systems take "A" and "a" for one name.
        other = taken.setdefault(name.casefold(), value)
        if other != value:
            raise DataError(
                f"The clients {other!r:.80} and {value!r:.80} would both be called {name!r} in "
                "files. Rename one in the data."
            )
        names.append(name)
    return names


def _cut(name: str) -> str:
    """No more bytes than a file's name has room for, in whole letters."""
    return name.encode()[:_MOST_BYTES].decode(errors="ignore")


def _evenly(rows: int, clients: int, rng: np.random.Generator) -> np.ndarray:
    """int64[rows], each row's client; sizes differ by at most one."""
    return rng.permutation(np.arange(rows, dtype=np.int64) % clients)


def _dirichlet(
    labels: np.ndarray, clients: int, alpha: float, rng: np.random.Generator
) -> np.ndarray:
    """Each class spread over the clients in proportions from a symmetric Dirichlet distribution.

    Yurochkin et al. 2019 (Bayesian Nonparametric Federated Learning of Neural Networks),
    section 4: both label mix and size differ. Draws again, a few times, for a client without rows.
    """
    for _ in range(_DIRICHLET_DRAWS):
        owners = np.empty(len(labels), dtype=np.int64)
        for label in np.unique(labels):
            rows = rng.permutation(np.flatnonzero(labels == label))
            ends = np.cumsum(rng.dirichlet(np.full(clients, alpha))) * len(rows)
            ends[-1] = len(rows)
            owners[rows] = np.searchsorted(ends, np.arange(len(rows)) + 0.5)
        if np.bincount(owners, minlength=clients).min() > 0:
            return owners
    empty = int((np.bincount(owners, minlength=clients) == 0).sum())
    raise DataError(
        f'"dirichlet:{alpha:g}" leaves {empty} of {clients} clients without a training row, also '
        f"after {_DIRICHLET_DRAWS} draws. Lower simulation.clients or give a larger ALPHA."
    )


def _shards(labels: np.ndarray, clients: int, each: int, rng: np.random.Generator) -> np.ndarray:
    """Rows sorted by label, cut into equal shards, `each` of them dealt to a client at random.

    McMahan et al. 2017 (Communication-Efficient Learning of Deep Networks), section 3.
    """
    shards = clients * each
    if shards > len(labels):
        raise DataError(
            f'"shards:{each}" with {clients} clients needs {shards} training rows or more; there '
            f"are {len(labels)}. Lower simulation.clients or K."
        )
    shuffled = rng.permutation(len(labels))
    by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
    owner_of_shard = _evenly(shards, clients, rng)
    owners = np.empty(len(labels), dtype=np.int64)
    owners[by_label] = owner_of_shard[np.arange(len(labels)) * shards // len(labels)]
    return owners


def _deal(
    names: list[str],
    train: np.ndarray,
    train_owners: np.ndarray,
    test: np.ndarray,
    test_owners: np.ndarray,
) -> list[Share]:
    own_train = _grouped(train, train_owners, len(names))
    own_test = _grouped(test, test_owners, len(names))
    return [Share(*one) for one in zip(names, own_train, own_test, strict=True)]


def _grouped(rows: np.ndarray, owners: np.ndarray, clients: int) -> list[np.ndarray]:
    """Rows of each client, ascending."""
    order = np.lexsort((rows, owners))
    ends = np.cumsum(np.bincount(owners, minlength=clients))[:-1]
    return np.split(rows[order].astype(np.int64), ends)
