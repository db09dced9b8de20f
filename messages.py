"""What travels between the coordinator and the agents, and how it is checked on arrival.

Every request is answered by one reply:

==============  ====================================  ==========================================
kind            request                               reply
==============  ====================================  ==========================================
query.prepare   assignment                            name, version, base model, published size
train           assignment, arrays (global model)     arrays (update: local minus global), metrics
evaluate        assignment, arrays (global model)     counts of the held-out records, metrics
==============  ====================================  ==========================================

At the end ``query.result`` brings the run's result, which the reply says is kept.

Where a train request asks for it, its reply also holds the counts of the model that it brought. Both
carry, where the job spends privacy, the sealed head of the owner's ledger for the certificate.

Under secure aggregation the replies to train and evaluate hold a masked vector in place of arrays
and counts, and five short trips stand around them: query.commit, query.nonce (large cohorts only),
query.prekey, query.confirm and query.reveal. Their bytes are those of ``privacy.secagg.messages``.

The assignment holds the whole job as JSON, so a request stands for itself: an agent that was
restarted since the last round needs nothing else. Arrays are raw float32 buffers in Flower's array
record; nothing that arrives is executed or unpickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np

from .errors import MessageError

if TYPE_CHECKING:
    from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

_BYTES = "umbel.bytes"

PREPARE = "query.prepare"
TRAIN = "train"
EVALUATE = "evaluate"

COMMIT = "query.commit"
NONCE = "query.nonce"
PREKEY = "query.prekey"
CONFIRM = "query.confirm"
REVEAL = "query.reveal"

RESULT = "query.result"
"""Brings a finished run's result (``certificate.parcel``)."""

KINDS = (PREPARE, TRAIN, EVALUATE, COMMIT, NONCE, PREKEY, CONFIRM, REVEAL, RESULT)
"""All kinds of request that an agent answers."""

ASSIGNMENT = "assignment"
SECAGG = "secagg"
LEDGER = "ledger"
"""Of an answer: the sealed head of its owner's ledger. Of a request: what that owner sent last."""
_PACKED = "packed"
_SMALL = 2**20
"""Bytes: what is smaller travels with others of its kind."""
_PIECE = 2**24
"""Bytes, a multiple of every word's size: what is longer travels in pieces, which need less memory."""
WEIGHT = "num-examples"

REFUSED = 1000
"""Error code of a reply: the owner refuses, and would again."""
FAILED = 1001
"""Error code of a reply: something went wrong; another attempt may succeed."""
WAITING = 1002
"""Error code of a reply: the owner has not decided yet, or not at this hour."""

OUT_OF_RANGE = 1003
"""Error code of a reply: the owner takes no private step from the weights that came, whoever sent them."""

Arrays = dict[str, np.ndarray]
"""Tensors of a model or an update: name -> float32 array, in the model's own order."""


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
    """Whether the model that comes with a train request is to be tested as well."""
    signature: str = ""
    """The operator's, over consortium, run and job, in hexadecimal; none in a simulation."""
    clipping_norm: float = 0.0
    """Of this round's updates, where it adapts; 0: the job's."""
    tests: int = 0
    """Tests planned in the whole run, a public number; noise of counts is made for as many."""
    naming: str = ""
    """Public: the groups of which one spoiled this round's sum, as JSON; none where nothing is named."""

    @property
    def groups_to_name(self) -> list[list[str]]:
        """``naming``, parsed; a ``MessageError`` for what are no groups of names."""
        if not self.naming:
            return []
        try:
            found = json.loads(self.naming)
        except ValueError:
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


def to_array_record(arrays: Arrays | Iterable[tuple[str, np.ndarray]]) -> ArrayRecord:
    """Pack float32 arrays; names and order are kept. Pairs are packed one by one, as they come."""
    from flwr.app import ArrayRecord

    pairs = arrays.items() if isinstance(arrays, dict) else arrays
    return ArrayRecord({name: _pack(array) for name, array in pairs})


