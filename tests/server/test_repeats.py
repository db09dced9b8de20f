"""Rounds that are asked for again: the same slot, a new one, and what the owners' ledgers say then."""

import numpy as np
import pytest

from umbel.errors import ProtocolError, RoundFailed
from umbel.flower import refuse
from umbel.learning.model import arrays_digest
from umbel.privacy.ledger.ledger import Ledger
from umbel.run.events import Round, from_json
from umbel.server import trips
from umbel.server.rounds import _with_rounds_left, run_rounds
from umbel.server.slots import OpenRound
from umbel.wire.packing import bytes_of
from umbel.wire.requests import CONFIRM, EVALUATE, FAILED, PREKEY, REVEAL, TRAIN

SITES = ["film", "press", "shop", "social"]
PRESS = 3


@pytest.fixture
def private(job_of):
    """Four natural clients that train a head privately, all of which every round needs."""

    def build(**sections):
        training = {"batch_size": 64, "rounds": 2, **sections.pop("training", {})}
        privacy = {"unit": "example", "delta": 1e-3, **sections.pop("privacy", {})}
        evaluation = {"counts": "off", **sections.pop("evaluation", {})}
        return job_of("bert", training=training, privacy=privacy, evaluation=evaluation, **sections)

    return build


def events(run, kind="round"):
    return [event for event in run.folder.read_events() if event["event"] == kind]


def charged(run):
    """How many rounds and tests each owner's ledger knows."""
    found = {}
    for name in SITES:
        with Ledger(run.folder.path / "ledgers" / f"{name}.sqlite") as ledger:
            rows = ledger.entries_of(run.id)
            # Exact counts are noted, and cost nothing.
            found[name] = [row.what for row in rows if "exact" not in row.what]
    return found


def everybody(rows):
    return dict.fromkeys(SITES, rows)


def at(kind, times=1, node=PRESS, lose=True):
    """A fault: the first `times` replies of a kind are lost, or errors."""
    left = [times]

    def fault(request, reply, assignment):
        hit = request.metadata.message_type == kind and request.metadata.dst_node_id == node
        if not hit or not left[0]:
            return [reply]
        left[0] -= 1
        return [] if lose else [refuse(request, FAILED, "it was killed")]

    return fault


@pytest.mark.parametrize("kind", [PREKEY, TRAIN, CONFIRM, REVEAL])
def test_a_lost_answer_is_asked_for_again_in_the_same_slot(kind, start_run, private):
    """Three of four would do for the sum; this job wants all."""
    job = private(
        cohort={"minimum": 4, "deadline": 20.0}, encryption={"deadline": 20.0, "colluders": 0.45}
    )
    run = start_run(job, at(kind), reproducible=False)
    run_rounds(run)
    assert [(e["round"], e["attempt"]) for e in events(run)] == [(1, 1), (2, 1)]
    assert all(event["clients"] == SITES and not event["failed"] for event in events(run))
    assert charged(run) == everybody(["1", "2"])
    assert run.grid.asked(kind)[PRESS] == 1 + run.grid.asked(kind)[2]
    vectors = {
        bytes_of(message.content, "request")
        for message, assignment in run.grid.requests
        if message.metadata.message_type == TRAIN and message.metadata.dst_node_id == PRESS
    }
    assert len(vectors) == 2  # one request a round, however often it was sent


class Killed(BaseException):
    """What no handler of ours catches: the process is gone at this point."""


@pytest.mark.parametrize("before", [TRAIN, CONFIRM, REVEAL, "end"])
@pytest.mark.parametrize("counts", ["off", "exact"])
def test_a_coordinator_that_died_goes_on_in_the_same_slot_for_nothing(
    before, counts, start_run, private
):
    """Another process asks for the very same, and no owner trains again or is charged."""
    job = private(evaluation={"counts": counts})
    vectors = {}

    def listen(request, reply, assignment):
        if request.metadata.message_type == TRAIN:
            where = assignment.round, request.metadata.dst_node_id
            vectors.setdefault(where, set()).add(bytes_of(reply.content, "vector"))
        return [reply]

    def dies(request, reply, assignment):
        if assignment.round == 2 and request.metadata.message_type == before:
            listen(request, reply, assignment)
            if request.metadata.dst_node_id == PRESS:
                raise Killed
        return listen(request, reply, assignment)

    run = start_run(job, dies, reproducible=False)
    if before == "end":
        tell = run.tell

        def tell_and_die(event):
            if isinstance(event, Round) and event.round == 2:
                raise Killed
            tell(event)

        run.tell = tell_and_die
    with pytest.raises(Killed):
        run_rounds(run)
    spent = charged(run)
    again = start_run(job, listen, reproducible=False)
    again.restore()
    assert again.round == 1
    run_rounds(again)
    assert charged(again) == everybody(["1", "2"]) or before == TRAIN
    if before != TRAIN:
        assert charged(again) == spent
    assert {where: len(found) for where, found in vectors.items()} == {
        (round_, node): 1 for round_ in (1, 2) for node in range(2, 6)
    }
    last = events(again)[-1]
    assert (last["round"], last["attempt"], last["clients"]) == (2, 1, SITES)


