"""The job: a typed description of one federated fine-tuning, read from TOML.

A job says *what* is to be learned, under which privacy, and how the rounds go. It holds no secret
and nothing about the machine it runs on, so the same file serves a simulation, a rehearsal and a
deployment. Unknown keys are refused with the nearest known name; every field has a unit and a
default. ``Job.load`` reads a file, ``Job.build`` a dictionary; both raise ``JobError``.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import JobError
from ..storage.documents import explain

TaskName = Literal["text-classification", "causal-lm"]
AdapterName = Literal["lora", "head", "full"]
UnitName = Literal["example", "group", "client", "none"]

_LEARNING_RATES: dict[AdapterName, float] = {"head": 1e-2, "lora": 1e-3, "full": 5e-5}

LEAST_CLIPPING_NORM, MOST_CLIPPING_NORM = 1e-3, 1e3
"""Far from where float32 loses squares, so that no gradient's norm can hide (``privacy.dpsgd.optimizer``)."""

_MOST_FOR_TESTS = 0.5
"""Epsilon."""

_ENDING = re.compile(r"[A-Za-z0-9_-]{1,100}(\.[A-Za-z0-9_-]{1,100}){0,15}")

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]


class _Section(BaseModel):
    # Strict: TOML has types, and `rounds = true` is a slip that must not become one round.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


def _check_ending(text: str) -> str:
    # A pattern of the job's choice would be matched against every name, and can take for ever.
    if not _ENDING.fullmatch(text):
        raise ValueError(
            f"{text!r:.80} is not the ending of a module's name: give letters, digits, '_', '-' and '.', "
            'such as ["query", "output.dense"]; regular expressions are not taken'
        )
    return text


ModuleEnding = Annotated[str, AfterValidator(_check_ending)]


class LoraSpec(_Section):
    """Low-rank adaptation (Hu et al. 2021)."""

    rank: PositiveInt = Field(8, description="Rank of the two factors.")
    alpha: PositiveFloat = Field(
        16.0, description="Scale; the update is alpha / rank times the product."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the first factor.")
    target: ModuleEnding | Annotated[list[ModuleEnding], Field(min_length=1, max_length=256)] = (
        Field(
            "all-linear",
            description='Modules that get an adapter: "all-linear" (every linear layer of the base '
            'model), or endings of module names, such as "query" or ["query", "output.dense"].',
        )
    )


class ModelSpec(_Section):
    """Which base model is tuned, and which part of it."""

    base: str = Field(
        "sentence-transformers/all-MiniLM-L6-v2",
        description='Hugging Face hub id, local folder, "package:NAME/FOLDER" (a folder inside an '
        "installed Python package), or a .gguf file in either of the last two.",
    )
    sha256: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="SHA-256 of the base model's files, as umbel plan shows it (base_sha256): another "
        "model under this name is refused before it is loaded. umbel run fills it in; owners insist on it.",
    )
    adapter: AdapterName | None = Field(
        None,
        description='"lora": low-rank adapters, and the head of a classifier; "head": only the '
        'head, on frozen features computed once; "full": every weight. Default: "head" for '
        'text-classification, "lora" for causal-lm.',
    )
    pooling: Literal["mean", "layers", "own"] = Field(
        "mean",
        description='Classifier head: "mean" puts a linear layer on the mean of the last hidden '
        'states, "layers" on the means of those after a third, two thirds and all of the layers, '
        'equally long and side by side, "own" uses the head that the architecture brings '
        "(AutoModelForSequenceClassification). Not used by causal-lm.",
    )
    feature_scale: PositiveFloat = Field(
        4.0,
        description="Length to which pooled features are normalised before the linear head.",
    )
    max_length: int = Field(64, ge=4, description="Longest input, in tokens; the rest is cut off.")
    padding: Literal["longest", "max_length"] = Field(
        "longest",
        description='"longest" pads each text to the longest of its batch, "max_length" every text to '
        "max_length, for base models that do not ignore padding. Umbel probes the model and changes "
        "the first into the second where that is needed (docs/models.md).",
    )
    lora: LoraSpec = LoraSpec()


