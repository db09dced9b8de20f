"""Tokenised examples: one store for a whole table, and light views of the rows a client holds.

A store lies in memory-mapped files, so a thousand virtual clients share its pages and a worker
process receives it as a path. Tokenising a row does not depend on other rows, so an owner who
tokenises only its own rows gets the same tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError
from .base import base_folder
from .cache import cache_folder, write_once

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..job import Job
    from .data import Corpus

_CHUNK = 2048


@dataclass(frozen=True)
class TokenStore:
    """Token ids of all rows, one after the other; `folder` holds the three arrays.

    ids: int32[tokens], offsets: int64[rows + 1], labels: int64[rows] (-1 where there is none).
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
class Examples:
    """Rows of a store that one client trains or tests on; `features` stand in for the tokens.

    rows: int64[n] row numbers; features: float32[n, hidden] in the same order, or None.
    """

    store: TokenStore
    rows: np.ndarray
    features: np.ndarray | None = field(default=None, repr=False)

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

    def tokens(self, index: int) -> np.ndarray:
        return self.store.tokens(int(self.rows[index]))

    def none(self) -> Examples:
        """None of them."""
        features = None if self.features is None else self.features[:0]
        return replace(self, rows=self.rows[:0], features=features)

    def digest(self) -> str:
        """SHA-256 over tokens and labels in order: what features are filed under."""
        digest = hashlib.sha256()
        for index, row in enumerate(self.rows):
            tokens = np.ascontiguousarray(self.store.tokens(int(row)))
            digest.update(np.int64(len(tokens)).tobytes() + tokens.tobytes())
            digest.update(self.labels[index].tobytes())
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """SHA-256 of the content, whatever its order: what the privacy ledger charges."""
        rows = sorted(
            hashlib.sha256(
                np.ascontiguousarray(self.store.tokens(int(row))).tobytes()
                + self.labels[index].tobytes()
            ).digest()
            for index, row in enumerate(self.rows)
        )
        return hashlib.sha256(b"".join(rows)).hexdigest()

    @staticmethod
    def concatenate(parts: Sequence[Examples]) -> Examples:
        """All parts as one, with their features where all of them have some."""
        features = [part.features for part in parts if part.features is not None]
        return Examples(
            parts[0].store,
            np.concatenate([part.rows for part in parts]),
            np.concatenate(features) if len(features) == len(parts) else None,
        )


def tokens_of(job: Job, corpus: Corpus) -> TokenStore:
    """The rows of a corpus as the job's model reads them."""
    from .tokenizer import load_tokenizer

    return tokenise(
        corpus.texts,
        corpus.labels,
        load_tokenizer(base_folder(job.model.base)),
        job.model.max_length,
        end_with_eos=job.task == "causal-lm" and job.data.end_of_text,
    )


def tokenise(
    texts: Sequence[str],
    labels: np.ndarray | None,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    end_with_eos: bool = False,
) -> TokenStore:
    """Tokenise texts, each cut at `max_length`, or find the result in the cache.

    `end_with_eos` appends the end-of-text token, for language models whose tokenizer does not.
    """
    key = hashlib.sha256()
    key.update(_state_of(tokenizer).encode())
    key.update(f"{max_length} {end_with_eos} {tokenizer.eos_token_id}".encode())
    for text in texts:
        key.update(len(text).to_bytes(8, "little") + text.encode())
    key.update(b"" if labels is None else labels.tobytes())
    folder = cache_folder("tokens") / key.hexdigest()[:40]
    write_once(
        folder, lambda made: _write_store(made, texts, labels, tokenizer, max_length, end_with_eos)
    )
    return TokenStore(folder)


def _state_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """All that decides about tokens, without the settings that the last call left behind."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state |= {"truncation": tokenizer.truncation_side, "padding": None}
    return json.dumps(state, sort_keys=True)


def _write_store(
    folder: Path,
    texts: Sequence[str],
    labels: np.ndarray | None,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    end_with_eos: bool,
) -> None:
    end = tokenizer.eos_token_id if end_with_eos else None
    rows: list[np.ndarray] = []
    for tokens in _token_lists(texts, tokenizer, max_length):
        if end is not None and len(tokens) < max_length and tokens[-1:] != [end]:
            tokens = [*tokens, end]
        rows.append(np.asarray(tokens, dtype=np.int32))
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    if not lengths.all():
        raise DataError(
            f"Row {int(np.argmin(lengths)) + 1} has no token after tokenising; remove empty texts."
        )
    folder.mkdir()
    np.save(folder / "ids.npy", np.concatenate(rows))
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    filled = np.full(len(rows), -1, dtype=np.int64) if labels is None else labels
    np.save(folder / "labels.npy", filled.astype(np.int64))


def _token_lists(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Iterator[list[int]]:
    for start in range(0, len(texts), _CHUNK):
        chunk = list(texts[start : start + _CHUNK])
        yield from tokenizer(chunk, truncation=True, max_length=max_length)["input_ids"]
