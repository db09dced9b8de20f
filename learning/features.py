"""Features of a frozen base model, computed once for an owner's data and reused ever after.

If only a head is trained, the base model gives the same features in every round, step and
evaluation. They are computed in passes of one shape (``shapes``), so that the bits of a record depend
on no other record, and kept in the cache as one memory-mapped file. Of many records each few hundred are
kept as soon as they are done, so that who stops, or is stopped, goes on from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from ..storage.cache import cache_folder, write_once
from .examples import Examples
from .failures import NOBODY, Touch, each
from .model import Learner
from .progress import records_done
from .quantization import quantized_by
from .shapes import Passes, feature_width, rows_of

_TOLERANCE = 1e-3
_LENGTHS = (5, 7, 9, 12)
_PIECE = 512
"""So many records are kept together, at least, before all are done: some seconds of a small model."""

_READS: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def with_features(learner: Learner, examples: Examples, touch: Touch | None = None) -> Examples:
    """The same examples with features, or unchanged if tokens are needed in every step.

    Those of a record that the model fails on are NaN: it then has no gradient and is not counted.
    touch: told of each record beforehand, one at a time, for a process that may die of it. What is
    computed so is not kept.
    """
    if not learner.network.head_alone or examples.features is not None:
        return examples
    if len(examples) == 0:
        if not head_reads_features(learner):
            return examples
        # Nothing goes through another path than something.
        return replace(examples, features=np.zeros((0, feature_width(learner)), np.float32))
    path = kept_features(learner, examples)
    if path.exists():
        records_done(len(examples))
    else:
        if not head_reads_features(learner):
            return examples
        if touch is not None:
            return replace(examples, features=computed(learner, examples, np.empty, touch))
        try:
            write_once(path, lambda made: _write(learner, examples, made, path))
            _forget_pieces(path)
        except _Incomplete as error:
            return replace(examples, features=error.features)
    # As a plain array: indexing a memmap takes several times as long.
    return replace(examples, features=np.asarray(np.load(path, mmap_mode="r")))


def kept_features(learner: Learner, examples: Examples) -> Path:
    """The file where these examples' features are kept once computed, float32[n, hidden] in order."""
    return cache_folder("features") / f"{_key(learner, examples)}.npy"


def _key(learner: Learner, examples: Examples) -> str:
    job = learner.job
    parts = (
        learner.base_digest,
        f"{job.model.pooling} {quantized_by(job.model.quantization)}",
        str(job.model.feature_scale),
        f"{learner.length} {learner.longest} rows {rows_of(learner)}",
        learner.inputs.state(),
        "bfloat16" if learner.network.autocast else "float32",
        learner.network.device.type,
        torch.__version__,
        examples.digest(),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:40]


def head_reads_features(learner: Learner) -> bool:
    """Whether head(features) gives the network's logits, for an architecture's own head.

    Tried once, on invented texts and with the weights that the model has then: no record may decide how all
    the others are trained on, or fail here.
    """
    if learner.network.mean_head is not None:
        return True
    if learner.network not in _READS:
        _READS[learner.network] = _reads(learner)
    return _READS[learner.network]


def _reads(learner: Learner) -> bool:
    longest = learner.longest
    rows = learner.inputs.invented([min(length, longest) for length in _LENGTHS])
    learner.network.eval()
    return _agree(learner, rows) and all(
        _agree(learner, [odd]) for odd in learner.inputs.odd(rows[-1])
    )


@torch.inference_mode()
def _agree(learner: Learner, texts: list[np.ndarray]) -> bool:
    batch = learner.batch_of(texts)
    whole = learner.network(batch)
    parts = learner.network({"features": learner.network.features(batch)})
    return bool((whole - parts).abs().max() < _TOLERANCE)


class _Incomplete(Exception):
    """Some records have no features: that may pass, so it is not kept."""

    def __init__(self, features: np.ndarray) -> None:
        super().__init__()
        self.features = features


def _write(learner: Learner, examples: Examples, path: Path, kept: Path) -> None:
    """Features of all records at `path`, from pieces that are kept beside `kept` meanwhile."""

    def make(shape: tuple[int, int], dtype: type) -> np.ndarray:
        return np.lib.format.open_memmap(path, "w+", dtype=dtype, shape=shape)

    features = computed(learner, examples, make, kept=kept)
    if np.isnan(features).any():
        raise _Incomplete(np.array(features))
    features.flush()  # type: ignore[attr-defined]


def _forget_pieces(kept: Path) -> None:
    for piece in kept.parent.glob(f"{kept.stem}.piece-*"):
        piece.unlink(missing_ok=True)


def computed(
    learner: Learner,
    examples: Examples,
    make: Callable[[tuple[int, int], type], np.ndarray],
    touch: Touch | None = None,
    kept: Path | None = None,
) -> np.ndarray:
    """float32[n, inputs of the head], NaN for who has none.

    kept: beside it pieces of many records are kept as they are done, and found again.
    """
    passes = Passes(learner, examples, rows_of(learner))
    learner.network.eval()
    features: np.ndarray | None = None

    def of(chunk: np.ndarray) -> np.ndarray:
        if touch is not None:
            touch(int(examples.rows[chunk[0]]))
        found = learner.network.features(passes.batch(chunk))[: len(chunk)]
        return np.asarray(found.cpu().numpy())

    pieces = list(_pieces(passes.chunks(alone=touch is not None)))
    with torch.inference_mode():
        for number, chunks in enumerate(pieces):
            rows = np.concatenate(chunks)
            place = None
            if kept is not None and len(pieces) > 1:
                place = kept.with_name(f"{kept.stem}.piece-{number}")
            found = _piece(chunks, of, place)
            if found is None:
                continue
            if features is None:
                features = make((len(examples), found.shape[1]), np.float32)
                features[:] = np.nan
            features[rows] = found
    if touch is not None:
        touch(NOBODY)
    if features is None:
        features = make((len(examples), feature_width(learner)), np.float32)
        features[:] = np.nan
    return features


def _pieces(chunks: Iterator[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Parts that go through together, by so many that they are worth a file."""
    piece: list[np.ndarray] = []
    for chunk in chunks:
        piece.append(chunk)
        if sum(map(len, piece)) >= _PIECE:
            yield piece
            piece = []
    if piece:
        yield piece


def _piece(
    chunks: list[np.ndarray], of: Callable[[np.ndarray], np.ndarray], place: Path | None
) -> np.ndarray | None:
    """Features of these records in order, NaN for who has none; None if nobody has any.

    A whole piece is kept at `place`, and read there another time.
    """
    if place is not None and (kept := _read(place)) is not None:
        records_done(sum(map(len, chunks)))
        return kept
    found: list[np.ndarray | None] = []
    for chunk in chunks:
        found += each(of, chunk)
        records_done(len(chunk))
    width = next((len(one) for one in found if one is not None), None)
    if width is None:
        return None
    missing = np.full(width, np.nan, np.float32)
    features = np.stack([missing if one is None else one for one in found])
    if place is not None and not np.isnan(features).any():
        write_once(place, lambda made: _save(made, features))
    return features


def _read(piece: Path) -> np.ndarray | None:
    """None if it is not there, or not whole: another process deletes pieces once all features are kept."""
    try:
        return np.asarray(np.load(piece))
    except (OSError, EOFError, ValueError):
        return None


def _save(path: Path, features: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, features)
