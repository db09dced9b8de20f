"""Strategies with two sums, and owners of different ranks, in whole simulations."""

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "unit"),
    [("flexlora", "example"), ("lora-fair", "none"), ("flora", "example"), ("fedex-lora", "none")],
)
def test_one_worker_two_workers_and_a_run_that_stopped_come_to_the_same(
    name, unit, job_of, comes_to_the_same
):
    job = job_of(
        "bert",
        model={"adapter": "lora"},
        strategy={"name": name},
        privacy={"unit": unit, "delta": 1e-3},
        simulation={"ranks": [1, 2]},
    )
    comes_to_the_same(job)
