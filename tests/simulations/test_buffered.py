"""Asynchronous rounds on a virtual clock, encrypted; equal to synchronous ones if nobody is slower."""

import json
from pathlib import Path

import pytest

from umbel.errors import PlanRefused
from umbel.planning.buffered import seconds_of
from umbel.privacy.ledger.ledger import Ledger
from umbel.reports.page import write_page
from umbel.run.events import Round
from umbel.simulations.engine import Options, plan_job, resume, simulate


@pytest.fixture
def start(job_of, tmp_path):
    def run(name, workers=1, reproducible=True, listener=None, **sections):
        sections["training"] = {"batch_size": 64, "rounds": 4, **sections.get("training", {})}
        sections["evaluation"] = {"counts": "off", **sections.get("evaluation", {})}
        options = Options(tmp_path / name, workers=workers, reproducible=reproducible)
        return simulate(job_of(**sections), options, listener)

    return run


def sha(folder):
    return json.loads((Path(folder.path) / "result.json").read_text())["adapter_sha256"]


PRIVATE = {"privacy": {"epsilon": 8.0}}
OPEN = {
    "privacy": {"unit": "none"},
    "encryption": {"mode": "none"},
    "simulation": {"encryption_required": False},
}


@pytest.mark.parametrize("how", [PRIVATE, {"privacy": {"unit": "none"}}, OPEN])
def test_a_buffer_of_all_clients_gives_the_synchronous_model_to_the_last_bit(how, start):
    whole = start("whole", **how)
    buffered = start("buffered", strategy={"name": "fedbuff"}, **how)
    assert sha(buffered) == sha(whole)
    assert [r.virtual for r in buffered.told(Round)] == [60.0, 120.0, 180.0, 240.0]


SLOW = {
    "strategy": {"name": "fedbuff", "options": {"buffer": 3, "max_staleness": 2}},
    "simulation": {"slow": {"shop": 2.5}},
}


def test_a_slow_owner_holds_nobody_up_and_its_update_counts_less(start):
    folder = start("slow", **PRIVATE, **SLOW)
    rounds = folder.told(Round)
    assert [r.virtual for r in rounds] == [60.0, 120.0, 180.0, 240.0]
    assert [r.clients for r in rounds[:2]] == [["film", "press", "social"]] * 2
    assert rounds[2].clients == ["film", "press", "shop"]
    assert rounds[2].staleness == {"film": 0, "press": 0, "shop": 2}
    plan = folder.read_json("plan.json")
    planned = {client["name"]: client for client in plan["clients"]}
    asked = {name: sum(name in r.clients for r in rounds) for name in planned}
    assert {name: client["rounds"] for name, client in planned.items()} == asked
    assert planned["shop"]["noise_multiplier"] < planned["film"]["noise_multiplier"]
    spent = json.loads((folder.path / "result.json").read_text())["privacy"]["clients"]
    assert all(spent[name] <= 8.0 for name in planned)
    page = write_page(folder.path, pictures=[]).read_text(encoding="utf-8")
    assert all(
        words in page for words in ("Virtual clock", "3 min 00 s", "Versions behind", "0, 0, 2")
    )


OPEN_NOISE = {"privacy": {"unit": "none"}}


def test_a_run_that_is_killed_goes_on_to_the_same_bits_whatever_it_died_in(
    start, dies, forked, tmp_path
):
    whole = sha(start("whole", **OPEN_NOISE, **SLOW))
    for number, moment in enumerate(["train 3", "confirm 3", "open 3", "round 3"]):
        name = f"cut-{number}"
        dead = dies(moment)
        assert forked(lambda n=name, d=dead: start(n, listener=d, **OPEN_NOISE, **SLOW)) == -9
        again = resume(tmp_path / name, 1)
        assert sha(again) == whole, moment
        assert [r.virtual for r in again.told(Round)][-1] == 240.0