def packed(record: ArrayRecord) -> ArrayRecord:
    """The same float32 arrays, small ones as one: what ``to_arrays`` takes apart again.

    Between machines Flower sends every array, and every piece of it, in requests of its own. A large
    array is not copied.
    """
    from flwr.app import ArrayRecord

    small = {n: a for n, a in record.items() if a.dtype == "float32" and len(a.data) < _SMALL}
    if len(small) < 2:
        return record
    flat = np.concatenate([_parsed(name, small[name]).reshape(-1) for name in sorted(small)])
    large = {name: array for name, array in record.items() if name not in small}
    return ArrayRecord({_PACKED: _pack(flat), **large})


def _unpacked(arrays: Arrays, like: Mapping[str, tuple[int, ...]]) -> Arrays:
    """The arrays of `like`, in its order: those that were packed are the ones that are missing."""
    flat, at = arrays.pop(_PACKED), 0
    found, missing = dict(arrays), sorted(like.keys() - arrays.keys())
    total = sum(math.prod(like[name]) for name in missing)
    if flat.shape != (total,):
        raise MessageError(f"Packed values of shape {flat.shape}, expected {total}")
    for name in missing:
        size = math.prod(like[name])
        found[name] = flat[at : at + size].reshape(like[name])
        at += size
    return {name: found[name] for name in [*like, *(found.keys() - like.keys())]}


def _pack(array: np.ndarray) -> Array:
    from flwr.app import Array

    if array.dtype != np.float32:
        return Array(np.asarray(array, order="C"))
    if (data := _bytes_behind(array)) is not None:
        return Array("float32", array.shape, "numpy.ndarray", data)
    # The bytes of numpy.save, whose header takes longer to make than a small array to copy.
    return Array("float32", array.shape, "numpy.ndarray", _header(array.shape) + array.tobytes())


