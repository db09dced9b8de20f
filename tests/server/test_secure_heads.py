"""What is certified and charged of owners whose updates nobody sees."""

import pytest

from umbel.certificate.seal import seal_head
from umbel.errors import Interrupted, ProtocolError
from umbel.flower import stamp
from umbel.learning.model import arrays_digest
from umbel.privacy.ledger.ledger import Ledger
from umbel.server.result import summarise
from umbel.server.rounds import run_rounds
from umbel.wire.packing import bytes_of
from umbel.wire.requests import CONFIRM, LEDGER, TRAIN

from .faults import PRESS, broken, events

SITES = ["film", "press", "shop", "social"]


def test_the_newest_head_of_each_owner_is_certified_over_the_whole_run(
    start_run, encrypted, tmp_path
):
    """Press is away from the second part of the run on: what it said in the first one still holds."""
    job = encrypted(
        privacy={"unit": "example", "delta": 1e-3, "epsilon": 20.0},
        evaluation={"counts": "private", "epsilon": 10.0, "every": 1},
        training={"rounds": 2, "batch_size": 64},
    )
    first = start_run(job)
    first.should_stop = lambda: first.round == 1
    with pytest.raises(Interrupted):
        run_rounds(first)
    second = start_run(job, lambda request, reply, assignment: (
        broken(request, reply) if request.metadata.dst_node_id == PRESS else [reply]
    ))  # fmt: skip
    second.restore()
    result = summarise(second, run_rounds(second), {}, {"reproducible": True})
    newest = []
    for site in SITES:
        with Ledger(tmp_path / "run" / "ledgers" / f"{site}.sqlite") as ledger:
            assert len(ledger.entries()) == (3 if site == "press" else 6)
            newest.append(seal_head(ledger.identity, ledger.head()))
    assert result["sealed_heads"] == sorted(newest)


def test_a_repeated_request_brings_the_same_vector_and_the_same_head(
    start_run, encrypted, tmp_path
):
    """The first answer is lost on its way; another job has charged the ledger since."""
    agents, seen = [], []

    def asked_twice(request, reply, assignment):
        if request.metadata.message_type != TRAIN or request.metadata.dst_node_id != PRESS:
            return [reply]
        with Ledger(tmp_path / "run" / "ledgers" / "press.sqlite") as ledger:
            row = ledger.entries()[-1]
            ledger.reserve(
                row.dataset, row.event, job="j", key="another/1/0", delta=row.delta, limit=1e6
            )
        again = agents[0].call("handle", PRESS, request)
        stamp(again)
        seen.append((reply.content, again.content))
        return [again]

    job = encrypted(privacy={"unit": "example"}, training={"rounds": 1, "batch_size": 64})
    run = start_run(job, asked_twice)
    agents.append(run.grid.inner._workers)
    run_rounds(run)
    [(first, second)] = seen
    assert bytes_of(first, "vector") == bytes_of(second, "vector")
    assert first[LEDGER]["head"] == second[LEDGER]["head"]
    assert events(run, "round")[0]["heads"].keys() == set(SITES)


def test_epsilon_is_known_of_who_dropped_out_after_its_upload(start_run, encrypted):
    """It said what it had spent; of who never answered only its limit is certain."""
    job = encrypted(privacy={"unit": "example"}, training={"batch_size": 64, "rounds": 1})

    def fault(request, reply, assignment):
        kind, node = request.metadata.message_type, request.metadata.dst_node_id
        return broken(request, reply) if (kind, node) == (CONFIRM, PRESS) else [reply]

    run = start_run(job, fault)
    found = summarise(run, run_rounds(run), {}, {"reproducible": True})["privacy"]
    assert sorted(found["clients"]) == SITES
    assert 0 < found["clients"]["press"] < job.privacy.owner_limit


def test_a_sum_that_failed_is_no_client_that_spent_budget(start_run, encrypted, monkeypatch):
    import umbel.server.secure as secure

    read, calls = secure.read_sum, []

    def first_fails(run, stage, content, group):
        calls.append(group)
        if len(calls) == 1:
            raise ProtocolError("sum", "the cohort", "it is garbage")
        return read(run, stage, content, group)

    monkeypatch.setattr(secure, "read_sum", first_fails)
    job = encrypted(privacy={"unit": "example"}, training={"batch_size": 64, "rounds": 1})
    run = start_run(job)
    found = summarise(run, run_rounds(run), {}, {"reproducible": True})["privacy"]
    first, second = events(run, "round")
    assert (first["aggregated"], second["aggregated"]) == (False, True)
    assert first["failed"] == {}, "no client failed"
    assert "it is garbage" in first["lacks"]
    assert sorted(found["clients"]) == SITES


def test_each_client_is_told_what_it_last_sent_of_its_ledger_and_nothing_else_changes(
    start_run, encrypted
):
    job = encrypted(privacy={"unit": "example"}, training={"rounds": 2, "batch_size": 64})
    plain, run = start_run(job, name="plain"), start_run(job, name="told")
    run.heads = {"press": "ab" * 32}  # of a run before
    run_rounds(plain)
    run_rounds(run)
    assert arrays_digest(run.arrays) == arrays_digest(plain.arrays)
    assert not [request for request, _ in plain.grid.requests if LEDGER in request.content]
    sent = {0: {"press": "ab" * 32}} | {e["round"]: e["heads"] for e in events(run, "round")}
    told = {number: {} for number in sent}
    names = run.names
    for request, assignment in run.grid.requests:
        if request.metadata.message_type == TRAIN and LEDGER in request.content:
            name = names[request.metadata.dst_node_id]
            told[assignment.round - 1][name] = request.content[LEDGER]["head"]
    assert {n: heads for n, heads in told.items() if n < 2} == {n: sent[n] for n in (0, 1)}
