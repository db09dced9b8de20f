"""What a strategy has owners keep, between processes that are killed: none of it is lost, or counted twice.

In ``test_kills`` each process dies in each phase of a job without a state.
"""

import random
import tomllib

import pytest
import tomli_w
from safetensors.numpy import load_file

from umbel.client.own_model import write_own_model
from umbel.errors import UmbelError
from umbel.strategies import leaves_own_model, ours, weighs_by_loss

pytestmark = pytest.mark.faults
STRATEGIES = ("scaffold", "feddyn", "fedsa-lora", "ditto", "afl")
LOST = "a lost state"
VICTIM, KEEPS, DROPS = "client-0002", "client-0001", "client-0003"
STOPS = "clients are ready|clients answered"
"""Why a run may stop until its operator resumes it."""
STAGES = ("train 1", "confirm 1", "open 1", "train 2", "confirm 2", "open 2", "train 3", "open 3")
MOMENTS = ("ledger", "states", "journals")
"""Within an owner's training: once it is charged, once the next state lies there, once the upload does."""


def plugs(name, seed):
    """What is killed in a strategy's run, in order: (stage, the owner's moment or, of the server, None).

    The owner dies within one round's training, and the coordinator in another stage.
    """
    drawn = random.Random(f"{name} {seed}")
    owners = {f"train {drawn.choice((1, 2, 3))}": drawn.choice(MOMENTS)}
    other = drawn.choice([stage for stage in STAGES if stage not in owners])
    return [(stage, owners.get(stage)) for stage in STAGES if stage in {*owners, other}]


def test_owner_and_server_die_in_each_run_and_some_day_in_each_stage_at_each_moment():
    seen = set()
    for seed in range(100):
        for name in STRATEGIES:
            pulled = plugs(name, seed)
            assert [bool(moment) for _, moment in pulled].count(True) == 1
            stages = [stage for stage, _ in pulled]
            assert stages == [stage for stage in STAGES if stage in stages]
            seen |= {*pulled}
    trained = {(stage, moment) for stage in STAGES if "train" in stage for moment in MOMENTS}
    assert seen == trained | {(stage, None) for stage in STAGES}


def asked_for(sweep, what):
    if what not in sweep.drawn("states", [*STRATEGIES, LOST]):
        pytest.skip("not in the third of the sweep that UMBEL_SWEEP asks for")


@pytest.fixture
def job_with(deployed_job):
    def build(name, rounds=3):
        return deployed_job(
            model={"adapter": ours(name).fits[0]},
            strategy={"name": name, "weighting": "equal"},
            training={
                "optimizer": "sgd", "learning_rate": 0.1, "rounds": rounds, "local_steps": 2,
            },
            evaluation={"counts": "off"},
            encryption={"deadline": 60.0},
            cohort={"deadline": 120.0},
        )  # fmt: skip

    return build


@pytest.fixture
def simulated(tmp_path_factory):
    from umbel.simulations.engine import Options, simulate

    return lambda job: simulate(
        job, Options(tmp_path_factory.mktemp("simulated") / "run", reproducible=True)
    )


def write_results(home, **rules):
    """Have an owner's policy say what becomes of what it keeps when a run ends."""
    policy = tomllib.loads(home.policy.read_text())
    policy["results"] |= rules
    home.policy.write_text(tomli_w.dumps(policy))


def once(job, rounds):
    """Each round charged once, and each released loss, if the strategy weighs by it."""
    found = dict.fromkeys(range(1, rounds + 1), 1)
    return found | ({f"loss {n}": 1 for n in found} if weighs_by_loss(job.strategy) else {})


def restarted(deployment, run):
    """Who began a round with the strategy's first state, which it had to say."""
    rounds = deployment.events(run, "round")
    return {name for event in rounds for name in event.get("restarted", [])}


def tensors_of(folder):
    return {
        (file.name, name): array.tobytes()
        for file in folder.glob("*.safetensors")
        for name, array in load_file(file).items()
    }


def is_the_same_at_every_owner(deployment, run, simulation):
    """Whether each owner that keeps its own model has the one of the simulation, to the last bit."""
    identity = deployment.store.run(run).id
    for name, home in deployment.owners.items():
        place = deployment.folder / "own" / name
        if name == DROPS:
            with pytest.raises(UmbelError, match="has no model of its own"):
                write_own_model(home, identity, place)
            continue
        assert write_own_model(home, identity, place).round == 3
        assert tensors_of(place) == tensors_of(simulation.path / "own" / name) != {}
    return True


@pytest.mark.parametrize("name", STRATEGIES)
def test_whoever_dies_when_each_state_that_was_counted_goes_on_once(
    name, deploy, job_with, simulated, sweep, capsys
):
    asked_for(sweep, name)
    pulled = plugs(name, sweep.seed())
    with capsys.disabled():
        print(f"\nUMBEL_SEED={sweep.seed()}, {name}: {pulled}")
    deployment = deploy(job_with(name))
    write_results(deployment.owners[KEEPS], keep_states=True)
    write_results(deployment.owners[DROPS], keep_own=False)
    run = deployment.start().place(name="killed")
    for stage, moment in pulled:
        deployment.comes_to(run, stage, STOPS)
        if moment:
            deployment.writes(VICTIM, moment, run, stage)
            deployment.kill("agent", VICTIM)
        else:
            deployment.kill("coordinator")
        deployment.start()
        print(f"killed in {stage}: {moment or 'the coordinator'}")
    if deployment.over(run).status == "failed":
        deployment.resumed(run, STOPS)
    result, simulation = deployment.finished(run), simulated(deployment.job)
    assert result["adapter_sha256"] == simulation.read_json("result.json")["adapter_sha256"]
    assert restarted(deployment, run) == set()
    assert deployment.charged(run) == dict.fromkeys(deployment.owners, once(deployment.job, 3))
    assert deployment.uploads.twice == {}
    for owner in deployment.owners:
        deployment.eventually_has(owner)
    of_a_state = not leaves_own_model(deployment.job.strategy)
    for owner, home in deployment.owners.items():
        kept = bool(list((home.path / "states").glob("*.state")))
        assert kept == (owner == KEEPS and of_a_state), "policy decides when the result has come"
    assert of_a_state or is_the_same_at_every_owner(deployment, run, simulation)


def test_an_owner_that_lost_its_state_says_so_and_goes_on_with_the_strategys_first(
    deploy, job_with, sweep
):
    asked_for(sweep, LOST)
    [name] = random.Random(f"lost {sweep.seed()}").sample(STRATEGIES, 1)
    deployment = deploy(job_with(name, rounds=2)).start()
    run = deployment.place(name="lost")
    deployment.reaches(run, "open 1")
    deployment.kill("agent", VICTIM)
    states = list((deployment.owners[VICTIM].path / "states").glob("*.state"))
    assert states
    for path in states:
        path.unlink()
    deployment.start()
    deployment.finished(run)
    assert restarted(deployment, run) == {VICTIM}
    assert deployment.charged(run)[VICTIM] == once(deployment.job, 2)
