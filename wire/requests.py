"""What travels between the coordinator and the agents, and how it is checked on arrival.

Every request is answered by one reply:

==============  ====================================  ==========================================
kind            request                               reply
==============  ====================================  ==========================================
query.prepare   assignment                            name, version, base model, published size
train           assignment, arrays (global model)     arrays (update: local minus global), metrics
train.second    as train, and what is asked of it     arrays (of the second sum), metrics
evaluate        assignment, arrays (global model)     counts of the held-out records, metrics
==============  ====================================  ==========================================

At the end ``query.result`` brings the run's result, which the reply says is kept.

If a train request asks for it, its reply also holds the counts of the model that it brought. Both
carry, if the job spends privacy, the sealed head of the owner's ledger for the certificate.

A strategy of two sums asks once more, after the first sum, for what it needs of the same update; nothing is
trained for that.

Under secure aggregation the replies to train and evaluate hold a masked vector in place of arrays
and counts, and five short trips stand around them: query.commit, query.nonce (large cohorts only),
query.prekey, query.confirm and query.reveal. Their bytes are those of ``privacy.secagg.messages``.

The assignment holds the whole job as JSON, so a request stands for itself: an agent that was
restarted since the last round needs nothing else. Arrays are raw float32 buffers in Flower's array
record; nothing that arrives is executed or unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np

from ..errors import MessageError
from .arrays import Arrays, to_arrays
from .packing import SECAGG

if TYPE_CHECKING:
    from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

PREPARE = "query.prepare"
TRAIN = "train"
SECOND = "train.second"
EVALUATE = "evaluate"

COMMIT = "query.commit"
NONCE = "query.nonce"
PREKEY = "query.prekey"
CONFIRM = "query.confirm"
REVEAL = "query.reveal"

RESULT = "query.result"
"""Brings a finished run's result (``certificate.parcel``)."""

KINDS = (PREPARE, TRAIN, SECOND, EVALUATE, COMMIT, NONCE, PREKEY, CONFIRM, REVEAL, RESULT)
"""All kinds of request that an agent answers."""

ASSIGNMENT = "assignment"
LEDGER = "ledger"
"""Of an answer: the sealed head of its owner's ledger. Of a request: what that owner sent last."""
WEIGHT = "num-examples"
LOCAL_HALF = "local-half"
"""Of a request to train: the strategy, of the job's own, whose local half the sum relies on."""

BESIDE = "beside"
"""Of a request to train: what the strategy sends beside the model, the same to every owner."""
ASKED = "asked"
"""Of a request for a second sum: what the strategy asks of the update, the same of every owner."""
REACHES = "asked-reaches"
"""Beside ``ASKED``: the public reaches of that sum's channels."""
COUNTED = "counted"
"""Of a request to train, or a result: the newest opened sum that had this owner's update, for a state of
its own. Of a request to test, too, if the model has personal tensors."""
OWN_STATE = "own-state"
"""Of an answer: the round that this owner's state is of; 0 if it begins with the strategy's first."""

REFUSED = 1000
"""Error code of a reply: the owner refuses, and would refuse again."""
FAILED = 1001
"""Error code of a reply: something went wrong; another attempt may succeed."""
WAITING = 1002
"""Error code of a reply: the owner has not decided yet, or not at this hour."""

OUT_OF_RANGE = 1003
"""Error code of a reply: the owner takes no private step from these weights, whoever sent them."""

_BESIDE_THE_MODEL = (SECAGG, BESIDE, ASKED)


class _Record:
    """A flat dataclass that travels as one Flower ConfigRecord."""

    def to_record(self) -> ConfigRecord:
        from flwr.app import ConfigRecord

        return ConfigRecord(asdict(self))  # type: ignore[call-overload]

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        wanted = {field.name: field.type for field in fields(cls)}  # type: ignore[arg-type]
        if set(record) != set(wanted):
            odd = sorted(set(record) ^ set(wanted))
            raise MessageError(f"{cls.__name__}: missing or unknown fields {', '.join(odd)}")
        types = {"int": int, "float": float, "str": str, "bool": bool}
        for name, kind in wanted.items():
            if type(record[name]) is not types[str(kind)]:
                raise MessageError(f"{cls.__name__}.{name} should be {kind}")
        return cls(**record)


@dataclass(frozen=True)
class Assignment(_Record):
    """What a client is asked to do, and within which job."""

    version: str
    run: str
    job: str
    """The job as canonical JSON."""
    round: int
    attempt: int
    participations: int
    """Rounds of the whole job in which this client is planned to train."""
    test: bool = False
    """Whether to test the model that comes with a train request as well."""
    signature: str = ""
    """The operator's, over consortium, run and job, in hexadecimal; none in a simulation."""
    clipping_norm: float = 0.0
    """Clipping norm of this round's updates, if it is adaptive; 0: the job's."""
    tests: int = 0
    """Tests planned in the whole run, a public number; noise of counts is made for as many."""
    naming: str = ""
    """Public: the groups of which one spoiled this round's sum, as JSON; empty if no group is named."""
    fixed: str = ""
    """SHA-256 of the adapter's tensors that the job trains nowhere, as the server has them; none: empty."""
    cohort: int = 0
    """Public: how many clients a round asks at most."""

    @property
    def groups_to_name(self) -> list[list[str]]:
        """``naming``, parsed; a ``MessageError`` for what are no groups of names."""
        if not self.naming:
            return []
        try:
            found = json.loads(self.naming)
        except (ValueError, RecursionError):
            found = None
        texts = isinstance(found, list) and all(
            isinstance(group, list) and group and all(isinstance(name, str) for name in group)
            for group in found
        )
        if not texts or not found:
            raise MessageError("A request names malformed groups")
        return cast(list[list[str]], found)


