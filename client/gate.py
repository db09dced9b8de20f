"""The gate: everything that leaves an owner's agent, and why each field of it may.

Guarantee: an answer holds no field that is not in this table. Each one is of one class:

- ``public``: computed from the job, the request, what the owner declared, charged numbers and fresh
  randomness alone. Two data sets give the same value, or values of the same distribution.
- ``charged``: a noised release that the owner's ledger was charged for before a record was read.
- ``masked``: words of a secure sum, uniform to anyone who lacks the other members' keys.
- ``agreed``: what the server may read only if the job says so and the owner's policy allows it: a job
  without privacy, exact counts, an update that nothing masks, sums without noise.

A field leaves only in the answers that have it, and one that is not public in every job only if
job *and* policy agree, which is looked up here once more, for every answer (``AGREED``): that the
policy was asked when the request came (``Policy.check``) is the first lock, this is the second.

Assumptions: the code that fills a field keeps to its class; the tests of whole protocols on
neighbouring data sets hold it to that. The gate sees names, forms and the job, not where a number is from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..errors import MessageError
from ..job import Job
from ..learning.counts import zero_counts
from ..wire.packing import SECAGG
from ..wire.requests import (
    COMMIT,
    CONFIRM,
    EVALUATE,
    LEDGER,
    NONCE,
    OWN_STATE,
    PREKEY,
    PREPARE,
    RESULT,
    REVEAL,
    SECOND,
    TRAIN,
    WEIGHT,
)
from .policy import Policy

if TYPE_CHECKING:
    from flwr.app import RecordDict

GateClass = Literal["public", "charged", "masked", "agreed"]

FIELDS: dict[str, dict[str, GateClass]] = {
    "readiness": {
        "version": "public",
        "name": "public",
        "base_model": "public",
        "fixed": "public",  # of the base model and the job's seed
        "size": "charged",  # one geometric draw, stored and charged before it is first sent
        "training_share": "public",  # declared by the owner
        "holds_out": "public",  # likewise
        "slot": "public",  # how many sums the server asked for
        "round": "public",  # likewise, of rounds
    },
    "metrics": {
        WEIGHT: "public",  # from the published size, or 1
        "epsilon": "public",  # composed from events that job and published size fix
        OWN_STATE: "public",  # a round that the server counted, or 0
        "counts": "charged",  # exact ones are agreed
        "loss": "agreed",  # only without privacy
    },
    # The update, noised in every step, or made of one; agreed without privacy.
    "arrays": {"*": "charged"},
    "receipt": {"kept": "public"},  # that a result came, and was checked
    LEDGER: {"head": "public"},  # sealed with the ledger's secret name; comes back in requests
    SECAGG: {
        "reply": "public",  # one of ANSWERS, signed
        "vector": "masked",
    },
}
"""By record and field of an answer; "*" stands for the names of the model's tensors."""

ANSWERS: dict[str, dict[str, GateClass]] = {
    "Signed": {"body": "public", "signature": "public"},
    "Commit": {"sender": "public", "slot": "public", "nonce": "public"},
    "Nonce": {"sender": "public", "commits": "public", "nonce": "public"},
    "Prekey": {
        "sender": "public",
        "slot": "public",
        "request": "public",
        "key": "public",
        "seed": "public",
        "sealed": "public",
        "unrevealed": "public",  # what the server asked for in earlier slots
        "unconfirmed": "public",  # likewise
        "naming": "public",  # as the server asked
    },
    "Naming": {"slot": "public", "groups": "public"},
    "SealedShares": {"recipients": "public", "shares": "public"},
    "PrekeyReply": {"prekey": "public", "sealed": "public"},
    "Upload": {"sender": "public", "manifest": "public", "vector": "masked"},
    "Confirmation": {"sender": "public", "manifest": "public", "survivors": "public"},
    "RevealedShare": {"owner": "public", "kind": "public", "share": "public"},
    "Reveal": {
        "sender": "public",
        "manifest": "public",
        "survivors": "public",
        "shares": "public",
        "unreadable": "public",
    },
    "RevealReply": {"reveal": "public", "following": "public"},
}
"""By message of secure aggregation and field. All follow from keys, fresh randomness and requests;
an ``Upload`` names the masked vector by its digest."""


