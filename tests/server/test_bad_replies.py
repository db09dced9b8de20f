"""Replies that cannot be right are failures of their clients, and poison nothing."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from umbel.learning.model import arrays_digest
from umbel.server.result import summarise
from umbel.server.rounds import run_rounds
from umbel.wire.requests import EVALUATE, LEDGER, TRAIN, WEIGHT

from .faults import broken, events, instead, only, with_content

SITES = ["film", "press", "shop", "social"]


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
