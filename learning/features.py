"""Features of a frozen base model, computed once for an owner's data and reused ever after.

Where only a head is trained, the base model gives the same features in every round, step and
evaluation. They are computed in blocks whose make-up depends on the examples alone, so that the
bits do not depend on who computes them, and kept in the cache as one memory-mapped file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from .batches import forward_batch
from .cache import cache_folder, write_once
from .examples import Examples
from .failures import NOBODY, Touch, each
from .invented import invented_texts
from .model import Learner

_TOLERANCE = 1e-3
_LENGTHS = (5, 7, 9, 12)


def with_features(learner: Learner, examples: Examples, touch: Touch | None = None) -> Examples:
    """The same examples with features, or unchanged where tokens are needed in every step.

    Those of a record that the model fails on are NaN: it then has no gradient and is not counted.
    touch: told of each record beforehand, one at a time, for a process that may die of it. What is
    computed so is not kept: its last bits are others.
    """
    if not learner.network.head_alone or len(examples) == 0 or examples.features is not None:
        return examples
    path = cache_folder("features") / f"{_key(learner, examples)}.npy"
    if not path.exists():
        if not head_reads_features(learner):
            return examples
        if touch is not None:
            return replace(examples, features=_filled(learner, examples, np.empty, touch))
        try:
            write_once(path, lambda made: _write(learner, examples, made))
        except _Incomplete as error:
            return replace(examples, features=error.features)
    # As a plain array: indexing a memmap takes several times as long.
    return replace(examples, features=np.asarray(np.load(path, mmap_mode="r")))


def _key(learner: Learner, examples: Examples) -> str:
    job = learner.job
    parts = (
        learner.base_digest,
        job.model.pooling,
        str(job.model.feature_scale),
        f"{learner.length} {_block(learner)}",
        "bfloat16" if learner.network.autocast else "float32",
        learner.network.device.type,
        torch.__version__,
        examples.digest(),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:40]


def _block(learner: Learner) -> int:
    return forward_batch(learner.job.training, learner.network.device)


def _blocks(examples: Examples, size: int) -> Iterator[np.ndarray]:
    """Indices of examples of like length, so that little padding is computed."""
    order = np.argsort(examples.lengths, kind="stable")
    for start in range(0, len(order), size):
        yield order[start : start + size]


def head_reads_features(learner: Learner) -> bool:
    """Whether head(features) gives the network's logits, for an architecture's own head.

    Tried on invented texts: no record may decide how all the others are trained on, or fail here.
    """
    if learner.network.mean_head is not None:
        return True
    longest = learner.job.model.max_length
    texts = invented_texts(learner.tokenizer, [min(length, longest) for length in _LENGTHS])
    batch = learner.batch_of(texts)
    learner.network.eval()
    with torch.inference_mode():
        whole = learner.network(batch)
        parts = learner.network({"features": learner.network.features(batch)})
    return bool((whole - parts).abs().max() < _TOLERANCE)


class _Incomplete(Exception):
    """Some records have no features: that may pass, so it is not kept."""

    def __init__(self, features: np.ndarray | None) -> None:
        super().__init__()
        self.features = features


def _write(learner: Learner, examples: Examples, path: Path) -> None:
    def make(shape: tuple[int, int], dtype: type) -> np.ndarray:
        return np.lib.format.open_memmap(path, "w+", dtype=dtype, shape=shape)

    features = _filled(learner, examples, make)
    if features is None or np.isnan(features).any():
        raise _Incomplete(None if features is None else np.array(features))
    features.flush()  # type: ignore[attr-defined]


def _filled(
    learner: Learner,
    examples: Examples,
    make: Callable[[tuple[int, int], type], np.ndarray],
    touch: Touch | None = None,
) -> np.ndarray | None:
    """float32[n, inputs of the head], NaN for who has none; None if nobody has."""
    learner.network.eval()
    features: np.ndarray | None = None

    def computed(block: np.ndarray) -> np.ndarray:
        if touch is not None:
            touch(int(examples.rows[block[0]]))
        found: np.ndarray = learner.network.features(learner.batch(examples, block)).cpu().numpy()
        return found

    with torch.inference_mode():
        for block in _blocks(examples, 1 if touch is not None else _block(learner)):
            for index, found in zip(block, each(computed, block), strict=True):
                if found is None:
                    continue
                if features is None:
                    features = make((len(examples), len(found)), np.float32)
                    features[:] = np.nan
                features[index] = found
    if touch is not None:
        touch(NOBODY)
    return features
