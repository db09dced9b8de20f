"""Between machines the same model is chosen, on the same figures, as in a simulation."""

import csv

import pytest

from umbel.errors import DataError
from umbel.simulations.engine import Options, simulate

CHOSEN = ("adapter_sha256", "kept", "rounds", "metrics", "public")


@pytest.fixture
def public(reviews, tmp_path):
    """A public file that lies with the operator alone."""
    path = tmp_path / "operator" / "public.csv"
    path.parent.mkdir()
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = [(row["text"], row["label"]) for row in reviews[::3]]
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


def chosen(result):
    return {key: result[key] for key in CHOSEN}


def simulated(job, folder):
    return chosen(simulate(job, Options(folder, reproducible=True)).read_json("result.json"))


@pytest.mark.slow
def test_a_coordinator_that_is_killed_keeps_the_best_on_its_public_records(
    deployed_job, deploy, public, tmp_path
):
    evaluation = {"public_path": str(public), "keep": "best", "patience": 2, "counts": "off"}
    deployment = deploy(deployed_job(evaluation=evaluation, training={"rounds": 4}))
    run = deployment.start().place(name="public")
    deployment.reaches(run, "train 2")
    deployment.kill("coordinator")
    result = deployment.finished(run)
    assert chosen(result) == simulated(deployment.job, tmp_path / "simulated")
    tested = [event["round"] for event in deployment.events(run, "holdout")]
    assert tested == list(range(result["rounds"] + 1))
    once = dict.fromkeys(range(1, result["rounds"] + 1), 1)
    assert deployment.charged(run) == dict.fromkeys(deployment.owners, once)
    shown = deployment.umbel("status", run)
    assert f"The model after round {result['rounds']} on the public hold-out: accuracy" in shown
    assert f"The model after round {result['kept']['round']} is the result" in shown
    assert result["kept"]["on"] == "public hold-out"


@pytest.mark.slow
def test_noised_counts_decide_alike_between_machines(deployed_job, deploy, tmp_path):
    job = deployed_job(
        evaluation={"keep": "best", "epsilon": 4.0, "every": 1}, training={"rounds": 2}
    )
    assert job.tests_privately
    deployment = deploy(job)
    run = deployment.start().place(name="noised")
    result = deployment.finished(run)
    assert chosen(result) == simulated(deployment.job, tmp_path / "simulated")
    assert result["kept"]["on"] == "private counts"


def test_a_public_file_that_is_not_there_is_refused_before_anybody_is_asked(
    deployed_job, deploy, public
):
    deployment = deploy(deployed_job(evaluation={"public_path": str(public)}))
    public.unlink()
    with pytest.raises(DataError, match="evaluation.public_path: There is no data file"):
        deployment.place(name="gone")
    assert deployment.store.runs() == []
    assert not (deployment.consortium.runs / "gone").exists()
