"""Certificates of runs that promise nothing, or whose noise is known: they say so."""

from umbel.certificate.check import verify
from umbel.certificate.form import FILE, Certificate
from umbel.simulations.engine import Options, simulate


def test_a_run_that_can_be_repeated_is_certified_as_not_private(job_of, tmp_path, umbel):
    job = job_of("bert", training={"rounds": 1, "batch_size": 64})
    folders = [
        simulate(job, Options(tmp_path / name, workers=1, reproducible=True)).path for name in "ab"
    ]
    first, second = (Certificate.read(folder / FILE) for folder in folders)
    assert first.guarantee.seeded
    assert any("nothing in it is private" in limit for limit in first.limits)
    assert first.adapter == second.adapter
    assert first.key != second.key
    assert "NOT PRIVATE" in umbel("verify", folders[0])[1]


def test_a_run_without_privacy_claims_no_epsilon(open_job_of, tmp_path):
    job = open_job_of("bert", training={"rounds": 1}, privacy={"unit": "none"})
    folder = simulate(job, Options(tmp_path / "run", workers=1)).path
    stated = Certificate.read(folder / FILE)
    assert stated.guarantee.epsilon_planned is None
    assert stated.guarantee.sentence.startswith("No differential privacy")
    assert stated.ledgers.owners == 0
    assert verify(folder).valid
