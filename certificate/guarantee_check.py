"""Whether a certificate's guarantee is what its job asks for, and its epsilon follows from the noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..errors import UmbelError
from ..job import Job
from ..planning.losses import event_of_losses, releases_loss
from ..planning.noise import event_of_test
from ..planning.schedule import rounds_tested
from ..privacy.accounting import second
from ..privacy.accounting.accountant import MechanismEvent, epsilon
from .finding import Finding, differences, some
from .form import Certificate, Mechanism

_SLACK = 1e-6
"""Relative: another version of the accountant may round differently."""
_OF_ANOTHER = 0.01
"""The same for another accountant, whose grid differs."""
_MOST_FOR_ANOTHER = 100.0
"""Epsilon. Memory that dp-accounting takes grows with it."""


def as_asked(certificate: Certificate) -> Finding:
    """The guarantee's terms are the job's; its tests and the published size are in the figures."""
    try:
        job = Job.build(certificate.job.canonical, source="the job in it")
    except UmbelError as error:
        return Finding("guarantee", False, str(error))
    stated = certificate.guarantee
    sizes = sorted(
        {sum(m.steps for m in a.mechanisms if m.what == "size") for a in stated.spending}
    )
    wanted = {
        "unit": job.privacy.unit,
        "delta": job.privacy.delta if job.private else None,
        "epsilon_limit": job.privacy.owner_limit if job.private else None,
        "sizes": [int(job.noised_locally)],
    }
    found = {name: getattr(stated, name) for name in ("unit", "delta", "epsilon_limit")}
    odd = (*_odd_tests(certificate, job), *_odd_losses(certificate, job))
    differ = [*differences(found | {"sizes": sizes}, wanted), *odd]
    text = f"by the job, {some(differ)}" if differ else "is what the job asks for"
    return Finding("guarantee", not differ, text)


def _odd_tests(certificate: Certificate, job: Job) -> list[str]:
    """What no plan of the job says of its tests: as many at every owner, at the noise that they need."""
    found = {
        tuple((m.steps, m.noise_multiplier) for m in alike.mechanisms if m.what == "tests")
        for alike in certificate.guarantee.spending
    }
    if len(found) > 1:
        return ["its owners were planned for different numbers of tests"]
    of_tests = found.pop() if found else ()
    if len(of_tests) > 1:
        return ["its tests have different noise levels"]
    steps, noise = of_tests[0] if of_tests else (0, None)
    if steps and not job.tests_privately:
        return [f"it states {steps} noised tests, but the job has none"]
    try:
        event = event_of_test(job, len(rounds_tested(job, steps)))
    except UmbelError as error:
        return [str(error)]
    wanted = event.noise_multiplier if event else None
    return [] if noise == wanted else [f"{steps} tests have noise {noise}, but need {wanted}"]


def _odd_losses(certificate: Certificate, job: Job) -> Iterator[str]:
    """What no plan of the job says of released losses: one in each round, at the noise that they need."""
    for alike in certificate.guarantee.spending:
        steps = sum(m.steps for m in alike.mechanisms if m.what == "training")
        rounds = steps // job.training.local_steps if releases_loss(job) else 0
        found = [_event(m) for m in alike.mechanisms if m.what == "losses"]
        if rounds != sum(event.steps for event in found):
            yield f"it states {sum(event.steps for event in found)} losses for {rounds} rounds"
            continue
        try:
            planned = event_of_losses(job, max(1, rounds + job.spare_rounds)) if rounds else None
        except UmbelError as error:
            yield str(error)
            continue
        wanted = [replace(planned, steps=rounds)] if planned else []
        if found != wanted:
            yield f"its losses are released as {found}, but the job needs {wanted}"


def composed(certificate: Certificate) -> Iterator[Finding]:
    """Compose what was planned again: each epsilon must follow from all that it is spent on."""
    stated = certificate.guarantee
    if stated.delta is None:
        yield Finding(
            "epsilon", None, f"privacy.unit is {stated.unit!r}: there is nothing to recompute"
        )
        return
    worst, most = 0.0, list[MechanismEvent]()
    for alike in stated.spending:
        if alike.epsilon is None or not alike.mechanisms:
            yield Finding("epsilon", False, "it does not state what a client's privacy is spent on")
            return
        try:
            events = [_event(mechanism) for mechanism in alike.mechanisms]
            found = epsilon(events, stated.delta)
        except (ValueError, UmbelError) as error:
            yield Finding(
                "epsilon", False, f"the epsilon of the plan cannot be recomputed: {error}"
            )
            return
        if not found <= alike.epsilon * (1 + _SLACK):
            text = (
                f"{' and '.join(map(_described, alike.mechanisms))} cost epsilon {found:.4f}, but "
                f"{alike.epsilon:.4f} is claimed. Do not rely on this figure"
            )
            yield Finding("epsilon", False, text)
            return
        if found >= worst:
            worst, most = found, events
    planned, limit = stated.epsilon_planned or 0.0, stated.epsilon_limit or 0.0
    largest = max(planned, stated.epsilon_spent or 0.0)
    holds = worst <= planned * (1 + _SLACK) and largest <= limit * (1 + _SLACK)
    whats = sorted({mechanism.what for alike in stated.spending for mechanism in alike.mechanisms})
    yield Finding(
        "epsilon",
        holds,
        f"{' and '.join(whats)} recomputed: {worst:.4f} at delta {stated.delta:g}, planned "
        f"{planned:.4f}, at most {limit:g}",
    )
    if holds and most:
        yield _second_opinion(most, stated.delta, planned)
    if stated.seeded:
        yield Finding("noise", None, "SEEDED: this run can be repeated, so it is not private")


def _second_opinion(mechanisms: list[MechanismEvent], delta: float, planned: float) -> Finding:
    """Of an accountant that shares no code with ours, if it is installed, on what costs most."""
    if planned > _MOST_FOR_ANOTHER:
        return Finding("second opinion", None, f"not used above {_MOST_FOR_ANOTHER:g}")
    if not second.installed():
        text = "pip install dp-accounting lets a second accountant recompute it"
        return Finding("second opinion", None, text)
    found = second.epsilon(mechanisms, delta)
    text = f"dp-accounting {second.version()} computes {found:.4f}"
    if found <= planned * (1 + _OF_ANOTHER):
        return Finding("second opinion", True, text)
    return Finding("second opinion", False, f"{text}, but {planned:.4f} was planned")


def _event(mechanism: Mechanism) -> MechanismEvent:
    """Raises ``ValueError`` if there is no such mechanism."""
    return MechanismEvent(**mechanism.model_dump(exclude={"what"}))


def _described(mechanism: Mechanism) -> str:
    sampled = f" and rate {mechanism.sampling_rate:g}" if mechanism.sampling_rate < 1 else ""
    return (
        f"{mechanism.steps} {mechanism.what} steps at noise {mechanism.noise_multiplier:g}{sampled}"
    )
