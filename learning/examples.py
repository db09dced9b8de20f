"""Tokenised examples: one store for a whole table, and light views of the rows a client holds.

A store is in memory-mapped files, so a thousand virtual clients share its pages and a worker
process receives it as a path. Tokenising a row does not depend on other rows, so an owner who
tokenises only its own rows gets the same tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import __version__
from ..privacy.dpsgd.groups import Groups, shared
from ..privacy.noise.counts_noise import GROUP_COUNTS
from ..storage.cache import cache_folder, write_once
from .base_model import base_digest, base_folder
from .failures import Touch, each
from .inputs import Inputs, Texts, inputs_for, inputs_state
from .progress import records_done

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..job import Job
    from .data import Corpus

_LIBRARIES = ("transformers", "tokenizers")
"""What determines the tokens, besides the files of a model."""
_CHUNK = 2048


@dataclass(frozen=True)
class TokenStore:
    """Token ids of all rows, one after the other; `folder` holds the three arrays.

    ids: int32[tokens], offsets: int64[rows + 1], labels: int64[rows] (-1 if there is none). Tasks that
    read something else keep other numbers in place of ids (``inputs``).
    """

    folder: Path

    @cached_property
    def ids(self) -> np.ndarray:
        return np.load(self.folder / "ids.npy", mmap_mode="r")

    @cached_property
    def offsets(self) -> np.ndarray:
        return np.load(self.folder / "offsets.npy", mmap_mode="r")

    @cached_property
    def labels(self) -> np.ndarray:
        return np.load(self.folder / "labels.npy", mmap_mode="r")

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenStore, (self.folder,)

    def tokens(self, row: int) -> np.ndarray:
        return self.ids[self.offsets[row] : self.offsets[row + 1]]


@dataclass(frozen=True)
class TokensInMemory(TokenStore):
    """Tokens that are in no file: `values`, int[tokens] by row, and `marks` as labels, int64[rows]."""

    values: Sequence[np.ndarray]
    marks: np.ndarray

    @cached_property
    def ids(self) -> np.ndarray:
        return np.concatenate(self.values)

    @cached_property
    def offsets(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum([len(text) for text in self.values])])

    @cached_property
    def labels(self) -> np.ndarray:
        return self.marks

    def __reduce__(self) -> tuple[Any, ...]:
        return TokensInMemory, (self.folder, self.values, self.marks)


@dataclass(frozen=True)
class Examples:
    """Rows of a store that one client trains or tests on; `features` stand in for the tokens.

    rows: int64[n] row numbers; features: float32[n, hidden] in the same order, or None. groups:
    int64[n], equal if rows belong to one group (``privacy.dpsgd.groups``); None if each is its own.
    """

    store: TokenStore
    rows: np.ndarray
    features: np.ndarray | None = field(default=None, repr=False)
    groups: np.ndarray | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def labels(self) -> np.ndarray:
        """int64[n]"""
        return np.asarray(self.store.labels)[self.rows]

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, int64[n]."""
        return np.diff(self.store.offsets)[self.rows]

    @cached_property
    def by_group(self) -> Groups:
        """Which examples belong together."""
        return Groups(np.arange(len(self)) if self.groups is None else self.groups)

    @cached_property
    def weights(self) -> np.ndarray | None:
        """What each example adds to private counts, int64[n]; None if groups are not told."""
        return None if self.groups is None else shared(self.groups, GROUP_COUNTS)

    def tokens(self, index: int) -> np.ndarray:
        return self.store.tokens(int(self.rows[index]))

    def readable(self) -> Examples:
        """Those that have tokens: the others are no records of this model's."""
        kept = self.lengths > 0
        return self if kept.all() else self.take(np.flatnonzero(kept))

    def none(self) -> Examples:
        """None of them."""
        return self.take(np.arange(0))

    def take(self, indices: np.ndarray) -> Examples:
        """Some of the examples, in the order of `indices`, with what belongs to them."""
        features = None if self.features is None else self.features[indices]
        groups = None if self.groups is None else self.groups[indices]
        return Examples(self.store, self.rows[indices], features, groups)

    def digest(self) -> str:
        """SHA-256 over tokens and labels in order: what features are filed under."""
        digest = hashlib.sha256()
        for index, row in enumerate(self.rows):
            tokens = np.ascontiguousarray(self.store.tokens(int(row)))
            digest.update(np.int64(len(tokens)).tobytes() + tokens.tobytes())
            digest.update(self.labels[index].tobytes())
        return digest.hexdigest()

    @staticmethod
    def concatenate(parts: Sequence[Examples]) -> Examples:
        """All parts as one, with their features and groups if all of them have some."""
        features = [part.features for part in parts if part.features is not None]
        groups = [part.groups for part in parts if part.groups is not None]
        return Examples(
            parts[0].store,
            np.concatenate([part.rows for part in parts]),
            np.concatenate(features) if len(features) == len(parts) else None,
            np.concatenate(groups) if len(groups) == len(parts) else None,
        )


