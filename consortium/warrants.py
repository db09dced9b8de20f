"""What is signed ahead, away from the server: the operator's orders, and delegations for one run.

An order says: this job, as this run, in this consortium, until then. A delegation lets a server
that holds none of the consortium's keys finish one run: certify it, and take members off the roster.
Both are statements (``privacy.secagg.signed``) with an end, and with their signer's counter.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

from ..errors import PlanRefused, ProtocolError
from ..job import Job
from ..privacy.secagg.encoding import Digest, Encoded, Size
from ..privacy.secagg.keys import Identity
from ..privacy.secagg.roster import DELEGATION, Delegation
from ..privacy.secagg.signed import DAY, Signed, Statement, check_time
from .key_handovers import MOST

ORDER = "job order"
RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$"
"""What a run may be called: safe as a file's name, and never part of another name or note in a ledger."""
_RUN = re.compile(RUN_NAME)
REST_DAYS = 30
"""How long an order is valid beyond its run: in this time a stopped run can be resumed."""


@dataclass(frozen=True)
class JobOrder(Encoded):
    """What the operator signs: this job, as this run, in this consortium alone."""

    consortium: Annotated[str, Size(32, 32)]
    run: Annotated[str, Size(1, 256)]
    job: Digest

    def __post_init__(self) -> None:
        if not _RUN.fullmatch(self.run):
            raise ValueError(f"{self.run!r:.80} is not a valid name of a run")


def longest_seconds(job: Job) -> int:
    """More seconds than a run lasts that is not stopped on the way: each round until its last deadline."""
    round_ = job.cohort.deadline + (4 * job.encryption.deadline if job.encrypted else 0.0)
    return int((job.training.rounds + job.spare_rounds + 2) * round_)


def order_seconds(job: Job) -> int:
    return longest_seconds(job) + REST_DAYS * DAY


def joined(order: str, handovers: Sequence[str]) -> str:
    """What goes out with a job: the operator's order, and how the consortium's keys came to be these."""
    return ":".join([order, *handovers])


def parted(signature: str) -> tuple[str, list[str]]:
    """Inverse of ``joined``, of whatever came."""
    order, *handovers = signature.split(":", MOST + 1)
    return order, handovers


def now_counter() -> int:
    """Milliseconds since 1970: what was signed later counts higher, also by a signer that was set back."""
    return time.time_ns() // 10**6


def sign_job(
    operator: Identity,
    consortium_id: str,
    run: str,
    job_json: str,
    *,
    counter: int | None = None,
    now: float | None = None,
    seconds: int = REST_DAYS * DAY,
) -> str:
    """The operator's order, signed, in hexadecimal."""
    issued = int(time.time() if now is None else now)
    counter = now_counter() if counter is None else counter
    body = _order(consortium_id, run, job_json)
    return Signed.sign(Statement(ORDER, counter, issued, issued + seconds, body), operator).to_hex()


def check_job_signature(
    operator_key: bytes, consortium_id: str, run: str, job_json: str, signature: str
) -> Statement:
    """The order; ``PlanRefused`` unless the operator signed this job for this run of this consortium.

    Whether it holds at this time is for the caller to see.
    """
    order_hex, _ = parted(signature)
    if not order_hex:
        raise PlanRefused(
            f"the job of run {run!r:.80} is not signed: only a job signed by the consortium's operator "
            "is accepted"
        )
    try:
        order = _order(consortium_id, run, job_json)
        said = Signed.from_hex(order_hex).opened(ORDER, operator_key)
    except (ValueError, ProtocolError):
        order, said = b"", None
    if said is None or said.body != order:
        raise PlanRefused(
            f"the job of run {run!r:.80} is not signed by the operator of the consortium: somebody "
            "else signed it, it was changed, or it belongs to another run or consortium"
        )
    return said


def sign_delegation(
    signers: Iterable[Identity],
    consortium_id: str,
    run: str,
    delegate: bytes,
    *,
    counter: int,
    issued: int,
    expires: int,
) -> Signed:
    """For one run: the operator signs that its server may certify it, the consortium that it may cut."""
    body = Delegation(consortium_id, run, delegate).to_bytes()
    return Signed.sign(Statement(DELEGATION, counter, issued, expires, body), *signers)


def delegate_of(
    delegation: str, operator_key: bytes, consortium_id: str, run: str, when: float
) -> str:
    """The key, in hexadecimal, that the operator delegated to certify this run.

    when: seconds since 1970 at which it is to hold. Raises ``PlanRefused`` if there is none.
    """
    try:
        said = Signed.from_hex(delegation).opened(DELEGATION, operator_key)
        found = Delegation.from_bytes(said.body)
    except (ValueError, ProtocolError):
        raise PlanRefused("its delegation is not signed by the operator") from None
    if (found.consortium, found.run) != (consortium_id, run):
        raise PlanRefused("its delegation is for another run or consortium")
    if why := check_time(said, when):
        raise PlanRefused(f"its delegation is not valid: {why}")
    return found.delegate.hex()


def _order(consortium_id: str, run: str, job_json: str) -> bytes:
    return JobOrder(consortium_id, run, hashlib.sha256(job_json.encode()).digest()).to_bytes()
