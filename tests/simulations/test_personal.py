"""Strategies that leave a part of the model with each owner, in whole simulations."""

import json

import pytest

from umbel.simulations.engine import Options, simulate


@pytest.mark.parametrize("name", ["fedsa-lora", "local-head", "fedrep"])
def test_first(name, job_of, tmp_path):
    job = job_of(
        "bert", model={"adapter": "lora"}, strategy={"name": name}, training={"local_steps": 2}
    )
    run = simulate(job, Options(tmp_path / "run", workers=1, reproducible=True))
    print(json.dumps(run.read_json("result.json"), indent=1)[:3000])
    print(run.read_json("plan.json")["bytes_up_per_client_round"])
