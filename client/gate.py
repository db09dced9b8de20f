"""The gate: everything that leaves an owner's agent, and why each field of it may.

Guarantee: an answer holds no field that is not in this table. Each one is of one class:

- ``public``: computed from the job, the request, what the owner declared, charged numbers and fresh
  randomness alone. Two data sets give the same value, or values of the same distribution.
- ``charged``: a noised release that the owner's ledger was charged for before a record was read.
- ``masked``: words of a secure sum, uniform to whoever lacks the other members' keys.
- ``agreed``: what only a job without privacy, or with exact counts, may carry: the job says so and the
  owner's policy allows it (``Policy.check``).

Assumptions: the code that fills a field keeps to its class; the tests of whole protocols on
neighbouring data sets hold it to that. The table is a second lock, for fields that nobody thought of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from ..errors import MessageError
from ..messages import LEDGER, SECAGG, WEIGHT

if TYPE_CHECKING:
    from flwr.app import RecordDict

GateClass = Literal["public", "charged", "masked", "agreed"]

FIELDS: dict[str, dict[str, GateClass]] = {
    "readiness": {
        "version": "public",
        "name": "public",
        "base_model": "public",
        "size": "charged",  # one geometric draw, stored and charged before it is first sent
        "training_share": "public",  # declared by the owner
        "holds_out": "public",  # likewise
        "slot": "public",  # how many sums the server asked for
    },
    "metrics": {
        WEIGHT: "public",  # from the published size, or 1
        "epsilon": "public",  # composed from events that job and published size fix
        "counts": "charged",  # exact ones are agreed
        "loss": "agreed",  # only without privacy
    },
    "arrays": {"*": "charged"},  # the update, noised in every step; agreed without privacy
    LEDGER: {"head": "public"},  # sealed with the ledger's secret name
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


def check_leaves(content: RecordDict) -> None:
    """Refuse (``MessageError``) an answer with a field that nobody has declared."""
    for record, fields in content.items():
        known = FIELDS.get(record)
        if known is None:
            raise MessageError(f"An answer must not carry a record {record!r}: client/gate.py")
        if "*" in known:
            continue
        for field in fields:
            if field.partition(".")[0] not in known:  # a long part travels in numbered pieces
                raise MessageError(f"An answer must not carry {record}.{field}: client/gate.py")


def classes() -> tuple[str, ...]:
    """The four classes, as they are named in the table."""
    return get_args(GateClass)
