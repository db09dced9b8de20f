"""Any process is killed in any phase of a run: it costs time, and no budget is spent twice or lost.

The sweep is every process in every phase. Plugs are pulled one after the other in a few runs, which seeds
put together: what one death leaves behind, the next one meets.
"""

import random
from collections import Counter

import pytest

ROUNDS = 4
KINDS = ("coordinator", "link", "server", "agent", "node")
VICTIM = "client-0002"
PHASES = {
    "prepare": "prepare",
    "keys": "keys 1",
    "upload": "train 1",
    "train": "train 2",
    "confirm": "confirm 3",
    "open": "open 4",
    "evaluate": "evaluate 4",
}
"""What the coordinator writes when a phase begins, in which a plug is pulled; in a run's order."""
OWNERS_OWN = "upload"
"""Between journal and reply: a moment of the owner's side alone."""
TRACES = {"prepare": None, "train": "ledger"}
"""Where an owner leaves a trace of its part in a phase; else in its journals."""
STOPS = "clients are ready|clients answered|could test"
"""Why a run may stop until its operator resumes it."""


def nights(seed):
    """Runs in which, together, each process dies in each phase: {phase: process} for each run.

    In each run each kind dies at least once, and none more often than a server bears.
    """
    drawn = random.Random(seed)
    found = [{} for _ in KINDS]
    turns = [*drawn.sample(range(len(KINDS)), len(KINDS)), drawn.randrange(len(KINDS))]
    for phase in PHASES:
        if phase == OWNERS_OWN:
            for night, kind in zip(drawn.sample(found, 2), ("agent", "node"), strict=True):
                night[phase] = kind
            continue
        turn = turns.pop()
        for number, night in enumerate(found):
            night[phase] = KINDS[(number + turn) % len(KINDS)]
    return [{phase: night[phase] for phase in PHASES if phase in night} for night in found]


def test_the_sweep_is_every_process_in_every_phase_whatever_the_seed():
    whole = {(kind, phase) for kind in KINDS for phase in PHASES}
    whole -= {(kind, OWNERS_OWN) for kind in KINDS if kind not in ("agent", "node")}
    for seed in range(100):
        pulled = [(kind, phase) for night in nights(seed) for phase, kind in night.items()]
        assert Counter(pulled) == Counter(whole)
        assert all(set(night.values()) == set(KINDS) for night in nights(seed))
        assert all(max(Counter(night.values()).values()) <= 3 for night in nights(seed))


def kill_in(deployment, run, kind, phase):
    """Kill a process in a phase; an owner's right after its part. A service manager starts it again."""
    deployment.comes_to(run, PHASES[phase], STOPS)
    if kind not in ("agent", "node"):
        deployment.kill(kind)
    else:
        trace = TRACES.get(phase, "journals")
        if trace:
            deployment.writes(VICTIM, trace, run, PHASES[phase])
        deployment.kill(kind, VICTIM)
    deployment.start()


def ended_well(deployment, run, reference):
    """Whether a run came to what an undisturbed one comes to; its operator may have to resume it."""
    rounds = range(1, deployment.job.training.rounds + 1)
    if deployment.over(run).status == "failed":
        deployment.resumed(run, STOPS)
    result = deployment.finished(run)
    once = dict.fromkeys(rounds, 1)
    assert deployment.charged(run) == dict.fromkeys(deployment.owners, once)
    assert deployment.uploads.twice == {}
    summed = [event for event in deployment.events(run, "round") if event["aggregated"]]
    assert {event["round"] for event in summed} == set(rounds)
    assert all(event["clients"] == sorted(deployment.owners) for event in summed)
    return result["adapter_sha256"] == reference(deployment.job)


def bound_for_each_owner(deployment, run, umbel):
    """Whether the operator's certificate binds the last row of the run in every owner's ledger."""
    certificate = deployment.consortium.runs / run / "certificate.json"
    card = deployment.consortium.path / "consortium.json"
    status, shown, err = umbel("verify", certificate.parent, "--consortium", card)
    assert status == 0, err
    assert "3 of 3 owners' heads are in it" in shown
    for home in deployment.owners.values():
        status, shown, err = umbel("ledger", "verify", "--certificate", certificate, home.path)
        assert status == 0, err
        assert "the last row of its run" in shown
    return True


@pytest.mark.slow
def test_a_deployment_makes_the_adapter_of_the_simulation(deploy, deployed_job, reference, umbel):
    # However busy the machine is, nobody is late.
    patient = deployed_job(cohort={"deadline": 600.0}, encryption={"deadline": 600.0})
    deployment = deploy(patient).start()
    run = deployment.place(name="undisturbed")
    assert ended_well(deployment, run, reference)
    assert bound_for_each_owner(deployment, run, umbel)
    assert [event["aggregated"] for event in deployment.events(run, "round")] == [True, True]


@pytest.mark.faults
@pytest.mark.parametrize("night", range(len(KINDS)))
def test_plugs_that_are_pulled_cost_nothing_but_time(
    night, standing, reference, umbel, sweep, capsys
):
    pulled = nights(sweep.seed())[night]
    with capsys.disabled():
        print(f"\nUMBEL_SEED={sweep.seed()}, night {night}: {pulled}")
    if night not in sweep.drawn("nights", range(len(KINDS))):
        pytest.skip("not in the third of the sweep that UMBEL_SWEEP asks for")
    run = standing.start().place(name=f"night-{night}")
    for phase, kind in pulled.items():
        kill_in(standing, run, kind, phase)
        print(f"{kind} was killed in {phase}")
    assert ended_well(standing, run, reference)
    assert bound_for_each_owner(standing, run, umbel)
