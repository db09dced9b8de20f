"""What an agent tells its owner of the jobs that ask: a line at once, and what is written down."""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING

from ..errors import UmbelError
from ..job import Job
from ..wire.requests import EVALUATE, PREPARE, RESULT, SECOND, TRAIN, Assignment
from .answers import job_of
from .audit_log import AuditLog, Event
from .decisions import Decisions

if TYPE_CHECKING:
    from flwr.app import Message

_MOST_REMEMBERED = 1000
_MOST_UNSIGNED = 100
"""At most this many are written down in an agent's life."""
_LONGEST_STRANGE = 2**16
"""Characters of an unsigned job: a longer one is not examined."""
_LONGEST_RUN = 256
"""Characters of a job that an operator may sign."""
_DOING = {
    PREPARE: "gets ready",
    TRAIN: "trains, round {round}",
    SECOND: "answers for the second sum of round {round}",
    EVALUATE: "tests the model after round {round}",
    RESULT: "keeps the result",
}
_log = logging.getLogger(__name__)


class Notices:
    """Of one agent. A decision is told when it is another than the last one about its run."""

    def __init__(self, audit: AuditLog, decisions: Decisions) -> None:
        self._audit, self._decisions = audit, decisions
        self._last: dict[str, tuple[Event, str]] = {}
        self._strange = 0

    def doing(self, assignment: Assignment, message: Message) -> None:
        """A line for anyone who looks at the agent; short trips are not worth one."""
        what = _DOING.get(message.metadata.message_type)
        if what is not None:
            tests = " and tests the model that came with it" if assignment.test else ""
            _log.info("%s: %s%s", assignment.run, what.format(round=assignment.round), tests)

    def decided(self, assignment: Assignment, operator: str, event: Event, why: str) -> None:
        """`operator`: the signer's key, in hexadecimal; empty if nobody has signed whom the owner accepts."""
        run = assignment.run[:_LONGEST_RUN]
        if self._last.get(run) == (event, why) or not (operator or self._heeds_strangers()):
            return
        if len(self._last) >= _MOST_REMEMBERED:
            self._last.clear()
        self._last[run] = (event, why)
        job = _readable(assignment, signed=bool(operator))
        if job is not None and self._decisions.last(run, job) == (event, why):
            return  # before this agent started
        _log.info("%s: %s: %s", run, event, why)
        digest = hashlib.sha256(
            assignment.job.encode()
        ).hexdigest()  # jobs come as their canonical text
        self._audit.write(event, run=run, job=digest, why=why)
        if job is not None:
            self._decisions.note(run, job, operator, event, why)

    def _heeds_strangers(self) -> bool:
        """Whether one more job that nobody signed is written down: anyone who is the server can make them."""
        self._strange += 1
        if self._strange == _MOST_UNSIGNED:
            _log.warning("no more unsigned jobs are noted until this agent starts again")
        return self._strange <= _MOST_UNSIGNED


def _readable(assignment: Assignment, *, signed: bool) -> Job | None:
    """The job; None for what nobody signed and is none, or too long to look into."""
    if signed:
        return job_of(assignment)
    try:
        return job_of(assignment) if len(assignment.job) <= _LONGEST_STRANGE else None
    except (UmbelError, ValueError, RecursionError):
        return None
