"""Batches: how many examples go through the base model at once, and how they are padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..job import TrainingSpec
from .network import Batch, compared

if TYPE_CHECKING:
    from .examples import Examples
    from .inputs import Inputs

# A CPU gains more from short padding than from wide products.
_MICROBATCH = {"cpu": 8}
_ELSEWHERE = 32
# Without gradients nothing is kept for a way back.
_WITHOUT_GRADIENTS = 4


def microbatch(spec: TrainingSpec, device: torch.device) -> int:
    """Most examples in one pass of training through the base model.

    The probe tries a pass of so many of the longest texts, so that no record can be the one for which
    memory runs out.
    """
    return spec.microbatch or _MICROBATCH.get(device.type, _ELSEWHERE)


def forward_batch(spec: TrainingSpec, device: torch.device) -> int:
    """Examples in one pass for features, which needs no gradients: the probe tries it too."""
    return _WITHOUT_GRADIENTS * microbatch(spec, device)


def pad_rows(
    rows: Sequence[np.ndarray], pad_id: int, device: torch.device, length: int | None
) -> Batch:
    """Token ids and their mask, int64[rows, T]: padded on the right to `length`, or to the longest."""
    length = length or max(len(row) for row in rows)
    ids = np.full((len(rows), length), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), length), dtype=np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
    batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def make_batch(
    examples: Examples,
    indices: Sequence[int] | np.ndarray,
    inputs: Inputs,
    device: torch.device,
    length: int | None = None,
) -> Batch:
    """The chosen examples as `inputs` collates them, or their features; and their labels.

    "weights" is what each example adds to private counts, if groups are protected.
    """
    beside = {"labels": torch.from_numpy(examples.labels[indices]).to(device)}
    if examples.weights is not None:
        beside["weights"] = torch.from_numpy(examples.weights[indices]).to(device)
    if examples.features is not None:
        features = torch.from_numpy(np.asarray(examples.features[indices]))
        beside["features"] = features.to(device)
        if not inputs.targets:
            return beside
    rows = [examples.tokens(int(index)) for index in indices]
    collated = inputs.collate(rows, device, length)
    return (collated if examples.features is None else compared(collated)) | beside
