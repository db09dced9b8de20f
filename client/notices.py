"""What an agent tells its owner of the jobs that ask: a line at once, and what is written down."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..messages import EVALUATE, PREPARE, RESULT, TRAIN, Assignment
from .answers import job_of
from .audit import AuditLog, Event
from .decisions import Decisions

if TYPE_CHECKING:
    from flwr.app import Message

_MOST_REMEMBERED = 1000
_DOING = {
    PREPARE: "gets ready",
    TRAIN: "trains, round {round}",
    EVALUATE: "tests the model after round {round}",
    RESULT: "keeps the result",
}
_log = logging.getLogger(__name__)


class Notices:
    """Of one agent. A decision is told when it is another than the last one about its run."""

    def __init__(self, audit: AuditLog, decisions: Decisions) -> None:
        self._audit, self._decisions = audit, decisions
        self._last: dict[str, tuple[Event, str]] = {}

    def doing(self, assignment: Assignment, message: Message) -> None:
        """A line for whoever looks at the agent; short trips are not worth one."""
        what = _DOING.get(message.metadata.message_type)
        if what is not None:
            tests = " and tests what came before" if assignment.test else ""
            _log.info("%s: %s%s", assignment.run, what.format(round=assignment.round), tests)

    def decided(self, assignment: Assignment, operator: str, event: Event, why: str) -> None:
        """`operator`: the signer's key, in hexadecimal; empty if nobody has signed whom the owner accepts."""
        run, job = assignment.run, job_of(assignment)
        if self._last.get(run) == (event, why):
            return
        if len(self._last) >= _MOST_REMEMBERED:
            self._last.clear()
        self._last[run] = (event, why)
        if self._decisions.last(run, job) == (event, why):
            return  # before this agent started
        _log.info("%s: %s: %s", run, event, why)
        self._audit.write(event, run=run, job=job.digest(), why=why)
        self._decisions.note(run, job, operator, event, why)
