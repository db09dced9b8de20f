"""The round loop over real agents, with faults injected where the network is.

Without encryption here, so that a test can look into replies; test_secure_rounds.py has the rest.
"""

import numpy as np
import pytest

from umbel.errors import Interrupted, RoundFailed
from umbel.learning.model import arrays_digest
from umbel.privacy.ledger.ledger import Ledger
from umbel.run.checkpoint import load_latest
from umbel.run.events import from_json
from umbel.server.result import summarise
from umbel.server.rounds import run_rounds
from umbel.wire.requests import EVALUATE, PREPARE, TRAIN

from .faults import broken, events, go_on, instead, lost, only, refused

SITES = ["film", "press", "shop", "social"]


def test_a_run_trains_and_tests_everybody_in_every_round(start_run, quick):
    run = start_run(quick())
    counts = run_rounds(run)
    assert sorted(counts) == SITES
    assert run.round == 3
    assert run.grid.asked(PREPARE) == dict.fromkeys(range(2, 6), 1)
    assert run.grid.asked(TRAIN) == dict.fromkeys(range(2, 6), 3)
    assert run.grid.asked(EVALUATE) == dict.fromkeys(range(2, 6), 1)
    rounds = events(run, "round")
    assert [event["round"] for event in rounds] == [1, 2, 3]
    assert all(event["clients"] == SITES and event["failed"] == {} for event in rounds)
    size = 4 * sum(array.size for array in run.arrays.values())
    assert all(event["bytes_up"] >= 4 * size for event in rounds)
    assert [event["round"] for event in events(run, "evaluation")] == [0, 1, 2, 3]


def test_the_next_model_is_the_mean_of_the_clients_models(start_run, quick):
    found = {}

    def listen(request, reply, assignment):
        if request.metadata.message_type == TRAIN:
            update = {name: a.numpy() for name, a in reply.content["arrays"].items()}
            found[request.metadata.dst_node_id] = update
        return [reply]

    run = start_run(quick(training={"rounds": 1}), listen)
    before = run.arrays
    run_rounds(run)
    for name, array in run.arrays.items():
        mean = np.mean([update[name].astype(np.float64) for update in found.values()], axis=0)
        assert array == pytest.approx(before[name] + mean, abs=1e-6)
        assert array.any()


@pytest.mark.parametrize("every", [0, 2])
def test_the_model_is_tested_as_often_as_the_job_says_and_at_the_end(every, start_run, quick):
    run = start_run(quick(evaluation={"every": every}))
    assert sorted(run_rounds(run)) == SITES
    expected = {0: [0, 3], 2: [0, 2, 3]}[every]
    assert [event["round"] for event in events(run, "evaluation")] == expected


def test_a_round_with_a_lost_reply_is_repeated_and_gives_the_same_model(
    start_run, quick, undisturbed
):
    cohort = {"deadline": 30.0}
    run = start_run(quick(cohort=cohort), instead(only(TRAIN, 3, round=2, attempt=0), lost))
    run_rounds(run)
    rounds = [(event["round"], event["attempt"]) for event in events(run, "round")]
    assert rounds == [(1, 1), (2, 1), (2, 2), (3, 1)]
    failed = events(run, "round")[1]
    assert failed["failed"] == {"press": "no answer before the deadline"}
    assert not failed["aggregated"]
    assert arrays_digest(run.arrays) == undisturbed(cohort=cohort)


def test_a_round_with_an_error_reply_is_repeated_without_waiting_for_the_deadline(
    start_run, quick, undisturbed
):
    run = start_run(quick(), instead(only(TRAIN, 3, round=2, attempt=0), broken))
    run_rounds(run)
    assert run.clock.time == 0
    assert events(run, "round")[1]["failed"] == {"press": "the disk is full"}
    assert arrays_digest(run.arrays) == undisturbed()


