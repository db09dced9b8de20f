"""What a private job does at one client: sampling, noise, and the events that its ledger is charged.

Server and agent derive the same recipe from the job; none is told it by the other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..errors import PlanRefused
from ..job import Job
from ..learning.metrics import counts_of
from ..privacy.accounting.accountant import Kind, MechanismEvent, epsilon
from ..privacy.noise.counts_noise import (
    CLIENT,
    GROUP,
    RECORD,
    Change,
    budget_of_tests,
    counts_event,
    noise_beside,
)
from ..privacy.noise.sizes import SIZE_EPSILON, SIZE_EVENT
from .losses import event_of_losses, releases_loss

_ROUNDING = 1 - 1e-12
"""Floating-point rounding must not push a sum of two epsilons above the target."""


@dataclass(frozen=True)
class PrivateRecipe:
    """What hides one client's data: all of it follows from the job and the client's published size.

    Guarantee: over `participations` + spare rounds, what leaves this client is
    (epsilon, delta)-differentially private. Under example-level privacy for one record added to or
    removed from its data, by noise in each of its steps, under the assumptions of
    ``privacy.dpsgd.optimizer``. Under group-level privacy the same for one group of records
    (``privacy.dpsgd.groups``), where sizes count groups. Under client-level privacy for all its data
    exchanged for any other, by noise in each round's sum, under those of ``privacy.noise.client_noise``.
    """

    sampling_rate: float
    """Sampling rate of a record or group in a step; of the client in a round in which it takes part, 1."""
    expected_batch_size: float
    """Records or groups that the noised sum of a step is divided by: a batch, also if an owner has fewer.
    It then moves the model by less in proportion, and so does its noise, which would otherwise be the largest
    of all. 0 under client-level privacy, whose steps have no noise."""
    noise_multiplier: float
    """The noise's deviation over the most that one record, group, or client can change."""
    round_event: MechanismEvent
    test_event: MechanismEvent | None
    """One test with private counts; None if the job has none."""
    loss_event: MechanismEvent | None
    """One release of the owner's loss, of which each round has one; None if no weight follows from it."""
    planned: dict[str, MechanismEvent]
    """All that the job spends, by purpose: the planned rounds, their losses, the tests and the published
    size, without spare rounds."""
    epsilon: float
    """Epsilon after what is planned."""
    tests: int = 0
    """Tests that are planned."""

    def spending(self, rounds: int, tests: int) -> dict[str, MechanismEvent]:
        """What so many rounds and tests spend, by what for; the published size is charged once."""
        found = {"training": replace(self.round_event, steps=self.round_event.steps * rounds)}
        if self.loss_event is not None:
            found["losses"] = replace(self.loss_event, steps=rounds)
        if self.test_event is not None:
            found["tests"] = replace(self.test_event, steps=self.test_event.steps * tests)
        return found


def private_recipe(
    job: Job, training_size: int, participations: int, tests: int = 0
) -> PrivateRecipe:
    """Noise and sampling of a client with the public number `training_size` of training units.

    tests: how many are planned. The noise of training does not depend on them: they share what
    evaluation.epsilon gives them. Noise and sampling are chosen from the published size, so what that
    cost is part of the job's epsilon (basic composition), and training keeps to what remains. Raises
    ``PlanRefused`` if no noise meets the target.
    """
    privacy = job.privacy
    steps, rate, kind = _released(job, training_size)
    size = {"size": SIZE_EVENT} if job.noised_locally else {}
    target = (privacy.epsilon - SIZE_EPSILON) * _ROUNDING if size else privacy.epsilon
    # Clients that share noise must agree on it, however often each of them takes part.
    most = participations if job.noised_locally else most_participations(job)
    paid_rounds = max(1, most + job.spare_rounds)
    # Without tests first: what no noise can meet is then not laid at their door.
    with _way_out(f"{_more_epsilon(job)}, or ask for fewer steps ({_steps_keys(job)})"):
        noise_beside(target, privacy.delta, rate, steps * paid_rounds, kind=kind)
    with _way_out(more_for_tests(job)):
        budget = budget_of_tests(job.tests_epsilon, privacy.delta) if job.tests_privately else None
        losses = event_of_losses(job, paid_rounds)
    beside = tuple(event for event in (budget, losses) if event is not None)
    with _way_out(f"{_more_epsilon(job)}, or {_less_beside(job)}"):
        sigma = noise_beside(target, privacy.delta, rate, steps * paid_rounds, beside, kind)
    one = MechanismEvent(sigma, rate, steps, kind)
    test = event_of_test(job, tests)
    recipe = PrivateRecipe(
        sampling_rate=rate,
        expected_batch_size=float(job.training.batch_size) if job.noised_locally else 0.0,
        noise_multiplier=sigma,
        round_event=one,
        test_event=test,
        loss_event=replace(losses, steps=1) if losses else None,
        planned={},
        epsilon=0.0,
        tests=tests,
    )
    planned = recipe.spending(participations, tests) | size
    return replace(recipe, planned=planned, epsilon=epsilon(planned.values(), privacy.delta))


def delta_fits(job: Job, size: int) -> bool:
    """Whether the job's delta is below 1 / `size`, an owner's published one; 0 if none is."""
    return not (job.noised_locally and size and job.privacy.delta >= 1 / size)


