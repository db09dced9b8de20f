"""Members that leave and come back while real processes run, and where the result lies in the end."""

import json

import pytest
import tomli_w

pytestmark = pytest.mark.faults
GONE = "client-0002"


def test_a_member_is_removed_in_a_run_the_server_restarts_and_the_member_comes_back(
    deployed_job, deploy
):
    deployment = deploy(deployed_job(5, training={"rounds": 4})).start()
    folder = deployment.consortium.path
    stay = sorted(set(deployment.owners) - {GONE})
    run = deployment.place(name="churn")
    deployment.round(run, 1)
    told = deployment.umbel("consortium", "remove", folder, GONE, "--yes")
    assert f"{run} (round" in told
    assert "continues without it, under a new roster" in told
    deployment.kill("server")
    deployment.start()
    result = deployment.finished(run)
    assert [period["clients"] for period in result["rosters"]] == [5, 4]
    last = [e for e in deployment.events(run, "round") if e["round"] == 4 and e["aggregated"]]
    assert last[-1]["clients"] == stay
    charged = deployment.charged(run)
    assert all(max(times.values()) == 1 for times in charged.values())
    shown = deployment.umbel(
        "verify", folder / "runs" / run, "--consortium", folder / "consortium.json"
    )
    assert "5 clients of 5 members from round 1 on, 4 clients of 4 members" in shown
    for name in stay:  # each owner that is a member still has the result
        deployment.eventually_has(name)
        home = deployment.owners[name]
        [model] = json.loads(deployment.umbel("client", "models", home.path, "--json"))
        assert (model["run"], model["rounds"]) == (deployment.store.run(run).id, 4)
        deployment.umbel(
            "verify", f"{model['path']}/certificate.json", "--adapter", f"{model['path']}/adapter",
            "--consortium", home.card_file,
        )  # fmt: skip
    assert not deployment.owners[GONE].models.list()
    deployment.consortium.admit(deployment.owners[GONE].request)
    again = deployment.place(name="again")
    deployment.finished(again)
    assert GONE in {n for e in deployment.events(again, "round") for n in e["clients"]}
    assert "Server" not in deployment.umbel("runs")


def test_a_run_that_was_stopped_is_finished_early_and_its_model_goes_out(deployed_job, deploy):
    """All of it by a server whose folder lacks the consortium's keys."""
    deployment = deploy(deployed_job(3, training={"rounds": 6}))
    folder, keys, job = (deployment.folder / n for n in ("consortium", "keys", "job.toml"))
    job.write_text(tomli_w.dumps(deployment.job.model_dump(mode="json", exclude_none=True)))
    deployment.umbel("consortium", "split", folder, keys)
    deployment.umbel("sign", "job", keys, job, "--out", deployment.folder / "job.signed")
    deployment.start()
    run = deployment.umbel("take", deployment.folder / "job.signed", "--wait", 180).split()[0]
    deployment.round(run, 1)
    deployment.umbel("stop", run)
    assert deployment.over(run).status == "stopped"
    deployment.umbel("finish", run)
    deployment.reach_status(run, "finished")
    result = deployment.result(run)
    assert result["ended"]["cause"] == "operator"
    assert "finished early" in deployment.umbel("runs")
    card = folder / "consortium.json"
    shown = deployment.umbel("verify", deployment.consortium.runs / run, "--consortium", card)
    assert "a server to which the operator of 'rehearsal' delegated this run" in shown
    assert f"{result['rounds']} of 6 are done: the run ended early" in shown
    for name in deployment.owners:
        deployment.eventually_has(name)