def test_with_enough_answers_a_round_counts_without_the_rest(start_run, quick):
    job = quick(cohort={"minimum": 3})
    run = start_run(job, instead(only(TRAIN, 3, round=2), broken))
    run_rounds(run)
    assert [(e["round"], e["attempt"]) for e in events(run, "round")] == [(1, 1), (2, 1), (3, 1)]
    assert events(run, "round")[1]["clients"] == ["film", "shop", "social"]
    assert run.grid.asked(TRAIN)[3] == 3


def test_a_round_ends_at_its_deadline(start_run, quick):
    job = quick(cohort={"minimum": 3, "deadline": 90.0}, training={"rounds": 1})
    run = start_run(job, instead(only(TRAIN, 3), lost))
    run_rounds(run)
    [event] = events(run, "round")
    assert 90 <= run.clock.time < 91
    assert event["failed"] == {"press": "no answer before the deadline"}


def test_too_few_answers_stop_the_run_with_reasons_and_it_can_go_on(start_run, quick, undisturbed):
    run = start_run(quick(), instead(only(TRAIN, 3, round=2), broken))
    with pytest.raises(RoundFailed) as caught:
        run_rounds(run)
    message = str(caught.value)
    assert "Round 2: 3 of 4 clients answered, but 4 are needed, after 3 attempts" in message
    assert "press: the disk is full." in message
    others = [name for name in SITES if name != "press"]
    assert [event["heard"] for event in events(run, "round")] == [sorted(SITES), *[others] * 3]
    assert "Round 1 is saved; fix the cause, then resume with --resume" in message
    again = go_on(start_run(quick()))
    assert again.round == 1
    run_rounds(again)
    assert arrays_digest(again.arrays) == undisturbed()


def test_nothing_is_retried_where_the_job_says_so(start_run, quick):
    run = start_run(quick(cohort={"retries": 0}), instead(only(TRAIN, 3, round=1), broken))
    with pytest.raises(RoundFailed, match="after 1 attempts"):
        run_rounds(run)
    assert run.grid.asked(TRAIN) == dict.fromkeys(range(2, 6), 1)


def test_a_client_that_refuses_is_not_asked_again_when_the_round_cannot_do_without(
    start_run, quick
):
    run = start_run(quick(), instead(only(TRAIN, 3), refused))
    with pytest.raises(RoundFailed, match="press: the owner says no"):
        run_rounds(run)
    assert run.grid.asked(TRAIN) == dict.fromkeys(range(2, 6), 1)


def test_a_client_that_refuses_does_not_hold_up_those_that_are_enough(start_run, quick):
    run = start_run(quick(cohort={"minimum": 3}), instead(only(TRAIN, 3), refused))
    run_rounds(run)
    assert [event["attempt"] for event in events(run, "round")] == [1, 1, 1]


def test_a_reply_that_comes_twice_counts_once(start_run, quick, undisturbed):
    run = start_run(quick(), instead(only(TRAIN), lambda request, reply: [reply, reply]))
    run_rounds(run)
    assert arrays_digest(run.arrays) == undisturbed()


def test_a_reply_to_an_attempt_that_was_given_up_is_dropped(start_run, quick, undisturbed):
    late = []

    def delay(request, reply):
        run.grid.late.append(reply)
        late.append(reply)
        return []

    cohort = {"deadline": 30.0}
    run = start_run(quick(cohort=cohort), instead(only(TRAIN, 3, round=2, attempt=0), delay))
    run_rounds(run)
    assert len(late) == 1
    assert arrays_digest(run.arrays) == undisturbed(cohort=cohort)


def test_replies_in_any_order_give_the_same_model(start_run, quick, undisturbed):
    held = []

    def reverse(request, reply, assignment):
        if request.metadata.message_type != TRAIN:
            return [reply]
        held.append(reply)
        if len(held) < 4:
            return []
        replies, held[:] = held[::-1], []
        return replies

    run = start_run(quick(), reverse)
    run_rounds(run)
    assert arrays_digest(run.arrays) == undisturbed()


def test_a_run_whose_model_nobody_could_test_says_so(start_run, quick):
    run = start_run(quick(training={"rounds": 1}), instead(only(EVALUATE), broken))
    with pytest.raises(RoundFailed, match="No client was able to test"):
        run_rounds(run)
    assert load_latest(run.checkpoints, {n: a.shape for n, a in run.arrays.items()}).round == 1