def delta_refusal(job: Job, where: str) -> str:
    """What plan and agent say if it does not fit."""
    unit = "group" if job.per_group else "record"
    return (
        f"privacy.delta = {job.privacy.delta:g} is not below 1 / published size at {where}: it "
        f"would allow giving away one whole {unit}"
    )


def check_delta(job: Job, size: int, where: str) -> None:
    """Raise ``PlanRefused`` if the delta does not fit."""
    if not delta_fits(job, size):
        raise PlanRefused(delta_refusal(job, where))


def step_refusals(job: Job) -> list[str]:
    """What would tell of a record beside the noise: no plan has it, and no owner takes part."""
    if not job.private:
        return []
    reasons = []
    if job.weighting == "examples":
        reasons.append(
            f'strategy.weighting = "examples": under {job.privacy.unit}-level privacy a client\'s '
            'weight would tell the size of its data set; use "equal"'
        )
    if job.noised_locally and job.training.gradient_clipping is not None:
        reasons.append(
            "training.gradient_clipping clips a batch's gradient and does not protect privacy; "
            "remove it: privacy.clipping_norm clips each example's gradient"
        )
    if job.noised_locally and job.adapter == "lora" and job.model.lora.dropout:
        reasons.append(
            f"model.lora.dropout = {job.model.lora.dropout:g}: dropout depends on the place in a batch, "
            "so one record would change what the others add; remove it (a base model's own dropout is off "
            f"under {job.privacy.unit}-level privacy)"
        )
    return reasons


def most_participations(job: Job) -> int:
    """Most rounds of a job that any client takes part in; its own budget stops it beyond."""
    return min(job.cohort.participations or job.training.rounds, job.training.rounds)


def most_spent(job: Job) -> str:
    """Most epsilon that a run costs a client, whatever happens to its rounds."""
    privacy = job.privacy
    stops = f"each client's agent ends its part before it passes {privacy.owner_limit:g}"
    if not job.spare_rounds:
        return stops
    rounds = f"up to {job.spare_rounds} round{'s' if job.spare_rounds > 1 else ''}"
    if privacy.owner_limit <= privacy.epsilon:
        return f"{stops} ({rounds} may be repeated)"
    return f"with {rounds} repeated it is at most {privacy.epsilon:g}, and {stops}"


def _released(job: Job, training_size: int) -> tuple[int, float, Kind]:
    """Noisy releases of one round, the sampling rate in each, and the kind of their noise."""
    if job.noised_locally:
        return (
            job.training.local_steps,
            min(1.0, job.training.batch_size / training_size),
            "gaussian",
        )
    # Members know the cohort, so nothing is amplified by who is in it.
    return 1, 1.0, "concentrated" if job.noised_by_clients else "gaussian"


def change_of(job: Job) -> Change:
    """The most by which neighbours differ in the counts of a test."""
    one = CLIENT if job.per_client else GROUP if job.per_group else RECORD
    # A client's counts are scaled to one sum, whatever its records add.
    squared = one.cells_squared * (1 if job.per_client else job.kind.adds**2)
    sums = len(counts_of(job.kind).caps(len(job.data.labels or ())))
    return replace(one, cells_squared=squared, sums=sums)


@contextlib.contextmanager
def _way_out(what: str) -> Iterator[None]:
    """What to do about a refusal, by keys of the job, of which the accountant knows nothing."""
    try:
        yield
    except PlanRefused as error:
        raise PlanRefused(f"{error} To fix it, {what}.") from None


def _more_epsilon(job: Job) -> str:
    now = f"now {job.privacy.epsilon:g}"
    if job.noised_locally:
        now += f", of which {SIZE_EPSILON:g} pays for the published sizes"
    return f"raise privacy.epsilon ({now})"


def _steps_keys(job: Job) -> str:
    return "training.rounds" + (", training.local_steps" if job.noised_locally else "")


def more_for_tests(job: Job) -> str:
    """What to do if tests have too little epsilon, whether or not the job has set its key."""
    if job.evaluation.epsilon is not None:
        return f"raise evaluation.epsilon (now {job.tests_epsilon:g})"
    return (
        f"set evaluation.epsilon above {job.tests_epsilon:g}, which is its default for "
        f"privacy.epsilon = {job.privacy.epsilon:g}"
    )


def _less_for_tests(job: Job) -> str:
    if job.evaluation.epsilon is not None:
        return f"lower evaluation.epsilon (now {job.tests_epsilon:g})"
    return (
        f"set evaluation.epsilon below {job.tests_epsilon:g}, which is its default for "
        f"privacy.epsilon = {job.privacy.epsilon:g}"
    )


def _less_beside(job: Job) -> str:
    """What to lower of all that is released beside the steps."""
    ways = [_less_for_tests(job)] if job.tests_privately or not releases_loss(job) else []
    ways += ["lower strategy.options.loss_share"] if releases_loss(job) else []
    return ", or ".join(ways)


def event_of_test(job: Job, tests: int) -> MechanismEvent | None:
    """One of so many planned tests that leave private counts; spare ones are paid for as well.

    None if counts are exact or off, or nothing is tested. Raises ``PlanRefused`` if no noise is
    enough.
    """
    if not job.tests_privately or not tests:
        return None
    paid = tests + job.spare_rounds
    with _way_out(f"{more_for_tests(job)}, or test less often (evaluation.every)"):
        one = counts_event(job.tests_epsilon, job.privacy.delta, paid)
    return replace(one, steps=1)
