"""Every benchmark still runs: with few of everything, and without a bar."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from umbel.job import Job
from umbel.learning.features import with_features
from umbel.learning.loading import load_learner
from umbel.learning.reading.picture_sizes import FORMATS
from umbel.simulations.federation import federate
from umbel.strategies import NAMES

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"
PARTS = {"deployment_agent", "deployment_jobs", "deployment_node", "deployment_trips",
         "deployment_watch", "first_result_sets", "kept", "pictures_reading", "questions", "secagg_demo",
         "secagg_flower", "secagg_meter", "secagg_slots", "secagg_stages", "spread",
         "strangers_crowd", "strategies_model", "strategies_report", "strategies_runs",
         "strategies_tuned"}  # fmt: skip
"""Of other benchmarks, which use or start them."""
ELSEWHERE = {"secagg", "dpsgd", "timing"}
"""Run by tests of what they measure."""
FIGURES = {
    "accounting": {"ratio", "ours_ms", "theirs_ms", "search"},
    "client_noise": {"noised", "plain", "excess_rounding"},
    "ledger": {"charge_ms", "naive_ms", "mechanisms_first_s"},
    "client_utility": {"points"},
    "first_result": {"gaps", "seconds", "missed"},
    "engine": {"head", "lora", "umbel_over_plain"},
    "examples": {"accuracy", "epsilon", "seconds"},
    "memory": {"few", "many", "ratio"},
    "privacy_utility": {"points", "missed"},
    "defences": {"rows", "missed"},
    "gpu": {"stages", "missed"},
    "fedbuff": {"rows", "missed"},
    "pictures": {"pooled", "runs", "reading", "missed"},
    "quantization": {"kinds", "equal", "missed"},
    "spans": {"f1", "pooled", "points", "missed"},
    "rounds": {"rows", "missed"},
    "strategies": {"board", "missed"},
    "deployment": {"rounds", "trips", "memory", "bars"},
    "strangers": {"memory", "bars"},
}
"""What each prints as JSON."""
QUICK = {"accounting", "client_noise"}
DEPLOYED = {"deployment"}
"""Whole deployments, several in a row: they run with those in which something dies."""


LONG = sorted(FIGURES.keys() - QUICK - DEPLOYED)
"""A third of them by date where `UMBEL_SWEEP` asks for parts: a minute or two each."""


def marked(name):
    if name in QUICK:
        return name
    return pytest.param(name, marks=pytest.mark.faults if name in DEPLOYED else pytest.mark.slow)


@pytest.fixture(scope="module")
def example_data():
    """What `make data` writes."""
    if not (ROOT / "examples" / "data" / "reviews.csv").exists():
        subprocess.run(
            [sys.executable, str(ROOT / "examples" / "fetch.py")], check=True, timeout=3600
        )


def smoke(name, *arguments):
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{name}.py"), "--smoke", *arguments],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
        timeout=3600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_benchmark_is_run_somewhere():
    found = {path.stem for path in BENCHMARKS.glob("*.py")}
    assert found == PARTS | ELSEWHERE | FIGURES.keys() | {"group_utility"}


def test_the_scoreboard_has_every_strategy():
    shown = "import strategies; print(*(entry.name for entry in strategies.BOARD))"
    done = subprocess.run(
        [sys.executable, "-c", shown],
        cwd=BENCHMARKS,
        capture_output=True,
        text=True,
        check=True,
        timeout=3600,
    )
    assert set(done.stdout.split()) == set(NAMES)


def test_reading_is_timed_for_pictures_of_each_format_that_is_accepted(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    reading = importlib.import_module("pictures_reading")
    assert {kind for _, kind, _ in reading.KINDS} == {*FORMATS}
    assert len(reading.measured(reading.FEW_SIDE)) == len(reading.KINDS), "each is read"


@pytest.mark.parametrize("name", map(marked, FIGURES))
def test_it_runs_and_prints_its_figures(name, example_data, sweep):
    if name in LONG and name not in sweep.drawn("benchmarks", LONG):
        pytest.skip(f"not in the third of the benchmarks that UMBEL_SEED={sweep.seed()} draws")
    assert FIGURES[name] <= json.loads(smoke(name, "--json")).keys()


@pytest.mark.slow
def test_where_a_rule_breaks_is_said_and_where_its_plan_refuses(example_data):
    rows = json.loads(smoke("defences", "--breaking", "--json", "--rules", "bulyan"))["breaking"]
    found = {row["attackers"]: row["worst"]["bulyan"] for row in rows}
    assert {share for share, worst in found.items() if worst["attack"] == "refused"} == {0.3, 0.4}
    assert {worst["attack"] for share, worst in found.items() if share < 0.3} == {"alie"}


@pytest.mark.slow
def test_the_benchmark_of_group_level_privacy_runs(example_data):
    assert "person" in smoke("group_utility")


@pytest.mark.slow
def test_the_last_layer_on_its_states_reads_what_the_whole_model_reads(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("UMBEL_CACHE", str(tmp_path / "cache"))
    strategies_model = importlib.import_module("strategies_model")
    monkeypatch.setattr(strategies_model, "DATA", tmp_path)
    texts = ["Who won?", "How far is the moon?", "Name a city in Peru."]
    rows = "".join(f'"{text}",some\n' for text in texts)
    (tmp_path / "few.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    made = strategies_model.last_layer({"data.path": "few.csv"})
    whole = features_of(strategies_model.MODEL, tmp_path / "few.csv", 128)
    last = features_of(made["model.base"], made["data.path"], strategies_model.STATES)
    assert whole.shape == last.shape == (3, 384)
    np.testing.assert_allclose(last, whole, atol=1e-5)


def features_of(model, data, longest):
    """What a head reads of each record, in the file's order."""
    job = Job.compose(
        None,
        {"model.base": str(model), "model.adapter": "head", "model.max_length": longest,
         "data.path": str(data), "data.test_fraction": 0.0, "data.labels": ["some", "other"],
         "simulation.clients": 1},
    )  # fmt: skip
    federation = federate(job)
    examples = federation.data(federation.shares[0]).train
    learner = load_learner(federation.job, 2)
    order = np.argsort(examples.rows)
    return np.asarray(with_features(learner, examples).features)[order]
