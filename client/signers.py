"""Whose job a request is for: the operator that signed it, in an order that holds now."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..consortium.warrants import check_job_signature, parted
from ..errors import ConsortiumError, FileError, PlanRefused, ProtocolError
from ..privacy.secagg.signed import Statement
from ..wire.requests import Assignment
from .audit_log import AuditLog
from .home import Home
from .keys import follow
from .policy import Policy
from .run_notes import RunNotes


class Signers:
    """The operators that one owner accepts, and the orders of theirs that it has seen.

    Guarantee: what ``signer`` returns has signed just this job for this run and consortium, in an order that
    has not ended and is no replay of an earlier one.
    """

    def __init__(
        self,
        home: Home,
        policy: Policy,
        audit: AuditLog,
        notes: RunNotes,
        now: Callable[[], float] = time.time,
    ) -> None:
        """now: seconds since 1970, by which orders end."""
        self._home, self._policy, self._audit, self._notes = home, policy, audit, notes
        self._now = now

    def signer(self, assignment: Assignment) -> str:
        """Which of the operators that this owner accepts has signed the job, in an order that holds now."""
        self._follow(assignment)
        key, said = self.signed(assignment)
        self._check_order(assignment.run, key, said)
        return key

    def signed(self, assignment: Assignment) -> tuple[str, Statement]:
        """The signer's key and the order, whether or not that holds now; ``PlanRefused`` without one."""
        card = self._home.card
        accepted = self._policy.jobs.operators or [card.operator_key]
        refusal: PlanRefused | None = None
        for key in accepted:
            try:
                said = check_job_signature(
                    bytes.fromhex(key),
                    card.id,
                    assignment.run,
                    assignment.job,
                    assignment.signature,
                )
            except PlanRefused as error:
                refusal = error
            else:
                return key, said
        raise refusal or PlanRefused(
            f"{self._home.name} accepts no operator (its policy's jobs.operators)"
        )

    def _follow(self, assignment: Assignment) -> None:
        """Go by the consortium's newest keys before anything is checked by them."""
        try:
            changed = follow(self._home, parted(assignment.signature)[1])
        except (ProtocolError, ConsortiumError, FileError) as error:
            raise PlanRefused(
                f"{self._home.name} does not accept the consortium's new keys: {error}"
            ) from None
        if changed:
            fingerprint = self._home.card.fingerprint
            self._audit.write("keys followed", run=assignment.run, fingerprint=fingerprint)

    def _check_order(self, run: str, operator: str, said: Statement) -> None:
        """Refuse an order that has ended or is replayed, and remember it before anything is done for it."""
        known, seen = self._notes.of(run).get("order"), self._home.seen_orders
        seen.check(operator, said, known is not None, self._now())
        # The run first: after a crash between the two it is still known.
        if known is None or said.counter > known:
            self._notes.add(run, order=said.counter)
        seen.note(operator, said)
