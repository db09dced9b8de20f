"""The seam between the trainer and what is learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..examples import Examples
from ..metrics import Counts
from ..network import Batch


class Task(Protocol):
    """One loss an example, whatever the batch: examples never couple."""

    def losses(self, logits: Tensor, batch: Batch) -> Tensor:
        """Loss of each example, float32[B]; it depends on that example alone."""
        ...

    def counts(self, logits: Tensor, batch: Batch) -> Counts:
        """Additive counts of the batch, from which all figures are computed."""
        ...

    def zero(self) -> Counts:
        """Counts of nothing."""
        ...


def make_batch(
    examples: Examples, indices: Sequence[int] | np.ndarray, pad_id: int, device: torch.device
) -> Batch:
    """Pad the chosen examples on the right to the longest of them, or take their features.

    "weights" is what each example adds to private counts, if groups are protected.
    """
    beside = {"labels": torch.from_numpy(examples.labels[indices])}
    if examples.weights is not None:
        beside["weights"] = torch.from_numpy(examples.weights[indices])
    if examples.features is not None:
        features = torch.from_numpy(np.asarray(examples.features[indices]))
        return {name: t.to(device) for name, t in {"features": features, **beside}.items()}
    rows = [examples.tokens(int(index)) for index in indices]
    longest = max(len(row) for row in rows)
    ids = np.full((len(rows), longest), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
    batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    return {name: t.to(device) for name, t in {**batch, **beside}.items()}
