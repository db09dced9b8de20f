"""What happens in a run: every kind of line of ``metrics.jsonl``, as a type.

``to_json`` writes one and ``from_json`` reads it; nobody else knows how a line looks. Listeners (console,
log, store) hear the same events. A line of an older version may lack fields, which are then empty.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, TypeVar

Json = dict[str, Any]


def number(values: Mapping[str, Any] | None, key: str) -> float | None:
    """`values[key]` as a float; None when it is absent, null or not a number."""
    value = (values or {}).get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return None
    return float(value)


_SELDOM = {"seldom": True}
"""Metadata of a field that is written only if it is not empty."""


@dataclass(frozen=True)
class Event:
    """Something that happened."""

    kind: ClassVar[str]

    def to_json(self) -> Json:
        """The line, without what is written only if it says something."""
        seldom = {f.name for f in fields(self) if f.metadata.get("seldom")}
        said = asdict(self).items()
        return {
            "event": self.kind,
            **{
                name: value
                for name, value in said
                if name not in seldom or value not in (None, {}, [], "")
            },
        }


@dataclass(frozen=True)
class Held:
    """What one client holds, in examples; `labels` counts its training examples by class."""

    train: int
    test: int
    labels: dict[str, int]


@dataclass(frozen=True)
class Partition(Event):
    """How the examples are spread over the clients; `labels` is empty for language models."""

    kind = "partition"
    labels: list[str]
    clients: dict[str, Held]
    dropped: dict[str, int] = field(default_factory=dict)
    data: Json = field(default_factory=dict, metadata=_SELDOM)
    """What the file holds and how it was read, if it is on the machine of the run."""


@dataclass(frozen=True)
class Holdings(Event):
    """What a simulation's file holds, all clients together; it is shown, and not written."""

    kind = "holdings"
    records: int
    classes: dict[str, int]
    dropped: dict[str, int]
    groups: Json | None
    longest: float
    max_length: int
    read: list[str] = field(default_factory=list)
    held_out: int | None = None
    held_out_classes: dict[str, int] = field(default_factory=dict)
    too_short: int = 0
    cut: dict[str, float] = field(default_factory=dict)
    look: list[str] = field(default_factory=list)
    """What to look at again in the file."""


@dataclass(frozen=True)
class Public(Event):
    """The public records that the server tests on."""

    kind = "public"
    examples: int
    sha256: str


@dataclass(frozen=True)
class Prepared(Event):
    """All is loaded."""

    kind = "prepared"
    seconds: float


@dataclass(frozen=True)
class Said(Event):
    """What a member answers to the question whether it takes part."""

    kind = "member"
    client: str
    said: str
    takes_part: bool


@dataclass(frozen=True)
class Ready(Event):
    """Clients that are ready now, and why others are not."""

    kind = "ready"
    clients: list[str]
    failed: dict[str, str]
    seconds: float


@dataclass(frozen=True)
class Round(Event):
    """One attempt at a round: who answered, what it cost."""

    kind = "round"
    round: int
    attempt: int
    seconds: float
    clients: list[str]
    heard: list[str]
    failed: dict[str, str]
    bytes_up: int
    bytes_down: int
    encrypted: bool
    trips: dict[str, float]
    loss: float | None
    clipped: int
    unable: int
    epsilon: dict[str, float]
    heads: dict[str, str]
    tested: bool
    aggregated: bool = True
    """Whether it gave a model; otherwise it was given up, after its last attempt or for now."""
    clipping_norm: float | None = field(default=None, metadata=_SELDOM)
    within: float | None = field(default=None, metadata=_SELDOM)
    next_clipping_norm: float | None = field(default=None, metadata=_SELDOM)
    doubted: dict[str, str] = field(default_factory=dict, metadata=_SELDOM)
    named: list[Any] = field(default_factory=list, metadata=_SELDOM)
    staleness: dict[str, float] = field(default_factory=dict, metadata=_SELDOM)
    """In an asynchronous job: how many versions old each member's update was. It is public."""
    virtual: float | None = field(default=None, metadata=_SELDOM)
    """Seconds on a simulation's virtual clock when the sum was made, if it has one."""
    restarted: list[str] = field(default_factory=list, metadata=_SELDOM)
    """Clients whose own state of the strategy was lost, so that it began anew."""
    lacks: str = field(default="", metadata=_SELDOM)
    """Why no model came of it, if that is no single client's doing."""
    left_out: list[Any] = field(default_factory=list, metadata=_SELDOM)
    """Groups that could not be summed, while the others made the model: their members, by name."""


@dataclass(frozen=True)
class Rebase(Event):
    """What a round put into the base model's residual; told again if the round is."""

    kind = "rebase"
    round: int
    sha256: str
    """Over the residuals' columns (``residual_digest``)."""
    rank: int
    """The largest of the layers'."""
    norm: float
    """Frobenius norm of the residuals' products, over all layers."""
    dropped: float
    """That of what did not fit in this round."""