def test_a_stop_that_is_asked_for_comes_after_a_finished_round(start_run, quick, undisturbed):
    run = start_run(quick())
    run.should_stop = lambda: run.round == 1
    with pytest.raises(Interrupted, match="after round 1 of 3"):
        run_rounds(run)
    again = go_on(start_run(quick()))
    assert again.round == 1
    run_rounds(again)
    assert arrays_digest(again.arrays) == undisturbed()


@pytest.mark.parametrize(
    ("name", "options"),
    [("fedadam", {}), ("fedavgm", {}), ("FedAdam", {}), ("FedAvgM", {"server_momentum": 0.9})],
)
def test_a_run_with_server_state_goes_on_after_a_stop_as_if_there_had_been_none(
    name, options, start_run, quick, undisturbed
):
    sections = {"strategy": {"name": name, "options": options}}
    run = start_run(quick(**sections))
    run.should_stop = lambda: run.round == 2
    with pytest.raises(Interrupted):
        run_rounds(run)
    again = go_on(start_run(quick(**sections)))
    run_rounds(again)
    assert arrays_digest(again.arrays) == undisturbed(**sections)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("FedMedian", {}),
        ("FedAdam", {}),
        ("FedTrimmedAvg", {"beta": 0.25}),
        ("Krum", {"num_malicious_nodes": 1}),
        ("fedprox", {"proximal_mu": 0.5}),
    ],
)
@pytest.mark.parametrize("kind", ["quick", "private"])
def test_strategies_by_name_train_a_federation(name, options, kind, start_run, request):
    job = request.getfixturevalue(kind)(strategy={"name": name, "options": options})
    run = start_run(job)
    before = arrays_digest(run.arrays)
    assert sorted(run_rounds(run)) == SITES
    assert arrays_digest(run.arrays) != before
    assert [event["round"] for event in events(run, "round")] == [1, 2, 3]


def test_fedprox_pulls_clients_towards_the_global_model(start_run, quick):
    def moved(mu):
        lengths = []

        def listen(request, reply, assignment):
            if request.metadata.message_type == TRAIN:
                arrays = [a.numpy().ravel() for a in reply.content["arrays"].values()]
                lengths.append(float(np.linalg.norm(np.concatenate(arrays))))
            return [reply]

        job = quick(
            training={"rounds": 1, "local_steps": 8, "optimizer": "sgd", "learning_rate": 0.03},
            strategy={"name": "fedprox", "options": {"proximal_mu": mu}},
        )
        run_rounds(start_run(job, listen, name=f"mu-{mu}"))
        return sum(lengths)

    assert moved(0.0) > moved(2.0) > moved(8.0) > 0


def test_a_cohort_is_asked_and_nobody_else(start_run, quick):
    job = quick(cohort={"size": 2}, training={"rounds": 4})
    run = start_run(job)
    run_rounds(run)
    asked = {}
    for message, assignment in run.grid.requests:
        if message.metadata.message_type == TRAIN:
            asked.setdefault(assignment.round, set()).add(message.metadata.dst_node_id)
    assert all(len(nodes) == 2 for nodes in asked.values())
    planned = {client.name: client.rounds for client in run.plan.clients}
    found = {name: sum(run.nodes[name] in nodes for nodes in asked.values()) for name in SITES}
    assert found == planned


def test_examples_weigh_a_client_where_the_job_says_so(start_run, quick):
    job = quick(strategy={"weighting": "examples"}, training={"rounds": 1})
    run = start_run(job)
    assert job.weighting == "examples"
    assert {client.weight for client in run.plan.clients} != {1}
    run_rounds(run)
    assert events(run, "round")[0]["clients"] == SITES


def test_the_epsilon_of_a_round_is_what_the_ledgers_say(start_run, private):
    run = start_run(private(evaluation={"counts": "off"}))
    run_rounds(run)
    last = events(run, "round")[-1]["epsilon"]
    for name in SITES:
        with Ledger(run.folder.path / "ledgers" / f"{name}.sqlite") as ledger:
            [dataset] = {entry.dataset for entry in ledger.entries()}
            assert last[name] == ledger.spent(dataset, 1e-3) <= 8.0
            assert len(ledger.entries()) == 4  # the published size, and three rounds


