"""Which models of a run the owners test: the one place that says so, for server, agents and reports.

A job either says after how many rounds the model is tested (``evaluation.every``), or leaves it to
the plan, which chooses a number of tests (``evaluation.chosen_tests``). The number goes to the agents
(``Assignment.tests``), and both sides derive the rounds from it.
"""

from __future__ import annotations

from ..errors import MessageError
from ..job import Job


def most_tests(job: Job) -> int:
    """The largest number of tests of a job: before training and after every round, or as it says."""
    if job.counts == "off":
        return 0
    if job.evaluation.every is None:
        return job.training.rounds + 1
    return len(_every(job, job.evaluation.every))


def rounds_tested(job: Job, tests: int) -> tuple[int, ...]:
    """After which rounds a model is tested, ascending, if `tests` are planned; 0 is before training.

    They are spread evenly, and the last model is always among them. Raises ``MessageError`` for a
    number of tests that no plan of this job has.
    """
    most, every = most_tests(job), job.evaluation.every
    if not 0 <= tests <= most or (every is not None and tests not in (0, most)):
        raise MessageError(f"{tests} tests are planned, but the job has at most {most}")
    if tests == 0:
        return ()
    if every is not None:
        return _every(job, every)
    rounds = job.training.rounds
    if tests == 1:
        return (rounds,)
    return tuple(place * rounds // (tests - 1) for place in range(tests))


def is_due_publicly(job: Job, round_: int) -> bool:
    """Whether the server tests the model after a round on public records; the last one always is."""
    every = 1 if job.evaluation.every is None else job.evaluation.every
    return round_ == 0 or (every > 0 and round_ % every == 0)


def _every(job: Job, every: int) -> tuple[int, ...]:
    rounds = range(job.training.rounds)
    between = [r for r in rounds if r == 0 or (every > 0 and r % every == 0)]
    return (*between, job.training.rounds)