def test_whoever_is_away_when_it_goes_on_is_left_out_of_a_new_slot_that_is_free(start_run, private):
    job = private(cohort={"minimum": 3}, training={"rounds": 1})

    def dies(request, reply, assignment):
        if request.metadata.message_type == CONFIRM:
            raise Killed
        return [reply]

    run = start_run(job, dies, reproducible=False)
    with pytest.raises(Killed):
        run_rounds(run)
    from umbel.wire.requests import PREPARE

    def away(request, reply, assignment):
        kind, node = request.metadata.message_type, request.metadata.dst_node_id
        return [refuse(request, FAILED, "away")] if (kind, node) == (PREPARE, PRESS) else [reply]

    again = start_run(job, away, reproducible=False)
    again.restore()
    run_rounds(again)
    assert charged(again) == everybody(["1"])
    [event] = events(again)
    assert (event["attempt"], event["clients"]) == (2, ["film", "shop", "social"])


def failing_sum(run, monkeypatch, times=1):
    """Sums that turn out to be none, after they were opened."""
    import umbel.server.secure as secure

    read, left = secure.read_sum, [times]

    def fails(run, stage, content, group):
        if left[0]:
            left[0] -= 1
            raise ProtocolError("sum", "the cohort", "it is garbage")
        return read(run, stage, content, group)

    monkeypatch.setattr(secure, "read_sum", fails)


def test_after_a_slot_that_failed_unopened_owners_send_what_they_trained(start_run, private):
    """Press answers no upload of the first slot, in time or again: the others' work is not lost."""
    job = private(cohort={"minimum": 4}, training={"rounds": 1})
    run = start_run(job, at(TRAIN, times=2, lose=False), reproducible=False)
    run_rounds(run)
    assert [(e["attempt"], e["aggregated"]) for e in events(run)] == [(1, False), (2, True)]
    assert charged(run) == everybody(["1"])
    first, second = (event["epsilon"] for event in events(run))
    assert {first[n] for n in first} == {second[n] for n in first}


def test_after_a_sum_that_was_opened_everybody_trains_anew_and_is_charged(
    start_run, private, monkeypatch
):
    job = private(training={"rounds": 1})
    run = start_run(job, reproducible=False)
    failing_sum(run, monkeypatch)
    run_rounds(run)
    assert [event["aggregated"] for event in events(run)] == [False, True]
    assert charged(run) == everybody(["1", "1"])
    assert {name: len(v) for name, v in charged(run).items()} == dict.fromkeys(SITES, 2)


def test_updates_that_are_lost_again_and_again_end_the_run_within_its_epsilon(
    start_run, private, monkeypatch
):
    job = private(training={"rounds": 1}, cohort={"retries": 5}, privacy={"epsilon": 2.0})
    run = start_run(job, reproducible=False)
    failing_sum(run, monkeypatch, times=9)
    with pytest.raises(RoundFailed, match="repeated too often"):
        run_rounds(run)
    assert charged(run) == everybody(["1", "1"])  # the spare round


def test_a_repeated_round_gives_the_very_model_of_an_undisturbed_run(start_run, private):
    job = private(cohort={"minimum": 4})
    run = start_run(job, at(TRAIN, times=2, lose=False))
    run_rounds(run)
    assert [e["attempt"] for e in events(run)] == [1, 2, 1]
    undisturbed = start_run(job, name="undisturbed")
    run_rounds(undisturbed)
    assert arrays_digest(run.arrays) == arrays_digest(undisturbed.arrays)


