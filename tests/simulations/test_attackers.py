"""Virtual clients that attack: what they send, that a mean breaks of it, and that a defence holds."""

import json
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.consortium.authority import Consortium
from umbel.errors import JobError, PlanRefused
from umbel.job import Job
from umbel.job.attacks import ATTACKS
from umbel.planning.cohorts import attackers_of
from umbel.privacy.secagg.roster import Limits
from umbel.server.signing import sign_order
from umbel.simulations.attackers import (
    a_little_is_enough,
    inner_product,
    most_deviations,
)
from umbel.simulations.engine import Options, simulate
from umbel.simulations.federation import federate
from umbel.simulations.site import Site, SiteSettings

NAMES = [f"client-{number:04}" for number in range(40)]


def updates_of(seed, count, shape):
    draw = np.random.default_rng(seed)
    return [{"a": draw.normal(size=shape).astype(np.float32)} for _ in range(count)]


@given(st.integers(0, 2**20), st.integers(1, 9), st.floats(0.01, 10))
@settings(max_examples=50)
def test_lies_that_follow_from_honest_updates_are_those_of_the_papers(seed, count, factor):
    updates = updates_of(seed, count, (2, 3))
    stack = np.stack([update["a"] for update in updates]).astype(np.float64)
    mean, deviation = stack.mean(axis=0), np.sqrt(((stack - stack.mean(axis=0)) ** 2).mean(axis=0))
    assert inner_product(updates, factor)["a"] == pytest.approx(-factor * mean, abs=1e-5)
    expected = mean - factor * deviation
    assert a_little_is_enough(updates, factor)["a"] == pytest.approx(expected, abs=1e-5)


def test_a_little_is_as_much_as_the_paper_says():
    """Of 50 clients 24 attackers need 2 supporters, so z is that of (26 - 2) / 26 (Baruch et al.)."""
    assert most_deviations(50, 24) == pytest.approx(NormalDist().inv_cdf(24 / 26))
    assert most_deviations(40, 8) == pytest.approx(NormalDist().inv_cdf(19 / 32))
    assert most_deviations(40, 1) == 0.0


def test_a_model_is_replaced_by_who_sends_as_many_times_its_lie_as_all_weigh():
    assert ATTACKS["model-replacement"].boost(40, 4) * 4 == 40


@given(st.permutations(NAMES), st.sampled_from([0.01, 0.1, 0.2, 0.49]), st.integers(0, 9))
@settings(max_examples=30)
def test_who_attacks_follows_from_the_seed_alone(names, share, seed):
    values = {"data": {"path": "a.csv"}, "seed": seed, "simulation": {"attackers": share}}
    found = attackers_of(names, Job.build(values))
    assert found == attackers_of(NAMES, Job.build(values))
    assert len(found) == math.ceil(share * 40)


def test_a_job_without_attackers_keeps_its_digest():
    plain = Job.build({"data": {"path": "a.csv"}})
    assert "attack" not in plain.to_json()
    assert "attack" in plain.changed({"simulation.attackers": 0.1}).to_json()


@pytest.mark.parametrize("attack", ["label-flip", "model-replacement"])
def test_texts_without_classes_have_none_to_flip(attack):
    values = {"attackers": 0.1, "attack": attack}
    with pytest.raises(JobError, match="opposite classes, and causal-lm has none"):
        Job.build({"task": "causal-lm", "data": {"path": "a.csv"}, "simulation": values})


@pytest.fixture(scope="module")
def two_words(tmp_path_factory):
    """What anybody can learn: a text is its class."""
    path = tmp_path_factory.mktemp("words") / "words.csv"
    rows = [f"{'good' if n % 2 else 'bad'} {n % 50},{n % 2}" for n in range(500)]
    path.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def attacked(open_job_of, two_words):
    """A job in the clear of ten clients."""

    def build(strategy, attack=None, clients=10, **sections):
        options = {} if strategy == "fedavg" else {"attackers": 0.2}
        simulation = {"partition": "iid", "clients": clients}
        simulation |= {"attackers": 0.2, **attack} if attack else {}
        values = {
            "model": {"adapter": "head"},
            "privacy": {"unit": "none"},
            "data": {"path": str(two_words), "labels": ["0", "1"]},
            "training": {"rounds": 2, "local_steps": 8, "learning_rate": 0.05},
            "strategy": {"name": strategy, "options": options, "weighting": "equal"},
            "evaluation": {"every": 0},
            "simulation": simulation,
        }
        return open_job_of("bert", **(values | sections))

    return build


