"""The round loop over real agents, with faults injected where the network is.

Without encryption here, so that a test can look into replies; test_secure_rounds.py has the rest.
"""

import dataclasses
import re

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from umbel.errors import Interrupted, PlanRefused, RoundFailed
from umbel.flower import refuse
from umbel.learning.model import arrays_digest
from umbel.privacy.ledger.ledger import Ledger
from umbel.run.checkpoint import load_latest, restore_strategy
from umbel.run.events import from_json
from umbel.server.result import summarise
from umbel.server.rounds import run_rounds
from umbel.wire.requests import EVALUATE, FAILED, LEDGER, PREPARE, REFUSED, TRAIN, WEIGHT, Readiness

FIRST = 2
SITES = ["film", "press", "shop", "social"]


@pytest.fixture
def quick(open_job_of):
    """Four natural clients that train a head on features, without privacy but as if with it."""

    def build(**sections):
        plain = {"privacy": {"unit": "none"}, "strategy": {"weighting": "equal"}}
        for name, section in plain.items():
            sections[name] = {**section, **sections.get(name, {})}
        return open_job_of("bert", **sections)

    return build


@pytest.fixture
def private(open_job_of):
    """The same under example-level privacy; every step sees all records, so noise is found fast."""

    def build(**sections):
        training = {"batch_size": 64, **sections.pop("training", {})}
        return open_job_of("bert", training=training, **sections)

    return build


def go_on(run):
    """Set a run back to its last checkpoint, as --resume does."""
    checkpoint = load_latest(run.checkpoints, {n: a.shape for n, a in run.arrays.items()})
    run.round, run.arrays = checkpoint.round, checkpoint.arrays
    restore_strategy(run.strategy, checkpoint.strategy)
    return run


def events(run, kind):
    return [event for event in run.folder.read_events() if event["event"] == kind]


def only(kind, node=None, **where):
    """Whether a request is of this kind, to this node, in this round and attempt."""

    def matches(request, assignment):
        return (
            request.metadata.message_type == kind
            and node in (None, request.metadata.dst_node_id)
            and all(getattr(assignment, name) == value for name, value in where.items())
        )

    return matches


def instead(matches, replies):
    """A fault: `replies(request, reply)` arrive instead of the reply to a matching request."""

    def fault(request, reply, assignment):
        return replies(request, reply) if matches(request, assignment) else [reply]

    return fault


def once(fault):
    """A fault that happens the first time only."""
    happened = []

    def first(request, reply, assignment):
        found = [reply] if happened else fault(request, reply, assignment)
        happened.extend([True] * (found != [reply]))
        return found

    return first


def lost(request, reply):
    return []


def broken(request, reply):
    return [refuse(request, FAILED, "the disk is full")]


def refused(request, reply):
    return [refuse(request, REFUSED, "the owner says no")]


def with_content(arrays=None, metrics=None):
    """A fault that changes a reply's records."""

    def change(request, reply):
        content = dict(reply.content)
        if arrays:
            content["arrays"] = arrays(content["arrays"])
        if metrics:
            content["metrics"] = metrics(content["metrics"])
        return [Message(RecordDict(content), reply_to=request)]

    return change


@pytest.fixture
def undisturbed(start_run, quick):
    """Arrays that the quick job ends with when nothing goes wrong."""

    def digest(**sections):
        run = start_run(quick(**sections), name="undisturbed")
        run_rounds(run)
        return arrays_digest(run.arrays)

    return digest


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


def _replaced(value):
    def change(record):
        first, *rest = record
        arrays = {first: Array(np.full(record[first].shape, value, np.float32))}
        return ArrayRecord({**arrays, **{name: record[name] for name in rest}})

    return change


def _reshaped(record):
    return ArrayRecord({name: Array(array.numpy().reshape(-1)) for name, array in record.items()})


def _renamed(record):
    return ArrayRecord({f"{name}.other": array for name, array in record.items()})


def _doubled(record):
    return ArrayRecord({n: Array(a.numpy().astype(np.float64)) for n, a in record.items()})