def _bytes_behind(array: np.ndarray) -> bytes | None:
    """The bytes that ``_packed_here`` made this view of: a model that travels on is not copied."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    header = _header(array.shape)
    if type(base) is not bytes or len(base) != len(header) + array.nbytes:
        return None
    start = np.frombuffer(base, dtype=np.uint8).__array_interface__["data"][0] + len(header)
    whole = array.flags.c_contiguous and array.__array_interface__["data"][0] == start
    return base if whole and base.startswith(header) else None


def to_arrays(record: ArrayRecord, like: Mapping[str, tuple[int, ...]] | None = None) -> Arrays:
    """Unpack arrays, refusing other dtypes, non-finite values, and other names or shapes than `like`."""
    arrays: Arrays = {}
    for name, array in record.items():
        if array.dtype != "float32":
            raise MessageError(f"Array {name!r} has dtype {array.dtype}, expected float32")
        value = _parsed(name, array)
        if not np.isfinite(value).all():
            raise MessageError(f"Array {name!r} holds NaN or infinity")
        arrays[name] = value
    if like is not None and _PACKED in arrays and _PACKED not in like:
        arrays = _unpacked(arrays, like)
    if like is not None:
        shapes = {name: tuple(value.shape) for name, value in arrays.items()}
        if shapes != dict(like):
            raise MessageError(_difference(shapes, dict(like)))
    return arrays


def _parsed(name: str, array: Array) -> np.ndarray:
    """Flower parses without unpickling; whatever else is wrong with the bytes is refused here."""
    try:
        value = _packed_here(array)
        if value is None:
            value = array.numpy()
    except Exception as error:
        raise MessageError(f"Array {name!r} cannot be read: {error}") from None
    if not isinstance(value, np.ndarray) or value.dtype != np.float32:
        raise MessageError(f"Array {name!r} does not hold the float32 that it claims to")
    return value


def _packed_here(array: Array) -> np.ndarray | None:
    """A read-only view of the values, where the bytes are laid out as ``to_array_record`` does.

    ``Array.numpy`` copies the values, and compiles the text of the header anew for every array.
    """
    shape = tuple(array.shape)
    start = len(array.data) - 4 * math.prod(shape)
    if array.stype != "numpy.ndarray" or array.data[: max(0, start)] != _header(shape):
        return None
    return np.frombuffer(array.data, dtype=np.float32, offset=start).reshape(shape)


@lru_cache(maxsize=1024)
def _header(shape: tuple[int, ...]) -> bytes:
    """What ``numpy.save`` writes before the values of a C-ordered float32 array."""
    written = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        written, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    return written.getvalue()


def _difference(found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> str:
    missing, extra = expected.keys() - found.keys(), found.keys() - expected.keys()
    if missing or extra:
        return f"Arrays do not match the model: missing {sorted(missing)}, unknown {sorted(extra)}"
    name = next(name for name in expected if found[name] != expected[name])
    return f"Array {name!r} has shape {found[name]}, expected {expected[name]}"


def only_arrays(content: RecordDict) -> ArrayRecord:
    """The single array record of a message, whatever key a strategy chose for it."""
    records = [record for key, record in content.array_records.items() if key != SECAGG]
    if len(records) != 1:
        raise MessageError(f"A message carries {len(records)} array records, expected one")
    return records[0]


def to_bytes_record(**parts: bytes) -> ConfigRecord | ArrayRecord:
    """Pack byte strings; long ones as arrays, because Flower cuts those into what a network takes.

    An array takes three requests between machines, a setting none of its own.
    """
    from flwr.app import Array, ArrayRecord, ConfigRecord

    if sum(map(len, parts.values())) < _SMALL:
        return ConfigRecord(dict(parts))
    cut = {
        f"{name}.{start // _PIECE}" if start else name: part[start : start + _PIECE]
        for name, part in parts.items()
        for start in range(0, max(1, len(part)), _PIECE)
    }
    return ArrayRecord({n: Array("uint8", (len(b),), _BYTES, b) for n, b in cut.items()})


def bytes_of(content: RecordDict, name: str) -> bytes:
    """One byte string of a message's ``SECAGG`` record; a ``MessageError`` where there is none."""
    first, *others = pieces_of(content, name)
    return b"".join((first, *others)) if others else first


def pieces_of(content: RecordDict, name: str) -> list[bytes]:
    """The same as it came: a long one in pieces, so that nobody needs it twice in memory."""
    record: Mapping[str, Any] = content.get(SECAGG) or {}
    pieces: list[bytes] = []
    key = name
    while not pieces or key in record:
        found = record.get(key)
        if isinstance(found, bytes):
            return [found]
        if (getattr(found, "dtype", ""), getattr(found, "stype", "")) != ("uint8", _BYTES):
            raise MessageError(f"A message of secure aggregation carries no {name!r}")
        pieces.append(bytes(cast(Any, found).data))
        key = f"{name}.{len(pieces)}"
    return pieces


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

    Not the attempt, nor whether the model is tested as well: another attempt wants the same update.
    """
    asked = _asked_of_all(content)
    told = asked.pop(ASSIGNMENT)
    names = ("run", "job", "round", "participations", "clipping_norm")
    parts = [{name: told[name] for name in names}, asked]
    text = json.dumps(parts, sort_keys=True, default=bytes.hex)
    return _with_arrays(hashlib.sha256(text.encode()), arrays)


def _asked_of_all(content: RecordDict) -> dict[str, dict[str, Any]]:
    """The settings of a request, without what is each client's own: its trip, and its ledger's head."""
    own = (SECAGG, LEDGER)
    return {key: dict(record) for key, record in content.config_records.items() if key not in own}


def _with_arrays(state: hashlib._Hash, arrays: Mapping[str, np.ndarray]) -> bytes:
    for name, array in arrays.items():
        state.update(json.dumps([name, array.shape]).encode())
        state.update(np.ascontiguousarray(array, dtype="<f4").data)
    return state.digest()


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
