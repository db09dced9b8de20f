"""Whole rounds of strategies with two sums: what they come to, and who answers the second one."""

import numpy as np
import pytest

from umbel.errors import PlanRefused, StrategyError, UmbelError
from umbel.flower import refuse
from umbel.job import StrategySpec
from umbel.privacy.ledger.ledger import Ledger
from umbel.run.events import Rebase, Round
from umbel.server.rounds import run_rounds
from umbel.strategies import second_of
from umbel.strategies.averaging import FedAvg
from umbel.strategies.ditto import PulledToShared
from umbel.strategies.factors import factor_of
from umbel.strategies.flexlora import FlexLora
from umbel.strategies.products import Sketches, pairs_of
from umbel.strategies.residual import pairs_of_residual
from umbel.wire.requests import CONFIRM, FAILED, SECOND, TRAIN
from umbel.wire.residual_names import is_residual

LORA = {"adapter": "lora"}
QUICK = {
    "training": {"rounds": 1, "local_steps": 1, "batch_size": 64},
    "model": LORA,
    "evaluation": {"counts": "off"},
    "strategy": {"name": "flexlora"},
}


def products(model):
    """B A of each adapted layer, float64."""
    shapes = {name: array.shape for name, array in model.items()}
    return {
        pair.b: np.matmul(*(factor.astype(np.float64) for factor in pair.factors(model)))
        for pair in pairs_of(shapes)
    }


@pytest.fixture
def finished(monkeypatch):
    """Each local half with its finished update, in the order of the owners: what never leaves them."""
    seen, further = [], Sketches.further

    def noted(half, update):
        seen.append((half, update))
        return further(half, update)

    monkeypatch.setattr(Sketches, "further", noted)
    return seen


def test_sums_and_single_updates_come_to_the_best_cut_of_the_mean_product(
    start_run, job_of, open_job_of, finished
):
    clear = start_run(open_job_of("bert", **QUICK), name="clear")
    before = dict(clear.arrays)
    run_rounds(clear)
    owners = [{n: before[n] + update[n] for n in before} for _, update in finished]
    each = [products(owner) for owner in owners]
    for name, found in products(clear.arrays).items():
        mean = np.mean([one[name] for one in each], axis=0)
        rank = clear.arrays[name].shape[1]
        u, s, v = np.linalg.svd(mean)
        assert found == pytest.approx(u[:, :rank] * s[:rank] @ v[:rank], abs=1e-6 * s[0])
    masked = start_run(job_of("bert", **QUICK), name="masked")
    run_rounds(masked)
    for name, found in products(masked.arrays).items():
        wanted = products(clear.arrays)[name]
        assert np.linalg.norm(found - wanted) <= 1e-5 * np.linalg.norm(wanted)
    for run in (clear, masked):
        assert set(run.grid.asked(SECOND).values()) == {1}


@pytest.mark.parametrize("name", ["flora", "fedex-lora"])
def test_a_base_moves_by_the_exact_mean_product(start_run, job_of, open_job_of, finished, name):
    """What all layers come to after two rounds, residual and factors together, in the clear and encrypted."""
    begun = {}

    def listen(request, reply, assignment):
        if request.metadata.message_type == TRAIN:
            sent = reply.content["arrays"]
            assert not any(is_residual(n) for n in sent), "a residual went up"
            begun[assignment.round] = dict(clear.arrays)
        return [reply]

    training = {**QUICK["training"], "rounds": 2}
    sections = {**QUICK, "strategy": {"name": name}, "training": training}
    clear = start_run(open_job_of("bert", **sections), listen, name="clear")
    assert all(not np.any(a) for n, a in clear.arrays.items() if is_residual(n))
    run_rounds(clear)
    owners = len(finished) // 2
    last = [
        products({n: begun[2][n] + moved for n, moved in update.items()})
        for _, update in finished[owners:]
    ]
    base = bases(begun[2])
    for layer, found in together(clear.arrays).items():
        wanted = base[layer] + np.mean([one[layer] for one in last], axis=0)
        assert np.linalg.norm(found - wanted) <= 1e-6 * np.linalg.norm(wanted)
        assert np.linalg.norm(bases(clear.arrays)[layer]) > 0
    told = clear.folder.told(Rebase)
    assert [event.round for event in told] == [1, 2]
    assert told[1].norm == pytest.approx(
        np.sqrt(sum(np.linalg.norm(one) ** 2 for one in bases(clear.arrays).values())), rel=1e-5
    )
    masked = start_run(job_of("bert", **sections), name="masked")
    run_rounds(masked)
    for layer, found in together(masked.arrays).items():
        wanted = together(clear.arrays)[layer]
        assert np.linalg.norm(found - wanted) <= 1e-4 * np.linalg.norm(wanted)


def bases(model):
    """What a residual adds to each layer, by the name of its factor B."""
    found = {layer: b.astype(float) @ a.astype(float) for layer, b, a in pairs_of_residual(model)}
    return {f"{layer}.lora_B.default.weight": product for layer, product in found.items()}


