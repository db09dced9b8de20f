"""The round loop: cohort, requests, replies, strategy, checkpoint; until the job is done.

This is the coordinator's main path, the same over any Flower ``Grid``: in one process, on Ray, or
over the network. It calls the four methods of a Flower ``Strategy`` and nothing else of it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from flwr.app import ConfigRecord, Message

from ..errors import CannotGoOn, Interrupted, OutOfRange, RoundFailed
from ..job import Job
from ..learning.counts import figures
from ..learning.metrics import Counts, total
from ..learning.model import arrays_digest
from ..planning.client_level import next_clipping_norm
from ..planning.cohorts import sample_cohort
from ..planning.noise import most_participations
from ..planning.schedule import rounds_tested
from ..run.events import Evaluation, Round
from ..wire.arrays import Arrays, to_array_record, to_arrays
from ..wire.requests import EVALUATE, SECOND, TRAIN
from .attempts import Attempt, Attempts, present
from .best_model import ends_early, keep_candidate, settle
from .collect import Collection, PlainCollection, TooFew
from .ending import end_by, end_early, ends_with, failure
from .exchange import CohortGrid, Stage, connected
from .first_sum import let_go_of_first
from .holdout import measure_publicly
from .left_out import warn_of_groups
from .readiness import prepare, reasons, take_back
from .rebase import tell_rebase
from .run import Run
from .second import aggregated
from .secure import SecureCollection
from .spares import warn_of_spares

Train = Callable[[Run, int, bool], Arrays]
"""Makes the next model, of a round of this number; the current one is to be tested, too, if it says so."""


def run_rounds(run: Run, train: Train | None = None) -> dict[str, Counts]:
    """All rounds that are left, with a checkpoint after each; counts of the last model by client.

    train: what makes the next model, by default ``train_round`` (another: ``buffered.buffered_round``).
    Afterwards `run.arrays` is the model that the job keeps, which may be an earlier one. Raises
    ``RoundFailed`` when too few clients answer, ``Interrupted`` when the user stops it. In both cases
    the last finished round is on disk.
    """
    job = run.plan.job
    try:
        prepare(run)
    except RoundFailed as failed:
        finishes = run.choice.ended or (run.round and run.should_finish())
        error = failed if finishes else _without_renewal(run, failed)
        if not (finishes or ends_with(run, error)):
            raise error from None
        end_by(run, error, "operator" if finishes else "owners")
    if run.round == 0:
        run.save()
    while run.round < job.training.rounds:
        if run.should_stop():
            raise Interrupted(run.stopped)
        measure_publicly(run)
        keep_candidate(run)
        if run.round and run.should_finish():
            end_early(run, "operator", "its operator ended it")
        if ends_early(run):
            break
        try:
            run.renew(False)
            take_back(run)
            trained = (train or train_round)(run, run.round + 1, _is_tested(run))
        except RoundFailed as failed:
            error = _without_renewal(run, failed)
            if not ends_with(run, error):
                raise error from None
            end_by(run, error)
            break
        keep_candidate(run)
        run.arrays = trained
        run.round += 1
        tell_rebase(run)
        run.save()
        let_go_of_first(run)
    let_go_of_first(run)  # of a round that an ended run gave up
    if not run.choice.ended:
        with contextlib.suppress(CannotGoOn):
            run.renew(False)
    measure_publicly(run, last=True)
    counts = evaluate(run) if _may_test(run) else {}
    untested = not counts and _has_tests(run) and run.choice.cause in ("", "figures")
    if untested and not run.should_finish():
        raise failure(run, "No client was able to test the final model; the model itself is saved.")
    keep_candidate(run)
    settle(run)
    return counts


def _without_renewal(run: Run, error: RoundFailed) -> RoundFailed:
    """What a round failed of, if no other roster helps; leaves if one may."""
    if isinstance(error, OutOfRange):
        return error
    try:
        run.renew(True)
    except RoundFailed as other:
        return other
    return error


def train_round(run: Run, round_: int, test: bool) -> Arrays:
    """One round of training, repeated while too few answer; the next model.

    Where it says `test`, the clients also test the model that they start from: the same trip, and
    under secure aggregation the same sum.
    """
    job = run.plan.job
    attempts = Attempts(run, TRAIN, round_, job.cohort.retries + 1)
    for attempt in attempts:
        begun = time.monotonic()
        cohort = attempt.cohort
        if not cohort:
            here = _with_rounds_left(run, present(run, run.plan.minimum))
            cohort = sample_cohort(here, job, round_, attempt.number)
        minimum = run.plan.minimum if job.encrypted else job.cohort.minimum or len(cohort)
        if attempt.naming:  # some groups may be enough, though one sum of so few would not be
            minimum = job.cohort.minimum or minimum
        view = CohortGrid(run.grid, [run.nodes[name] for name in cohort])
        requests = run.strategy.configure_train(
            round_, to_array_record(run.arrays), ConfigRecord(), view
        )
        tests = _with_test(job, attempt, test)
        stage = Stage(round_, attempt.number, tests, attempt.naming)
        collection = attempt.first or _collection(run, TRAIN, stage, minimum, requests, attempt)
        attempts.groups = collection.groups
        try:
            record = aggregated(run, stage, collection, attempt, partial(_collection, run, SECOND))
        except TooFew:
            record = None
        attempts.refused = collection.spoiled
        if record is not None and stage.test:
            _tell_evaluation(run, collection, seconds=0.0)
        clipping = _clipping(run, collection, round_)
        virtual = _virtual(run, cohort, (round_, attempt.number + 1))
        event = round_event(
            run, collection, stage, begun, record is not None, virtual=virtual, **clipping
        )
        run.tell(event)
        warn_of_spares(run, event)
        warn_of_groups(run, event)
        if record is not None:
            run.clipping_norm = clipping.get("next_clipping_norm", run.clipping_norm)
            if run.owners_keep:
                run.counted |= {name: (round_, shown) for name, shown in collection.counted.items()}
            found = to_arrays(record, like={name: a.shape for name, a in run.arrays.items()})
            return {name: found[name] for name in run.arrays}  # in the model's order
        if len(cohort) - collection.refused < minimum:
            break
    # Those who would have answered, but for the weights that they were sent.
    able = len(cohort) - len({*cohort} & collection.failed.keys()) + collection.out_of_range
    kind = CannotGoOn if len(cohort) - collection.refused < minimum else RoundFailed
    if collection.out_of_range and able >= minimum:
        kind = OutOfRange
    raise failure(
        run,
        f"Round {round_}: {len(collection.answered)} of {len(cohort)} clients answered, but {minimum} "
        f"are needed, after {attempt.number - attempts.first + 1} attempts. "
        + reasons(collection.failed, collection.lacks),
        kind,
    )


def round_event(
    run: Run, collection: Collection, stage: Stage, begun: float, aggregated: bool, **more: Any
) -> Round:
    """What is told of an attempt at a round that began at this time (seconds); with `more` fields."""
    return Round(
        round=stage.round,
        attempt=stage.attempt + 1,
        seconds=round(time.monotonic() - begun, 3),
        clients=collection.answered,
        heard=sorted(collection.heard),
        failed=collection.failed,
        bytes_up=collection.bytes_up,
        bytes_down=collection.bytes_down,
        encrypted=run.plan.job.encrypted,
        trips=collection.seconds,
        loss=collection.loss,
        clipped=collection.clipped,
        unable=collection.unable,
        epsilon=collection.epsilons,
        heads=collection.heads,
        tested=stage.test,
        aggregated=aggregated,
        doubted=collection.doubted,
        named=collection.named,
        restarted=sorted(collection.restarted),
        lacks=collection.lacks,
        left_out=collection.left_out,
        **more,
    )


def _virtual(run: Run, cohort: list[str], attempt: tuple[int, int]) -> float | None:
    """The virtual clock of a simulation after these have trained; None if it has none.

    attempt: its round and its number. A process that died before the checkpoint has told of it already.
    """
    if not run.pace:
        return None
    before = [
        event.virtual
        for event in run.folder.told(Round)
        if event.virtual is not None and (event.round, event.attempt) < attempt
    ]
    return max(before, default=0.0) + max(run.pace[name] for name in cohort)


def _with_test(job: Job, attempt: Attempt, test: bool) -> bool:
    """Whether an attempt tests the model as well. Exact counts are asked for in one slot only."""
    if attempt.first:
        return attempt.first.stage.test
    if attempt.again:
        return attempt.again.test
    if attempt.naming:
        return False
    return test and (attempt.number == 0 or job.counts != "exact" or not job.encrypted)


def _clipping(run: Run, collection: Collection, round_: int) -> dict[str, float]:
    """What a round says of its clipping norm, where it adapts, and which one comes next."""
    if collection.within is None:
        return {}
    plan, norm = run.plan, run.clipping_norm
    coming = run.channels(min(round_ + 1, plan.job.training.rounds))
    room = plan.terms.clipping_room(coming.numbers, plan.cohort_size)
    following = next_clipping_norm(plan.job, norm, collection.within, room)
    return {"clipping_norm": norm, "within": collection.within, "next_clipping_norm": following}


def evaluate(run: Run) -> dict[str, Counts]:
    """Test the current model on every client's held-out records; counts by client.

    Under secure aggregation all clients take part, also those without held-out records, and the
    counts of all together stand under "".
    """
    job = run.plan.job
    run.before_test()  # who still trains would not answer in time
    everybody = present(run, run.plan.minimum)
    tested = [name for name in everybody if run.plan.by_name[name].holds_out]
    if not tested or not _has_tests(run):
        return {}
    asked = everybody if job.encrypted else tested
    most = job.cohort.retries + 1 if job.encrypted else 1
    for attempt in Attempts(run, EVALUATE, run.round, most):
        begun = time.monotonic()
        names = attempt.cohort or asked
        view = CohortGrid(run.grid, [run.nodes[name] for name in names])
        requests = run.strategy.configure_evaluate(
            run.round, to_array_record(run.arrays), ConfigRecord(), view
        )
        stage = Stage(run.round, attempt.number)
        collection = _collection(run, EVALUATE, stage, 0, requests, attempt)
        with contextlib.suppress(TooFew):
            run.strategy.aggregate_evaluate(run.round, collection)
        _tell_evaluation(run, collection, time.monotonic() - begun)
        if collection.counts:
            break
    return dict(sorted(collection.counts.items()))


def _tell_evaluation(run: Run, collection: Collection, seconds: float) -> None:
    """The figures of the current model."""
    job = run.plan.job
    labels = job.data.labels or []
    counts = dict(sorted(collection.counts.items()))
    by_client = {name: c.metrics(labels) for name, c in counts.items() if name}
    run.tell(
        Evaluation(
            round=run.round,
            model=arrays_digest(run.arrays),
            seconds=round(seconds, 3),
            failed=collection.failed,
            lacks=collection.lacks,
            metrics=figures(job, total(counts)) if counts else {},
            clients=by_client or run.owners_metrics(run.round),
            exact=run.exact_metrics(run.round),
            epsilon=collection.epsilons,
            heads=collection.heads,
            doubted=collection.doubted,
            blur={} if run.plan.blur is None else {job.kind.deciding.key: run.plan.blur},
        )
    )


def _collection(
    run: Run,
    kind: str,
    stage: Stage,
    minimum: int,
    requests: Iterable[Message],
    attempt: Attempt,
) -> Collection:
    """How the replies of a round are collected: the one place where encryption is chosen."""
    if not run.plan.job.encrypted:
        return PlainCollection(run, kind, stage, minimum, requests)
    last = SECOND if run.second(stage.round) else TRAIN
    following = _next_cohort(run, stage.round) if kind == last else None
    return SecureCollection(run, kind, stage, minimum, requests, following, attempt)


def _with_rounds_left(run: Run, names: list[str]) -> list[str]:
    """Without those whose noise is made for no more rounds, where lots are drawn and enough remain.

    While some are away the lot falls on others more often than planned.
    """
    plan, job = run.plan, run.plan.job
    if not job.private or job.cohort.size is None:
        return names
    charged: dict[str, set[Any]] = {name: set() for name in names}
    for place, event in enumerate(run.folder.told(Round)):
        # Whose epsilon stayed as it was sent what it had trained before.
        for name in {*event.clients, *event.failed} & charged.keys():
            charged[name].add(event.epsilon.get(name, f"line {place}"))

    def most(name: str) -> int:
        planned = plan.by_name[name].rounds if job.noised_locally else most_participations(job)
        return planned + job.spare_rounds

    left = [name for name in names if len(charged[name]) < most(name)]
    return left if len(left) >= plan.cohort_size else names


def _next_cohort(run: Run, round_: int) -> list[str]:
    """Who is asked after this round: the next cohort, or everybody for the last test."""
    if round_ < run.plan.job.training.rounds:
        return sample_cohort(run.candidates, run.plan.job, round_ + 1)
    return run.candidates


def _is_tested(run: Run) -> bool:
    """Whether the job wants to know how good the current model is."""
    return run.round in rounds_tested(run.plan.job, run.plan.tests)


def _may_test(run: Run) -> bool:
    """Whether to ask for a test of the last model: those who could not go on are asked nothing more."""
    if run.choice.cause != "operator":
        return run.choice.cause not in ("owners", "weights")
    nodes = {name: run.nodes[name] for name in run.candidates}
    return len(connected(run.grid, nodes, 0, 0.0, run.should_stop, run.clock)) >= run.plan.minimum


def _has_tests(run: Run) -> bool:
    return run.plan.tests > 0
