"""What an owner's agent does of a job's strategy: its local half, and the state that never leaves."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import MessageError, ModelError, PlanRefused, WeightsRefused
from ..job import Job
from ..job.rate import rates_of_round
from ..learning.probing.received import MOST_WEIGHT
from ..strategies import (
    Channels,
    LocalRule,
    apart_half,
    channels_of,
    channels_over,
    heard_of,
    local_half,
    reaches_by,
    rule_class,
    second_of,
    state_of,
    tells_reaches,
    told_by,
)
from ..strategies.contract import APART, Shapes
from ..strategies.second import REACH
from ..wire.arrays import Arrays
from ..wire.requests import LOCAL_HALF, Assignment, beside_of, counted_of, told_of
from .answers import job_of
from .own_state import Own, OwnStates
from .secure import SecureUpload
from .work import Work

if TYPE_CHECKING:
    from flwr.app import Message

    from ..planning.terms import Terms
    from .order import Asked, Computed


_log = logging.getLogger(__name__)


class StrategyHere:
    """A job's strategy at one owner. `accepted`: strategies whose own code may run here, by name.

    rank: of the adapter that this owner has chosen to train; 0: the job's.
    """

    def __init__(
        self,
        name: str,
        work: Work,
        accepted: Collection[str],
        states: OwnStates | None,
        rank: int = 0,
    ) -> None:
        self._name, self._work = name, work
        self._accepted, self._states, self._rank = accepted, states, rank

    def check_rank(self, job: Job) -> None:
        """Refuse (``PlanRefused``) a job whose strategy cannot take the rank that this owner has chosen."""
        if not self._smaller(job):
            return  # no code of a strategy is loaded for it
        kind = rule_class(job.strategy, self._accepted)
        if kind is None or not kind.ranked:
            _log.warning(
                "a job of rank %d was refused: jobs.own_rank = %d", job.rank, self._rank
            )  # which the server is not told
            raise PlanRefused(
                f"{self._name} trains adapters of a smaller rank than {job.rank} (jobs.own_rank), and "
                f"{job.strategy.name} adds up factors of one rank: set strategy.name = "
                '"flexlora", or a smaller model.lora.rank'
            )

    def _smaller(self, job: Job) -> int:
        """The owner's own rank, if it is smaller than the job's; else 0."""
        return self._rank if 0 < self._rank < job.rank else 0

    def channels(self, job: Job, assignment: Assignment) -> Channels:
        """Of its round; a test of the first model goes with the first one."""
        round_ = max(1, assignment.round)
        return channels_of(
            job.strategy, self._work.shapes, round_, self._accepted, assignment.cohort
        )

    def second(self, job: Job, assignment: Assignment) -> tuple[Channels, Shapes] | None:
        """Those of its round's second sum, and what is sent for it; None with a strategy of one sum."""
        shapes, cohort = self._work.shapes, assignment.cohort
        return second_of(job.strategy, shapes, assignment.round, self._accepted, cohort)

    def of_rounds(self, job: Job, assignment: Assignment) -> list[Channels]:
        """The different ones of all rounds, those of second sums among them."""
        rounds, cohort = job.training.rounds, assignment.cohort
        many = channels_over(job.strategy, self._work.shapes, rounds, self._accepted, cohort)
        return [channels for channels, _ in many]

    def asked(self, assignment: Assignment, message: Message) -> tuple[LocalRule | None, Arrays]:
        """The local half, of what the server tells all owners, and what it sends beside the model."""
        job = job_of(assignment)
        told = told_of(message.content)
        wanted = str(told.pop(LOCAL_HALF, ""))
        local = local_half(job.strategy, told, wanted, self._accepted)
        self._check_told(job, assignment, told)
        try:
            self.channels(job, assignment).scaled(told)
        except ValueError as error:
            raise MessageError(f"{self._name}: {error}") from None
        hears = heard_of(job.strategy, self._work.shapes, self._accepted)
        beside = beside_of(message.content, hears)
        rates = rates_of_round(assignment.round, job.training)
        if local is not None:
            local.heard, local.rates, local.rank = beside, rates, self._smaller(job)
            local.steps = job.training.local_steps
        farthest = max((float(np.abs(a).max(initial=0.0)) for a in beside.values()), default=0.0)
        if job.private and not farthest * max(1.0, rates) <= MOST_WEIGHT:
            # It would lead the steps to weights that no private step is taken from.
            raise WeightsRefused(
                f"{self._name}: what the strategy sends beside the model has an entry of {farthest:g}, with "
                f"learning rates of {rates:g} in a round, and none may move a weight by more than "
                f"{MOST_WEIGHT:g}"
            )
        return local, beside

    def _check_told(self, job: Job, assignment: Assignment, told: Mapping[str, object]) -> None:
        """Refuse numbers for the local half that do not follow from the job and the round alone."""
        wanted = told_by(job.strategy, assignment.round, self._accepted, assignment.cohort)
        for name, value in wanted.items():
            if told.get(name, 0.0) != value:
                raise MessageError(
                    f"{self._name}: the server tells {name} = {told.get(name)!r}, "
                    f"but in the job it is {value!r}"
                )

    def check_reaches(
        self,
        assignment: Assignment,
        message: Message,
        arrays: Arrays,
        terms: Terms,
        asked: Arrays | None = None,
    ) -> None:
        """Refuse reaches that do not follow from the job, the round and the model (``Rule.scales``).

        asked: what a second sum is asked with; its reaches are told with those of the first.
        """
        job = job_of(assignment)
        wanted: dict[str, float] = {}
        if tells_reaches(job.strategy, self._accepted):
            clip = 1.0
            if job.encrypted:  # as the plan has it
                every = self.of_rounds(job, assignment)
                clip = max(terms.clip(channels.parameters) for channels in every)
            strategy, round_, cohort = job.strategy, assignment.round, assignment.cohort
            for trip in (None,) if asked is None else (None, asked):
                wanted |= reaches_by(strategy, arrays, round_, self._accepted, cohort, clip, trip)
        told = told_of(message.content).items()
        if {name: reach for name, reach in told if name.startswith(REACH)} != wanted:
            raise MessageError(
                f"{self._name}: the server tells other reaches of what is summed than those that follow from "
                "the model that it sends"
            )

    def with_own(self, asked: Asked, message: Message, upload: SecureUpload | None) -> Asked:
        """What is asked, with what this owner has of its own: its state, personal tensors, its own model.

        Raises ``ProtocolError`` if the request counts an update that was not, as far as can be known.
        """
        own = self._begin(asked.assignment, message, upload, train=asked.train)
        if own is None:
            return asked
        apart = self._apart(asked, message) if asked.train else None
        return replace(self._from(asked, own), apart=apart)

    def with_first(self, asked: Asked) -> Asked:
        """The same with the strategy's first state in the place of this owner's: what anybody can compute."""
        if asked.own is None:
            return asked
        zeros = {name: np.zeros_like(array) for name, array in asked.own.arrays.items()}
        return self._from(asked, replace(asked.own, arrays=zeros))

    def objection(self, asked: Asked) -> str:
        """Why no private step is taken from the weights that a round begins with or that its corrections lead
        to; empty if one is.

        It takes as long whatever is found, because the owner's part is in them. A part of zeros alone is the
        exception: these weights were tried a moment before (``with_first``). An owner that has no part yet
        says so (``OWN_STATE`` = 0); later ones are all zeros only if nothing has moved.
        """
        found = []
        for weights in (asked.whole, *led_to(asked)):
            for names in asked.trained_at_once:
                try:
                    self._work.checked(weights, names)
                except ModelError as error:
                    found.append(str(error))
        return found[0] if found else ""

    def _from(self, asked: Asked, own: Own) -> Asked:
        start, local = self._work.personal, copy.copy(asked.local)
        personal = {name: array + own.arrays[name] for name, array in start.items()}
        if local:
            rules = own.arrays.items()
            local.own = {n: a for n, a in rules if n not in start and not n.startswith(APART)}
        return replace(asked, own=own, personal=personal, local=local)

    def _apart(self, asked: Asked, message: Message) -> LocalRule | None:
        """The local half of the training of the owner's own model beside the one that came."""
        told = told_of(message.content)
        told.pop(LOCAL_HALF, None)
        half = apart_half(asked.job.strategy, told, self._accepted)
        if half is not None:
            half.shared = asked.arrays
        return half

    def _begin(
        self, assignment: Assignment, message: Message, upload: SecureUpload | None, *, train: bool
    ) -> Own | None:
        """The state that the round begins with; None with a strategy that has none.

        A test needs one only if the model has personal tensors.
        """
        job = job_of(assignment)
        strategy = job.strategy
        shapes = state_of(strategy, self._everything, self._accepted)
        if not shapes or not (train or self._work.personal):
            return None
        if self._states is None:
            raise PlanRefused(
                f"{self._name} has no place for the state that {strategy.name} needs (the agent was "
                "started without a folder for states)"
            )
        round_, shown = counted_of(message.content)
        if round_ >= assignment.round + (not train):
            raise MessageError(f"A request for round {assignment.round} counts round {round_}")
        return self._states.begin(
            assignment.run,
            job.digest(),
            shapes,
            round_,
            lambda places: not upload or upload.counts(shown, places),
        )

    def propose(self, asked: Asked, found: Computed) -> None:
        """Keep the state that follows from an update, before that is kept and leaves."""
        if not (asked.own and asked.train and self._states):
            return
        place = asked.upload.place if asked.upload else None
        round_ = asked.assignment.round
        if asked.follows_more and asked.repeated is not None:
            # How far the owner's own tensors moved, and its loss, are in no update: what was proposed stands.
            self._states.again(asked.own, round_, asked.asked_for, place)
            return
        following = _next_state(asked, asked.own, found)
        self._states.propose(asked.own, round_, asked.asked_for, following, place)

    @property
    def _everything(self) -> Shapes:
        """Of the tensors that are trained here, personal ones among them."""
        personal = {name: array.shape for name, array in self._work.personal.items()}
        return {**self._work.shapes, **personal}


