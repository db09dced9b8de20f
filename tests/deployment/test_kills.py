"""Any process is killed in any phase of a run: it costs time, and no budget is spent twice or lost."""

import pytest

VICTIM = "client-0002"
STAGES = {
    "prepare": "prepare",
    "keys": "keys 1",
    "train": "train 2",
    "upload": "train 2",
    "confirm": "confirm 2",
    "open": "open 2",
    "evaluate": "evaluate 2",
}
"""What the coordinator writes when a phase begins."""
TRACES = {"prepare": None, "train": "ledger"}
"""Where an owner leaves a trace of its part in a phase; else in its journals."""


def sweep():
    for kind in ("coordinator", "link", "server", "agent", "node"):
        for phase in STAGES:
            if phase == "upload" and kind not in ("agent", "node"):
                continue  # between journal and reply: a moment of the owner's side alone
            quick = (kind, phase) == ("coordinator", "train")
            yield pytest.param(kind, phase, marks=pytest.mark.slow if quick else pytest.mark.faults)


def kill_in(deployment, run, kind, phase):
    """Kill a process in a phase; an owner's right after its part. A service manager starts it again."""
    deployment.reaches(run, STAGES[phase])
    if kind not in ("agent", "node"):
        deployment.kill(kind)
    else:
        trace = TRACES.get(phase, "journals")
        if trace:
            deployment.writes(VICTIM, trace)()
        deployment.kill(kind, VICTIM)
    deployment.start()


def ended_well(deployment, run, reference):
    """Whether a run came to what an undisturbed one comes to; its operator may have to resume it."""
    rounds = range(1, deployment.job.training.rounds + 1)
    if deployment.over(run).status == "failed":
        deployment.resumed(run, "clients are ready|clients answered|could test")
    result = deployment.finished(run)
    once = dict.fromkeys(rounds, 1)
    assert deployment.charged(run) == dict.fromkeys(deployment.owners, once)
    assert deployment.uploads.twice == {}
    summed = [event for event in deployment.events(run, "round") if event["aggregated"]]
    assert {event["round"] for event in summed} == set(rounds)
    assert all(event["clients"] == sorted(deployment.owners) for event in summed)
    return result["adapter_sha256"] == reference(deployment.job)


def bound_for_each_owner(deployment, run):
    """Whether the operator's certificate binds the last row of the run in every owner's ledger."""
    certificate = deployment.consortium.runs / run / "certificate.json"
    card = deployment.consortium.path / "consortium.json"
    shown = deployment.umbel("verify", certificate.parent, "--consortium", card)
    assert "3 of 3 owners' heads are in it" in shown
    own = ("ledger", "verify", "--certificate", certificate)
    shown = [deployment.umbel(*own, home.path) for home in deployment.owners.values()]
    return all("the last one of its run" in text for text in shown)


def test_a_deployment_makes_the_adapter_of_the_simulation(deploy, deployed_job, reference):
    # However busy the machine is, nobody is late.
    patient = deployed_job(cohort={"deadline": 600.0}, encryption={"deadline": 600.0})
    deployment = deploy(patient).start()
    run = deployment.place(name="undisturbed")
    assert ended_well(deployment, run, reference)
    assert bound_for_each_owner(deployment, run)
    assert [event["aggregated"] for event in deployment.events(run, "round")] == [True, True]


@pytest.mark.parametrize(("kind", "phase"), sweep())
def test_a_killed_process_costs_nothing_but_time(kind, phase, standing, reference):
    run = standing.start().place(name=f"{kind}-{phase}")
    kill_in(standing, run, kind, phase)
    assert ended_well(standing, run, reference)
    assert bound_for_each_owner(standing, run)
