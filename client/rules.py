"""The keys of an owner's policy file: what each means, its unit and its default.

The defaults are strict, fit for a deployment with one operator whom the owners have a contract with.
"""

from __future__ import annotations

from datetime import datetime, time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..job import AdapterName, QuantizationName, TaskName, UnitName

PositiveFloat = Annotated[float, Field(gt=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Section(BaseModel):
    """Base of what stands in a policy file."""

    # Strict, as in a job: `required = 0` is a slip that must not become a permission.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class PrivacyRules(Section):
    """How much may ever be learned of any one record."""

    epsilon_limit: PositiveFloat = Field(
        10.0,
        description="The most epsilon that this data set may ever spend, over all jobs and years. A "
        "job can only ask for a lower limit. 10 is the largest value that is commonly considered a "
        "reasonable guarantee (tier 2 of Ponomareva et al. 2023); what is spent never comes back.",
    )
    epsilon_per_job: PositiveFloat = Field(
        8.0,
        description="The most epsilon that one job may cost: the larger of its privacy.epsilon and "
        "privacy.limit.",
    )
    delta_limit: float = Field(
        1e-5,
        gt=0,
        lt=1,
        description="Largest delta of a job. Keep it well below 1 / number of records.",
    )
    units: list[UnitName] = Field(
        ["example"],
        min_length=1,
        description='Values of the job\'s privacy.unit that are accepted. "example": noise of this '
        'agent alone; "group", which protects all records of one group together by the same '
        'noise, is then accepted as well. "client": noise in the sum, which depends on enough '
        'other members that do not collude with the server. "none" means no differential privacy: '
        "models may reveal records, and nothing is charged.",
    )
    exact_counts: bool = Field(
        False,
        description="Accept private jobs that count right and wrong answers on held-out records without "
        'noise (evaluation.counts = "exact"). A dishonest server can then read held-out records: it '
        "chooses the models that are tested and, with members that it invented, who else is in a sum. "
        "Only planned tests are answered, with one model per round.",
    )
    central_noise: bool = Field(
        False,
        description='Accept jobs in which the server adds the noise (privacy.mechanism = "central"), '
        "and so sees sums of updates without noise.",
    )


class EncryptionRules(Section):
    """What the server may read of this owner's updates."""

    required: bool = Field(
        True,
        description="Refuse jobs in which the server sees this owner's own updates "
        '(encryption.mode = "none").',
    )
    smallest_cohort: int = Field(
        3, ge=3, description="The fewest members in any sum that the server may open."
    )
    group_sums: bool = Field(
        False,
        description="Accept jobs that open one sum for each of several groups in a round "
        "(encryption.group_size), for strategies that compare them. The server then reads sums of fewer "
        "members than the whole cohort's, though never of fewer than smallest_cohort.",
    )
    name_spoilers: bool = Field(
        False,
        description="Accept jobs that find out who spoiled a sum (encryption.name_spoilers): if an "
        "opened sum is refused, this owner's noised update is summed once more, in one group of "
        "at least as many members as any sum of the consortium has. The server then reads that "
        "group's sum in addition to the whole one; noise and ledger do not change.",
    )
    confirm_required: bool = Field(
        True,
        description="Refuse jobs without the confirmation trip (encryption.confirm = false), which "
        "are safe only against a server that follows the protocol.",
    )


class JobRules(Section):
    """Which jobs this owner takes part in, and when."""

    approval: Literal["automatic", "manual"] = Field(
        "automatic",
        description='"automatic": take part in every job that this policy allows; "manual": a '
        "person approves each run first (umbel client jobs, umbel client approve).",
    )
    tasks: list[TaskName] = Field([], description="Accepted tasks. Empty: all.")
    adapters: list[AdapterName] = Field(
        [], description='Accepted adapters: "lora", "head", "full". Empty: all.'
    )
    quantization: list[QuantizationName | Literal["none"]] = Field(
        [],
        description='Accepted forms of the base model\'s frozen weights: "none" (float32), "nf4", "int8". '
        'Empty: all. ["nf4"] keeps out jobs that would take more memory here.',
    )
    strategies: list[str] = Field(
        [],
        description='Accepted strategies, such as "fedavg". Empty: all, except those with a local '
        "half that is not Umbel's own, which is code that is installed here and runs on this "
        'owner\'s updates. Such a strategy must be listed, as the job names it ("module:Class").',
    )
    base_models: list[Sha256] = Field(
        [],
        description="SHA-256 of the accepted base models, as umbel plan shows them (base_sha256). "
        "Empty: any model on this machine with the SHA-256 that the job gives.",
    )
    hub: bool = Field(
        False,
        description="Fetch a base model that is not on this machine from the model hub. The job names "
        "the model, so the hub learns which model this owner trains. false: copy it to this machine, or "
        "into the Hugging Face cache, beforehand.",
    )
    operators: list[Sha256] = Field(
        [],
        description="Public signing keys (64 hexadecimal digits) of accepted operators, instead of "
        "the key in consortium.json (list that one as well to keep it). Empty: only that key.",
    )
    max_rounds: int = Field(1000, ge=1, description="The most rounds of one job.")
    max_steps: int = Field(1000, ge=1, description="The most training steps in one round.")
    max_batch: int = Field(
        4096, ge=1, description="The most records that a step draws, on average."
    )
    max_length: int = Field(4096, ge=4, description="The longest text, in tokens.")
    max_rank: int = Field(
        256, ge=1, description="The highest rank of low-rank adapters, and of residuals."
    )
    own_rank: int = Field(
        0,
        ge=0,
        description="Train adapters of this rank here if a job's is larger, with a strategy that takes "
        "different ranks, such as flexlora; a job with another strategy and a larger rank is refused. "
        "0: the job's rank.",
    )
    max_rank_modules: int = Field(
        65536,
        ge=1,
        description="The largest product of the rank of low-rank adapters and the number of "
        "modules that get one.",
    )
    max_hours: PositiveFloat = Field(
        24.0,
        description="The longest time that one run may train at this owner, in hours. It counts "
        "the time that the run's private answers should take by public numbers. A job that would "
        "take longer is refused when it begins; if a single answer takes longer than this, it is "
        "given up, and the run ends at this owner.",
    )
    hours: list[str] = Field(
        [],
        description='Local times between which training may start, such as ["22:00-06:00"]; a round '
        "that has begun is finished. Empty: always.",
    )

    @field_validator("hours", mode="before")
    @classmethod
    def _one_window_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("hours")
    @classmethod
    def _windows_can_be_read(cls, value: list[str]) -> list[str]:
        for window in value:
            window_of(window)
        return value


class ResultRules(Section):
    """What this owner takes of the models that came of its data."""

    accept: bool = Field(
        True,
        description="Keep the result of each run that this owner took part in (adapter, certificate, model "
        "card), in the folder models, after checking it. List them with: umbel client models.",
    )
    most_megabytes: int = Field(
        1024, ge=1, description="The most megabytes of one result; a larger one is refused."
    )
    keep_own: bool = Field(
        True,
        description="Whether this owner's own model, or its personal part of one (of strategies that leave "
        "each owner a model), stays when the result has come, sealed, in the folder own. Write it as an "
        "adapter with: umbel client own-model.",
    )
    keep_states: bool = Field(
        False,
        description="Whether what a strategy had this owner keep from round to round stays in the folder "
        "states when the result has come. Else it is deleted then; that of other runs after a month.",
    )


class ResourceRules(Section):
    """What training may use of this machine."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description='Device to train on; "auto" leaves the choice to the job.'
    )
    gpu_memory_share: float = Field(
        1.0, gt=0, le=1, description="The largest share of a GPU's memory that training may take."
    )
    threads: int = Field(0, ge=0, description="Threads on the CPU. 0: one per core.")


def window_of(text: str) -> tuple[time, time]:
    """From when, inclusive, until when, exclusive; past midnight where the second is the smaller."""
    try:
        start, end = (datetime.strptime(part.strip(), "%H:%M").time() for part in text.split("-"))
    except ValueError:
        start = end = time()
    if start == end:
        raise ValueError(f'{text!r} is not a window of time such as "22:00-06:00"')
    return start, end


def within(clock: time, start: time, end: time) -> bool:
    return start <= clock < end if start < end else clock >= start or clock < end
