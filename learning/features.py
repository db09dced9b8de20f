"""Features of a frozen base model, computed once for an owner's data and reused ever after.

Where only a head is trained, the base model gives the same features in every round, step and
evaluation. They are computed in blocks whose make-up depends on the examples alone, so that the
bits do not depend on who computes them, and kept in the cache as one memory-mapped file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from .base import base_digest
from .cache import cache_folder, write_once
from .examples import Examples
from .model import Learner
from .tasks.base import make_batch

_BLOCK = 64
_TOLERANCE = 1e-3


def with_features(learner: Learner, examples: Examples) -> Examples:
    """The same examples with features, or unchanged where tokens are needed in every step."""
    if not learner.network.head_alone or len(examples) == 0 or examples.features is not None:
        return examples
    path = cache_folder("features") / f"{_key(learner, examples)}.npy"
    if not path.exists():
        if not _head_reads_features(learner, examples):
            return examples
        write_once(path, lambda made: _compute(learner, examples, made))
    # As a plain array: indexing a memmap takes several times as long.
    return replace(examples, features=np.asarray(np.load(path, mmap_mode="r")))


def _key(learner: Learner, examples: Examples) -> str:
    job = learner.job
    parts = (
        base_digest(learner.folder),
        job.model.pooling,
        str(job.model.feature_scale),
        "bfloat16" if learner.network.autocast else "float32",
        learner.network.device.type,
        torch.__version__,
        examples.digest(),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:40]


def _blocks(examples: Examples) -> Iterator[np.ndarray]:
    """Indices of examples of like length, so that little padding is computed."""
    order = np.argsort(examples.lengths, kind="stable")
    for start in range(0, len(order), _BLOCK):
        yield order[start : start + _BLOCK]


def _head_reads_features(learner: Learner, examples: Examples) -> bool:
    """Whether head(features) gives the network's logits, for an architecture's own head."""
    if learner.network.mean_head is not None:
        return True
    batch = _batch(learner, examples, next(_blocks(examples))[:4])
    learner.network.eval()
    with torch.inference_mode():
        whole = learner.network(batch)
        parts = learner.network({"features": learner.network.features(batch)})
    return bool((whole - parts).abs().max() < _TOLERANCE)


def _compute(learner: Learner, examples: Examples, path: Path) -> None:
    learner.network.eval()
    features: np.ndarray | None = None
    with torch.inference_mode():
        for block in _blocks(examples):
            part = learner.network.features(_batch(learner, examples, block)).cpu().numpy()
            if features is None:
                shape = (len(examples), part.shape[1])
                features = np.lib.format.open_memmap(path, "w+", dtype=np.float32, shape=shape)
            features[block] = part
    if features is not None:
        features.flush()  # type: ignore[attr-defined]


def _batch(learner: Learner, examples: Examples, indices: np.ndarray) -> dict[str, torch.Tensor]:
    pad = int(learner.tokenizer.pad_token_id)
    return make_batch(examples, indices, pad, learner.network.device)
