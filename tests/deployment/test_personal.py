"""Strategies with a state at each owner, and with a model of each owner's own, between real processes."""

import pytest
from safetensors.numpy import load_file

from umbel.client.home import Home
from umbel.client.own_model import write_own_model
from umbel.errors import FileError, UmbelError
from umbel.simulations.engine import Options, simulate
from umbel.simulations.rehearsal import rehearse

pytestmark = pytest.mark.slow
SGD = {"optimizer": "sgd", "learning_rate": 0.5}


@pytest.mark.parametrize(("name", "adapter"), [
    ("scaffold", "head"), ("feddyn", "head"), ("q-fedavg", "head"), ("afl", "head"),
    ("fedsa-lora", "lora"), ("fedrep", "lora"), ("ditto", "head"),
])  # fmt: skip
def test_a_rehearsal_comes_to_what_a_simulation_comes_to_at_every_owner(
    name, adapter, deployed_job, tmp_path
):
    job = deployed_job(
        model={"adapter": adapter},
        strategy={"name": name},
        training={"rounds": 3, "local_steps": 2, **(SGD if adapter == "head" else {})},
    )
    simulated = simulate(job, Options(tmp_path / "simulated", reproducible=True))
    run, result = rehearse(job, tmp_path / "rehearsal")
    expected = simulated.read_json("result.json")
    assert result["adapter_sha256"] == expected["adapter_sha256"]
    assert not [event for event in run.read_events() if event.get("restarted")]
    identity = run.read_json("run.json")["id"]
    for file in sorted((tmp_path / "rehearsal" / "owners").glob("*/client.toml")):
        place = file.parent
        home = Home.open(place)
        assert not list((place / "states").glob("*")), "it is deleted when the result has come"
        if name in ("scaffold", "feddyn", "q-fedavg", "afl"):
            with pytest.raises(UmbelError, match="no model of the owner's own"):
                write_own_model(home, identity)
            continue
        written = write_own_model(home, identity, tmp_path / "own" / place.name)
        with pytest.raises(FileError, match="exists already"):
            write_own_model(home, identity, tmp_path / "own" / place.name)
        theirs = simulated.path / "own" / place.name
        for tensors in sorted(theirs.glob("*.safetensors")):
            found = load_file(tmp_path / "own" / place.name / tensors.name)
            assert {n: a.tobytes() for n, a in load_file(tensors).items()} == {
                n: a.tobytes() for n, a in found.items()
            }
        assert written.round == 3
        assert written.metrics["examples"] > 0
        assert written.line.endswith("held-out records")