def test_who_was_killed_after_it_trained_sends_what_it_kept_and_is_charged_once(
    start, dies, forked, tmp_path
):
    def charges(folder):
        found = {}
        for path in (folder / "ledgers").glob("*.sqlite"):
            with Ledger(path) as ledger:
                found[path.stem] = sum(entry.what.isdigit() for entry in ledger.entries())
        return found

    noise = {"privacy": {"epsilon": 8.0, "spare_rounds": 0}}
    dead = dies("confirm 3")
    assert forked(lambda: start("cut", reproducible=False, listener=dead, **noise, **SLOW)) == -9
    again = resume(tmp_path / "cut", 1)
    planned = {c["name"]: c["rounds"] for c in again.read_json("plan.json")["clients"]}
    assert charges(again.path) == planned


@pytest.mark.slow
def test_the_number_of_workers_changes_no_bit(start):
    sections = {**OPEN, **SLOW, "simulation": {**OPEN["simulation"], **SLOW["simulation"]}}
    hashes = {sha(start(f"{count}", count, **sections)) for count in (1, 2)}
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"privacy": {"unit": "client"}}, "would not cover the heaviest"),
        ({"encryption": {"group_size": 4}}, "encryption.group_size"),
        ({"cohort": {"size": 3}}, "remove cohort.size"),
        ({"simulation": {"slow": {"shopp": 2.0}}}, "simulation.slow names shopp"),
        ({"strategy": {"options": {"buffer": 2}}}, "a sum over 2 clients is not opened"),
        (
            {"encryption": {"colluders": 0.3}, "strategy": {"options": {"buffer": 3}}},
            "options.buffer",
        ),
        ({"cohort": {"participations": 1}}, "only 1 of 3 sums"),
    ],
)
def test_what_cannot_be_asynchronous_is_refused_before_anybody_is_asked(sections, words, job_of):
    strategy = {"name": "fedbuff", **sections.pop("strategy", {})}
    quick = {"training": {"batch_size": 64}, **sections}
    with pytest.raises(PlanRefused, match=words):
        plan_job(job_of(strategy=strategy, **quick))


def test_a_cap_on_participations_is_what_the_noise_is_made_for(job_of):
    options = {"buffer": 3, "max_staleness": 9}
    job = job_of(
        strategy={"name": "fedbuff", "options": options},
        training={"rounds": 4, "batch_size": 64},
        cohort={"participations": 3},
    )
    plan, _ = plan_job(job)
    assert {client.rounds for client in plan.clients} == {3}
    assert "at most 4 rounds" in plan.guarantee
    slow = {"cohort.participations": 4, "simulation.slow": {"shop": 3.0}}
    free, _ = plan_job(job.changed(slow))
    assert {name: client.rounds for name, client in free.by_name.items()} == {
        "film": 4,
        "press": 4,
        "shop": 1,
        "social": 3,
    }


def test_an_owner_that_is_never_ready_in_time_is_said(job_of):
    options = {"buffer": 3, "max_staleness": 9}
    strategy = {"name": "fedbuff", "options": options}
    slow = {"slow": {"shop": 50.0}}
    plan, _ = plan_job(job_of(strategy=strategy, simulation=slow, training={"batch_size": 64}))
    assert any("shop will be in none of the 3 sums" in warning for warning in plan.warnings)
    assert plan.by_name["shop"].rounds == 0


def test_speeds_are_drawn_from_the_seed(job_of):
    job = job_of(simulation={"speeds": "lognormal:0.5", "slow": {"shop": 5.0}, "seconds": 10.0})
    drawn = seconds_of(job, ["film", "press", "shop"])
    assert drawn == seconds_of(job, ["shop", "press", "film"])
    assert len(set(drawn.values())) == 3
    assert min(drawn.values()) > 0
    other = seconds_of(job.changed({"seed": 1}), ["film"])
    assert other["film"] != drawn["film"]
    plain = job.changed({"simulation.slow": {}})
    assert drawn["shop"] == 5.0 * seconds_of(plain, ["shop"])["shop"]
