"""Replies that cannot be right, in a round under secure aggregation."""

import dataclasses

import numpy as np
import pytest
from flwr.app import Array, Message, MetricRecord, RecordDict

from umbel.errors import RoundFailed
from umbel.learning.model import arrays_digest
from umbel.server.rounds import run_rounds
from umbel.wire.packing import SECAGG, bytes_of, to_bytes_record
from umbel.wire.requests import REVEAL, TRAIN, WEIGHT

from .faults import PRESS, broken, events, on

SITES = ["film", "press", "shop", "social"]


def test_too_few_members_stop_the_run_with_the_reason(start_run, encrypted):
    def fault(request, reply, assignment):
        hit = request.metadata.message_type == TRAIN and request.metadata.dst_node_id in (3, 4)
        return broken(request, reply) if hit else [reply]

    run = start_run(encrypted(cohort={"retries": 1}), fault)
    with pytest.raises(
        RoundFailed, match=r"2 of 4 clients answered, but 3 are needed.*disk is full"
    ):
        run_rounds(run)


def _spoiled(change):
    def replies(request, reply):
        parts = {name: bytes_of(reply.content, name) for name in reply.content[SECAGG]}
        content = dict(reply.content)
        content[SECAGG] = to_bytes_record(**change(parts))
        return [Message(RecordDict(content), reply_to=request)]

    return replies


def _flipped(data):
    return data[:-1] + bytes([data[-1] ^ 1])


POISONS = {
    "a bit of the vector": lambda p: {**p, "vector": _flipped(p["vector"])},
    "a short vector": lambda p: {**p, "vector": p["vector"][:-4]},
    "a torn vector": lambda p: {**p, "vector": p["vector"][:-1]},
    "no vector": lambda p: {"reply": p["reply"]},
    "a bit of the signature": lambda p: {**p, "reply": _flipped(p["reply"])},
    "nothing": lambda p: {},
}


@pytest.mark.parametrize("kind", POISONS)
def test_an_upload_that_cannot_be_right_is_a_dropout_and_poisons_nothing(
    kind, start_run, encrypted
):
    job = encrypted(training={"rounds": 2})
    run = start_run(job, on(TRAIN, _spoiled(POISONS[kind]), round_=1))
    without = start_run(job, on(TRAIN, broken, round_=1), name="without")
    run_rounds(run)
    run_rounds(without)
    first, second = events(run, "round")
    assert first["clients"] == ["film", "shop", "social"]
    assert list(first["failed"]) == ["press"]
    assert second["clients"] == SITES
    assert arrays_digest(run.arrays) == arrays_digest(without.arrays)


@pytest.mark.parametrize("where", ["weight", "epsilon"])
def test_scalars_beside_an_upload_are_checked(where, start_run, encrypted):
    def change(request, reply):
        metrics = {**reply.content["metrics"]}
        metrics[WEIGHT if where == "weight" else "epsilon"] = 7 if where == "weight" else [0.5]
        content = {**reply.content, "metrics": MetricRecord(metrics)}
        return [Message(RecordDict(content), reply_to=request)]

    run = start_run(encrypted(training={"rounds": 1}), on(TRAIN, change))
    run_rounds(run)
    assert list(events(run, "round")[0]["failed"]) == ["press"]


def test_a_wrong_share_is_decoded_around_and_named(start_run, encrypted):
    """Three of four shares are enough, and a prekey tells which three are right."""
    from umbel.privacy.secagg.messages import Reveal, RevealReply, Signed
    from umbel.simulations.membership import membership

    def lie(parts):
        reply = RevealReply.from_bytes(parts["reply"])
        reveal = Reveal.from_bytes(reply.reveal.body)
        shares = tuple(dataclasses.replace(s, share=bytes(32)) for s in reveal.shares)
        press = membership(run.folder.path / "owners", "press").participant("r").member.identity
        signed = Signed.by(press, dataclasses.replace(reveal, shares=shares))
        return {"reply": dataclasses.replace(reply, reveal=signed).to_bytes()}

    job = encrypted(encryption={"colluders": 0.0}, cohort={"minimum": 3}, training={"rounds": 1})
    run = start_run(job, on(REVEAL, _spoiled(lie), node=PRESS, round_=1, attempt=0))
    run_rounds(run)
    [event] = events(run, "round")
    assert event["clients"] == SITES
    assert list(event["failed"]) == ["press"]
    assert "that it sent is wrong" in event["failed"]["press"]


def test_a_server_that_asks_different_clients_for_different_things_gets_no_upload(
    start_run, encrypted, monkeypatch
):
    """The digest of the request is in the manifest: another model is refused before data is touched."""
    import umbel.server.secure as secure

    run = start_run(encrypted(training={"rounds": 1}, cohort={"retries": 0}))
    uploads = secure.SecureCollection._uploads

    def other_model(self, groups):
        for message in self._requests.values():
            record = message.content["arrays"]
            changed = {n: Array(a.numpy() + np.float32(1)) for n, a in record.items()}
            message.content["arrays"] = type(record)(changed)
        uploads(self, groups)

    monkeypatch.setattr(secure.SecureCollection, "_uploads", other_model)
    with pytest.raises(RoundFailed, match="another model, round or job"):
        run_rounds(run)
