"""The job: a typed description of one federated fine-tuning, read from TOML.

A job says *what* is to be learned, under which privacy, and how the rounds go. It holds no secret
and nothing about the machine it runs on, so the same file serves a simulation, a rehearsal and a
deployment. Unknown keys are refused with the nearest known name; every field has a unit and a
default. ``Job.load`` reads a file, ``Job.build`` a dictionary; both raise ``JobError``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from ..errors import JobError
from ..storage.canonical import canonical_json
from ..storage.documents import explain
from ..tasks.spec import TaskSpec, spec_of, usual_task
from .attacks import keeping_labels
from .chosen import still_chosen
from .protection import EncryptionSpec, PrivacySpec
from .rounds import CohortSpec, EvaluationSpec, SimulationSpec, StrategySpec
from .section import AdapterName, Section, TaskName
from .toml_file import dotted, parse_override, read_toml, resolve_paths, set_key
from .training import DataSpec, ModelSpec, TrainingSpec

_LEARNING_RATES: dict[AdapterName, float] = {"head": 1e-2, "lora": 1e-3, "full": 5e-5}

_MOST_FOR_TESTS = 0.5
"""Epsilon."""


class Job(Section):
    """One federated fine-tuning."""

    name: str = Field(
        "job", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="Short name."
    )
    task: TaskName = Field(
        usual_task(labelled=True).name, description="What the model learns to do."
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**63,
        description="Determines cohorts, batches without privacy, and the first adapter.",
    )
    recipe: str | None = Field(
        None,
        description="The values of this job that the recipe chose, and the public numbers "
        "that it used (docs/recipe.md). Umbel writes this text; it has no effect.",
    )
    model: ModelSpec = ModelSpec()
    data: DataSpec
    training: TrainingSpec = TrainingSpec()
    privacy: PrivacySpec = PrivacySpec()
    encryption: EncryptionSpec = EncryptionSpec()
    strategy: StrategySpec = StrategySpec()
    cohort: CohortSpec = CohortSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    simulation: SimulationSpec = SimulationSpec()

    @model_validator(mode="after")
    def _fields_fit_each_other(self) -> Self:
        task = self.kind
        if task.labelled and self.data.label_column is None:
            raise ValueError(f"{task.name} needs data.label_column")
        if self.model.adapter is not None and self.model.adapter not in task.adapters:
            raise ValueError(
                f'model.adapter = "{self.model.adapter}": {task.name} has no such part to train; '
                f'use "{task.adapters[0]}"'
            )
        if self.model.quantization and (self.adapter == "full" or self.own_head):
            raise ValueError(
                f'model.quantization = "{self.model.quantization}" holds the base model frozen: it needs '
                f'model.adapter = "lora" or "head", and a classifier model.pooling = "mean" or "layers"'
            )
        spec = self.encryption
        if spec.name_spoilers and not (
            self.encrypted and spec.confirm and not spec.group_size and self.noised_locally
        ):
            raise ValueError(
                'encryption.name_spoilers applies only with privacy.unit = "example" or "group", '
                "encryption.confirm and no encryption.group_size"
            )
        if self.simulation.attackers and self.simulation.flips_labels and not task.classified:
            raise ValueError(
                f'simulation.attack = "{self.simulation.attack}" trains on opposite classes, and '
                f"{task.name} has none: use {keeping_labels()}"
            )
        if self.cohort.size and self.cohort.minimum and self.cohort.minimum > self.cohort.size:
            raise ValueError(
                f"cohort.minimum ({self.cohort.minimum}) is above cohort.size ({self.cohort.size})"
            )
        return self

    @property
    def kind(self) -> TaskSpec:
        """What the job's task is."""
        return spec_of(self.task)

    @property
    def pooled(self) -> bool:
        """Whether Umbel's own head is put on pooled states, instead of the architecture's head."""
        return self.kind.pools and self.model.pooling != "own"

    @property
    def own_head(self) -> bool:
        """Whether the architecture's own head is trained, which tells classes apart."""
        return (self.kind.pools or self.kind.labelled) and not self.pooled

    @property
    def tests_privately(self) -> bool:
        """Whether the counts of held-out records leave with noise."""
        return self.counts == "private"

    @property
    def spare_rounds(self) -> int:
        """Rounds that may be trained again within epsilon, with the default filled in."""
        if self.privacy.spare_rounds is not None:
            return self.privacy.spare_rounds
        return 1 + self.training.rounds // 10 if self.per_client else 1

    @property
    def tests_epsilon(self) -> float:
        """What all tests with private counts may cost, with the default filled in."""
        return self.evaluation.epsilon or min(_MOST_FOR_TESTS, self.privacy.epsilon / 4)

    @property
    def counts(self) -> Literal["exact", "private", "off"]:
        """What leaves an owner about its held-out records, with the default filled in."""
        spec = self.evaluation
        if spec.counts is not None:
            return spec.counts
        if not self.private:
            return "exact"
        released = spec.decides and spec.public_path is None
        return "off" if self.per_client and not released else "private"

    @property
    def rank(self) -> int:
        """Of each module that gets a low-rank adapter; 0 if none does."""
        return self.model.lora.rank if self.adapter == "lora" else 0

    @property
    def adapter(self) -> AdapterName:
        """The adapter, with the task's default filled in."""
        if self.model.adapter is not None:
            return self.model.adapter
        return self.kind.adapters[0]

    def padded(self) -> Job:
        """The same job with every text padded to ``model.max_length``."""
        model = self.model.model_copy(update={"padding": "max_length"})
        return self.model_copy(update={"model": model})

    @property
    def private(self) -> bool:
        return self.privacy.unit != "none"

    @property
    def noised_locally(self) -> bool:
        """Whether each client's own steps are private, for a record or for a group: DP-SGD."""
        return self.privacy.unit in ("example", "group")

    @property
    def per_group(self) -> bool:
        """Whether all records of one group are protected together."""
        return self.privacy.unit == "group"

    @property
    def per_client(self) -> bool:
        """Whether the sum of updates is private, and hides each client's whole data."""
        return self.privacy.unit == "client"

    @property
    def noised_by_clients(self) -> bool:
        """Whether clients add noise to what leaves them; otherwise the server sees sums without noise."""
        return self.per_client and self.privacy.mechanism == "distributed"

    @property
    def encrypted(self) -> bool:
        return self.encryption.mode != "none"

    @property
    def weighting(self) -> Literal["examples", "equal"]:
        """How clients are weighted, with the privacy unit's default filled in."""
        if self.strategy.weighting is not None:
            return self.strategy.weighting
        return "equal" if self.private else "examples"

    def _filled(self) -> Job:
        """The same job with a learning rate that suits its adapter, if it names none."""
        if self.training.learning_rate is not None:
            return self
        rate = _LEARNING_RATES[self.adapter]
        training = self.training.model_copy(update={"learning_rate": rate})
        return self.model_copy(update={"training": training})

    def changed(self, given: Mapping[str, Any]) -> Job:
        """The same job with other values at dotted keys; a ``JobError`` names what is wrong with them.

        A learning rate that is the default of its adapter follows the adapter. ``recipe`` no longer
        names a value that is another now.
        """
        values = self.model_dump(mode="json", exclude_unset=True)
        if self.training.learning_rate == _LEARNING_RATES[self.adapter]:
            del values["training"]["learning_rate"]
        for key, value in given.items():
            set_key(values, key, value)
        found = type(self).build(resolve_paths(values, Path.cwd()))
        if self.recipe is None or found.recipe != self.recipe:
            return found
        said = still_chosen(self.recipe, self.model_dump(), found.model_dump())
        return found.model_copy(update={"recipe": said})

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no white space.

        Without a recipe, spellings, attackers, a virtual clock, ranks, a size of pictures, quantisation,
        rounds for a centre, or what dialogues need, there are no such keys: jobs keep the digests that they
        had before.
        """
        simulation = self.simulation
        absent: dict[str, Any] = {"recipe": True} if self.recipe is None else {}
        absent["data"] = _unused(self.data, "spellings", "answer_column")
        absent["model"] = _unused(self.model, "image_size", "quantization", "template", "answers")
        absent["training"] = _unused(self.training, "centre_rounds")
        unused: set[str] = set()
        if simulation.attackers is None:
            unused |= {"attackers", "attack", "attack_boost"}
        if not simulation.timed and simulation.seconds == SimulationSpec().seconds:
            unused |= {"seconds", "speeds", "slow"}
        if simulation.ranks is None:
            unused |= {"ranks"}
        absent["simulation"] = unused
        return canonical_json(self.model_dump(mode="json", exclude=absent))

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def build(cls, values: Mapping[str, Any], *, source: str = "job") -> Job:
        """Validate `values`; a ``JobError`` names each wrong key and what is known instead."""
        try:
            return cls.model_validate(values)._filled()
        except ValidationError as error:
            raise JobError(f"{source}: {explain(error, Job, longest=None)}") from None

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = (), **sections: Any) -> Job:
        """Read a TOML file and apply overrides: texts such as ``training.rounds=3``, or sections
        such as ``training={"rounds": 3}``."""
        return cls.compose(Path(path), dict(dotted(sections)), overrides)

    @classmethod
    def compose(
        cls, path: Path | None, given: Mapping[str, Any], overrides: Sequence[str] = ()
    ) -> Job:
        """A job from a file, if any, then dotted keys, then ``KEY=VALUE`` texts; the last wins.

        Paths in the file start at its folder, paths that are given at the working directory. A ``recipe``
        in the file no longer names a value that is given otherwise.
        """
        values = resolve_paths(read_toml(path), path.parent) if path else {}
        before = deepcopy(values)
        for key, value in given.items():
            set_key(values, key, value)
        for override in overrides:
            set_key(values, *parse_override(override))
        resolve_paths(values, Path.cwd())
        if isinstance(said := before.get("recipe"), str) and values["recipe"] == said:
            values["recipe"] = still_chosen(said, before, values)
        return cls.build(values, source=str(path) if path else "command line")


def _unused(section: Section, *names: str) -> set[str]:
    """Which of these keys have their defaults."""
    fields = type(section).model_fields
    return {name for name in names if getattr(section, name) == fields[name].default}
