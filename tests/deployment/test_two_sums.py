"""Strategies with two sums, between real processes of which one dies."""

import pytest


@pytest.mark.faults
def test_a_server_that_is_killed_in_the_second_sum_asks_for_it_again_and_nobody_is_charged(
    deploy, deployed_job, reference
):
    job = deployed_job(
        model={"adapter": "lora"},
        strategy={"name": "flexlora"},
        training={"rounds": 2, "local_steps": 2},
        simulation={"ranks": [1, 2]},
    )
    deployment = deploy(job).start()
    run = deployment.place(name="killed")
    for round_, kind in ((1, "coordinator"), (2, "server")):
        opened = deployment.opened_first(run, round_)
        deployment.kill(kind)
        assert opened.exists(), "the second sum was not over"
        deployment.start()
        deployment.round(run, round_)
    result = deployment.finished(run)
    assert result["adapter_sha256"] == reference(deployment.job)
    assert deployment.charged(run) == {name: {1: 1, 2: 1} for name in deployment.owners}
    assert deployment.uploads.twice == {}
    assert [event["attempt"] for event in deployment.events(run, "round")] == [1, 1]
    assert not opened.exists()
