"""Runs whose noise hides all data of a client: in the sum, by the clients or by the server."""

import math
import signal
from itertools import pairwise

import numpy as np
import pytest
from safetensors.numpy import load_file

from umbel.client.policy import Policy
from umbel.client.rules import EncryptionRules, PrivacyRules
from umbel.errors import Interrupted, PlanRefused
from umbel.planning.client_level import next_clipping_norm
from umbel.privacy.accounting.accountant import epsilon
from umbel.privacy.ledger.ledger import Ledger
from umbel.server.run import Silent
from umbel.simulations.engine import Options, plan_job, resume, simulate

CLIENTS, DELTA = 8, 0.01


@pytest.fixture
def hidden(job_of):
    """Eight clients, of which five in any sum are honest."""

    def build(**sections):
        plain = {
            "training": {"batch_size": 8, "rounds": 3, "local_steps": 2},
            "privacy": {"unit": "client", "delta": DELTA, "epsilon": 30.0, "clipping_norm": 0.5},
            "encryption": {"minimum": 6},
            "evaluation": {"counts": "off"},
            "simulation": {"partition": "iid", "clients": CLIENTS},
        }
        for name, section in plain.items():
            sections[name] = {**section, **sections.get(name, {})}
        return job_of(sections.pop("base", "bert"), **sections)

    return build


class CtrlC(Silent):
    """Presses Ctrl-C while the second round trains."""

    def started(self, what, total):
        if what == "train 2":
            signal.raise_signal(signal.SIGINT)


def run(job, folder, reproducible=True, **options):
    return simulate(job, Options(run_dir=folder, workers=1, reproducible=reproducible, **options))


def rounds(folder):
    return [event for event in folder.read_events() if event["event"] == "round"]


def digest(folder):
    return folder.read_json("result.json")["adapter_sha256"]


def test_each_round_is_charged_once_and_the_whole_keeps_to_its_promise(hidden, tmp_path):
    job = hidden()
    folder = run(job, tmp_path / "run")
    plan, result = folder.read_json("plan.json"), folder.read_json("result.json")
    multiplier = plan["clients"][0]["noise_multiplier"]
    for client in plan["clients"]:
        with Ledger(folder.path / "ledgers" / f"{client['name']}.sqlite") as ledger:
            ledger.verify()
            events = [entry.event for entry in ledger.entries()]
        assert [(e.kind, e.sampling_rate, e.steps) for e in events] == [
            ("concentrated", 1.0, 1)
        ] * 3
        assert {e.noise_multiplier for e in events} == {multiplier}
        assert result["privacy"]["clients"][client["name"]] == epsilon(events, DELTA)
        assert epsilon(events, DELTA) <= client["epsilon"] * (1 + 1e-12) <= job.privacy.epsilon
    proof = plan["proof"]
    assert proof["unit"] == "client"
    assert proof["assumes"] == ["at most 1 of 8 clients collude with the server"]
    assert proof["amplified_by"] is None
    assert client["epsilon"] <= proof["epsilon"] <= proof["never_more_than"] == 30.0
    for words in (
        "whatever any one client's data are",
        "all data of one client exchanged for any other",
        "5 honest clients in a sum",
        "at most 1 of 8 collude",
        "without amplification",
    ):
        assert words in plan["guarantee"]
    assert all(event["loss"] is None and event["clipped"] == 0 for event in rounds(folder))


def test_a_reproducible_run_gives_the_same_model_and_another_run_does_not(hidden, tmp_path):
    one, same = run(hidden(), tmp_path / "one"), run(hidden(), tmp_path / "same")
    other = run(hidden(), tmp_path / "other", reproducible=False)
    assert digest(one) == digest(same) != digest(other)


def final(folder):
    """The last model, float64[parameters]."""
    path = max((folder.path / "checkpoints").iterdir())
    arrays = {n: a for n, a in load_file(path).items() if n.startswith("model/")}
    return np.concatenate([arrays[name].reshape(-1).astype(float) for name in sorted(arrays)])


