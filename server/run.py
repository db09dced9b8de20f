"""A run in progress, and who listens to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from ..clock import Clock, SystemClock
from ..errors import CheckpointError
from ..planning.buffered import Buffer
from ..planning.plan import Plan
from ..privacy.randomness import SecretStream
from ..run.checkpoint import Checkpoint, load_latest, restore_strategy, save, strategy_state
from ..run.events import Event, Kept, Round, heads_of
from ..run.run_folder import RunFolder
from ..strategies import Channels, channels_of, heard_of, second_of, state_of
from ..strategies.contract import Shapes
from ..wire.arrays import Arrays
from ..wire.requests import SECOND
from .selection import HEARD, Choice
from .sums import SecureSums

if TYPE_CHECKING:
    from .trainings import Trainings


class Listener(Protocol):
    """Hears how a run goes; the command line draws its progress from this."""

    def started(self, what: str, total: int) -> None:
        """A stage with `total` parts begins: "prepare", "train 3", "evaluate 3", "open 3"."""

    def advanced(self, done: int) -> None:
        """`done` parts of the stage are finished."""

    def event(self, event: Event) -> None:
        """An event that was written to metrics.jsonl, or (a simulation's holdings) is only shown."""


class Silent:
    """A listener that does nothing."""

    def started(self, what: str, total: int) -> None: ...

    def advanced(self, done: int) -> None: ...

    def event(self, event: Event) -> None: ...


@dataclass
class Run:
    """A run in progress: what is fixed, and the state that rounds change."""

    id: str
    plan: Plan
    grid: Grid
    strategy: Strategy
    folder: RunFolder
    arrays: Arrays
    round: int = 0
    listener: Listener = field(default_factory=Silent)
    should_stop: Callable[[], bool] = lambda: False
    should_finish: Callable[[], bool] = lambda: False
    """Whether somebody wants the last summed model to be the result."""
    renew: Callable[[bool], None] = lambda failed: None
    """Called between rounds, and where one `failed`: leaves (by raising) if the run needs another roster."""
    roster_waits: Callable[[], bool] = lambda: False
    """Whether ``renew(False)`` would leave."""
    before_test: Callable[[], None] = lambda: None
    """Called before everybody is asked to test: waits for who is at work on something else."""
    advice: Callable[[int], str] = lambda _: "fix the cause, then resume with --resume"
    """What can be done about a failed run, by the number of summed rounds."""
    clock: Clock = field(default_factory=SystemClock)
    """The clock for answers, and for clients that are not connected."""
    patience: float = 0.0
    """Seconds to wait for clients that are not connected, if too few are."""
    replayable: bool = False
    """Whether a repeated round costs nothing, because its noise is the same (rehearsals)."""
    signature: str = ""
    """The operator's signature over run and job: agents at data owners require it."""
    roster: bytes = b""
    """The signed roster for the clients; empty if they already have it."""
    nodes: dict[str, int] = field(default_factory=dict)
    """Client name -> node id, learned when the clients report ready."""
    away: dict[str, int] = field(default_factory=dict)
    """The same for clients that were not ready with the others: they are asked again between rounds."""
    sums: SecureSums | None = None
    """The slots of secure aggregation; None if the job is not encrypted."""
    heads: dict[str, str] | None = None
    """The ledger head that each client last sent, which is sent back to it; None: it is not sent back."""
    counted: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """By client the newest round whose opened sum had its update, and what shows it; only where owners
    keep a state of their own."""
    clipping_norm: float = 0.0
    """Clipping norm of the next round's updates, if each client's whole update is clipped."""
    secrets: Callable[[str], SecretStream] = lambda _: SecretStream.from_os()
    """The source of the server's own noise; a seeded one only if a run is reproducible."""
    public_test: Callable[[Arrays], dict[str, Any]] | None = None
    """Figures of a model on the public hold-out; None if the job has none."""
    kept: Kept | None = None
    """The chosen model; known when the rounds are over, and `arrays` is then that model."""
    owners_metrics: Callable[[int], dict[str, dict[str, Any]]] = lambda _: {}
    """Each client's own figures of a round's model, which only a simulation can see."""
    exact_metrics: Callable[[int], dict[str, Any]] = lambda _: {}
    """Those of all clients together, without the noise of private counts; also in a simulation only."""

    pace: dict[str, float] = field(default_factory=dict)
    """Seconds on a simulation's virtual clock that each client trains in a round; empty without one."""
    buffer: Buffer | None = None
    """Who trains what in an asynchronous job, once it has begun (``buffered.under_way``)."""
    buffered: dict[str, Any] | None = None
    """The same as the checkpoint has it."""
    versions: dict[int, Arrays] = field(default_factory=dict)
    """Models before the current one that clients of an asynchronous job still train."""
    ahead: Literal["", "virtual", "arrival"] = ""
    """Whether clients of an asynchronous job train while sums are made, as they do between machines, and by
    which clock they are ready then: the virtual one (rehearsals), or when they say so."""
    trainings: Trainings | None = None
    """What they were asked to train, and who has."""

    def __post_init__(self) -> None:
        self._channels: dict[int, Channels] = {}
        self.clipping_norm = self.plan.job.privacy.clipping_norm

    @cached_property
    def job_json(self) -> str:
        return self.plan.job.to_json()

    def channels(self, round_: int) -> Channels:
        """What a round adds up; a test of the first model goes with the first one."""
        round_ = max(1, round_)
        if round_ not in self._channels:
            spec, cohort = self.plan.job.strategy, self.plan.cohort_size
            self._channels = {round_: channels_of(spec, self._shapes, round_, clients=cohort)}
        return self._channels[round_]

    def second(self, round_: int) -> tuple[Channels, Shapes] | None:
        """What its second sum adds up, and what is sent for it; None with a strategy of one sum."""
        spec, cohort = self.plan.job.strategy, self.plan.cohort_size
        return second_of(spec, self._shapes, round_, clients=cohort)

    def summed_by(self, kind: str, round_: int) -> Channels:
        """What the requests of a kind add up."""
        second = self.second(round_) if kind == SECOND else None
        return second[0] if second else self.channels(round_)

    @cached_property
    def heard(self) -> Shapes:
        """What the strategy sends beside the model."""
        return heard_of(self.plan.job.strategy, self._shapes)

    @cached_property
    def owners_keep(self) -> bool:
        """Whether owners keep a state from round to round."""
        return bool(state_of(self.plan.job.strategy, self.plan.model.everything))

    @property
    def _shapes(self) -> Shapes:
        return {name: array.shape for name, array in self.arrays.items()}

    @cached_property
    def choice(self) -> Choice:
        """The best of the models that were tested, also before a crash."""
        return Choice(self.plan.job, self.folder.told(*HEARD))

    @property
    def names(self) -> dict[int, str]:
        """Node id -> client name, made again at each call: take it once a round."""
        return {node: name for name, node in self.nodes.items()}

    @property
    def stopped(self) -> str:
        """Where a run was stopped, as people read it."""
        done, of = self.round, self.plan.job.training.rounds
        return f"Stopped after round {done} of {of}." if done else "Stopped before the first round."

    @property
    def candidates(self) -> list[str]:
        """Who may be asked, ascending: who is ready, but for those whose shares were wrong."""
        excluded = self.sums.excluded if self.sums else set()
        return [name for name in sorted(self.nodes) if name not in excluded]

    @property
    def checkpoints(self) -> Path:
        return self.folder.path / "checkpoints"

    def save(self) -> None:
        """Write a checkpoint of the state after the last round."""
        state = strategy_state(self.strategy)
        now = Checkpoint(
            self.round,
            self.arrays,
            state,
            self.clipping_norm,
            self.counted,
            self.buffer.state() if self.buffer else None,
            self.versions,
        )
        save(self.checkpoints, now)

    def restore(self) -> None:
        """Go back to the last checkpoint; a run that never got that far starts again."""
        if self.sums is not None:
            self.sums.resume(self.folder)
        try:
            checkpoint = load_latest(self.checkpoints, dict(self._shapes))
        except CheckpointError:
            if self.folder.told(Round):
                raise
            return
        self.round, self.arrays = checkpoint.round, checkpoint.arrays
        self.counted = dict(checkpoint.counted)
        self.buffered, self.versions = checkpoint.buffer, dict(checkpoint.versions)
        restore_strategy(self.strategy, checkpoint.strategy)
        self.clipping_norm = checkpoint.clipping_norm or self.clipping_norm

    def tell(self, event: Event) -> None:
        """Append an event to metrics.jsonl, then tell the listener."""
        choice = self.choice
        self.folder.append(event)
        choice.hear(event)
        if self.heads is not None:
            self.heads |= heads_of(event)
        self.listener.event(event)
