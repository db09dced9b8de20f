"""What travels of an asynchronous job: which model version each member of a sum began with.

A request to train without a slot is answered when the update is kept, and no update leaves. A request to
train with the list below asks for kept updates: no model comes with it, for each member has had its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import MessageError
from .requests import Assignment

if TYPE_CHECKING:
    from flwr.app import ConfigRecord, RecordDict

BUFFER = "buffer"
"""Of a request to train: whose updates are to be summed, and of which versions."""
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Listed:
    """The members of a sum, each with its model version and that model's SHA-256, in hexadecimal.

    It is in the request's digest (``requests.request_digest``), which the signed manifest of the sum binds:
    members that were told different lists add up nothing.
    """

    members: Mapping[str, tuple[int, str]]

    def to_record(self) -> ConfigRecord:
        from flwr.app import ConfigRecord

        names = sorted(self.members)
        versions = [self.members[name][0] for name in names]
        models = [self.members[name][1] for name in names]
        return ConfigRecord({"names": names, "versions": versions, "models": models})

    @classmethod
    def of(cls, content: RecordDict) -> Listed | None:
        """The list that a request brings, if any; a ``MessageError`` for one that cannot be."""
        record: Mapping[str, Any] | None = content.config_records.get(BUFFER)
        if record is None:
            return None
        names, versions, models = (_list(record, key) for key in ("names", "versions", "models"))
        sound = (
            set(record) == {"names", "versions", "models"}
            and len(names) == len(versions) == len(models) == len(set(map(str, names)))
            and all(isinstance(name, str) for name in names)
            and all(type(version) is int and version >= 0 for version in versions)
            and all(isinstance(m, str) and _DIGEST.fullmatch(m) for m in models)
        )
        if not sound:
            raise MessageError("A request lists the members of a sum in a malformed way")
        pairs = zip(versions, models, strict=True)
        return cls(dict(zip(names, pairs, strict=True)))


def _list(record: Mapping[str, Any], key: str) -> list[Any]:
    found = record.get(key)
    return found if isinstance(found, list) else [None]


def version_digest(assignment: Assignment, version: int, model: str) -> bytes:
    """SHA-256 of all that an update of an asynchronous job depends on: run, job, version and model.

    Not of the round that it is summed in, which nobody knows when it is trained.
    """
    said = (assignment.run, assignment.job, assignment.participations, version, model)
    return hashlib.sha256(json.dumps(["buffered", *said]).encode()).digest()
