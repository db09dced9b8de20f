"""The finished run that is attacked, its claims, and which of its records an attack looks at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RunFolderError
from ..job import Job
from ..learning.examples import Examples
from ..run.events import Partition, Round
from ..run.run_folder import RunFolder
from .canaries import CanaryAudit, Mechanism

FEWEST = 20
"""With fewer canaries, or losses on each side, nothing is reported."""


@dataclass(frozen=True)
class Subject:
    """A finished run and its claims."""

    folder: RunFolder
    job: Job
    plan: dict[str, Any]
    result: dict[str, Any]

    @property
    def simulated(self) -> bool:
        return bool(self.folder.told(Partition))

    @property
    def client(self) -> dict[str, Any]:
        """The planned client that has spent most."""
        spent = self.result["privacy"]["clients"]
        return dict(max(self.plan["clients"], key=lambda c: spent.get(c["name"], 0.0)))

    @property
    def claim(self) -> float:
        return float(self.result["privacy"]["clients"][self.client["name"]])

    @property
    def mechanism(self) -> Mechanism:
        client, training = self.client, self.job.training
        rounds = sum(client["name"] in event.clients for event in self.folder.told(Round))
        return Mechanism(
            noise_multiplier=client["noise_multiplier"],
            sampling_rate=client["sampling_rate"],
            clipping_norm=self.job.privacy.clipping_norm,
            rounds=rounds or client["rounds"],
            local_steps=training.local_steps,
            records_per_group=self.job.data.records_per_group if self.job.per_group else None,
        )


def opened(path: Path) -> Subject:
    folder = RunFolder.open(path)
    if not (path / "result.json").is_file():
        raise RunFolderError(
            f"{path} is not finished, so there is nothing to audit yet. Go on with it: umbel "
            f"simulate --resume --run-dir {path}"
        )
    return Subject(
        folder, folder.job, folder.read_json("plan.json"), folder.read_json("result.json")
    )


def bounded(seen: CanaryAudit, claim: float) -> dict[str, Any]:
    refuted = seen.lower_bound > claim
    return {**asdict(seen), "claimed_epsilon": claim, "refuted": refuted}


def no_claim(job: Job) -> str:
    if not job.private:
        return "the run claims no differential privacy, so there is no epsilon to refute"
    return f"the run protects one {job.privacy.unit}, and this attack is on single examples"


def a_few(examples: Examples, most: int) -> Examples:
    """At most so many of the examples, drawn evenly: the first ones may be of one kind."""
    drawn = np.random.default_rng(0).permutation(len(examples))[:most]
    return examples.take(np.sort(drawn))