@dataclass(frozen=True)
class Readiness(_Record):
    """A client's answer to ``query.prepare``."""

    version: str
    name: str
    base_model: str
    """SHA-256 of the base model's files, so that all owners tune the same one."""
    size: int
    """Charged: the account's published size, which holds noise; 0 under client-level privacy."""
    training_share: float
    """Public: the share of its records that the owner declared to be trained on."""
    holds_out: bool = True
    """Public: whether the owner declared to hold records out, as a share or as a file."""
    slot: int = 0
    """Public: the highest slot of secure aggregation that the client entered in this run."""
    round: int = 0
    """Public: the highest round of this run that the client was charged for."""
    fixed: str = ""
    """Public: SHA-256 of the adapter's tensors that the job trains nowhere; none: empty."""


def only_arrays(content: RecordDict) -> ArrayRecord:
    """The single array record of a message, whatever key a strategy chose for it."""
    records = [
        record for key, record in content.array_records.items() if key not in _BESIDE_THE_MODEL
    ]
    if len(records) != 1:
        raise MessageError(f"A message carries {len(records)} array records, expected one")
    return records[0]


def request_digest(kind: str, content: RecordDict, arrays: Mapping[str, np.ndarray]) -> bytes:
    """SHA-256 of what a client is asked to compute: kind, assignment, settings and model.

    All clients of one secure sum must be asked the same. How often each of them takes part in the
    job is its own affair and left out.
    """
    asked = _asked_of_all(content)
    asked[ASSIGNMENT] = {k: v for k, v in asked[ASSIGNMENT].items() if k != "participations"}
    text = json.dumps([kind, asked], sort_keys=True, default=bytes.hex)
    return _with_arrays(hashlib.sha256(text.encode()), arrays)


def update_digest(content: RecordDict, arrays: Mapping[str, np.ndarray]) -> bytes:
    """SHA-256 of all that a round's noised update depends on: run, job, round, settings and model.

    Not the attempt, nor whether the model is tested as well: another attempt wants the same update. Nor
    what a second sum asks of it.
    """
    asked = _asked_of_all(content)
    asked.pop(REACHES, None)
    told = asked.pop(ASSIGNMENT)
    names = ("run", "job", "round", "participations", "clipping_norm", "cohort")
    parts = [{name: told[name] for name in names}, asked]
    text = json.dumps(parts, sort_keys=True, default=bytes.hex)
    return _with_arrays(hashlib.sha256(text.encode()), arrays)


def question_digest(content: RecordDict, asked: Arrays) -> bytes:
    """SHA-256 of what a second sum asks of a round's updates: arrays, and the reaches of the answer."""
    reaches = dict(content.config_records.get(REACHES, {}))
    return _with_arrays(
        hashlib.sha256(json.dumps(reaches, sort_keys=True, default=bytes.hex).encode()), asked
    )


def beside_of(
    content: RecordDict, like: Mapping[str, tuple[int, ...]], key: str = BESIDE
) -> Arrays:
    """What the strategy sent beside the model; a ``MessageError`` for other arrays than `like`.

    key: ``BESIDE``, or ``ASKED`` for what a second sum is asked with.
    """
    record = content.array_records.get(key)
    if record is None or not like:
        if record is None and not like:
            return {}
        raise MessageError("A request brings other arrays beside the model than its strategy sends")
    return to_arrays(record, like=like)


def all_sent(arrays: Arrays, beside: Arrays, asked: Arrays | None = None) -> Arrays:
    """The model and what came beside it, as digests take them: by names that no two of them share."""
    many = ((BESIDE, beside), (ASKED, asked or {}))
    return {**arrays, **{f"{key}//{n}": array for key, some in many for n, array in some.items()}}


def _asked_of_all(content: RecordDict) -> dict[str, dict[str, Any]]:
    """The settings of a request, without what is each client's own: its trip, its ledger's head, and what
    was counted of it."""
    own = (SECAGG, LEDGER, COUNTED)
    return {key: dict(record) for key, record in content.config_records.items() if key not in own}


def _with_arrays(state: hashlib._Hash, arrays: Mapping[str, np.ndarray]) -> bytes:
    for name, array in arrays.items():
        state.update(json.dumps([name, array.shape]).encode())
        state.update(np.ascontiguousarray(array, dtype="<f4").data)
    return state.digest()


def told_of(content: RecordDict) -> dict[str, Any]:
    """What a strategy tells the owners' local halves in a request to train."""
    found: dict[str, Any] = {}
    for key, record in _asked_of_all(content).items():
        found |= {} if key == ASSIGNMENT else record
    return found


def counted_of(content: RecordDict) -> tuple[int, bytes]:
    """The newest round whose opened sum had this owner's update (0: none), and what shows it."""
    record: Mapping[str, object] = content.config_records.get(COUNTED, {})
    round_, shown = record.get("round", 0), record.get("shown", b"")
    if type(round_) is not int or round_ < 0 or not isinstance(shown, bytes):
        raise MessageError("A request says in a malformed way which update was counted")
    return round_, shown


def only_metrics(content: RecordDict) -> MetricRecord:
    """The single metric record of a reply."""
    records = list(content.metric_records.values())
    if len(records) != 1 or WEIGHT not in records[0]:
        raise MessageError(f"A reply must carry one metric record with {WEIGHT!r}")
    return records[0]


def payload_bytes(content: RecordDict) -> int:
    """Bytes of the arrays in a message, as they travel."""
    arrays = (a.data for record in content.array_records.values() for a in record.values())
    short = (part for part in content.config_records.get(SECAGG, {}).values())
    return sum(len(part) for part in (*arrays, *short) if isinstance(part, bytes))
