"""Private runs whose owners' losses weigh: encrypted, charged, certified, and the same to the last bit."""

import signal

import pytest

from umbel.certificate.check import verify
from umbel.certificate.form import FILE, Certificate
from umbel.certificate.guarantee_check import as_asked
from umbel.run.run_folder import RunFolder
from umbel.simulations.engine import Options, resume, simulate


def job_by_loss(job_of, strategy, **options):
    """A private, encrypted job whose owners' losses weigh."""
    return job_of(
        strategy={"name": strategy, "options": options},
        training={"optimizer": "sgd", "learning_rate": 0.5, "batch_size": 16},
        model={"adapter": "head"},
    )


@pytest.fixture(scope="module")
def finished(job_of, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return simulate(job_by_loss(job_of, "q-fedavg", q=1.0), Options(folder, workers=1)).path


def sha(run):
    return run.read_json("result.json")["adapter_sha256"]


def test_noised_losses_weigh_in_an_encrypted_sum_and_keep_to_epsilon(finished):
    run = RunFolder.open(finished)
    assert not [event for event in run.read_events() if event.get("failed")]
    plan, result = run.read_json("plan.json"), run.read_json("result.json")
    for client in plan["clients"]:
        losses = client["events"]["losses"]
        assert (losses["kind"], losses["sampling_rate"], losses["steps"]) == ("gaussian", 1.0, 3)
        assert result["privacy"]["clients"][client["name"]] <= client["epsilon"] + 1e-9
        assert client["epsilon"] <= 8.0
    assert "Gaussian noise on a client's mean loss (of losses clipped to 4)" in plan["guarantee"]
    assert verify(finished).valid


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda losses: losses.update(steps=2), "2 losses for 3 rounds"),
        (lambda losses: losses.update(steps=0), "0 losses for 3 rounds"),
        (lambda losses: losses.update(what="training"), "for 4 rounds"),
        (lambda losses: losses.update(noise_multiplier=1e3), "losses are released as"),
    ],
)
def test_a_certificate_with_fewer_losses_or_other_noise_is_refused(finished, change, words):
    values = Certificate.read(finished / FILE).model_dump(mode="json")
    assert as_asked(Certificate.model_validate(values)).holds
    for alike in values["guarantee"]["spending"]:
        [losses] = [one for one in alike["mechanisms"] if one["what"] == "losses"]
        change(losses)
    found = as_asked(Certificate.model_validate(values))
    assert found.holds is False
    assert words in found.text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["q-fedavg", "afl"])
def test_the_number_of_workers_and_a_stop_change_no_bit(name, job_of, dies, forked, tmp_path):
    job = job_by_loss(job_of, name)

    def run(where, workers=1, listener=None):
        return simulate(job, Options(tmp_path / where, workers, reproducible=True), listener)

    whole = sha(run("whole"))
    assert sha(run("two", workers=2)) == whole
    assert forked(lambda: run("cut", listener=dies("train 2"))) == -signal.SIGKILL
    assert sha(resume(tmp_path / "cut", 1)) == whole