class DataSpec(_Section):
    """Where the examples are and which columns hold what, in a simulation. Between machines each owner
    declares that of its own data, and of these keys only `labels` and `end_of_text` count."""

    path: str | None = Field(
        None,
        description="CSV, TSV, JSONL or Parquet file, or a Hugging Face dataset saved to disk. "
        "Relative paths start at the job file's folder. A simulation needs it; in a deployment each "
        "owner names its own.",
    )
    test_path: str | None = Field(
        None, description="File with held-out examples; without it they are split off `path`."
    )
    text_column: str = Field("text", description="Column with the text.")
    label_column: str | None = Field(
        "label", description="Column with the class (text-classification only)."
    )
    end_of_text: bool = Field(
        True,
        description="Put the end-of-text token after each text that is not cut off, so that the "
        "model learns where texts end (causal-lm only). Off for passages of longer texts.",
    )
    labels: list[str] | None = Field(
        None,
        description="All classes, in order. Default: those found, sorted (numbers by value). A "
        "deployment must name them: all classes that the owners declared, and no others.",
    )
    group_column: str | None = Field(
        None,
        description="Rows that share this value (one document, patient or customer) stay on the "
        "same side of the split between training and test.",
    )
    records_per_group: int = Field(
        8,
        ge=2,
        description="Most records of one group that a step trains on, and that a test counts, if "
        'privacy.unit is "group"; not used otherwise. Between machines each owner declares its own.',
    )
    test_fraction: float = Field(
        0.2, ge=0, lt=1, description="Share of rows (or groups) held out for testing."
    )
    limit: PositiveInt | None = Field(
        None, description="Use at most this many rows of the file (for a quick try)."
    )


class TrainingSpec(_Section):
    """Local training at each client."""

    rounds: PositiveInt = Field(10, description="Rounds of training and aggregation.")
    local_steps: PositiveInt = Field(8, description="Optimizer steps of each client in each round.")
    batch_size: PositiveInt = Field(
        64,
        description="Examples a step. Under example-level privacy the expected number: each record "
        "is drawn independently (Poisson sampling).",
    )
    microbatch: PositiveInt | None = Field(
        None,
        description="Examples in one forward and backward pass; gradients are accumulated up to "
        "the batch. Default: 32 (8 on a CPU) where the base model runs, the whole batch for a head.",
    )
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="Local optimizer.")
    learning_rate: PositiveFloat | None = Field(
        None,
        description="Peak learning rate. Default: 0.01 for a head, 0.001 for lora, 0.00005 for full "
        "(fit for adamw).",
    )
    momentum: float = Field(0.0, ge=0, lt=1, description="Momentum of sgd.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled for adamw, L2 for sgd.")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="Learning rate over the steps of all rounds together."
    )
    warmup: float = Field(
        0.0, ge=0, lt=1, description="Share of all steps over which the learning rate rises."
    )
    gradient_clipping: PositiveFloat | None = Field(
        None, description="Largest L2 norm of a step's gradient (only without privacy)."
    )
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        "float32",
        description='"bfloat16" runs the base model under autocast, "auto" does so where the '
        "hardware is faster with it; trained weights, gradient norms and updates stay in float32.",
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass to save memory."
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="Where to train; auto takes CUDA, then MPS, then the CPU."
    )


