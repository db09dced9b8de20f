"""An owner whose loss weighs its update in a private job: what it releases, and what it is charged."""

import hashlib
import math
import re

import numpy as np
import pytest

from umbel.client.kept import KeptUpdates
from umbel.client.own_state import OwnStates
from umbel.client.timing import Timing
from umbel.clock import SystemClock
from umbel.job.rate import rates_of_round
from umbel.learning import trainer
from umbel.learning.counts import counting
from umbel.learning.pace import Pace
from umbel.learning.tasks import task_for
from umbel.planning.facts import training_size
from umbel.planning.noise import private_recipe
from umbel.privacy.accounting import second
from umbel.privacy.noise.counts_noise import LOSS_STEPS
from umbel.privacy.noise.loss_noise import LossNoise
from umbel.privacy.noise.sizes import SIZE_EVENT
from umbel.privacy.randomness import SecretStream
from umbel.wire.arrays import to_array_record, to_arrays
from umbel.wire.requests import TRAIN, WEIGHT, Assignment, only_metrics

GAMMA, CLIP = 0.5, 4.0
TOLD = {"afl": {"afl-gamma": GAMMA}, "q-fedavg": {"q": 1.0}}
OPTIONS = {"afl": {"gamma": GAMMA}, "q-fedavg": {"q": 1.0}}


@pytest.fixture
def asked(owner, open_job_of, streams, tmp_path):
    """An owner of a job, and what it sends in answer to a request to train."""

    def build(name="afl", round_=1, privacy=None, **options):
        job = open_job_of(
            strategy={"name": name, "options": OPTIONS[name], "weighting": "equal"},
            model={"adapter": "head"},
            privacy=privacy or {},
            evaluation={"counts": "off"},
        )
        fresh = streams("secrets")
        options = {"secrets": lambda what: fresh(), **options}
        mary = owner(job, states=OwnStates(tmp_path / "states"), **options)

        def ask(**changes):
            beside = to_array_record({"offset": np.zeros(1, np.float32)})
            records = {"beside": beside} if name == "afl" else {}
            return mary.ask(TRAIN, round_, config=TOLD[name], records=records, **changes)

        return mary, ask

    return build


def sent_by(reply):
    assert not reply.has_error(), reply.error.reason
    return to_arrays(reply.content["arrays"])


def loss_in(sent):
    """The server's attack on AFL's first round, in which lambda is 1: both normalisers tell the loss."""
    share, grown = float(sent["normaliser/share"][0]), float(sent["next-normaliser/share"][0])
    return math.log(grown * 2.0**12 / (share * 2.0**6)) / GAMMA


def steps_of(mary, examples):
    """The sum that the loss is made of: what no server may see."""
    task = task_for(mary.job, 2)
    clipped = counting(mary.job, task, CLIP)
    return trainer.test(mary.learner, clipped, mary.learner.initial, examples).loss


def size_of(mary):
    return training_size(mary.account.size.value.data, 0.8)


def test_a_round_is_charged_its_steps_and_its_loss_and_no_more(asked):
    mary, ask = asked()
    reply = ask()
    recipe = private_recipe(mary.job, size_of(mary), mary.job.training.rounds)
    assert [(e.what, e.event) for e in mary.entries()] == [
        ("loss 1", recipe.loss_event), ("1", recipe.round_event),
    ]  # fmt: skip
    spent = second.epsilon([SIZE_EVENT, recipe.loss_event, recipe.round_event], 1e-3)
    assert only_metrics(reply.content)["epsilon"] == pytest.approx(spent, rel=5e-3)
    assert set(only_metrics(reply.content)) == {"epsilon", WEIGHT, "own-state"}


def test_the_loss_is_charged_before_a_record_is_read(asked, monkeypatch):
    mary, ask = asked()
    seen = []
    monkeypatch.setattr(
        "umbel.client.work.WorkHere.tested",
        lambda *_, **__: seen.extend(e.what for e in mary.entries()) or 1 / 0,
    )
    assert not ask().has_error()  # what cannot be computed is told as of no record
    assert seen == ["loss 1", "1"]


