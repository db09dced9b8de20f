"""The gate: no field leaves an owner that nobody has declared public, charged or masked."""

import dataclasses
import inspect

import numpy as np
import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from umbel.client.gate import AGREED, ANSWERS, FIELDS, check_leaves, classes
from umbel.client.policy import Policy
from umbel.errors import MessageError
from umbel.learning.counts import zero_counts
from umbel.privacy.secagg import messages
from umbel.privacy.secagg.encoding import Encoded
from umbel.wire.arrays import to_array_record
from umbel.wire.packing import SECAGG
from umbel.wire.requests import (
    EVALUATE,
    LEDGER,
    OWN_STATE,
    PREPARE,
    REVEAL,
    TRAIN,
    WEIGHT,
    Readiness,
)

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
def test_an_undeclared_field_does_not_leave(content, job_of):
    job = job_of()
    with pytest.raises(MessageError, match=r"client/gate\.py"):
        check_leaves(content, TRAIN, job, Policy.simulated(job))


def test_a_long_vector_leaves_in_pieces(job_of):
    content = {SECAGG: ConfigRecord({"reply": b"", "vector": b"", "vector.12": b""})}
    check_leaves(RecordDict(content), TRAIN, job_of(), Policy())


LAX = {
    "privacy": {
        "units": ["example", "client", "none"],
        "exact_counts": True,
        "central_noise": True,
    },
    "encryption": {"required": False},
}
"""An owner that agrees to everything."""

JOBS = {
    "usual": {},
    "usual, in the clear": {"encryption": {"mode": "none"}},
    "exact counts": {"evaluation": {"counts": "exact"}},
    "without privacy": {"privacy": {"unit": "none"}},
    "without privacy, in the clear": {"privacy": {"unit": "none"}, "encryption": {"mode": "none"}},
    "whole clients": {"privacy": {"unit": "client"}},
    "whole clients, a trusted server": {"privacy": {"unit": "client", "mechanism": "central"}},
    "whole clients, tested": {"privacy": {"unit": "client"}, "evaluation": {"counts": "private"}},
}

LEAVES = {
    ("readiness", "size"): {name for name in JOBS if not name.startswith("whole")},
    ("metrics", "epsilon"): {name for name in JOBS if not name.startswith("without")},
    ("metrics", "counts"): {"usual, in the clear", "without privacy, in the clear"},
    ("metrics", "loss"): {"without privacy, in the clear"},
    ("arrays", "*"): {"usual, in the clear", "without privacy, in the clear"},
    (LEDGER, "head"): {name for name in JOBS if not name.startswith("without")},
    (SECAGG, "vector"): {name for name in JOBS if "in the clear" not in name},
}
"""In which of these jobs each field may leave, at an owner that agrees to everything."""

DEFAULT = {"usual"}
"""Jobs that the default policy takes part in, of those above."""


def carrying(record, field, job):
    """An answer with this one field, in the form that it has."""
    counts = [0.0] * len(zero_counts(job).to_list())
    if record == "metrics":
        values = {"counts": counts, "loss": 0.5, "epsilon": 1.0}
        return RecordDict({record: MetricRecord({WEIGHT: 1, field: values[field]})})
    if record == "arrays":
        arrays = to_array_record({"head.weight": np.zeros(3, np.float32)})
        return RecordDict({record: arrays})
    values = {"size": 130, "head": "00", "vector": b"\0\0\0\0"}
    return RecordDict({record: ConfigRecord({field: values[field]})})


def leaves(record, field, job, policy):
    kind = PREPARE if record == "readiness" else TRAIN
    try:
        check_leaves(carrying(record, field, job), kind, job, policy)
    except MessageError:
        return False
    return True


def test_every_field_that_not_all_jobs_have_is_tried_here():
    assert set(LEAVES) == {(record, field) for record, found in AGREED.items() for field in found}
    public = {
        "version",
        "name",
        "base_model",
        "fixed",
        "training_share",
        "holds_out",
        "slot",
        "round",
        WEIGHT,
        OWN_STATE,
        "reply",
        "kept",
    }
    assert {f for fields in FIELDS.values() for f in fields} == public | {f for _, f in LEAVES}


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize(("record", "field"), LEAVES)
def test_a_field_leaves_only_if_job_and_policy_agree(record, field, name, job_of):
    job = job_of(**JOBS[name])
    agreed = name in LEAVES[record, field]
    assert leaves(record, field, job, Policy.model_validate(LAX)) == agreed
    if name not in DEFAULT and (record, field) not in NOTHING_OF_RECORDS:
        assert not leaves(record, field, job, Policy())


NOTHING_OF_RECORDS = {("readiness", "size"), ("metrics", "epsilon"), (LEDGER, "head")}
"""They are the same whatever the policy says."""


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("privacy.units", "without privacy"),
        ("privacy.units", "whole clients"),
        ("privacy.exact_counts", "exact counts"),
        ("privacy.central_noise", "whole clients, a trusted server"),
    ],
)
def test_a_masked_vector_too_leaves_only_if_each_permission_is_there(key, name, job_of):
    section, _, name_ = key.partition(".")
    strict = Policy().model_dump()[section][name_]
    policy = Policy.model_validate({**LAX, section: {**LAX[section], name_: strict}})
    with pytest.raises(MessageError, match=key):
        check_leaves(carrying(SECAGG, "vector", job_of()), TRAIN, job_of(**JOBS[name]), policy)


def test_more_counts_than_a_private_test_has_do_not_leave(open_job_of):
    """Such as bins of scores."""
    job = open_job_of()
    more = RecordDict({"metrics": MetricRecord({WEIGHT: 1, "counts": [0.0] * 2048})})
    with pytest.raises(MessageError, match="the number of counts is not"):
        check_leaves(more, TRAIN, job, Policy.simulated(job))


@pytest.mark.parametrize(
    ("kind", "record"), [(EVALUATE, "arrays"), (PREPARE, "metrics"), (REVEAL, "metrics")]
)
def test_an_answer_carries_nothing_that_its_request_did_not_ask_for(kind, record, open_job_of):
    job = open_job_of()
    content = carrying(record, "epsilon" if record == "metrics" else "*", job)
    with pytest.raises(MessageError, match=f"{kind} must not carry a record '{record}'"):
        check_leaves(content, kind, job, Policy.simulated(job))