def test_a_client_whose_answer_was_lost_is_taken_to_have_spent_its_limit(start_run, private):
    """It was charged, and nobody heard by how much: the result must not claim less."""
    job = private(cohort={"minimum": 3}, evaluation={"counts": "off"})
    run = start_run(job, instead(only(TRAIN, 3, round=3), broken), reproducible=False)
    found = summarise(run, run_rounds(run), {}, {"reproducible": False})["privacy"]
    for name in SITES:
        with Ledger(run.folder.path / "ledgers" / f"{name}.sqlite") as ledger:
            [dataset] = {entry.dataset for entry in ledger.entries()}
            assert found["clients"][name] >= ledger.spent(dataset, 1e-3)
    assert found["clients"]["press"] == found["epsilon"] == 8.0


def test_an_attempt_that_was_given_up_does_not_hold_up_the_next(start_run, quick):
    """Requests that nobody waits for any more are dropped, and their owners not charged."""
    trained = []

    def slow(request, reply, assignment):
        if request.metadata.message_type == TRAIN:
            trained.append(assignment.attempt)
            run.clock.time += 6 if assignment.attempt == 0 else 0
        return [reply]

    run = start_run(quick(cohort={"deadline": 10.0}, training={"rounds": 1}), slow)
    run_rounds(run)
    assert trained.count(0) == 2
    assert trained[-4:] == [1, 1, 1, 1]


@pytest.mark.parametrize("kept", [True, False])
def test_updates_that_are_still_there_are_sent_again_and_lost_ones_drawn_anew(
    kept, start_run, private
):
    """Not reproducible: who trains again draws new noise, and is charged, within the spare rounds."""
    job = private(
        privacy={"delta": 1e-3, "spare_rounds": 1, "epsilon": 2.0},
        cohort={"retries": 5},
        evaluation={"counts": "off"},
    )
    owners = []

    def fails(request, reply):
        for file in () if kept else owners[0].glob("*/kept/*"):
            file.unlink()
        return broken(request, reply)

    run = start_run(job, instead(only(TRAIN, 3), fails), reproducible=False)
    owners.append(run.folder.path / "owners")
    if kept:
        with pytest.raises(RoundFailed, match="the disk is full"):
            run_rounds(run)
        assert [event["attempt"] for event in events(run, "round")] == [1, 2, 3, 4, 5, 6]
        for name in SITES:
            with Ledger(run.folder.path / "ledgers" / f"{name}.sqlite") as ledger:
                assert len(ledger.entries_of(run.id)) == 1
        return
    with pytest.raises(RoundFailed, match="repeated too often"):
        run_rounds(run)
    for name in SITES:
        with Ledger(run.folder.path / "ledgers" / f"{name}.sqlite") as ledger:
            [dataset] = {entry.dataset for entry in ledger.entries()}
            assert ledger.spent(dataset, 1e-3) <= 2.0
            assert len(ledger.entries()) == 5


def test_lots_leave_out_whose_rounds_are_used_up(start_run, job_of):
    """While somebody is away the lot falls on the others, whose noise is for so many rounds only."""
    from umbel.server.rounds import _with_rounds_left

    job = job_of(
        "bert",
        encryption={"mode": "none"},
        simulation={"encryption_required": False},
        cohort={"size": 2},
        evaluation={"counts": "off"},
        training={"rounds": 4},
    )
    run = start_run(job)
    names = sorted(run.plan.by_name)
    assert _with_rounds_left(run, names) == names
    tired = names[0]
    for _ in range(run.plan.by_name[tired].rounds + job.spare_rounds):
        run.folder.append(from_json({"event": "round", "clients": [tired], "failed": {}}))
    assert _with_rounds_left(run, names) == names[1:]
    assert _with_rounds_left(run, names[:2]) == names[:2]  # too few would be left
