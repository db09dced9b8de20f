"""Whole rounds of strategies that train some of an adapter's tensors: what travels, rests, and is refused."""

import dataclasses
import re

import numpy as np
import pytest

from umbel.errors import PlanRefused, RoundFailed
from umbel.learning.model import arrays_digest
from umbel.run.events import Ready
from umbel.server.readiness import prepare
from umbel.server.rounds import run_rounds
from umbel.strategies.factors import factor_of
from umbel.wire.requests import PREPARE, TRAIN, Readiness

LORA = {"adapter": "lora"}
TRAINED = {"ffa-lora": ["B", "B"], "rolora": ["B", "A"]}
"""The factor that each of two rounds trains."""
QUICK = {"training": {"rounds": 2, "local_steps": 1, "batch_size": 64}, "model": LORA}


@pytest.mark.parametrize("name", TRAINED)
def test_a_round_sends_what_it_trains_and_the_rest_stays_as_it_was(
    start_run, job_of, open_job_of, name
):
    """Sums and single updates come to the same, with noise that is made for the round's numbers."""
    sent, models = {}, []

    def listen(request, reply, assignment):
        if request.metadata.message_type == TRAIN:
            sent.setdefault(assignment.round, set()).update(reply.content["arrays"])
            if len(models) < assignment.round:
                models.append(dict(clear.arrays))
        return [reply]

    sections = {**QUICK, "strategy": {"name": name}, "evaluation": {"counts": "off"}}
    clear = start_run(open_job_of("bert", **sections), listen, name="clear")
    run_rounds(clear)
    models.append(clear.arrays)
    for number, factor in enumerate(TRAINED[name], start=1):
        before, after = models[number - 1 : number + 1]
        assert {factor_of(tensor) for tensor in sent[number]} == {factor, None}
        for tensor, array in before.items():
            moved = bool(np.any(array != after[tensor]))
            assert moved == (tensor in sent[number]), tensor
    factors = {factor_of(tensor) for tensor in clear.arrays}
    assert factors == ({"B", None} if name == "ffa-lora" else {"A", "B", None})
    assert bool(clear.plan.model.fixed_digest) == (name == "ffa-lora")
    if name == "rolora":  # the sums of the other one have one layout
        masked = start_run(job_of("bert", **sections), name="masked")
        run_rounds(masked)
        for tensor, array in clear.arrays.items():
            assert masked.arrays[tensor] == pytest.approx(array, abs=1e-4)


@pytest.mark.parametrize("unit", [pytest.param("example", marks=pytest.mark.slow), "client"])
def test_a_run_that_stops_between_two_layouts_goes_on_to_the_same_model(start_run, job_of, unit):
    sections = {**QUICK, "strategy": {"name": "rolora"}, "evaluation": {"counts": "off"}}
    sections["privacy"] = {"unit": unit, "delta": 1e-3 if unit == "example" else 0.1}
    job = job_of("bert", **sections)
    whole = start_run(job, name="whole")
    run_rounds(whole)
    first = start_run(job, name="parts")
    first.should_stop = lambda: first.round == 1
    with pytest.raises(Exception, match="Stopped after round 1"):
        run_rounds(first)
    again = start_run(job, name="parts")
    again.restore()
    assert again.round == 1
    run_rounds(again)
    assert arrays_digest(again.arrays) == arrays_digest(whole.arrays)


def test_who_says_that_it_holds_other_fixed_factors_takes_no_part(start_run, job_of):
    """As another version of a library might have drawn them."""

    def fault(request, reply, assignment):
        if (
            request.metadata.message_type == PREPARE
            and reply.content["readiness"]["name"] == "film"
        ):
            said = Readiness.from_record(reply.content["readiness"])
            reply.content["readiness"] = dataclasses.replace(said, fixed="0" * 64).to_record()
        return [reply]

    job = job_of("bert", **QUICK, strategy={"name": "ffa-lora"})
    run = start_run(job, fault)
    prepare(run)
    assert sorted(run.nodes) == sorted(run.plan.by_name.keys() - {"film"})
    [ready] = run.folder.told(Ready)
    assert re.search(
        "film has fixed adapter tensors that differ from the server's",
        " ".join(ready.failed.values()),
    )


def test_an_owner_refuses_a_server_with_other_fixed_factors_and_charges_nothing(start_run, job_of):
    run = start_run(job_of("bert", **QUICK, strategy={"name": "ffa-lora"}))
    model = dataclasses.replace(run.plan.model, fixed_digest="0" * 64)
    run.plan = dataclasses.replace(run.plan, model=model)
    with pytest.raises(RoundFailed, match="has fixed adapter tensors that differ"):
        run_rounds(run)
    ledgers = (run.folder.path / "ledgers").glob("*.sqlite")
    assert not [path for path in ledgers if path.stat().st_size], "a size was published"


@pytest.mark.parametrize("name", TRAINED)
def test_a_plan_names_the_nearest_strategy_that_fits_the_adapter(start_run, job_of, name):
    job = job_of("bert", model={"adapter": "head"}, strategy={"name": name})
    with pytest.raises(
        PlanRefused, match=rf'"{name}" needs model.adapter = "lora".*take strategy.name = "fedavg"'
    ):
        start_run(job)


def test_a_plan_counts_the_bytes_of_what_rounds_send(start_run, open_job_of):
    plans = {
        name: start_run(open_job_of("bert", **QUICK, strategy={"name": name}), name=name).plan
        for name in ("fedavg", "ffa-lora", "rolora")
    }
    whole, ffa, turns = (plans[name].to_dict() for name in ("fedavg", "ffa-lora", "rolora"))
    shapes = plans["fedavg"].model.trained
    numbers = dict.fromkeys(("A", "B", None), 0)
    for tensor, shape in shapes.items():
        numbers[factor_of(tensor)] += int(np.prod(shape))
    up = "bytes_up_per_client_round"
    assert whole[up] == 4 * sum(numbers.values())
    assert ffa[up] == ffa["bytes_down_per_client_round"] == 4 * (numbers["B"] + numbers[None])
    assert turns[up] == 4 * numbers[None] + 2 * (numbers["A"] + numbers["B"])
