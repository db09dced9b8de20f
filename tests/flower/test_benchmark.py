"""The benchmark that the figures on strangers come from still runs, and a server is worth its bounds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent.parent / "benchmarks"


@pytest.mark.slow
def test_the_benchmark_of_strangers_runs_and_a_servers_memory_is_bounded():
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "strangers.py"), "--smoke", "--json"],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
        timeout=3600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["memory"]["crowd"]["opened"] > 0
    assert all(bar["held"] for bar in figures["bars"]), figures["bars"]
