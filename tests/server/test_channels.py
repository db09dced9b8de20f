"""A strategy's channels in whole rounds: what travels, what is clipped, and what the server can read."""

import sys
from pathlib import Path

import numpy as np
import pytest

from umbel.planning.terms import Terms
from umbel.planning.vector import Content
from umbel.privacy.noise.client_noise import l2_norm
from umbel.privacy.noise.scale import Scale
from umbel.privacy.randomness import reproducible_stream
from umbel.privacy.secagg.fixed_point import decode, encode
from umbel.server.rounds import run_rounds
from umbel.strategies import Channel, Channels, LocalRule
from umbel.strategies.averaging import FedAvg
from umbel.strategies.factors import factor_of
from umbel.wire.requests import TRAIN

EXAMPLES = Path(__file__).parents[2] / "examples" / "strategies"
OWN = {"name": "agreement:Agreement", "options": {"margin": 1e-4}}


@pytest.fixture(autouse=True)
def _agreement(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    yield
    sys.modules.pop("agreement", None)


def test_a_sum_and_single_updates_say_the_same_of_all_channels(start_run, open_job_of, job_of):
    sections = {
        "strategy": OWN,
        "privacy": {"unit": "none"},
        "training": {"rounds": 1},
        "evaluation": {"counts": "off"},
    }
    sent = []

    def listen(request, reply, assignment):
        if request.metadata.message_type == TRAIN:
            sent.append({name: a.numpy() for name, a in reply.content["arrays"].items()})
        return [reply]

    clear, masked = open_job_of("bert", **sections), job_of("bert", **sections)
    runs = [start_run(clear, listen, name="clear"), start_run(masked, name="masked")]
    before = {name: array.copy() for name, array in runs[0].arrays.items()}
    for run in runs:
        run_rounds(run)
    assert {len(arrays) for arrays in sent} == {2 * len(before)}
    for name, array in before.items():
        votes = np.stack([64 * arrays[f"votes/{name}"] for arrays in sent])
        assert set(np.unique(votes)) <= {-1, 0, 1}
        mean = np.mean([arrays[name].astype(np.float64) for arrays in sent], axis=0)
        expected = array + np.abs(votes.mean(0)) * mean
        assert runs[0].arrays[name] == pytest.approx(expected, abs=1e-6)
        assert runs[1].arrays[name] == pytest.approx(expected, abs=1e-4)


def test_under_client_level_privacy_all_channels_are_clipped_together(start_run, job_of):
    """However large what the local half adds, one client moves the sum by no more than the norm."""
    job = job_of(privacy={"unit": "client", "mechanism": "central", "clipping_norm": 0.5})
    shapes = {"w": (30,)}
    channels = Channels((Channel("update", shapes), Channel("more", shapes, 4.0)), shapes)
    terms, draw = Terms(job, 3), np.random.default_rng(7)
    content = Content(terms, channels, True, False)
    update = {"w": draw.normal(size=30).astype("f4")}
    further = {"more": {"w": 1e3 * draw.normal(size=30).astype("f4")}}
    vector = channels.vector(update, further)
    scale = Scale(3, content.clip)
    words = 0
    for client in range(3):
        part = terms.client_part(0.5, reproducible_stream(0, f"{client}"))
        share = content.contribution(vector, 0.0, None, 1, part=part)
        stream = reproducible_stream(1, f"{client}")
        words = words + encode(share, content.layout, scale, 1, stream.words)
    mean = content.read(decode(words, content.layout, scale, 1, 3)).mean
    assert l2_norm(list(mean.values())) <= 0.5
    assert l2_norm(list(mean.values())) == pytest.approx(0.5, rel=0.05)
    assert np.linalg.norm(mean["w"]) < 0.01 < np.linalg.norm(mean["more/w"])


def test_the_guarantee_names_what_is_added_up_beside_the_update(start_run, job_of):
    plan = start_run(job_of("bert", strategy=OWN, privacy={"unit": "client", "delta": 1e-3})).plan
    assert "of updates and votes together clipped to L2 norm" in plan.guarantee
    assert "only sums of updates, votes, counts and losses" in plan.guarantee
    numbers = plan.model.trained_parameters
    assert [(c.numbers, rounds) for c, rounds in plan.channels] == [
        (2 * numbers, plan.job.training.rounds)
    ]
    assert plan.to_dict()["bytes_up_per_client_round"] >= 8 * numbers
    assert plan.to_dict()["bytes_down_per_client_round"] == 4 * numbers


class Doubled(LocalRule):
    """Says twice how far the factors moved, and not how far."""

    def further(self, update):
        return {"doubled": {n: 2 * a for n, a in update.items() if factor_of(n)}}


class Halved(FedAvg):
    """FedAvg, whose factors travel in a channel of their own."""

    local = Doubled

    def __init__(self):
        super().__init__()
        self._heard, self._due = {}, []

    def channels(self, shapes):
        factors = {name: shape for name, shape in shapes.items() if factor_of(name)}
        self._due = list(factors)
        rest = {name: shape for name, shape in shapes.items() if name not in factors}
        return (Channel("update", rest), Channel("doubled", factors, 2.0))

    def hear(self, channel, name, mean):
        self._heard[name] = mean / 2

    def next_model(self, model, mean_update):
        said = {name: self._heard.pop(name) for name in model if name in self._heard}
        assert not said.keys() & mean_update.keys()
        assert list(said) == [self._due.pop(0) for _ in said], "in the model's order"
        return super().next_model(model, {**mean_update, **said})


LORA = {
    "model": {"adapter": "lora"},
    "training": {"rounds": 1, "local_steps": 1},
    "evaluation": {"counts": "off"},
}


@pytest.mark.parametrize("how", ["clear", "masked"])
def test_a_channel_may_take_the_place_of_an_updates_tensors(
    how, in_a_module, start_run, job_of, open_job_of
):
    """The same model as plain averaging comes to, of as many numbers, and with the same clip."""
    build = {"clear": open_job_of, "masked": job_of}[how]
    plain = start_run(build("bert", **LORA), name="plain")
    own = {"name": in_a_module(Halved)}
    other = start_run(build("bert", **LORA, strategy=own), name="own")
    begun = {name: array.copy() for name, array in plain.arrays.items()}
    for run in (plain, other):
        run_rounds(run)
    for name, array in plain.arrays.items():
        assert np.any(array != begun[name])
        assert other.arrays[name] == pytest.approx(array, abs=1e-7 if how == "clear" else 1e-4)
    plans = [run.plan for run in (plain, other)]
    assert len({plan.bytes_up for plan in plans}) == 1
    assert how == "clear" or len({plan.clip for plan in plans}) == 1


def test_hetlora_sends_as_many_numbers_as_plain_averaging_and_one_norm(start_run, job_of):
    names = ("fedavg", "hetlora")
    plans = {
        name: start_run(job_of("bert", **LORA, strategy={"name": name}), name=name).plan
        for name in names
    }
    assert plans["hetlora"].clip == plans["fedavg"].clip
    assert plans["hetlora"].bytes_up == plans["fedavg"].bytes_up + 4


def test_flexloras_first_sum_has_no_factors_changes(start_run, job_of):
    plan = start_run(job_of("bert", **LORA, strategy={"name": "flexlora"})).plan
    first, second = plan.to_dict()["sums"]
    shapes = plan.model.trained
    rest = sum(int(np.prod(shape)) for name, shape in shapes.items() if not factor_of(name))
    assert first["update"]["numbers"] == rest < plan.model.trained_parameters
    assert second.keys() == {"projections"}