_RECORDS = {
    PREPARE: {"readiness"},
    TRAIN: {"arrays", "metrics", LEDGER, SECAGG},
    SECOND: {"arrays", "metrics", LEDGER, SECAGG},
    EVALUATE: {"metrics", LEDGER, SECAGG},
    RESULT: {"receipt"},
    **{trip: {SECAGG} for trip in (COMMIT, NONCE, PREKEY, CONFIRM, REVEAL)},
}
"""The records that an answer to each kind of request may have."""

Objection = Callable[[Job, Policy, Any], str | None]
"""Why a field, with its value, may not leave in a job at an owner with this policy; None: it may."""


def _unprotected(job: Job, policy: Policy) -> str | None:
    """Of what is noised in any other job."""
    if job.private or "none" in policy.privacy.units:
        return None
    return "the policy accepts no job without privacy (privacy.units)"


def _unmasked(job: Job, policy: Policy, value: object) -> str | None:
    """Of what one owner's own is, and the server reads."""
    if job.encrypted:
        return "the job is encrypted, so no value of a single owner leaves unmasked"
    if policy.encryption.required:
        return "the policy requires encrypted updates (encryption.required)"
    if job.per_client:
        return "the job hides whole clients, but this is a single client's value"
    return _unprotected(job, policy)


def _counts(job: Job, policy: Policy, value: Any) -> str | None:
    if job.counts == "off":
        return "the job has no counts"
    if job.private and not job.tests_privately:
        return "a private job's exact counts may leave only in a sum"
    if len(value) != len(zero_counts(job).to_list()):
        return "the number of counts is not the one that the job sets"
    return _unmasked(job, policy, value)


def _loss(job: Job, policy: Policy, value: object) -> str | None:
    if job.private:
        return "the training loss of a private job would reveal which records were drawn"
    return _unmasked(job, policy, value)


def _masked(job: Job, policy: Policy, value: object) -> str | None:
    """Of what a sum opens."""
    if not job.encrypted:
        return "the job has no sums"
    if job.private and job.counts == "exact" and not policy.privacy.exact_counts:
        return "the policy does not allow exact counts (privacy.exact_counts)"
    if job.per_client and not job.noised_by_clients and not policy.privacy.central_noise:
        return (
            "the policy does not trust the server with sums without noise (privacy.central_noise)"
        )
    if job.per_client and "client" not in policy.privacy.units:
        return "the policy does not accept noise that depends on other members (privacy.units)"
    return _unprotected(job, policy)


def _spent(job: Job, policy: Policy, value: object) -> str | None:
    return None if job.private else "a job without privacy charges nothing"


def _size(job: Job, policy: Policy, value: Any) -> str | None:
    return "a job that hides whole clients learns no size" if job.per_client and value else None


AGREED: dict[str, dict[str, Objection]] = {
    "readiness": {"size": _size},
    "metrics": {"epsilon": _spent, "counts": _counts, "loss": _loss},
    "arrays": {"*": _unmasked},
    LEDGER: {"head": _spent},
    SECAGG: {"vector": _masked},
}
"""Fields above that only some jobs, or some owners, have."""


def check_leaves(content: RecordDict, kind: str, job: Job, policy: Policy) -> None:
    """Refuse (``MessageError``) an answer with a field that is not declared, or not agreed on.

    kind: of the request that it answers.
    """
    for record, field, value in _fields(content, kind):
        known = FIELDS[record]
        if field not in known and "*" not in known:
            raise MessageError(f"An answer must not carry {record}.{field}: client/gate.py")
        agreed = AGREED.get(record, {})
        objection = agreed.get(field) or agreed.get("*")
        why = objection(job, policy, value) if objection else None
        if why:
            raise MessageError(f"An answer must not carry {record}.{field} here: {why}")


def _fields(content: RecordDict, kind: str) -> Iterator[tuple[str, str, Any]]:
    for record, fields in content.items():
        if record not in _RECORDS.get(kind, ()):
            raise MessageError(
                f"An answer to {kind} must not carry a record {record!r}: client/gate.py"
            )
        plain = "*" in FIELDS[record]
        for field, value in fields.items():
            # A long part travels in numbered pieces; the names of tensors are their own.
            yield record, field if plain else field.partition(".")[0], value


def classes() -> tuple[str, ...]:
    """The four classes, as they are named in the table."""
    return get_args(GateClass)