def _garbled(record):
    return ArrayRecord(
        {n: Array(a.dtype, a.shape, a.stype, a.data[: len(a.data) // 2]) for n, a in record.items()}
    )


class _Trap(ConfigRecord):
    """Stands for whatever no check foresaw."""

    def get(self, key, default=None):
        raise KeyError(key)


def _unforeseen(request, reply):
    return [Message(RecordDict({**reply.content, LEDGER: _Trap()}), reply_to=request)]


def _with_metric(**values):
    return with_content(metrics=lambda record: MetricRecord({**record, **values}))


POISONS = {
    "NaN": (with_content(arrays=_replaced(np.nan)), "NaN or infinity"),
    "infinity": (with_content(arrays=_replaced(np.inf)), "NaN or infinity"),
    "enormous": (with_content(arrays=_replaced(1e20)), "beyond 1024"),
    "shape": (with_content(arrays=_reshaped), "has shape"),
    "names": (with_content(arrays=_renamed), "do not match the model"),
    "dtype": (with_content(arrays=_doubled), "float64"),
    "garbled": (with_content(arrays=_garbled), "cannot be read"),
    "weight": (_with_metric(**{WEIGHT: 7}), "weight of 7, but the plan says 1"),
    "negative": (_with_metric(**{WEIGHT: -1}), "weight of -1"),
    "list": (_with_metric(**{WEIGHT: [1, 1]}), "weight of"),
    "epsilon": (_with_metric(epsilon=float("nan")), "epsilon that is not a number"),
    "epsilons": (_with_metric(epsilon=[0.5]), "epsilon that is not a number"),
    "empty": (lambda request, reply: [Message(RecordDict(), reply_to=request)], "array records"),
    "no-metrics": (
        lambda request, reply: [
            Message(RecordDict({"arrays": reply.content["arrays"]}), reply_to=request)
        ],
        "metric record",
    ),
    "unforeseen": (_unforeseen, "in an unexpected form"),
}


@pytest.mark.parametrize("kind", POISONS)
def test_a_reply_that_cannot_be_right_is_a_failure_of_its_client_and_poisons_nothing(
    kind, start_run, quick
):
    """The model is that of a run in which the client did not answer at all."""
    poison, reason = POISONS[kind]
    job = quick(cohort={"minimum": 3}, training={"rounds": 2})
    matches = only(TRAIN, 3, round=1)
    run = start_run(job, instead(matches, poison))
    without = start_run(job, instead(matches, broken), name="without")
    run_rounds(run)
    run_rounds(without)
    first, second = events(run, "round")
    assert first["clients"] == ["film", "shop", "social"]
    assert reason in first["failed"]["press"]
    assert second["clients"] == SITES
    assert arrays_digest(run.arrays) == arrays_digest(without.arrays)


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


BAD_COUNTS = {
    "missing": with_content(metrics=lambda r: MetricRecord({WEIGHT: r[WEIGHT]})),
    "short": _with_metric(counts=[1.0, 2.0]),
    "other classes": with_content(
        metrics=lambda r: MetricRecord({WEIGHT: 1, "counts": [0.0] * (9 + 3 * 2 * 1024 + 1)})
    ),
    "negative": with_content(
        metrics=lambda r: MetricRecord({**r, "counts": [-1.0, *r["counts"][1:]]})
    ),
    "fraction": with_content(
        metrics=lambda r: MetricRecord({**r, "counts": [0.5, *r["counts"][1:]]})
    ),
    "NaN": with_content(
        metrics=lambda r: MetricRecord({**r, "counts": [*r["counts"][:-1], float("nan")]})
    ),
    "scalar": _with_metric(counts=3.0),
    "weight": _with_metric(**{WEIGHT: 0}),
    "error": broken,
}


@pytest.mark.parametrize("strategy", ["fedavg", "FedAvg"])
@pytest.mark.parametrize("kind", BAD_COUNTS)
def test_a_client_that_cannot_be_tested_is_named_and_the_others_count(
    kind, strategy, start_run, quick
):
    job = quick(training={"rounds": 1}, strategy={"name": strategy})
    run = start_run(job, instead(only(EVALUATE, 3), BAD_COUNTS[kind]))
    counts = run_rounds(run)
    assert sorted(counts) == ["film", "shop", "social"]
    assert [list(event["failed"]) for event in events(run, "evaluation")] == [[], ["press"]]


BAD_LEDGERS = {
    "epsilon": _with_metric(epsilon=[1.0, 2.0]),
    "head": lambda request, reply: with_record(request, reply, {"head": "ab" * 31}),
    "no text": lambda request, reply: with_record(request, reply, {"head": bytes(32)}),
    "none": lambda request, reply: with_record(request, reply, {}),
}


def with_record(request, reply, values):
    content = RecordDict({**reply.content, LEDGER: ConfigRecord(values)})
    return [Message(content, reply_to=request)]


@pytest.mark.parametrize("phase", [TRAIN, EVALUATE])
@pytest.mark.parametrize("kind", BAD_LEDGERS)
def test_what_cannot_be_of_a_ledger_makes_the_reply_a_failure(kind, phase, start_run, private):
    job = private(
        training={"rounds": 1},
        cohort={"minimum": 3},
        privacy={"delta": 1e-3, "epsilon": 20.0},
        evaluation={"counts": "private", "epsilon": 10.0},
    )
    run = start_run(job, instead(only(phase, 3), BAD_LEDGERS[kind]))
    run_rounds(run)
    [event] = events(run, "round") if phase == TRAIN else events(run, "evaluation")[-1:]
    assert list(event["failed"]) == ["press"]
    assert sorted(event["heads"]) == sorted(event["epsilon"]) == ["film", "shop", "social"]


def test_who_spends_nothing_has_no_head_to_tell(start_run, quick):
    claims = instead(only(TRAIN, 3), lambda *both: with_record(*both, {"head": "ab" * 32}))
    run = start_run(quick(training={"rounds": 1}), claims)
    assert summarise(run, run_rounds(run), {}, {"reproducible": False})["sealed_heads"] == []
    assert events(run, "round")[0]["clients"] == SITES


@pytest.mark.parametrize("kind", [kind for kind in BAD_COUNTS if kind != "error"])
def test_bad_counts_beside_an_update_make_the_whole_reply_a_failure(kind, start_run, quick):
    job = quick(training={"rounds": 1}, cohort={"minimum": 3})
    run = start_run(job, instead(only(TRAIN, 3), BAD_COUNTS[kind]))
    run_rounds(run)
    [event] = events(run, "round")
    assert event["clients"] == ["film", "shop", "social"]
    assert list(event["failed"]) == ["press"]
    assert sorted(events(run, "evaluation")[0]["clients"]) == ["film", "shop", "social"]


def test_a_run_whose_model_nobody_could_test_says_so(start_run, quick):
    run = start_run(quick(training={"rounds": 1}), instead(only(EVALUATE), broken))
    with pytest.raises(RoundFailed, match="No client was able to test"):
        run_rounds(run)
    assert load_latest(run.checkpoints, {n: a.shape for n, a in run.arrays.items()}).round == 1


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
