"""Every benchmark still runs: with few of everything, and without a bar."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from umbel.strategies import NAMES

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"
PARTS = {"deployment_agent", "deployment_jobs", "deployment_node", "deployment_trips",
         "deployment_watch", "first_result_sets", "kept", "questions", "secagg_demo",
         "secagg_flower", "secagg_meter", "secagg_slots", "secagg_stages", "spread",
         "strangers_crowd", "strategies_runs"}  # fmt: skip
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
    "fedbuff": {"rows", "missed"},
    "strategies": {"board", "missed"},
    "deployment": {"rounds", "trips", "memory", "bars"},
    "strangers": {"memory", "bars"},
}
"""What each prints as JSON."""
QUICK = {"accounting", "client_noise"}
DEPLOYED = {"deployment"}
"""Whole deployments, several in a row: they run with those in which something dies."""


def marked(name):
    if name in QUICK:
        return name
    return pytest.param(name, marks=pytest.mark.faults if name in DEPLOYED else pytest.mark.slow)


@pytest.fixture(scope="module")
def example_data():
    """What `make data` writes."""
    if not (ROOT / "examples" / "data" / "reviews.csv").exists():
        subprocess.run([sys.executable, str(ROOT / "examples" / "fetch.py")], check=True)


def smoke(name, *arguments):
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{name}.py"), "--smoke", *arguments],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_benchmark_is_run_somewhere():
    found = {path.stem for path in BENCHMARKS.glob("*.py")}
    assert found == PARTS | ELSEWHERE | FIGURES.keys() | {"group_utility"}


def test_the_scoreboard_has_every_strategy():
    shown = "import strategies; print(*(entry.name for entry in strategies.BOARD))"
    done = subprocess.run(
        [sys.executable, "-c", shown], cwd=BENCHMARKS, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == set(NAMES)


@pytest.mark.parametrize("name", map(marked, FIGURES))
def test_it_runs_and_prints_its_figures(name, example_data):
    assert FIGURES[name] <= json.loads(smoke(name, "--json")).keys()


@pytest.mark.slow
def test_the_benchmark_of_group_level_privacy_runs(example_data):
    assert "person" in smoke("group_utility")
