"""Who is ready for a run, and who takes no part in it."""

import dataclasses
import re

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict

from umbel.errors import PlanRefused, RoundFailed
from umbel.server.rounds import run_rounds
from umbel.wire.requests import PREPARE, REFUSED, TRAIN, Readiness

from .faults import broken, events, instead, once, only, refused


def test_too_few_ready_clients_stop_before_any_training(start_run, quick):
    run = start_run(quick(), instead(only(PREPARE, 3), broken))
    with pytest.raises(RoundFailed, match=r"3 of 4 clients are ready.*the disk is full"):
        run_rounds(run)
    assert run.grid.asked(TRAIN) == {}


def test_a_client_that_is_not_ready_is_left_out_where_enough_are(start_run, quick):
    run = start_run(quick(cohort={"minimum": 3}), instead(only(PREPARE, 3), broken))
    assert sorted(run_rounds(run)) == ["film", "shop", "social"]
    assert run.grid.asked(TRAIN)[3] == 0


def test_a_run_with_patience_asks_again_until_enough_are_ready(start_run, quick):
    run = start_run(quick(training={"rounds": 1}), once(instead(only(PREPARE, 3), broken)))
    run.patience = 60.0
    run_rounds(run)
    assert run.grid.asked(PREPARE) == {2: 1, 3: 2, 4: 1, 5: 1}
    [ready] = events(run, "ready")
    assert ready["clients"] == ["film", "press", "shop", "social"]
    assert ready["failed"] == {}


def test_a_client_that_refuses_is_not_asked_again(start_run, quick):
    run = start_run(quick(), instead(only(PREPARE, 3), refused))
    run.patience = 60.0
    with pytest.raises(RoundFailed, match="3 of 4 clients are ready"):
        run_rounds(run)
    assert run.grid.asked(PREPARE)[3] == 1


def _as_readiness(**changes):
    def change(request, reply):
        record = Readiness.from_record(reply.content.config_records["readiness"])
        record = dataclasses.replace(record, **changes)
        return [Message(RecordDict({"readiness": record.to_record()}), reply_to=request)]

    return change


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"base_model": "0123456789abcdef" * 4},
            r"press has another base model \(SHA-256 0123456789ab\) than the plan \({digest}",
        ),
        ({"name": "stranger"}, "'stranger' answered, but the plan has no such client"),
        (
            {"size": 990},
            r"press now states another size of its data \(990, of which 80% are trained on\)",
        ),
    ],
)
def test_a_client_that_does_not_fit_the_plan_takes_no_part_and_both_sides_are_named(
    changes, words, start_run, quick
):
    fault = instead(only(PREPARE, 3), _as_readiness(**changes))
    run = start_run(quick(cohort={"minimum": 3}, training={"rounds": 1}), fault)
    # On the code before, one owner's word ended the run of all.
    assert sorted(run_rounds(run)) == ["film", "shop", "social"]
    [ready] = events(run, "ready")
    words = words.replace("{digest}", run.plan.model.base_digest[:12])
    assert re.search(words, ready["failed"]["node 3"])
    run = start_run(quick(), fault, name="all")
    with pytest.raises(RoundFailed, match=words):
        run_rounds(run)
    assert run.grid.asked(PREPARE)[3] == 1


def test_a_client_that_takes_the_name_of_another_is_not_heard_in_its_place(start_run, quick):
    def pretend(request, reply):
        size = run.plan.by_name["shop"].size
        return _as_readiness(name="shop", size=size)(request, reply)

    run = start_run(quick(cohort={"minimum": 3}), instead(only(PREPARE, 3), pretend))
    # As between machines, where nodes are known by the keys that were admitted.
    run.nodes = dict(zip([c.name for c in run.plan.clients], run.grid.get_node_ids(), strict=True))
    liar = run.names[3]
    assert set(run_rounds(run)) == {c.name for c in run.plan.clients} - {liar}
    [ready] = events(run, "ready")
    assert ready["failed"] == {liar: "calls itself 'shop'"}


def test_a_reason_of_any_length_is_kept_short(start_run, quick):
    def endless(request, reply):
        return [Message(Error(REFUSED, "\x1b[2J" + 10**6 * "x"), reply_to=request)]

    run = start_run(quick(cohort={"minimum": 3}), instead(only(PREPARE, 3), endless))
    run_rounds(run)
    [ready] = events(run, "ready")
    (reason,) = ready["failed"].values()
    assert reason.startswith("\\x1b[2J")
    assert len(reason) < 5_000


def test_two_clients_of_one_name_stop_the_run(start_run, quick):
    def pretend(request, reply):
        size = run.plan.by_name["shop"].size
        return _as_readiness(name="shop", size=size)(request, reply)

    run = start_run(quick(), instead(only(PREPARE, 3), pretend))
    with pytest.raises(PlanRefused, match="Two clients call themselves 'shop'"):
        run_rounds(run)


def test_a_client_of_another_version_refuses_and_names_both(start_run, quick, monkeypatch):
    run = start_run(quick())
    monkeypatch.setattr("umbel.server.exchange.__version__", "9.9.9")
    with pytest.raises(RoundFailed, match=r"runs Umbel 0\.1\.0, the server 9\.9\.9"):
        run_rounds(run)


def _with_an_unknown_field(request, reply):
    record = ConfigRecord({**reply.content["readiness"], "more": 1})
    return [Message(RecordDict({"readiness": record}), reply_to=request)]


@pytest.mark.parametrize(
    "answer",
    [lambda request, reply: [Message(RecordDict(), reply_to=request)], _with_an_unknown_field],
    ids=["empty", "unknown field"],
)
def test_a_client_that_is_ready_in_another_form_than_agreed_is_not_ready(answer, start_run, quick):
    run = start_run(quick(cohort={"minimum": 3}), instead(only(PREPARE, 3), answer))
    assert sorted(run_rounds(run)) == ["film", "shop", "social"]
