"""Strategies that train some of an adapter's tensors, in whole simulations."""

import pytest

from umbel.errors import Interrupted
from umbel.simulations.engine import Options, resume, simulate

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("unit", ["example", "client"])
@pytest.mark.parametrize("name", ["ffa-lora", "rolora", "la-lora", "fed-sb"])
def test_one_worker_two_workers_and_a_run_that_stopped_come_to_the_same(
    name, unit, job_of, after_the_first, tmp_path
):
    import threading

    job = job_of(
        "bert",
        model={"adapter": "lora"},
        strategy={"name": name},
        privacy={"unit": unit, "delta": 1e-3 if unit == "example" else 0.1},
    )

    def digest(run):
        return run.read_json("result.json")["adapter_sha256"]

    def options(part, workers, stop=None):
        return Options(tmp_path / part, workers=workers, reproducible=True, stop=stop)

    one = digest(simulate(job, options("one", 1)))
    assert digest(simulate(job, options("two", 2))) == one
    stop = threading.Event()
    with pytest.raises(Interrupted):
        simulate(job, options("parts", 1, stop), after_the_first(stop))
    assert digest(resume(tmp_path / "parts", workers=2)) == one