def test_private_counts_of_a_repeated_round_are_drawn_anew_and_charged(start_run, private):
    job = private(
        cohort={"minimum": 4},
        training={"rounds": 1},
        evaluation={"counts": "private", "epsilon": 5.0, "every": 1},
    )
    run = start_run(job, at(TRAIN, times=2, lose=False), reproducible=False)
    run_rounds(run)
    assert charged(run)["film"] == ["test 0", "1", "test 0", "test 1"]


def test_exact_counts_are_asked_for_in_one_slot_only(start_run, private):
    job = private(cohort={"minimum": 4}, training={"rounds": 1}, evaluation={"counts": "exact"})
    run = start_run(job, at(TRAIN, times=2, lose=False), reproducible=False)
    run_rounds(run)
    asked = [(a.attempt, a.test) for m, a in run.grid.requests if m.metadata.message_type == TRAIN]
    assert set(asked) == {(0, True), (1, False)}
    assert charged(run) == everybody(["1"])


def test_a_server_that_tests_again_with_exact_counts_after_a_sum_is_refused(
    start_run, private, monkeypatch
):
    job = private(training={"rounds": 1}, evaluation={"counts": "exact"}, cohort={"retries": 1})
    run = start_run(job, reproducible=False)
    read = []

    def fails(request, reply, assignment):
        if request.metadata.message_type == EVALUATE and not read:
            read.append(1)
            failing_sum(run, monkeypatch)
        return [reply]

    run.grid.fault = fails
    with pytest.raises(RoundFailed, match="No client was able to test"):
        run_rounds(run)
    assert "can no longer be opened" in str(events(run, "evaluation")[-1])


def test_in_groups_each_group_stays_as_it_was_dealt(start_run, job_of):
    job = job_of(
        "bert",
        privacy={"unit": "example", "delta": 1e-3},
        evaluation={"counts": "off"},
        strategy={"name": "FedMedian", "weighting": "equal"},
        simulation={"partition": "iid", "clients": 9},
        encryption={"group_size": 4, "colluders": 0.0},
        training={"rounds": 1, "batch_size": 64},
        cohort={"minimum": 8},
    )
    away = []

    def fault(request, reply, assignment):
        node = request.metadata.dst_node_id
        if request.metadata.message_type == TRAIN and assignment.attempt == 0 and node in (2, 3):
            return [refuse(request, FAILED, "it was killed")]
        return [reply]

    run = start_run(job, fault, reproducible=False)
    groups, present = [], trips.SecureTrips.send

    def listen(self, kind, asks, *rest):
        if kind in (CONFIRM, PREKEY):
            groups.append({group.slot.cohort for group, _ in asks.values()})
        return present(self, kind, asks, *rest)

    trips.SecureTrips.send = listen
    try:
        run_rounds(run)
    finally:
        trips.SecureTrips.send = present
    assert [event["aggregated"] for event in events(run)] == [False, True]
    assert groups[0] == groups[1]
    assert not away
    for name in run.plan.by_name:
        with Ledger(run.folder.path / "ledgers" / f"{name}.sqlite") as ledger:
            assert len(ledger.entries_of(run.id)) == 1


def charged_for(name, epsilon):
    return from_json({"event": "round", "clients": [name], "epsilon": {name: epsilon}})


def test_lots_count_what_was_charged_and_not_what_was_asked(start_run, job_of):
    job = job_of("bert", cohort={"size": 3}, evaluation={"counts": "off"}, training={"rounds": 4})
    run = start_run(job)
    names = sorted(run.plan.by_name)
    tired = names[0]
    most = run.plan.by_name[tired].rounds + job.spare_rounds
    for _ in range(9):  # the same epsilon each time: repeated for nothing
        run.folder.append(charged_for(tired, 0.5))
    assert _with_rounds_left(run, names) == names
    for place in range(most):
        run.folder.append(charged_for(tired, 1.0 + place))
    assert _with_rounds_left(run, names) == names[1:]


def test_a_damaged_note_of_the_slots_is_as_good_as_none(start_run, private):
    run = start_run(private(training={"rounds": 1}))
    run_rounds(run)
    whole = OpenRound.read(run.folder)
    assert whole is not None
    assert (whole.kind, whole.round, whole.asked) == (TRAIN, 1, SITES)
    for damaged in (b"", b"{}", b"[1]", b'{"kind": "train", "slots": [], "following": [{}]}'):
        run.folder.write("slots.json", damaged)
        assert OpenRound.read(run.folder) is None
    assert np.isfinite(sum(float(a.sum()) for a in run.arrays.values()))