def tokens_of(
    job: Job,
    corpus: Corpus,
    *,
    left_out: frozenset[int] = frozenset(),
    touch: Touch | None = None,
) -> TokenStore:
    """The rows of a corpus as the job's model reads them; those `left_out` have no token.

    Found again by the digest of the model's files, without its tokenizer: importing what loads one
    takes longer than a whole plan.
    """
    folder = base_folder(job.model.base)
    state = " ".join([base_digest(folder), *map(version, _LIBRARIES), __version__])
    end_with_eos = job.kind.ends_texts and job.data.end_of_text
    request = _Request(corpus.texts, corpus.labels, job.model.max_length, end_with_eos, left_out)
    state += inputs_state(job.kind, job.model, job.data.labels)
    return _found_or_made(
        request, state, lambda: inputs_for(job.kind, folder, job.model, job.data.labels), touch
    )


def tokenise(
    texts: Sequence[str],
    labels: np.ndarray | None,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    end_with_eos: bool = False,
    left_out: frozenset[int] = frozenset(),
    touch: Touch | None = None,
) -> TokenStore:
    """Tokenise texts, each cut at `max_length`, or find the result in the cache.

    Of a text only ``beginning`` is read, so that no text takes longer than others by its length alone.
    `end_with_eos` appends the end-of-text token, for language models whose tokenizer does not.
    A text that the tokenizer fails on, or makes nothing of, has no token, and so have the rows that
    are `left_out`: see ``Examples.readable``. touch: told of each row beforehand, one at a time, for
    a process that may die of it.
    """
    request = _Request(texts, labels, max_length, end_with_eos, left_out)
    inputs = Texts(tokenizer)
    return _found_or_made(request, inputs.tokenizer_state(), lambda: inputs, touch)


class _Request(NamedTuple):
    """Which tokens are asked for, whatever the tokenizer."""

    texts: Sequence[str]
    labels: np.ndarray | None
    max_length: int
    end_with_eos: bool
    left_out: frozenset[int]

    def digest(self, state: str) -> str:
        """SHA-256 that these tokens are filed under, for a tokenizer in this `state`."""
        key = hashlib.sha256(state.encode())
        key.update(f" {self.max_length} {self.end_with_eos} {sorted(self.left_out)} ".encode())
        for text in self.texts:
            encoded = text.encode()
            key.update(len(encoded).to_bytes(8, "little") + encoded)
        key.update(b"" if self.labels is None else self.labels.tobytes())
        return key.hexdigest()


def _found_or_made(
    request: _Request,
    state: str,
    load: Callable[[], Inputs],
    touch: Touch | None,
) -> TokenStore:
    def make(folder: Path) -> None:
        inputs = load()
        _write_store(folder, _rows(request, inputs, touch), request.labels, inputs.dtype)

    return TokenStore(write_once(cache_folder("tokens") / request.digest(state)[:40], make))


def _write_store(
    folder: Path, encoded: Iterator[Any], labels: np.ndarray | None, dtype: type[Any]
) -> None:
    rows: list[np.ndarray] = [np.asarray(row, dtype=dtype) for row in encoded]
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    folder.mkdir()
    np.save(folder / "ids.npy", np.concatenate([np.zeros(0, dtype), *rows]))
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    filled = np.full(len(rows), -1, dtype=np.int64) if labels is None else labels
    np.save(folder / "labels.npy", filled.astype(np.int64))


def _rows(request: _Request, inputs: Inputs, touch: Touch | None) -> Iterator[Any]:
    texts, limit, ends = request.texts, request.max_length, request.end_with_eos

    def encoded(rows: np.ndarray) -> list[Any]:
        if touch is not None:
            touch(int(rows[0]))
        return inputs.encode([texts[row] for row in rows], limit, ends=ends)

    # Rows that are all equally long gain nothing by company, and one that fails would repeat the others.
    size = _CHUNK if touch is None and inputs.varied else 1
    for start in range(0, len(texts), size):
        rows = np.arange(start, min(start + size, len(texts)))
        kept = np.array([row for row in rows if row not in request.left_out], dtype=np.int64)
        found = dict(zip(kept, each(encoded, kept), strict=True)) if len(kept) else {}
        yield from ([] if (row := found.get(place)) is None else row for place in rows)
        records_done(len(rows))
