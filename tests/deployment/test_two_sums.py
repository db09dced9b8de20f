"""Strategies with two sums, and owners of different ranks, between real processes."""

import pytest

from umbel.simulations.rehearsal import rehearse

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["flexlora", "flora", "fedex-lora"])
def test_a_rehearsal_comes_to_the_adapter_of_a_simulation(name, deployed_job, reference, tmp_path):
    job = deployed_job(
        model={"adapter": "lora"},
        strategy={"name": name},
        training={"rounds": 2, "local_steps": 2},
        simulation={"ranks": [1, 2]},
    )
    _, result = rehearse(job, tmp_path / "rehearsal")
    assert result["adapter_sha256"] == reference(job)
