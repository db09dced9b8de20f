"""The clipping norm of a whole update, as an owner lets a server ask for it."""

from __future__ import annotations

from ..errors import MessageError, PlanRefused
from ..job import LEAST_CLIPPING_NORM, MOST_CLIPPING_NORM, Job
from ..planning.client_level import count_refusals, norm_refusals
from ..planning.terms import Terms
from ..planning.vector import Content
from ..wire.requests import Assignment


def asked_norm(job: Job, assignment: Assignment) -> float:
    """Of a whole update; a ``MessageError`` for one that the job does not allow."""
    norm = assignment.clipping_norm or job.privacy.clipping_norm
    if not LEAST_CLIPPING_NORM <= norm <= MOST_CLIPPING_NORM:
        raise MessageError(
            f"a clipping norm must lie from {LEAST_CLIPPING_NORM:g} to {MOST_CLIPPING_NORM:g}, "
            f"but the server asks for {norm!r}"
        )
    if job.privacy.clipping == "fixed" and norm != job.privacy.clipping_norm:
        raise MessageError("the job's clipping norm is fixed, but the server asks for another")
    return norm


def check_room(
    name: str, terms: Terms, content: Content, assignment: Assignment, members: int
) -> None:
    """Refuse sums whose words are too small for a client's noise, before anything is charged."""
    reasons = []
    if content.train:
        norm = asked_norm(terms.job, assignment)
        reasons += norm_refusals(terms, norm, content.parameters, members)
    if content.test:
        reasons += count_refusals(terms, members, assignment.tests)
    if reasons:
        raise PlanRefused(f"{name}: {reasons[0]}")