def result(job, path):
    folder = simulate(job, Options(path, workers=1, reproducible=True))
    return json.loads((folder.path / "result.json").read_text())


def test_attackers_break_the_mean_and_not_the_median(attacked, tmp_path):
    attack = {"attack": "sign-flip", "attack_boost": 30.0}
    honest, broken, held = (
        result(attacked(strategy, lie), tmp_path / f"{strategy}-{bool(lie)}")
        for strategy, lie in (("fedavg", None), ("fedavg", attack), ("median", attack))
    )
    assert honest["attackers"] is None
    assert broken["attackers"] == held["attackers"]
    assert len(held["attackers"]["clients"]) == 2
    assert honest["metrics"]["accuracy"] > 0.95
    assert broken["metrics"]["accuracy"] < 0.6
    assert held["metrics"]["accuracy"] > honest["metrics"]["accuracy"] - 0.02


class TwoSites:
    """The clients spread over two sites, as over the processes of two workers."""

    def __init__(self, settings):
        self.sites = [Site(settings), Site(settings)]
        self.waiting = []

    def submit(self, key, method, node, message):
        self.waiting.append((key, self.sites[node % 2], node, message))

    def collect(self):
        while self.waiting:
            key, site, node, message = self.waiting.pop()
            yield key, site.handle(node, message)

    def forget(self):
        self.waiting.clear()

    def call(self, method, *arguments):
        return getattr(self.sites[0], method)(*arguments)


@pytest.mark.parametrize(
    ("attack", "privacy"),
    [("alie", {"epsilon": 8.0, "delta": 1e-3}), ("label-flip", {"unit": "none"})],
)
def test_an_attack_is_the_same_wherever_its_clients_run(attack, privacy, attacked, start_of):
    """Private steps and all: what a process does not hold of an attacker, it computes to the same bits."""
    job = attacked(
        "multi-krum",
        {"attack": attack, "attackers": 0.4},
        clients=7,
        privacy=privacy,
        training={"rounds": 1, "local_steps": 2, "learning_rate": 0.05},
    )
    one, two = (start_of(job, workers) for workers in (None, TwoSites))
    assert one == two
    assert start_of(job.changed({"simulation.attackers": None}), None) != one


@pytest.fixture
def start_of(tmp_path):
    """The digest of the model that a reproducible run of a job comes to."""
    from umbel.learning.model import arrays_digest
    from umbel.planning.plan import Plan
    from umbel.run.run_folder import RunFolder
    from umbel.server.rounds import run_rounds
    from umbel.server.run import Run
    from umbel.simulations.grid import InProcessGrid
    from umbel.simulations.workers import Inline
    from umbel.strategies import build_strategy

    def start(job, workers):
        path = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        federation = federate(job)
        settings = SiteSettings(federation, path / "ledgers", path / "owners", True)
        pool = (workers or Inline)(settings)
        shape, initial = pool.call("model")
        plan = Plan.compile(federation.job, federation.facts, shape)
        grid = InProcessGrid(pool, len(federation.shares))
        strategy = build_strategy(job.strategy, plan.total_weight)
        folder = RunFolder.create(path / "run", federation.job)
        run = Run("r", plan, grid, strategy, folder, initial)
        run_rounds(run)
        return arrays_digest(run.arrays)

    return start


def test_attackers_are_refused_between_machines(attacked, tmp_path):
    consortium = Consortium.create(tmp_path / "hospitals", "127.0.0.1", 9443, Limits())
    with pytest.raises(PlanRefused, match="applies only to umbel simulate: remove it"):
        sign_order(consortium, attacked("fedavg", {"attack": "ipm"}))
