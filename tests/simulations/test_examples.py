"""The strategies in examples/strategies, each one file, run as a user would run them."""

from pathlib import Path

import pytest

from umbel.simulations.engine import Options, simulate

EXAMPLES = Path(__file__).parents[2] / "examples" / "strategies"


@pytest.mark.parametrize(("own", "ours", "mode"), [
    ("own_scaffold:OwnScaffold", "scaffold", "secure-sum"),
    ("own_median:OwnMedian", "median", "none"),
])  # fmt: skip
def test_an_own_strategy_in_one_file_comes_to_what_umbels_comes_to(
    own, ours, mode, job_of, tmp_path, monkeypatch
):
    import sys

    monkeypatch.syspath_prepend(EXAMPLES)
    module = own.partition(":")[0]
    monkeypatch.delitem(sys.modules, module, raising=False)

    def digest(name):
        job = job_of(
            strategy={"name": name, "weighting": "equal"},
            training={"optimizer": "sgd", "learning_rate": 0.3},
            encryption={"mode": mode},
            simulation={"encryption_required": mode != "none"},
            evaluation={"counts": "off"},
        )
        run = simulate(
            job, Options(tmp_path / name.replace(":", "-"), workers=1, reproducible=True)
        )
        return run.read_json("result.json")["adapter_sha256"]

    try:
        assert digest(own) == digest(ours)
    finally:
        sys.modules.pop(module, None)