@pytest.mark.parametrize("mechanism", ["distributed", "central"])
def test_noise_of_the_model_is_what_the_plan_says(mechanism, hidden, tmp_path):
    """Of the difference of two runs over one round, which differ in their noise alone."""
    lora = {"adapter": "lora", "lora": {"rank": 8, "alpha": 8}}  # many numbers that noise moves
    job = hidden(training={"rounds": 1}, privacy={"mechanism": mechanism}, model=lora)
    one, other = (run(job, tmp_path / name, reproducible=False) for name in ("one", "other"))
    multiplier = one.read_json("plan.json")["clients"][0]["noise_multiplier"]
    # Eight clients add what would do with five; the server adds just what is needed.
    more = math.sqrt(CLIENTS / 5) if mechanism == "distributed" else 1.0
    deviation = 2 * job.privacy.clipping_norm * multiplier * more / CLIENTS
    difference = final(one) - final(other)
    spread = 7 * math.sqrt(1 / (2 * len(difference)))  # beyond it once in 10^10 runs
    assert spread < 0.25
    assert difference.std() == pytest.approx(deviation * math.sqrt(2), rel=spread)


def test_central_noise_is_named_as_trust_in_the_server(hidden, tmp_path):
    job = hidden(privacy={"mechanism": "central"})
    folder = run(job, tmp_path / "run")
    guarantee = folder.read_json("plan.json")["guarantee"]
    assert "BUT NOT THE SERVER" in guarantee
    assert "trusted to add" in guarantee
    with Ledger(folder.path / "ledgers" / "client-0001.sqlite") as ledger:
        assert {entry.event.kind for entry in ledger.entries()} == {"gaussian"}
    distributed, _ = plan_job(hidden())
    assert "the server included" in distributed.guarantee


def test_an_adaptive_norm_moves_by_a_noised_count_and_survives_a_stop(hidden, tmp_path):
    job = hidden(
        privacy={"clipping": "adaptive", "clipping_norm": 1.0, "epsilon": 2000.0},
        training={"rounds": 4},
    )
    whole = run(job, tmp_path / "whole")
    events = rounds(whole)
    assert events[0]["clipping_norm"] == 1.0
    for event, following in pairwise(events):
        wanted = event["clipping_norm"] * math.exp(-0.2 * (event["within"] - 0.5))
        assert event["next_clipping_norm"] == pytest.approx(wanted)
        assert following["clipping_norm"] == event["next_clipping_norm"]
    # With so little noise the count is right: small updates of a norm far below 1.
    assert events[0]["within"] == pytest.approx(1.0, abs=0.2)
    assert events[-1]["clipping_norm"] < 1.0
    stopped = tmp_path / "stopped"
    with pytest.raises(Interrupted):
        simulate(job, Options(run_dir=stopped, workers=1, reproducible=True), CtrlC())
    again = resume(stopped, workers=1)
    assert digest(again) == digest(whole)
    assert [e["clipping_norm"] for e in rounds(again)] == [e["clipping_norm"] for e in events]


def test_a_next_norm_keeps_to_the_room_of_the_grid(hidden):
    job = hidden(privacy={"clipping": "adaptive"})
    assert next_clipping_norm(job, 1.0, 1.0, (0.99, 2.0)) == 0.99
    assert next_clipping_norm(job, 1.0, -3.0, (0.5, 1.5)) == 1.5
    assert next_clipping_norm(job, 1.0, 0.5, (0.5, 1.5)) == 1.0


def test_tests_hide_clients_too(hidden, tmp_path):
    job = hidden(
        privacy={"epsilon": 200.0},
        evaluation={"counts": "private", "epsilon": 150.0, "every": 1},
        training={"rounds": 1},
    )
    folder = run(job, tmp_path / "run")
    result = folder.read_json("result.json")
    cells = np.array(result["metrics"]["confusion"])
    assert cells.shape == (2, 2)
    assert (cells >= 0).all()
    assert result["metrics"]["examples"] is None
    assert "the same holds for held-out records" in folder.read_json("plan.json")["guarantee"]
    with Ledger(folder.path / "ledgers" / "client-0001.sqlite") as ledger:
        assert [e.key.split("/")[1] for e in ledger.entries()] == ["test 0", "1", "test 1"]


def test_a_language_model_and_lora_hide_clients_as_well(hidden, tmp_path):
    job = hidden(
        task="causal-lm", model={"adapter": "lora"}, data={"label_column": None}, base="llama"
    )
    folder = run(job, tmp_path / "run")
    assert len(rounds(folder)) == 3
    assert folder.read_json("result.json")["privacy"]["epsilon"] <= job.privacy.epsilon


