"""The gate: no field leaves an owner that nobody has declared public, charged or masked."""

import dataclasses
import inspect

import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from umbel.client.gate import ANSWERS, FIELDS, check_leaves, classes
from umbel.errors import MessageError
from umbel.messages import LEDGER, SECAGG, WEIGHT, Readiness
from umbel.privacy.secagg import messages
from umbel.privacy.secagg.encoding import Encoded

FROM_THE_SERVER = {
    "Slot", "CommitRequest", "NonceRequest", "PrekeyRequest", "Manifest", "UploadRequest",
    "ConfirmRequest", "Survivors", "RevealRequest", "SentBy",
}  # fmt: skip
"""Messages, and parts of messages, that members receive or hash and never send."""


def kinds_of_message():
    found = inspect.getmembers(messages, inspect.isclass)
    return {n: c for n, c in found if issubclass(c, Encoded) and c.__module__ == messages.__name__}


def test_every_field_of_a_members_messages_has_a_class():
    sent = {name: kind for name, kind in kinds_of_message().items() if name not in FROM_THE_SERVER}
    declared = {name: set(fields) for name, fields in ANSWERS.items()}
    assert declared == {n: {f.name for f in dataclasses.fields(k)} for n, k in sent.items()}


def test_every_field_of_a_readiness_has_a_class():
    assert set(FIELDS["readiness"]) == {field.name for field in dataclasses.fields(Readiness)}


def test_there_are_no_other_classes():
    found = {c for table in (FIELDS, ANSWERS) for fields in table.values() for c in fields.values()}
    assert found <= set(classes())


@pytest.mark.parametrize(
    "content",
    [
        RecordDict({"metrics": MetricRecord({WEIGHT: 1, "examples": 17})}),
        RecordDict({"diagnosis": ConfigRecord({"text": "one record was too long"})}),
        RecordDict({LEDGER: ConfigRecord({"head": "00", "rows": 3})}),
        RecordDict({SECAGG: ConfigRecord({"reply": b"", "vector.1": b"", "note": b""})}),
    ],
    ids=["another figure", "another record", "another field", "beside a masked vector"],
)
def test_an_undeclared_field_does_not_leave(content):
    with pytest.raises(MessageError, match=r"client/gate\.py"):
        check_leaves(content)


def test_a_long_vector_leaves_in_pieces():
    check_leaves(
        RecordDict({SECAGG: ConfigRecord({"reply": b"", "vector": b"", "vector.12": b""})})
    )