def together(model):
    return {layer: product + bases(model)[layer] for layer, product in products(model).items()}


def test_a_residual_that_is_too_narrow_says_what_it_drops(start_run, open_job_of):
    options = {"name": "flora", "options": {"residual_rank": 1}}
    run = start_run(open_job_of("bert", **{**QUICK, "strategy": options}), name="narrow")
    run_rounds(run)
    [told] = run.folder.told(Rebase)
    assert told.rank == 1
    assert 0.1 < told.dropped / told.norm < 10


def test_a_rule_of_one_sum_has_no_residual(start_run, open_job_of, in_a_module):
    name = in_a_module(type("Own", (FedAvg,), {"residual": 4, "fits": ("lora",)}))
    with pytest.raises(StrategyError, match="residual, which only a rule with a second sum"):
        start_run(open_job_of("bert", **{**QUICK, "strategy": {"name": name}}))


def test_the_sums_of_flexlora_hold_no_factors(start_run, open_job_of):
    """Rows that only one owner's rank has would be that owner's own in them."""
    sent = []

    def listen(request, reply, assignment):
        if request.metadata.message_type == TRAIN:
            record = reply.content["arrays"]
            sent.append({name: array.numpy() for name, array in record.items()})
        return [reply]

    run = start_run(open_job_of("bert", **QUICK), listen, name="zeros")
    before = dict(run.arrays)
    run_rounds(run)
    for update in sent:
        factors = {name for name in before if factor_of(name)}
        assert factors
        assert not factors & update.keys()
        assert {f"sketches/{name}" for name in factors if factor_of(name) == "B"} < update.keys()
        assert all(array.any() for array in update.values())
    assert any(np.any(run.arrays[name] != before[name]) for name in factors)


def test_owners_of_smaller_ranks_train_exactly_those(start_run, open_job_of, finished):
    """Under privacy too, where each step's noise reaches every entry."""
    sections = {**QUICK, "simulation": {"ranks": [1, 2]}}
    run = start_run(open_job_of("bert", **sections), name="mixed")
    run_rounds(run)
    assert sorted({half.rank for half, _ in finished}) == [0, 1]  # 0: the job's
    held = set()
    for half, update in finished:
        rank = half.rank or 2
        for pair in pairs_of({name: array.shape for name, array in run.arrays.items()}):
            b, a = pair.factors(update)
            rows = set(np.flatnonzero(np.abs(a).sum(axis=1)))
            assert rows == set(np.flatnonzero(np.abs(b).sum(axis=0))) == set(range(rank))
            held.add(len(rows))
    assert held == {1, 2}


@pytest.mark.parametrize(
    ("name", "ranks", "reason"),
    [("fedavg", [1, 2], '"flexlora"'), ("flexlora", [1, 4], "model.lora.rank = 2")],
)
def test_ranks_that_cannot_be_are_refused_with_what_can(
    start_run, open_job_of, name, ranks, reason
):
    sections = {**QUICK, "strategy": {"name": name}, "simulation": {"ranks": ranks}}
    with pytest.raises(PlanRefused, match=reason):
        start_run(open_job_of("bert", **sections))


def test_a_round_begins_again_if_one_of_the_first_sum_is_missing_in_the_second(start_run, job_of):
    """It is then trained again, and charged: what was opened once enters no other sum."""
    silent = []

    def fault(request, reply, assignment):
        if request.metadata.message_type == SECOND and assignment.attempt == 0:
            silent.append(request.metadata.dst_node_id)
            return [] if request.metadata.dst_node_id == 2 else [reply]
        return [reply]

    run = start_run(job_of("bert", **QUICK), fault, name="missing", reproducible=False)
    run_rounds(run)
    first, second = run.folder.told(Round)
    assert silent
    assert (first.aggregated, second.aggregated) == (False, True)
    assert all(second.epsilon[name] > first.epsilon[name] for name in first.epsilon)


def test_the_second_sum_costs_nothing(start_run, job_of):
    told = {}

    def listen(request, reply, assignment):
        kind = request.metadata.message_type
        if kind in (TRAIN, SECOND):
            told.setdefault(kind, {})[request.metadata.dst_node_id] = reply.content["metrics"][
                "epsilon"
            ]
        return [reply]

    run = start_run(job_of("bert", **QUICK), listen, name="cost")
    run_rounds(run)
    assert told[TRAIN] == told[SECOND]
    assert all(told[TRAIN].values())


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"privacy": {"unit": "client", "delta": 0.1}}, '"ffa-lora"'),
        ({"encryption": {"confirm": False}}, "encryption.confirm = true"),
        ({"model": {"adapter": "head"}}, '"lora"'),
    ],
)
def test_what_two_sums_cannot_be_right_with_is_refused_by_the_plan(
    start_run, job_of, sections, reason
):
    with pytest.raises(PlanRefused, match=reason):
        start_run(job_of("bert", **{**QUICK, **sections}))


