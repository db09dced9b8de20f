"""A loaded model as the rest of Umbel knows it: its shape, its tensors, and the job it is for.

One process loads a base model once and serves many virtual clients with it: only the trained
tensors change hands (``arrays`` and ``load``). If nothing but a head is trained, the base model
runs once over an owner's data and its features stand in for the tokens from then on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelError
from ..job import Job
from ..wire.arrays import Arrays
from ..wire.residual_names import is_residual
from .base_model import named_digest
from .batches import make_batch
from .examples import Examples
from .inputs import Inputs, Texts
from .network import Batch, Network
from .probing.verdict import Verdict
from .quantization import parameter_count
from .shaping import PLAIN, Shaping

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ModelShape:
    """What the plan needs to know of a model: shapes of the trained tensors, and sizes."""

    trained: dict[str, tuple[int, ...]]
    """Shapes of all that travels: what is trained, and what only the server moves (``lora_residual``)."""
    total_parameters: int
    base_digest: str
    base_folder: str
    verdict: Verdict | None
    """The verdict of a probe, if there was one."""
    fixed_digest: str = ""
    """SHA-256 of the adapter's tensors that do not travel, as they begin (``shaping``); empty if there are
    none."""
    personal: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes of those that each owner trains for itself."""

    @property
    def everything(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all that an owner trains."""
        return {**self.trained, **self.personal}

    @property
    def trained_parameters(self) -> int:
        """Numbers that owners train, without what only the server moves."""
        shapes = (shape for name, shape in self.trained.items() if not is_residual(name))
        return sum(int(np.prod(shape)) for shape in shapes)


@dataclass(frozen=True)
class Learner:
    """One loaded model with its inputs: what a process needs to train, test and predict."""

    job: Job
    network: Network
    inputs: Inputs
    folder: Path
    initial: Arrays
    verdict: Verdict | None = None
    """The verdict of a probe: without one no private step is taken."""
    loader: str = "AutoModel.from_pretrained({})"
    """Python that loads the base model with transformers alone; {} stands for its name."""
    shaping: Shaping = PLAIN
    fixed_digest: str = ""
    """As in ``ModelShape``."""

    @property
    def personal(self) -> Arrays:
        """What the tensors begin with that each owner trains for itself."""
        return self.network.personal

    def check_independent(self) -> None:
        """Raise ``ModelError`` unless a probe found that texts are independent, padded as the job says."""
        if self.verdict is None:
            raise ModelError("This model was not probed, so it is not trained under privacy.")
        if not self.verdict.allows(self.job.model.padding):
            raise ModelError(
                f"{self.job.model.base} is not trained under privacy: {self.verdict.reason}."
            )

    def batch(self, examples: Examples, indices: Sequence[int] | np.ndarray) -> Batch:
        """The chosen examples as the network takes them, padded as the job says."""
        return make_batch(examples, indices, self.inputs, self.network.device, self.length)

    def batch_of(self, rows: Sequence[np.ndarray]) -> Batch:
        """Rows without labels, padded as the job says."""
        return self.inputs.collate(rows, self.network.device, self.length)

    @property
    def length(self) -> int | None:
        """Numbers that every row is padded to, or has; None: as many as the longest in its batch."""
        spec = self.job.model
        alike = spec.padding == "max_length" or not self.inputs.varied
        return self.longest if alike else None

    @property
    def longest(self) -> int:
        """Numbers of the longest row."""
        return self.inputs.numbers or self.job.model.max_length

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Of a model that reads texts; a ``ModelError`` for another."""
        if not isinstance(self.inputs, Texts):
            raise ModelError(
                f"The task {self.job.task} does not read texts, so its model has no tokenizer."
            )
        return self.inputs.tokenizer

    @property
    def base_digest(self) -> str:
        """SHA-256 of the base model, as a job names it."""
        return named_digest(self.job.model.base)

    def shape(self) -> ModelShape:
        return ModelShape(
            trained={name: tuple(a.shape) for name, a in self.initial.items()},
            total_parameters=sum(map(parameter_count, self.network.parameters())),
            base_digest=self.base_digest,
            base_folder=str(self.folder),
            verdict=self.verdict,
            fixed_digest=self.fixed_digest,
            personal={name: tuple(a.shape) for name, a in self.personal.items()},
        )


def arrays_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, shapes and float32 bytes in order: `adapter_sha256` of a result."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
    return digest.hexdigest()