REFUSALS = {
    "no sum": (
        {"encryption": {"mode": "none"}, "simulation": {"encryption_required": False}},
        "hides each client in a sum",
    ),
    "exact counts": ({"evaluation": {"counts": "exact"}}, 'evaluation.counts = "exact" tells'),
    "weights": ({"strategy": {"weighting": "examples"}}, "under client-level privacy a client's"),
    "delta": ({"privacy": {"delta": 0.2}}, "not below 1 / clients"),
    "a norm beyond the grid": (
        {"privacy": {"clipping_norm": 7.0}, "encryption": {"clip": 8.0}},
        "does not fit the sum",
    ),
    "a norm below the grid": (
        {"privacy": {"clipping_norm": 1e-3}, "encryption": {"clip": 80000.0}},
        "with encryption.clip = 80000: raise the norm, or set a smaller",
    ),
    "groups of a trusting job": (
        {"privacy": {"mechanism": "central"}, "encryption": {"minimum": 4, "group_size": 4}},
        "compared before the server adds its noise",
    ),
    "counts without room": (
        {"evaluation": {"counts": "private", "epsilon": 0.05}, "privacy": {"delta": 1e-6}},
        "noised counts of 8 clients do not fit",
    ),
    "more rounds than the noise is for": (
        {"cohort": {"size": 6, "participations": 1}},
        r"by the job's seed a client is asked in [23] rounds",
    ),
    "epsilon out of reach": ({"privacy": {"epsilon": 1e-4, "delta": 1e-9}}, "No noise keeps"),
    "central without clients": (
        {"privacy": {"unit": "example", "mechanism": "central", "delta": 1e-3}},
        'apply only to privacy.unit = "client"',
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_hide_clients_is_refused(case, hidden):
    sections, words = REFUSALS[case]
    with pytest.raises(PlanRefused, match=words):
        plan_job(hidden(**sections))


def test_clients_that_are_asked_less_often_need_less_noise(hidden):
    often, _ = plan_job(hidden(cohort={"size": 6}, training={"rounds": 20}))
    most = max(client.rounds for client in often.clients)
    assert most < 20
    seldom, _ = plan_job(
        hidden(cohort={"size": 6, "participations": most}, training={"rounds": 20})
    )
    noise = [client.noise_multiplier for client in seldom.clients]
    assert len(set(noise)) == 1
    assert noise[0] < often.clients[0].noise_multiplier
    assert max(client.epsilon for client in seldom.clients) <= 30.0


def test_noise_that_is_needlessly_large_is_warned_of(hidden):
    thin, _ = plan_job(hidden(encryption={"minimum": 3}))
    assert any("raise encryption.minimum" in warning for warning in thin.warnings)
    enough, _ = plan_job(hidden())
    assert not any("encryption.minimum" in warning for warning in enough.warnings)


def test_owners_hold_to_what_a_sum_needs_whatever_the_servers_plan_allows(hidden):
    """The server may run another plan; the owner's policy sees the job itself."""
    privacy = {"epsilon": 5.0, "delta": 1e-5}
    willing = Policy(
        privacy=PrivacyRules(units=["client"], central_noise=True),
        encryption=EncryptionRules(required=False, confirm_required=False),
    )
    for sections, words in (
        ({"encryption": {"mode": "none"}}, "hides each client in a sum"),
        ({"encryption": {"confirm": False}}, "with less of their noise"),
        ({"evaluation": {"counts": "exact"}}, "held-out records"),
        (
            {"privacy": {**privacy, "mechanism": "central"}, "encryption": {"group_size": 4}},
            "compared before the server adds its noise",
        ),
    ):
        with pytest.raises(PlanRefused, match=words):
            willing.check("st-mary", hidden(**{"privacy": privacy, **sections}))


def test_owners_accept_neither_unit_nor_trust_unasked(hidden):
    strict = Policy()
    with pytest.raises(PlanRefused, match=r"accepts privacy\.unit \"example\""):
        strict.check("st-mary", hidden(privacy={"epsilon": 5.0, "delta": 1e-5}))
    willing = Policy(privacy=PrivacyRules(units=["client"]))
    willing.check("st-mary", hidden(privacy={"epsilon": 5.0, "delta": 1e-5}))
    with pytest.raises(PlanRefused, match=r"privacy\.central_noise"):
        central = {"epsilon": 5.0, "delta": 1e-5, "mechanism": "central"}
        willing.check("st-mary", hidden(privacy=central))


def test_what_one_job_may_cost_is_what_its_run_may_really_spend(hidden):
    policy = Policy(privacy=PrivacyRules(units=["client"], epsilon_per_job=2.0))
    asked = {"epsilon": 2.0, "delta": 1e-5}
    policy.check("st-mary", hidden(privacy=asked))
    with pytest.raises(
        PlanRefused, match=r"at most epsilon 2 \(privacy.epsilon_per_job\).* asks for 9"
    ):
        policy.check("st-mary", hidden(privacy={**asked, "limit": 9.0}))