class PrivacySpec(_Section):
    """Differential privacy (see docs/concepts.md)."""

    unit: UnitName = Field(
        "example",
        description='What is protected: "example", one record of one owner, by DP-SGD at the '
        'owner; "group", all records of one group at one owner (one patient: one value of '
        'data.group_column), by DP-SGD that draws whole groups; "client", all data of one owner, by '
        'noise in the sum of updates (for many owners); or "none".',
    )
    mechanism: Literal["distributed", "central"] = Field(
        "distributed",
        description='Who adds the noise where privacy.unit is "client": "distributed", every client '
        'its share, so that nobody sees a sum without noise; "central", the server, which must be '
        "trusted with the sums. Each owner's policy must allow the second.",
    )
    epsilon: PositiveFloat = Field(
        8.0, description="Most epsilon that the whole job may cost any one client."
    )
    delta: float = Field(
        1e-5,
        gt=0,
        lt=1,
        description='Delta; below 1 / number of records (of groups if privacy.unit is "group").',
    )
    clipping_norm: float = Field(
        1.0,
        ge=LEAST_CLIPPING_NORM,
        le=MOST_CLIPPING_NORM,
        description="L2 norm to which each example's gradient, over all trained weights, is clipped; "
        'where privacy.unit is "client", each client\'s whole update. From 0.001 to 1000.',
    )
    clipping: Literal["fixed", "adaptive"] = Field(
        "fixed",
        description='"adaptive" moves clipping_norm after each round towards the quantile of the '
        "clients' norms below, by a noised count that a tenth of the budget pays (only where "
        'privacy.unit is "client").',
    )
    clipping_quantile: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="Share of clients whose update an adaptive clipping norm should leave whole.",
    )
    spare_rounds: int | None = Field(
        None,
        ge=0,
        description="Rounds trained anew that the noise of all rounds already pays for, so that they do not "
        "pass epsilon: for updates that were really lost. A repetition (after a crash, or when too few "
        "answered) in which owners send the update that they kept costs nothing, so 1 is enough for nearly "
        'all runs, and the default. Where privacy.unit is "client" the noise is shared, so that every '
        "repetition costs; the default is 1 and one more for every 10 rounds.",
    )
    limit: PositiveFloat | None = Field(
        None,
        description="Most epsilon that one run may cost a client when rounds are repeated more often "
        "than spare_rounds; in a simulation also the limit of each owner's ledger over all jobs. "
        "Default: the job's epsilon. Between machines each owner's policy limits all jobs together.",
    )

    @property
    def owner_limit(self) -> float:
        """Most that one run may cost a client, with the default filled in."""
        return self.limit or self.epsilon


class EncryptionSpec(_Section):
    """What the server can read of updates and counts (see docs/secure-aggregation.md)."""

    mode: Literal["secure-sum", "none"] = Field(
        "secure-sum",
        description='"secure-sum": the server can open only the sum over a cohort (secure '
        "aggregation); \"none\": it sees each client's update, which every owner's policy must allow.",
    )
    minimum: int = Field(3, ge=3, description="Fewest clients in a sum that may be opened.")
    colluders: float = Field(
        0.1,
        ge=0,
        lt=0.5,
        description="Share of a cohort, rounded up, that may collude with the server without "
        "learning more than the sum. More colluders means that fewer clients may drop out.",
    )
    confirm: bool = Field(
        True,
        description="Confirm the set of survivors before anything is opened. Without it a round "
        'takes one trip less, and the server must follow the protocol ("honest but curious").',
    )
    group_size: int | None = Field(
        None,
        ge=4,
        description="Open one sum for each group of at least so many clients, for strategies that "
        "compare updates. Default: one sum over the whole cohort.",
    )
    name_spoilers: bool = Field(
        False,
        description="Where an opened sum is refused because no honest members can have made it, open the "
        "same updates once more in disjoint groups, and leave out the group that spoiled it. The "
        "server then reads sums of as few clients as any sum may have. Every owner's policy must "
        "allow it (encryption.name_spoilers).",
    )
    clip: PositiveFloat | None = Field(
        None,
        description="Largest magnitude of an entry of an update; a larger update is scaled down, and no "
        "member moves a mean farther. Default: a multiple of what an update comes to by the job's "
        "optimizer, learning rate, steps and noise, as the plan shows it.",
    )
    deadline: PositiveFloat = Field(
        120.0,
        description="Seconds that the short trips (keys, confirmation, opening) wait for answers.",
    )


class StrategySpec(_Section):
    """How updates become the next model."""

    name: str = Field(
        "fedavg",
        description='"fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "fedprox", the name '
        'of a class in flwr.serverapp.strategy, or "module:Class" of your own.',
    )
    options: dict[str, bool | int | float | str] = Field(
        default_factory=dict, description="Arguments of the strategy, by name."
    )
    weighting: Literal["examples", "equal"] | None = Field(
        None,
        description='Weight of a client in the mean. Default: "equal" under privacy (a weight would '
        'tell a data set\'s size), else "examples".',
    )


class CohortSpec(_Section):
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


class EvaluationSpec(_Section):
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
        "(text-classification) or loss (causal-lm) on public_path if there is one, else on the counts.",
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


class SimulationSpec(_Section):
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


