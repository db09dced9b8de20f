"""How the rounds go: strategy, cohort, evaluation, and the virtual clients of a simulation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..tasks.spec import task_figures
from .attacks import ATTACKS, AttackName, boosts_in_words, in_words
from .section import PositiveFloat, PositiveInt, Section


class StrategySpec(Section):
    """How updates become the next model."""

    name: str = Field(
        "fedavg",
        description='One of Umbel\'s own, such as "fedavg" or "fedprox" (`umbel strategies` lists them with '
        "what each goes with, docs/strategies.md says how they work); the name of a class in "
        'flwr.serverapp.strategy; or "module:Class" for your own.',
    )
    options: dict[str, bool | int | float | str] = Field(
        default_factory=dict, description="Arguments of the strategy, by name."
    )
    weighting: Literal["examples", "equal"] | None = Field(
        None,
        description='Weight of a client in the mean. Default: "equal" under privacy (a weight would '
        'tell a data set\'s size), else "examples".',
    )


class CohortSpec(Section):
    """Who takes part in a round, and when a round counts."""

    size: PositiveInt | None = Field(None, description="Clients asked in each round. Default: all.")
    participations: PositiveInt | None = Field(
        None,
        description="The most rounds that any one client takes part in; the noise is made for this "
        'number if privacy.unit is "client". Default: all rounds. If "size" asks only some clients in '
        "each round, a smaller number needs less noise.",
    )
    minimum: PositiveInt | None = Field(
        None,
        description="The fewest answers with which a round counts. Default: the fewest for which "
        "a sum may be opened, so that a round survives the absences that the roster's threshold "
        "allows (docs/deploy.md); without encryption, all clients that were asked.",
    )
    joins: bool = Field(
        False,
        description="Whether members that are admitted while the job runs take part from the next "
        "round on. Their own noise is made for the remaining rounds.",
    )
    when_stuck: Literal["finish", "stop"] | None = Field(
        None,
        description='What happens to a run that fails after a round was summed: "finish" ends it '
        'early with its last summed model, as a finished, certified run; "stop" leaves it failed, '
        'so that it can be resumed. Default: "finish" if resuming cannot help because too few '
        "members are left or too many owners refuse (for example, because their budgets for the "
        'run are spent), else "stop".',
    )
    deadline: PositiveFloat = Field(3600.0, description="Seconds that a round waits for answers.")
    retries: int = Field(
        2,
        ge=0,
        description="How often a round with too few answers is repeated before the run stops.",
    )


class EvaluationSpec(Section):
    """Testing of the model between rounds, on held-out records."""

    every: int | None = Field(
        None,
        ge=0,
        description="Rounds between two tests; 0: only before and after training. Default: after "
        'every round; if counts are "private", the largest number of tests with which noise moves '
        "accuracy by less than 2 points (one standard deviation; for a language model, the loss by "
        "0.1), and always the last one.",
    )
    counts: Literal["exact", "private", "off"] | None = Field(
        None,
        description='What leaves an owner about its held-out records: "private", their counts '
        "with discrete Gaussian noise, charged to each owner's ledger (each owner adds the whole "
        'noise or, if privacy.unit is "client", its share); "exact", the counts of all clients '
        'together, which the guarantee does not cover and each owner\'s policy must allow; "off", '
        'nothing. Default: "private"; "off" if privacy.unit is "client", "exact" if it is "none".',
    )
    epsilon: PositiveFloat | None = Field(
        None,
        description="The part of privacy.epsilon that all tests together may cost if counts "
        'are "private". Default: a quarter of it, and at most 0.5.',
    )
    public_path: str | None = Field(
        None,
        description="File with public records, with the same columns as the data, on which the server "
        "itself also tests the model; owners do not need it. Relative paths start at the job "
        "file's folder.",
    )
    keep: Literal["last", "best"] = Field(
        "last",
        description='Which of the tested models is the result: the "last", or the "best", by '
        f"{task_figures()} on "
        "public_path if it is set, otherwise on the counts.",
    )
    patience: PositiveInt | None = Field(
        None,
        description="End training early after this many tests in a row without a better result than "
        "before, by the same figures. Default: train all rounds.",
    )

    @property
    def decides(self) -> bool:
        """Whether figures change what comes out."""
        return self.keep == "best" or self.patience is not None


class SimulationSpec(Section):
    """How one data file is spread over virtual clients; a deployment ignores it."""

    partition: str = Field(
        "iid",
        description='"column:NAME" (one client per value: natural clients), "iid", '
        '"dirichlet:ALPHA" (label skew; smaller is more uneven) or "shards:K" (K label shards '
        "per client).",
    )
    clients: PositiveInt | None = Field(
        None, description='Number of virtual clients; not allowed with "column:NAME". Default: 4.'
    )
    attackers: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of virtual clients that attack, chosen by the seed (docs/strategies.md), to "
        "measure how a strategy resists them. Refused between machines. Default: none.",
    )
    attack: AttackName = Field("sign-flip", description=f"What attackers do: {in_words()}.")
    attack_boost: PositiveFloat | None = Field(
        None,
        description=f"Factor of the attack. Default: {boosts_in_words()}.",
    )
    seconds: PositiveFloat = Field(
        60.0,
        description="Seconds on the virtual clock that a client trains in one round, if it is neither "
        "faster nor slower than others.",
    )
    speeds: str = Field(
        "equal",
        pattern=r"^(equal|lognormal:[0-9]+(\.[0-9]+)?)$",
        description='How client speeds differ on the virtual clock: "equal", or "lognormal:SIGMA", which '
        "multiplies each client's seconds by a number drawn from the seed.",
    )
    slow: dict[str, PositiveFloat] = Field(
        default_factory=dict,
        description="Factors by which clients take longer on the virtual clock, by client name.",
    )
    ranks: list[PositiveInt] | None = Field(
        None,
        min_length=1,
        description="Ranks of LoRA adapters that virtual clients choose, by turns, such as [4, 8, 16]; none "
        "above model.lora.rank (docs/strategies.md). Default: all have that rank.",
    )
    alone: bool = Field(
        False, description="Also train each client alone, with the same steps and privacy."
    )
    encryption_required: bool = Field(
        True,
        description="Whether the virtual owners refuse a job whose encryption.mode "
        'is "none", as real owners do by default.',
    )
    pooled: bool = Field(
        False, description="Also train on all data in one place, without privacy, for comparison."
    )

    @property
    def timed(self) -> bool:
        """Whether clients differ in speed on the virtual clock."""
        return self.speeds != "equal" or bool(self.slow)

    def rank_of(self, place: int) -> int:
        """The rank that the virtual client at this place chooses; 0: the job's."""
        return self.ranks[place % len(self.ranks)] if self.ranks else 0

    @property
    def flips_labels(self) -> bool:
        """Whether the attack trains on opposite classes."""
        return ATTACKS[self.attack].flips_labels