def led_to(asked: Asked) -> Iterator[Arrays]:
    """The weights to which a round's corrections alone would lead, if they lead away from its start.

    What corrects a step comes of the server (`heard`, what was told) and of the owner's state, which
    follows from that. So they are checked as what the server sends is.
    """
    if asked.local is None:
        return
    whole, begun = asked.whole, asked.start
    if any(begun[name] is not whole[name] for name in whole):
        yield begun
    import torch

    # What it notes is of the training alone.
    local, found = copy.deepcopy(asked.local), dict(begun)
    for name in asked.trained_here:
        start = torch.tensor(begun[name])
        shift = torch.zeros_like(start)
        local.correct(name, shift, start, start)
        if shift.any():
            found[name] = (start - local.rates * shift).numpy()
    if any(found[name] is not begun[name] for name in found):
        yield found


def _next_state(asked: Asked, own: Own, computed: Computed) -> Arrays:
    """What the strategy makes of the update that leaves (of zeros, if nothing could be trained), and how
    far the owner's own tensors are from their start."""
    shapes, update = asked.channels.shapes, computed.outcome.update
    update = update or {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    if asked.upload:
        update = asked.upload.as_summed(update)
    finished = {name: update[name] for name in asked.channels.update.shapes}
    following = asked.local.next_state(finished) if asked.local else {}
    found = {n: np.asarray(a, np.float32) for n, a in following.items()}
    for name in asked.moves:
        found[name] = own.arrays[name] + computed.personal.get(name, np.float32(0))
    like = {name: array.shape for name, array in own.arrays.items()}
    if {name: array.shape for name, array in found.items()} != like:
        raise ValueError("the local half makes another state than it declares")
    return {name: found[name] for name in like}
