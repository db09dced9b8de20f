"""A strategy's local half at an owner: whose code runs, and what leaves with the update."""

import re
import sys

import numpy as np
import pytest

from umbel.client.kept import KeptUpdates
from umbel.client.own_state import OwnStates
from umbel.client.policy import Policy
from umbel.client.timing import Timing
from umbel.clock import SystemClock
from umbel.learning.pace import Pace
from umbel.learning.probing.received import MOST_WEIGHT
from umbel.strategies import LocalRule
from umbel.strategies.averaging import FedAvg
from umbel.strategies.personal import LocalHead
from umbel.wire.arrays import to_arrays
from umbel.wire.requests import LOCAL_HALF, TRAIN, Assignment

OWN = """
from umbel.strategies import Channel, LocalRule, Rule


class Doubled(LocalRule):
    def further(self, update):
        return {"double": {name: 2 * array for name, array in update.items()}}


class Twice(Rule):
    local = Doubled

    def channels(self, shapes):
        return (Channel("update", shapes), Channel("double", shapes))

    def next_model(self, model, mean_update):
        return model
"""


@pytest.fixture
def twice(tmp_path, monkeypatch):
    """A strategy of somebody's own, installed here."""
    (tmp_path / "my_twice.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_twice:Twice"
    sys.modules.pop("my_twice", None)


def test_the_time_of_a_run_counts_a_model_that_accepted_code_trains_apart(
    owner, open_job_of, tmp_path, monkeypatch
):
    """Else a policy's jobs.max_hours would let pass what trains twice as long."""
    (tmp_path / "my_apart.py").write_text(
        "from umbel.strategies.ditto import Ditto\n\nclass Own(Ditto):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    pace = Pace(start=0.5, step=0.1, record=0.01, alone=0.02, tested=0.003, prepared=0.004)
    seconds = {}
    for name in ("ditto", "my_apart:Own"):
        job = open_job_of(strategy={"name": name})
        mary = owner(job, timing=Timing(SystemClock(), pace, "mary"))
        order = Assignment("0.1.0", "run", job.to_json(), 1, 0, job.training.rounds)
        seconds[name] = mary.agent._rounds.numbers.seconds(job, order)
    sys.modules.pop("my_apart", None)
    assert seconds["my_apart:Own"] == seconds["ditto"] > 0


def test_an_update_is_kept_and_repeated_with_all_that_its_strategy_adds(
    owner, open_job_of, twice, tmp_path
):
    job, told = open_job_of(strategy={"name": twice}), {LOCAL_HALF: twice}
    first, again = (
        to_arrays(mary.ask(TRAIN, 1, attempt, config=told).content["arrays"])
        for attempt in (0, 1)
        for mary in [owner(job, kept=KeptUpdates(tmp_path / "kept"))]
    )
    mary = owner(job)
    assert list(first) == [*mary.learner.initial, *(f"double/{n}" for n in mary.learner.initial)]
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert all(np.array_equal(first[f"double/{n}"], 2 * first[n]) for n in mary.learner.initial)
    assert len(mary.entries()) == 1


@pytest.mark.parametrize("reach", [0.5, 3.0, 2.0**21, "2"])
def test_a_reach_that_no_channel_can_have_costs_nothing(owner, open_job_of, twice, reach):
    """It would fail after the steps, and again in the noise that then leaves in place of an update."""
    mary = owner(open_job_of(strategy={"name": twice}))
    reply = mary.ask(TRAIN, 1, config={LOCAL_HALF: twice, "reach-double": reach})
    assert re.search("double", reply.error.reason)
    assert not mary.entries()


class Far(LocalRule):
    """Of the first class's bias."""

    begun = corrected = 0.0

    def begins(self, model):
        found = {name: array.copy() for name, array in model.items()}
        for array in found.values():
            array[:1] += self.begun if array.ndim == 1 else 0
        return found

    def correct(self, name, gradient, weight, start):
        gradient[:1] -= self.corrected / self.rates if gradient.ndim == 1 else 0


@pytest.mark.parametrize(("begun", "corrected"), [(7e3, 0.0), (0.0, 7e3), (7e3, 7e3)])
def test_corrections_are_checked_from_where_the_steps_begin(
    owner, open_job_of, in_a_module, begun, corrected
):
    half = type("Half", (Far,), {"begun": begun, "corrected": corrected})
    name = in_a_module(type("Own", (FedAvg,), {"local": half}))
    reply = owner(open_job_of(strategy={"name": name})).ask(TRAIN, 1, config={LOCAL_HALF: name})
    assert reply.has_error() == (begun + corrected > MOST_WEIGHT), reply


def test_an_owners_own_tensors_are_checked_as_the_steps_begin_with_them(
    owner, open_job_of, in_a_module, tmp_path
):
    class Larger(LocalRule):
        def begins(self, model):
            return {n: a + 1e6 if "head" in n else a for n, a in model.items()}

    name = in_a_module(type("Own", (LocalHead,), {"local": Larger}))
    job = open_job_of(strategy={"name": name}, model={"adapter": "lora"})
    mary = owner(job, states=OwnStates(tmp_path / "states"))
    reply = mary.ask(TRAIN, 1, config={LOCAL_HALF: name}, fixed=mary.learner.fixed_digest)
    assert "weight" in reply.error.reason
    assert not mary.entries()


@pytest.mark.parametrize(
    ("accepted", "told", "words"),
    [
        ([], {}, r'jobs\.strategies = \["my_twice:Twice"\]'),
        (["my_twice:Twice"], {LOCAL_HALF: "os:system"}, "not for that of the job's"),
    ],
)
def test_a_local_half_that_its_owner_did_not_name_is_refused_and_charged_nothing(
    accepted, told, words, owner, open_job_of, twice
):
    job = open_job_of(strategy={"name": twice})
    permits = Policy.simulated(job)
    jobs = permits.jobs.model_copy(update={"strategies": accepted})
    mary = owner(job, policy=permits.model_copy(update={"jobs": jobs}))
    reply = mary.ask(TRAIN, config={LOCAL_HALF: twice, **told})
    assert re.search(words, reply.error.reason)
    assert mary.entries() == []
    assert accepted or "my_twice" not in sys.modules


@pytest.mark.parametrize(
    ("strategy", "told"),
    [
        ({"name": "fedprox", "options": {"proximal_mu": 0.5}}, {"proximal-mu": 0.25}),
        ({"name": "fedprox"}, {}),
        ({"name": "FedProx", "options": {"proximal_mu": 0.5}}, {"proximal-mu": 9.0}),
        ({"name": "FedProx"}, {"proximal-mu": 0.5}),
        ({"name": "la-lora", "options": {"smoothing": 0.5}}, {"smoothing": 0.25}),
        ({"name": "feddyn"}, {"dynamic-alpha": 1e9}),
    ],
)
def test_what_a_local_half_is_told_follows_from_the_job_or_is_refused(
    strategy, told, owner, open_job_of
):
    """A server that pulls harder than the job says would ask something else of the records."""
    mary = owner(open_job_of(strategy=strategy))
    reply = mary.ask(TRAIN, config=told)
    assert "but in the job it is" in reply.error.reason
    assert mary.entries() == []


BY_LOSS = """
import numpy as np

from umbel.strategies import Channel, LocalRule, Rule


class Told(LocalRule):
    needs_loss = True

    def further(self, update):
        return {"loss": {"mean": np.array([self.loss], np.float32)}}


class ByLoss(Rule):
    local = Told

    def channels(self, shapes):
        return (Channel("update", shapes), Channel("loss", {"mean": (1,)}, reach=64.0))

    def next_model(self, model, mean_update):
        return model
"""


def test_no_loss_of_private_records_leaves_by_a_strategy_that_its_owner_accepts(
    owner, open_job_of, tmp_path, monkeypatch
):
    (tmp_path / "my_by_loss.py").write_text(BY_LOSS)
    monkeypatch.syspath_prepend(tmp_path)
    name = "my_by_loss:ByLoss"
    mary = owner(open_job_of(strategy={"name": name}))
    reply = mary.ask(TRAIN, config={LOCAL_HALF: name})
    sys.modules.pop("my_by_loss", None)
    assert "by its loss, which no noise covers" in reply.error.reason
    assert mary.entries() == []


def test_a_policy_looks_at_the_code_that_it_accepts(open_job_of, twice):
    job = open_job_of(strategy={"name": twice})
    permits = Policy.simulated(job)
    assert permits.reasons(job) == []
    jobs = permits.jobs.model_copy(update={"strategies": ["not_here:Rule"]})
    other = job.model_copy(
        update={"strategy": job.strategy.model_copy(update={"name": "not_here:Rule"})}
    )
    reasons = permits.model_copy(update={"jobs": jobs}).reasons(other)
    assert "does not load here" in " ".join(reasons)