@dataclass(frozen=True)
class Evaluation(Event):
    """Metrics on held-out examples after a round; round 0 is before training.

    `exact` are those that a simulation could read, `metrics` those that a deployment's server sees, with
    the noise of private counts.
    """

    kind = "evaluation"
    round: int
    model: str
    seconds: float
    failed: dict[str, str]
    metrics: Json
    clients: dict[str, Json]
    exact: Json
    epsilon: dict[str, float]
    heads: dict[str, str]
    doubted: dict[str, str] = field(default_factory=dict, metadata=_SELDOM)
    lacks: str = field(default="", metadata=_SELDOM)
    """Why there are no figures, if that is no single client's doing."""
    blur: dict[str, float] = field(default_factory=dict, metadata=_SELDOM)
    """Standard deviation that noise gives a figure of `metrics`, by its name."""

    @property
    def figures(self) -> Json:
        """The exact ones if there are any."""
        return self.exact or self.metrics


@dataclass(frozen=True)
class Holdout(Event):
    """Metrics on public records, by the server itself."""

    kind = "holdout"
    round: int
    model: str
    seconds: float
    metrics: Json

    @property
    def figures(self) -> Json:
        return self.metrics

    @property
    def clients(self) -> dict[str, Json]:
        """Nobody's own: the records are the server's."""
        return {}


@dataclass(frozen=True)
class Ended(Event):
    """No round follows, though more were planned."""

    kind = "ended"
    round: int
    cause: str
    reason: str


@dataclass(frozen=True)
class Kept(Event):
    """The model that is the result: the one after `round`, and the figure that spoke for it."""

    kind = "kept"
    round: int
    ended_early: bool
    on: str | None = None
    metric: str | None = None
    value: float | None = None


@dataclass(frozen=True)
class Spare(Event):
    """Rounds that were trained again, of which the noise pays for a few."""

    kind = "spare"
    round: int
    spares: int
    text: str


@dataclass(frozen=True)
class GroupLeftOut(Event):
    """A group that could not be summed in several rounds, one after another; told once."""

    kind = "left-out"
    round: int
    members: list[str]
    text: str


@dataclass(frozen=True)
class SumRefused(Event):
    """A sum of an asynchronous job that was opened, and that honest members cannot have made."""

    kind = "sum-refused"
    round: int
    """The version that was due."""
    members: list[str]
    text: str


Warned = Spare | GroupLeftOut | SumRefused
"""What a server warns of, by its ``text``."""


@dataclass(frozen=True)
class Turned(Event):
    """From this round on the run goes by another roster."""

    kind = "roster"
    round: int
    epoch: int
    left: list[str]


@dataclass(frozen=True)
class Restored(Event):
    """The folder came back from a backup: owners were charged for rounds up to `reached`."""

    kind = "restored"
    round: int
    reached: int


@dataclass(frozen=True)
class Compared(Event):
    """A model that was trained apart from the federation, of a client alone or of all data pooled."""

    kind = "compared"
    client: str
    seconds: float


@dataclass(frozen=True)
class Delivered(Event):
    """Who has the result, and why others have not."""

    kind = "delivered"
    clients: list[str]
    failed: dict[str, str]


E = TypeVar("E", bound=Event)
KINDS: dict[str, type[Event]] = {kind.kind: kind for kind in Event.__subclasses__()}


def heads_of(event: Event) -> dict[str, str]:
    """What clients sent of their ledgers with the answers that an event is about."""
    return event.heads if isinstance(event, Round | Evaluation) else {}


def from_json(line: Mapping[str, Any]) -> Event | None:
    """The event of a line; None for a kind that is not known here."""
    kind = KINDS.get(str(line.get("event")))
    if kind is None:
        return None
    return kind(**{f.name: _read(str(f.type), f.name, line) for f in fields(kind)})


def _read(what: str, name: str, line: Mapping[str, Any]) -> Any:
    """A field as its type says, whatever stands there: a line may be old, or from a bad disk."""
    value = line.get(name)
    match what:
        case "int":
            return int(number(line, name) or name == "attempt")
        case "float":
            return number(line, name) or 0.0
        case "float | None":
            return number(line, name)
        case "bool":
            return bool(value) if value is not None else name == "aggregated"
        case "str":
            return str(value or "")
        case "list[str]":
            return [str(each) for each in value or []]
        case "dict[str, str]":
            return {str(key): str(each) for key, each in (value or {}).items()}
        case "dict[str, float]":
            found = {str(key): number(value, key) for key in value or {}}
            return {key: each for key, each in found.items() if each is not None}
        case "dict[str, Held]":
            return {str(key): _held(held) for key, held in (value or {}).items()}
        case "list[Any]":
            return list(value or [])
        case _:
            return value if "None" in what else dict(value or {})


def _held(held: Mapping[str, Any]) -> Held:
    return Held(
        int(number(held, "train") or 0),
        int(number(held, "test") or 0),
        dict(held.get("labels") or {}),
    )
