"""How the rounds go: strategy, cohort, evaluation, and the virtual clients of a simulation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..tasks.spec import task_names
from .section import PositiveFloat, PositiveInt, Section


class StrategySpec(Section):
    """How updates become the next model."""

    name: str = Field(
        "fedavg",
        description='"fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "fedprox"; of LoRA\'s factors '
        '"ffa-lora", "rolora", "la-lora", "fed-sb"; "scaffold", '
        '"feddyn", with which owners keep a state; "median", "trimmed-mean", "geometric-median", "krum", '
        '"multi-krum", "bulyan", "centred-clipping", "norm-bound", which hold against bad clients; the name '
        'of a class in flwr.serverapp.strategy; or "module:Class" of your own (docs/strategies.md).',
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

    size: PositiveInt | None = Field(None, description="Clients asked in a round. Default: all.")
    participations: PositiveInt | None = Field(
        None,
        description="Most rounds that any one client takes part in, which the noise is made for where "
        'privacy.unit is "client". Default: all rounds. A smaller one needs less noise, where "size" '
        "asks only some in each round.",
    )
    minimum: PositiveInt | None = Field(
        None,
        description="Fewest answers for a round to count. Default: as few as the sum may be opened of, so "
        "that a round survives the absences that the roster's threshold allows (docs/deploy.md); without "
        "encryption all that were asked.",
    )
    joins: bool = Field(
        False,
        description="Whether members that are admitted while the job runs take part from the next round on. "
        "Their own noise is made for the rounds that are left.",
    )
    when_stuck: Literal["finish", "stop"] | None = Field(
        None,
        description='What becomes of a run that fails after a round was summed: "finish" ends it early with '
        'its last summed model, as a finished, certified run; "stop" leaves it failed, to be resumed. '
        'Default: "finish" if no resumption can help, because too few members are left or too many owners '
        'refuse (such as when their budgets for the run are spent), else "stop".',
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
        description="Rounds between two tests; 0: before and after training. Default: after every "
        'round, and if counts are "private" as often as keeps the noise small: the plan takes the '
        "largest number of tests at which noise moves accuracy by less than 2 points (a standard "
        "deviation; of a language model the loss by 0.1), and at least the last one.",
    )
    counts: Literal["exact", "private", "off"] | None = Field(
        None,
        description='What leaves of the held-out records: "private", their counts with discrete '
        "Gaussian noise, charged to each owner's ledger (every owner adds the whole noise; where "
        'privacy.unit is "client", its share); "exact", the counts of all clients together, which '
        'the guarantee does not cover and each owner\'s policy must allow; "off", nothing. Default: '
        '"private"; "off" where privacy.unit is "client", "exact" where nothing is private.',
    )
    epsilon: PositiveFloat | None = Field(
        None,
        description="Of privacy.epsilon, what all tests together may cost where counts are "
        '"private". Default: a quarter of it, and at most 0.5.',
    )
    public_path: str | None = Field(
        None,
        description="File with public records, in the columns of the data, on which the server itself "
        "tests the model as well; no owner needs it. Relative paths start at the job file's folder.",
    )
    keep: Literal["last", "best"] = Field(
        "last",
        description='Which of the tested models is the result: the "last", or the "best", by accuracy '
        f"({task_names(labelled=True)}) or loss ({task_names(labelled=False)}) on public_path if there is "
        "one, else on the counts.",
    )
    patience: PositiveInt | None = Field(
        None,
        description="End training early after so many tests in a row that were no better than the best "
        "before them, by the same figures. Default: all rounds.",
    )

    @property
    def decides(self) -> bool:
        """Whether figures change what comes out."""
        return self.keep == "best" or self.patience is not None


class SimulationSpec(Section):
    """How one data file is spread over virtual clients; a deployment ignores it."""

    partition: str = Field(
        "iid",
        description='"column:NAME" (one client a value: natural clients), "iid", '
        '"dirichlet:ALPHA" (label skew; smaller is more uneven) or "shards:K" (K label shards a '
        "client).",
    )
    clients: PositiveInt | None = Field(
        None, description='Virtual clients; not given for "column:NAME". Default: 4.'
    )
    attackers: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of virtual clients that attack, chosen by the seed (docs/strategies.md), to see "
        "what a strategy holds against. Refused between machines. Default: none.",
    )
    attack: Literal["label-flip", "sign-flip", "alie", "ipm", "model-replacement"] = Field(
        "sign-flip",
        description='What attackers do: "label-flip", train on opposite classes; "sign-flip", send the '
        'opposite of what they learned; "alie" (a little is enough) and "ipm" (inner product manipulation), '
        'send what follows from mean and deviation of all attackers\' honest updates; "model-replacement", '
        "train on opposite classes and send a multiple of it.",
    )
    attack_boost: PositiveFloat | None = Field(
        None,
        description='Factor of the attack. Default: 4 for "sign-flip", 0.5 for "ipm", clients / attackers '
        'for "model-replacement"; for "alie" 1, times the deviations of its paper.',
    )
    alone: bool = Field(
        False, description="Also train every client alone, with the same steps and privacy."
    )
    encryption_required: bool = Field(
        True,
        description="Policy of the virtual owners: whether they refuse a job whose "
        'encryption.mode is "none".',
    )
    pooled: bool = Field(
        False, description="Also train on all data in one place, without privacy: the yardstick."
    )

    @property
    def flips_labels(self) -> bool:
        """Whether the attack trains on opposite classes."""
        return self.attack in ("label-flip", "model-replacement")
