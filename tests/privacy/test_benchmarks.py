"""Benchmarks that this floor's figures come from still run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent / "benchmarks"


def run(name, *arguments):
    done = subprocess.run(
        [sys.executable, str(ROOT / name), "--smoke", *arguments],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
        timeout=3600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_benchmark_of_secure_aggregation_runs(tmp_path):
    figures = json.loads(run("secagg.py", "--json", "--folder", str(tmp_path)))
    assert {"stages", "flower", "table", "large"} <= figures.keys()
    assert "refused" in figures["table"][-1]


@pytest.mark.slow
def test_the_benchmark_of_private_steps_runs():
    figures = json.loads(run("dpsgd.py").splitlines()[0])
    assert figures["ratio"] > 0
    assert figures["noise_share"] > 0