@pytest.mark.parametrize("name", ["lora-fair", "hetlora"])
def test_other_rules_of_mixed_ranks_come_to_the_same_with_and_without_encryption(
    start_run, job_of, open_job_of, name
):
    sections = {**QUICK, "strategy": {"name": name}, "simulation": {"ranks": [1, 2]}}
    clear = start_run(open_job_of("bert", **sections), name="clear")
    masked = start_run(job_of("bert", **sections), name="masked")
    before = dict(clear.arrays)
    for run in (clear, masked):
        run_rounds(run)
    for tensor, array in clear.arrays.items():
        assert masked.arrays[tensor] == pytest.approx(array, abs=1e-5)
    assert all(np.any(clear.arrays[tensor] != before[tensor]) for tensor in before)


class Alternating(FlexLora):
    """Odd rounds train every other layer, even ones the rest; the head each time."""

    def trains(self, round_, shapes):
        rests = {name for pair in pairs_of(shapes)[round_ % 2 :: 2] for name in (pair.a, pair.b)}
        return [name for name in shapes if name not in rests]


def test_two_sums_are_of_what_a_round_trains(in_a_module, start_run, job_of, open_job_of):
    own = {"strategy": {"name": in_a_module(Alternating)}}
    own["training"] = {**QUICK["training"], "rounds": 2}
    runs = [
        start_run(job("bert", **{**QUICK, **own}), name=name)
        for name, job in (("clear", open_job_of), ("masked", job_of))
    ]
    before = products(runs[0].arrays)
    models = []
    for run in runs:
        run_rounds(run)
        assert [line.aggregated for line in run.folder.told(Round)] == [True, True]
        models.append(products(run.arrays))
    for name, found in models[0].items():
        assert np.any(found != before[name])
        assert np.linalg.norm(models[1][name] - found) <= 1e-4 * np.linalg.norm(found)


class Kept(Sketches):
    @classmethod
    def state(cls, shapes):
        return {"kept": (1,)}


OWN = {
    "state": {"local": Kept},
    "personal": {"personal": classmethod(lambda cls, shapes: list(shapes)[-1:])},
    "apart": {"apart": PulledToShared},
}


@pytest.mark.parametrize("own", OWN)
def test_a_second_sum_of_what_is_an_owners_own_is_refused_by_the_plan(
    own, in_a_module, start_run, open_job_of
):
    """An owner finds the update of a second request by what all were sent, and would not find these."""
    name = in_a_module(type("Own", (FlexLora,), OWN[own]))
    with pytest.raises((PlanRefused, StrategyError), match="give the rule no state"):
        start_run(open_job_of("bert", **{**QUICK, "strategy": {"name": name}}))
    with pytest.raises(StrategyError, match="give the rule no state"):
        second_of(
            StrategySpec(name=name), {"w.lora_A": (1, 2), "w.lora_B": (2, 1), "head": (1,)}, 1
        )


@pytest.mark.parametrize(
    ("name", "trip", "times"),
    [("flexlora", 1, 0.5), ("flexlora", 2, 0.5), ("lora-fair", 2, 2.0), ("hetlora", 1, 0.5)],
)
def test_owners_refuse_a_reach_that_does_not_follow_from_the_model(
    start_run, job_of, name, trip, times
):
    """By a smaller one each owner's vector would be scaled down, by a factor of its own."""
    run = start_run(job_of("bert", **{**QUICK, "strategy": {"name": name}}), name="told")
    rule = run.strategy.inner
    scales = rule.scales

    def others(model, asked=None):
        found = dict(scales(model, asked))
        if trip == (1 if asked is None else 2):
            last = list(found)[-1]
            found[last] *= times
        return found

    rule.scales = others
    with pytest.raises(UmbelError, match="other reaches"):
        run_rounds(run)
    assert not any(told.aggregated for told in run.folder.told(Round))


def test_an_update_that_is_sent_again_is_in_both_sums_as_if_it_were_sent_once(start_run, job_of):
    """Nobody confirms the first slot; the same updates are masked again, and charged once."""
    models, left = [], []

    def nobody_confirms(request, reply, assignment):
        if request.metadata.message_type == CONFIRM and len(left) < 4:
            left.append(request.metadata.dst_node_id)
            return [refuse(request, FAILED, "it was killed")]
        return [reply]

    for name, fault in (("once", None), ("again", nobody_confirms)):
        run = start_run(job_of("bert", **QUICK), fault, name=name)
        run_rounds(run)
        models.append(products(run.arrays))
        assert [told.aggregated for told in run.folder.told(Round)][-1]
        for ledger in (run.folder.path / "ledgers").glob("*.sqlite"):
            with Ledger(ledger) as rows:
                assert len(rows.entries_of(run.id)) == 1
    assert len(set(left)) == 4
    for name, found in models[0].items():
        assert np.linalg.norm(models[1][name] - found) <= 1e-4 * np.linalg.norm(found)
