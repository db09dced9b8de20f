"""Owners that are away, frozen or back again: rounds go on without them, or the run waits for them."""

import pytest

pytestmark = pytest.mark.faults
AWAY = "client-0002"


@pytest.fixture
def one_may_lack(deployed_job, deploy):
    """Four owners, of whom three are enough; nobody is waited for for long."""

    def build(rounds):
        job = deployed_job(
            4,
            training={"rounds": rounds},
            cohort={"minimum": 3, "deadline": 12.0},
            encryption={"colluders": 0.0, "deadline": 8.0},
        )
        return deploy(job).start()

    return build


def rounds_of(deployment, run, owner):
    """Rounds that were summed with an owner's part."""
    events = deployment.events(run, "round")
    return [e["round"] for e in events if e["aggregated"] and owner in e["clients"]]


def test_a_frozen_owner_is_left_out_and_takes_part_again(one_may_lack):
    deployment = one_may_lack(5)
    run = deployment.place(name="frozen")
    deployment.reaches(run, "train 2")
    deployment.freeze("agent", AWAY)
    without = deployment.round(run, 3)
    deployment.thaw("agent", AWAY)
    deployment.finished(run)
    assert AWAY in without["failed"]
    rounds = rounds_of(deployment, run, AWAY)
    assert rounds[0] == 1
    assert 3 not in rounds
    assert rounds[-1] == 5
    assert max(deployment.charged(run)[AWAY].values()) == 1
    assert deployment.uploads.twice == {}


def test_an_owner_that_was_away_for_rounds_takes_part_when_it_is_back(one_may_lack):
    deployment = one_may_lack(8)
    run = deployment.place(name="away")
    deployment.round(run, 1)
    deployment.kill("agent", AWAY)
    without = deployment.round(run, 3)
    deployment.start(AWAY)
    deployment.finished(run)
    rounds = rounds_of(deployment, run, AWAY)
    assert AWAY in without["failed"]
    assert 3 not in rounds
    assert rounds[-1] == 8
    others = [name for name in deployment.owners if name != AWAY]
    assert all(deployment.charged(run)[name] == dict.fromkeys(range(1, 9), 1) for name in others)


def test_too_few_owners_stop_a_run_with_a_reason_and_it_goes_on_when_they_are_back(
    deployed_job, deploy, reference
):
    job = deployed_job(cohort={"deadline": 10.0, "retries": 1}, encryption={"deadline": 8.0})
    deployment = deploy(job).start()
    run = deployment.place(name="few")
    deployment.round(run, 1)
    deployment.kill("agent", AWAY)
    assert deployment.over(run).status == "failed"
    status = deployment.umbel("status", run)
    assert "clients answered" in status
    assert AWAY in status
    deployment.start(AWAY).said(AWAY, "asks .* for work")
    deployment.umbel("resume", run)
    result = deployment.finished(run)
    assert result["adapter_sha256"] == reference(deployment.job)
    once = {1: 1, 2: 1}
    assert deployment.charged(run) == dict.fromkeys(deployment.owners, once)


def test_two_jobs_in_a_row_load_the_model_once(deployed_job, deploy, reference):
    deployment = deploy(deployed_job()).start()
    runs = [deployment.place(name=name) for name in ("first", "second")]
    digests = {deployment.finished(run)["adapter_sha256"] for run in runs}
    assert digests == {reference(deployment.job)}
    for home in deployment.owners.values():
        assert home.audit.read_text().count("model loaded") == 1
    once = {name: {1: 1, 2: 1} for name in deployment.owners}
    assert [deployment.charged(run) for run in runs] == [once, once]


def test_a_server_restored_from_an_old_backup_goes_on(deployed_job, deploy, reference, tmp_path):
    import shutil

    deployment = deploy(deployed_job(training={"rounds": 3})).start()
    folder = deployment.consortium.path
    run = deployment.place(name="restored")
    deployment.round(run, 1)
    deployment.stop("server")
    shutil.copytree(folder, tmp_path / "backup", symlinks=True)
    deployment.start("server")
    deployment.round(run, 2)
    deployment.stop("server")
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "backup", folder, symlinks=True)
    deployment.start("server")
    result = deployment.finished(run)
    assert result["adapter_sha256"] == reference(deployment.job)
    once = {1: 1, 2: 1, 3: 1}
    assert deployment.charged(run) == dict.fromkeys(deployment.owners, once)
    assert deployment.uploads.twice == {}
