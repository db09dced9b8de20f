"""The order of an answer, as values: each step takes what only the step before gives.

    Asked -> Reserved -> Answerable -> Durable -> the answer

Guarantee: no record is read for an answer that is not ``Reserved`` (what it can cost is in the ledger, on
disk), and nothing of an update leaves that is not ``Durable`` (the owner can send the same again).
A crash between two steps so leaves a charge too many, never a release too many.
Assumption: the values are made in ``round.py`` alone, each by its own step. An asynchronous job
(``buffered.py``) goes the same way up to what is computed; what it keeps leaves in answer to a later request.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..job import Job
from ..learning.metrics import Counts
from ..learning.trainer import Outcome
from ..planning.vector import Content
from ..privacy.noise.loss_noise import LossNoise
from ..strategies import Channels, LocalRule, trained_by_steps
from ..strategies.contract import APART
from ..wire.arrays import Arrays
from ..wire.requests import Assignment
from .delivery import Metrics
from .kept import KeptRound
from .own_state import Own
from .secure import SecureUpload


@dataclass(frozen=True)
class Asked:
    """What a request is for, by public numbers and by what was sent before; no record was read."""

    job: Job
    assignment: Assignment
    arrays: Arrays
    """The model that came."""
    train: bool
    test: bool
    local: LocalRule | None
    """The strategy's local half; None if it has none, or if nothing is trained."""
    channels: Channels
    own: Own | None = None
    """The owner's state, with a strategy that has one."""
    begun: float = 0.0
    """When it was asked for, in seconds."""
    interruptions: int = 0
    """Of the work until then."""
    content: Content | None = None
    upload: SecureUpload | None = None
    """Where and how the answer is masked; None if it leaves in the clear."""
    kept: KeptRound | None = None
    repeated: Arrays | None = None
    """What was kept of an earlier answer, which is sent again."""
    two_sums: bool = False
    """Whether the round has a second sum, of the same updates."""
    groups: list[list[str]] = field(default_factory=list)
    """The groups of which one is to be named."""
    what: bytes = b""
    """What identifies the update, or exact counts, in the journal and on disk."""
    again: bool = False
    """Whether the journal knows in which slots that was, so that the rule of repeats has been asked."""
    asked_for: bytes = b""
    """The digest of all that the update depends on."""
    apart: LocalRule | None = None
    """The local half of the training of the owner's own model, with a strategy that has one."""
    personal: Arrays = field(default_factory=dict)
    """What the personal tensors are at this owner as the round begins; empty with most strategies."""
    withheld: bool = False
    """Whether no record is trained on, because no private step is taken from where this owner's state
    leads."""
    first: Arrays = field(default_factory=dict)
    """The personal tensors in the strategy's first state, if records are withheld."""

    @property
    def trains(self) -> bool:
        return self.train and self.repeated is None

    @property
    def whole(self) -> Arrays:
        """The model that is trained here: what came, and what is this owner's own."""
        return {**self.arrays, **self.personal}

    @property
    def tested(self) -> Arrays:
        """The model that is tested here: the same, or of the first state if records are withheld."""
        return {**self.arrays, **self.first} if self.withheld else self.whole

    @property
    def start(self) -> Arrays:
        """What the steps begin with: that, or what the local half makes of it."""
        return self.whole if self.local is None else self.local.begins(self.whole)

    @property
    def moves(self) -> list[str]:
        """What of the owner's state is added to, and is in no update: its own tensors, its own model."""
        model = [f"{APART}{name}" for name in self.arrays] if self.apart else []
        return [*self.personal, *model]

    @property
    def follows_more(self) -> bool:
        """Whether the owner's next state follows from more than the update: what is added to, or a loss."""
        return bool(self.moves) or (self.local is not None and self.local.needs_loss)

    @property
    def trained_here(self) -> tuple[str, ...]:
        """Names of the tensors that the round trains, personal ones among them."""
        return (*self.channels.trained, *self.personal)

    @property
    def trained_at_once(self) -> list[tuple[str, ...]]:
        """The different sets of tensors that the round's steps train."""
        steps = self.job.training.local_steps
        first = (self.assignment.round - 1) * steps
        return trained_by_steps(self.local, self.trained_here, first, steps)


@dataclass(frozen=True)
class Reserved:
    """An answer that is paid for: records may be read."""

    asked: Asked
    metrics: Metrics
    """The public part of the answer, with what the run has spent."""
    noise: list[int] | None = None
    """The noise of a test's counts, if they are private."""
    loss: LossNoise | None = None
    """The noise of the owner's loss, if the strategy weighs by it in a private job."""


@dataclass
class Computed:
    """What came of an owner's records in one round."""

    counts: Counts | None = None
    outcome: Outcome = field(default_factory=lambda: Outcome({}, 0.0))
    personal: Arrays = field(default_factory=dict)
    """How far the round moved what is the owner's own, by the names in its state; it never leaves."""
    error: Exception | None = None
    """Only without privacy: what the server may learn."""


@dataclass(frozen=True)
class Answerable:
    """What came of the records; under example- and group-level privacy noised already."""

    reserved: Reserved
    found: Computed
    counts: Counts | None


@dataclass(frozen=True)
class Durable:
    """An answer whose update is on the disk: it may leave."""

    answer: Answerable
    what: bytes
