"""What a private job does at one client: sampling, noise, and the events that its ledger is charged.

Server and agent derive the same recipe from the job; none is told it by the other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .job import Job
from .privacy.accounting import Kind, MechanismEvent, epsilon
from .privacy.counts_noise import counts_event, noise_beside


@dataclass(frozen=True)
class PrivateRecipe:
    """What hides one client's data: everything here is public and depends on the size class alone.

    Guarantee: over `participations` + spare rounds, what leaves this client is
    (epsilon, delta)-differentially private. Under example-level privacy for one record added to or
    removed from its training data, by noise in each of its steps, under the assumptions of
    ``privacy.dpsgd``. Under client-level privacy for all its data exchanged for any other, by noise
    in each round's sum, under those of ``privacy.client_noise``.
    """

    sampling_rate: float
    """Of a record in a step, or of the client in a round that it takes part in, which is 1."""
    expected_batch_size: float
    """Records in a step; under client-level privacy 0, for steps are not noised."""
    noise_multiplier: float
    """The noise's deviation over the most that one record, or the client's data, can change."""
    round_event: MechanismEvent
    test_event: MechanismEvent | None
    """One test with private counts; None where the job has none."""
    planned: dict[str, MechanismEvent]
    """All that the job spends, by what for: the planned rounds and the tests, no spare rounds."""
    epsilon: float
    """Epsilon after what is planned."""

    def spending(self, rounds: int, tests: int) -> dict[str, MechanismEvent]:
        """What so many rounds and tests spend, by what for."""
        return spending(self.round_event, self.test_event, rounds, tests)


def private_recipe(job: Job, size_class: int, participations: int) -> PrivateRecipe:
    """Noise and sampling of a client whose data set has `size_class` records.

    Raises ``PlanRefused`` where no noise meets the target.
    """
    privacy = job.privacy
    steps, rate, kind = _released(job, size_class)
    # Clients that share noise must agree on it, however often each of them takes part.
    most = participations if job.per_example else most_participations(job)
    paid_rounds = max(1, most + privacy.spare_rounds)
    tests = tests_event(job)
    sigma = noise_beside(privacy.epsilon, privacy.delta, rate, steps * paid_rounds, tests, kind)
    one = MechanismEvent(sigma, rate, steps, kind)
    test = replace(tests, steps=1) if tests else None
    planned = spending(one, test, participations, planned_tests(job))
    return PrivateRecipe(
        sampling_rate=rate,
        expected_batch_size=rate * size_class if job.per_example else 0.0,
        noise_multiplier=sigma,
        round_event=one,
        test_event=test,
        planned=planned,
        epsilon=epsilon(planned.values(), privacy.delta),
    )


def spending(
    round_event: MechanismEvent, test_event: MechanismEvent | None, rounds: int, tests: int
) -> dict[str, MechanismEvent]:
    """What so many rounds and tests spend, by what for; no tests where `test_event` is None."""
    found = {"training": replace(round_event, steps=round_event.steps * rounds)}
    if test_event is not None:
        found["tests"] = replace(test_event, steps=test_event.steps * tests)
    return found


def most_participations(job: Job) -> int:
    """Most rounds of a job that any client takes part in; its own budget stops it beyond."""
    return min(job.cohort.participations or job.training.rounds, job.training.rounds)


def most_spent(job: Job) -> str:
    """Most epsilon that a run costs a client, whatever happens to its rounds."""
    privacy = job.privacy
    stops = f"each client's agent ends its part before it passes {privacy.owner_limit:g}"
    if not privacy.spare_rounds:
        return stops
    rounds = f"up to {privacy.spare_rounds} round{'s' if privacy.spare_rounds > 1 else ''}"
    if privacy.owner_limit <= privacy.epsilon:
        return f"{stops} ({rounds} may be repeated)"
    return f"with {rounds} repeated it is at most {privacy.epsilon:g}, and {stops}"


def _released(job: Job, size_class: int) -> tuple[int, float, Kind]:
    """Noisy releases of one round, the sampling rate in each, and the kind of their noise."""
    if job.per_example:
        return job.training.local_steps, min(1.0, job.training.batch_size / size_class), "gaussian"
    # Members know the cohort, so nothing is amplified by who is in it.
    return 1, 1.0, "concentrated" if job.noised_by_clients else "gaussian"


def is_due(job: Job, round_: int) -> bool:
    """Whether the model after so many rounds is to be tested, the last one apart: that always is."""
    every = job.evaluation.every
    return round_ == 0 or (every > 0 and round_ % every == 0)


def is_tested(job: Job, round_: int) -> bool:
    """Whether the owners test it."""
    return is_due(job, round_) and job.counts != "off"


def planned_tests(job: Job) -> int:
    """How often the model is tested in the whole job."""
    between = sum(is_tested(job, round_) for round_ in range(job.training.rounds))
    return between + (job.counts != "off")


def tests_event(job: Job) -> MechanismEvent | None:
    """All tests of a job that leave private counts, at the least noise that keeps their epsilon.

    None where counts are exact or off. Raises ``PlanRefused`` where no noise is enough.
    """
    if not job.tests_privately:
        return None
    paid = planned_tests(job) + job.privacy.spare_rounds
    return counts_event(job.evaluation.epsilon, job.privacy.delta, paid)