def test_without_noise_the_server_reads_the_loss_and_with_it_a_noised_one(asked, monkeypatch):
    """One record fewer would then change what it reads by that record's own loss."""
    mary, ask = asked()
    whole, size = steps_of(mary, mary.data.train), size_of(mary)

    def read():
        return loss_in(sent_by(ask())) / CLIP * size * LOSS_STEPS

    drawn = []
    true = LossNoise.draw.__func__

    def noted(cls, *given):
        drawn.append(true(cls, *given))
        return drawn[-1]

    with monkeypatch.context() as patch:
        patch.setattr(LossNoise, "draw", classmethod(noted))
        read_of_noised = read()
    [noise] = drawn
    assert abs(noise.drawn) > 1
    assert read_of_noised == pytest.approx(noise.hide(whole) / CLIP * size * LOSS_STEPS, abs=0.5)
    with monkeypatch.context() as patch:
        patch.setattr(LossNoise, "draw", classmethod(lambda cls, e, c, n, s: cls(e, c, n, 0)))
        assert round(read()) == whole
    one = mary.data.train.take(np.arange(1, len(mary.data.train)))
    assert steps_of(mary, one) < whole


@pytest.mark.parametrize("clip", [0.01, 0.7, 50.0])
def test_a_record_adds_a_whole_number_of_steps_and_no_more_than_the_noise_is_for(asked, clip):
    mary, _ = asked()
    clipped, some = counting(mary.job, task_for(mary.job, 2), clip), mary.data.train
    whole, *less = (
        trainer.test(mary.learner, clipped, mary.learner.initial, part).loss
        for part in (some, *(some.take(np.delete(np.arange(len(some)), one)) for one in range(5)))
    )
    assert isinstance(whole, int)
    assert all(0 <= whole - one <= LOSS_STEPS for one in less)


def test_weight_and_normaliser_follow_from_one_released_loss(asked, monkeypatch):
    def secrets(what):
        return SecretStream.from_key(hashlib.sha256(what.encode()).digest())

    def sent(loss):
        monkeypatch.setattr(LossNoise, "hide", lambda self, total: loss)
        mary, ask = asked("q-fedavg", secrets=secrets)
        return mary.job, sent_by(ask())

    (_, whole), (job, some) = sent(CLIP), sent(3.0)
    update = {name: array for name, array in whole.items() if "/" not in name}
    assert all(np.array_equal(some[n], np.float32(0.75) * a) for n, a in update.items())
    squares = math.fsum(float(np.square(a.astype("f8")).sum()) for a in update.values())
    lipschitz = job.training.local_steps / rates_of_round(1, job.training)
    for found, relative in ((whole, 1.0), (some, 0.75)):
        part = relative + lipschitz / CLIP * squares  # of q = 1
        assert float(found["normaliser/share"][0]) * 64 == pytest.approx(part, rel=1e-5)


def test_an_update_that_is_sent_again_has_its_loss_in_it_and_costs_nothing(asked, tmp_path):
    kept = {"kept": KeptUpdates(tmp_path / "kept")}
    mary, ask = asked(**kept)
    first = sent_by(ask())
    again = sent_by(ask(attempt=1))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert len(mary.entries()) == 2
    states = OwnStates(tmp_path / "states")
    shapes = {"log-lambda": (1,), "known": (1,)}
    own = states.begin("run", mary.job.digest(), shapes, 1, lambda _: True)
    assert float(own.arrays["log-lambda"][0]) == pytest.approx(GAMMA * loss_in(first), rel=1e-4)


def test_a_loss_that_is_released_again_is_noised_and_charged_again(asked):
    mary, ask = asked()
    losses = {loss_in(sent_by(ask(attempt=attempt))) for attempt in (0, 1)}
    assert len(losses) == 2
    assert [entry.what for entry in mary.entries()] == ["loss 1", "1"] * 2


def test_the_time_of_an_answer_counts_the_work_on_the_loss(owner, open_job_of):
    pace = Pace(start=0.5, step=0.1, record=0.01, alone=0.02, tested=0.003, prepared=0.004)
    seconds = {}
    for name in ("fedavg", "q-fedavg"):
        job = open_job_of(strategy={"name": name}, evaluation={"counts": "off"})
        mary = owner(job, timing=Timing(SystemClock(), pace, "mary"))
        order = Assignment("0.1.0", "run", job.to_json(), 1, 0, job.training.rounds)
        numbers = mary.agent._rounds.numbers
        seconds[name] = numbers.seconds(job, order)
        most = mary.agent._rounds._timing.most(job, numbers.of_answers(job, order))
        assert (most.weighed > size_of(mary)) == (name == "q-fedavg")
    # Passes on the records, in each round, beside the steps; a little less noise for tests or none.
    assert seconds["q-fedavg"] > seconds["fedavg"] + 3 * size_of(mary) * pace.tested


@pytest.mark.parametrize("unit", ["client"])
def test_client_level_is_refused_at_the_owner(asked, unit):
    mary, ask = asked(privacy={"unit": unit})
    assert re.search("as large as its loss", ask().error.reason)
    assert mary.entries() == []
