"""Features of a frozen base model, computed once for an owner's data and reused ever after.

Where only a head is trained, the base model gives the same features in every round, step and
evaluation. They are computed in passes of one shape (``shapes``), so that the bits of a record depend
on no other record, and kept in the cache as one memory-mapped file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from ..storage.cache import cache_folder, write_once
from .examples import Examples
from .failures import NOBODY, Touch, each
from .heard import records_done
from .invented import frame, invented_texts
from .model import Learner
from .shapes import Passes, feature_width, rows_of

_TOLERANCE = 1e-3
_LENGTHS = (5, 7, 9, 12)

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
            write_once(path, lambda made: _write(learner, examples, made))
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
        job.model.pooling,
        str(job.model.feature_scale),
        f"{learner.length} {learner.job.model.max_length} rows {rows_of(learner)}",
        f"padding token {learner.tokenizer.pad_token_id}",
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
    longest = learner.job.model.max_length
    texts = invented_texts(learner.tokenizer, [min(length, longest) for length in _LENGTHS])
    # A text may end with the padding token, which some heads look for.
    end = len(frame(learner.tokenizer)[1])
    ending = texts[-1].copy()
    ending[-end - 1] = learner.tokenizer.pad_token_id
    learner.network.eval()
    return _agree(learner, texts) and _agree(learner, [ending])


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


def _write(learner: Learner, examples: Examples, path: Path) -> None:
    def make(shape: tuple[int, int], dtype: type) -> np.ndarray:
        return np.lib.format.open_memmap(path, "w+", dtype=dtype, shape=shape)

    features = computed(learner, examples, make)
    if np.isnan(features).any():
        raise _Incomplete(np.array(features))
    features.flush()  # type: ignore[attr-defined]


def computed(
    learner: Learner,
    examples: Examples,
    make: Callable[[tuple[int, int], type], np.ndarray],
    touch: Touch | None = None,
) -> np.ndarray:
    """float32[n, inputs of the head], NaN for who has none."""
    passes = Passes(learner, examples, rows_of(learner))
    learner.network.eval()
    features: np.ndarray | None = None

    def of(chunk: np.ndarray) -> np.ndarray:
        if touch is not None:
            touch(int(examples.rows[chunk[0]]))
        found = learner.network.features(passes.batch(chunk))[: len(chunk)]
        return np.asarray(found.cpu().numpy())

    with torch.inference_mode():
        for chunk in passes.chunks(alone=touch is not None):
            for index, found in zip(chunk, each(of, chunk), strict=True):
                if found is None:
                    continue
                if features is None:
                    features = make((len(examples), len(found)), np.float32)
                    features[:] = np.nan
                features[index] = found
            records_done(len(chunk))
    if touch is not None:
        touch(NOBODY)
    if features is None:
        features = make((len(examples), feature_width(learner)), np.float32)
        features[:] = np.nan
    return features
