"""A loaded model as the rest of Umbel knows it: its shape, its tensors, and the job it is for.

One process loads a base model once and serves many virtual clients with it: only the trained
tensors change hands (``arrays`` and ``load``). Where nothing but a head is trained, the base model
runs once over an owner's data and its features stand in for the tokens from then on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..job import Job
from ..messages import Arrays
from .base import base_digest
from .network import Network

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ModelShape:
    """What the plan needs to know of a model: shapes of the trained tensors, and sizes."""

    trained: dict[str, tuple[int, ...]]
    total_parameters: int
    base_digest: str
    base_folder: str

    @property
    def trained_parameters(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.trained.values())


@dataclass(frozen=True)
class Learner:
    """One loaded model with its tokenizer: what a process needs to train, test and predict."""

    job: Job
    network: Network
    tokenizer: PreTrainedTokenizerBase
    folder: Path
    initial: Arrays

    def shape(self) -> ModelShape:
        return ModelShape(
            trained={name: tuple(a.shape) for name, a in self.initial.items()},
            total_parameters=sum(p.numel() for p in self.network.parameters()),
            base_digest=base_digest(self.folder),
            base_folder=str(self.folder),
        )


def arrays_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, shapes and float32 bytes in order: `adapter_sha256` of a result."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
    return digest.hexdigest()
