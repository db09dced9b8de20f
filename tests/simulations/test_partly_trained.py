"""Strategies that train some of an adapter's tensors, in whole simulations."""

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("unit", ["example", "client"])
@pytest.mark.parametrize("name", ["ffa-lora", "rolora", "la-lora", "fed-sb"])
def test_one_worker_two_workers_and_a_run_that_stopped_come_to_the_same(
    name, unit, job_of, comes_to_the_same
):
    job = job_of(
        "bert",
        model={"adapter": "lora"},
        strategy={"name": name},
        privacy={"unit": unit, "delta": 1e-3 if unit == "example" else 0.1},
    )
    comes_to_the_same(job)