class Job(_Section):
    """One federated fine-tuning."""

    name: str = Field(
        "job", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="Short name."
    )
    task: TaskName = Field("text-classification", description="What the model learns to do.")
    seed: int = Field(
        0,
        ge=0,
        lt=2**63,
        description="Fixes cohorts, batches without privacy, and the first adapter.",
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
        if self.task == "text-classification" and self.data.label_column is None:
            raise ValueError("text-classification needs data.label_column")
        if self.task == "causal-lm" and self.model.adapter == "head":
            raise ValueError(
                'model.adapter = "head": a causal language model has no head of its own to train; '
                'use "lora"'
            )
        spec = self.encryption
        if spec.name_spoilers and not (
            self.encrypted and spec.confirm and not spec.group_size and self.noised_locally
        ):
            raise ValueError(
                'encryption.name_spoilers applies only with privacy.unit = "example" or "group", '
                "encryption.confirm and no encryption.group_size"
            )
        if self.cohort.size and self.cohort.minimum and self.cohort.minimum > self.cohort.size:
            raise ValueError(
                f"cohort.minimum ({self.cohort.minimum}) is above cohort.size ({self.cohort.size})"
            )
        return self

    @property
    def tests_privately(self) -> bool:
        """Whether what leaves of the held-out records is noised."""
        return self.counts == "private"

    @property
    def spare_rounds(self) -> int:
        """Rounds that may be trained anew within epsilon, with the default filled in."""
        if self.privacy.spare_rounds is not None:
            return self.privacy.spare_rounds
        return 1 + self.training.rounds // 10 if self.per_client else 1

    @property
    def tests_epsilon(self) -> float:
        """What all tests with private counts may cost, with the default filled in."""
        return self.evaluation.epsilon or min(_MOST_FOR_TESTS, self.privacy.epsilon / 4)

    @property
    def counts(self) -> Literal["exact", "private", "off"]:
        """What leaves of the held-out records, with the default filled in."""
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
        return "head" if self.task == "text-classification" else "lora"

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
        """Whether clients add noise to what leaves them; else the server sees sums without."""
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
        """The same job with a learning rate that suits its adapter, where it names none."""
        if self.training.learning_rate is not None:
            return self
        rate = _LEARNING_RATES[self.adapter]
        training = self.training.model_copy(update={"learning_rate": rate})
        return self.model_copy(update={"training": training})

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no white space."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

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
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Job:
        """Read a TOML file and apply overrides such as ``training.rounds=3``."""
        return cls.compose(Path(path), {}, overrides)

    @classmethod
    def compose(
        cls, path: Path | None, given: Mapping[str, Any], overrides: Sequence[str] = ()
    ) -> Job:
        """A job from a file, if any, then dotted keys, then ``KEY=VALUE`` texts; the last wins.

        Paths in the file start at its folder, paths that are given at the working directory.
        """
        values = resolve_paths(read_toml(path), path.parent) if path else {}
        for key, value in given.items():
            set_key(values, key, value)
        for override in overrides:
            set_key(values, *_parse_override(override))
        resolve_paths(values, Path.cwd())
        return cls.build(values, source=str(path) if path else "command line")


def read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise JobError(f"There is no job file {path}. Write one with: umbel init {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"{path} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise JobError(f"{path} is not valid TOML: {error}") from None


def set_key(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Set ``section.name`` in nested tables, making those that are missing."""
    *sections, name = dotted.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise JobError(f"{dotted}: {section} is a value, not a section")
    values[name] = value


def _parse_override(text: str) -> tuple[str, Any]:
    """A value is read as TOML where it is TOML, as a plain string otherwise."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise JobError(f"--set {text}: expected KEY=VALUE, such as training.rounds=3")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


def resolve_paths(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make file paths absolute, starting at `folder`."""
    for section, key in (("data", "path"), ("data", "test_path"), ("evaluation", "public_path")):
        found = values.get(section)
        if isinstance(found, dict) and isinstance(found.get(key), str):
            found[key] = str((folder / Path(found[key]).expanduser()).resolve())
    model = values.get("model")
    if isinstance(model, dict) and isinstance(model.get("base"), str):
        local = folder / Path(model["base"]).expanduser()
        if local.exists() and not model["base"].startswith("package:"):
            model["base"] = str(local.resolve())
    return values
