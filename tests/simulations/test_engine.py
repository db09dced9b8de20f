"""`umbel simulate` from end to end: its result and its reproducibility, and what a shared ledger refuses."""

import json

import pytest

from umbel.errors import PlanRefused, RoundFailed, RunFolderError
from umbel.learning.predict import Predictor
from umbel.privacy.ledger.ledger import Ledger
from umbel.simulations.engine import plan_job

from .endings import SITES, result, sha, spent


def test_a_result_holds_what_people_and_scripts_look_for(quick, start):
    job = quick("example", simulation={"alone": True, "pooled": True}, evaluation={"every": 1})
    folder = start(job)
    found = result(folder)
    assert found["umbel_version"] == "0.1.0"
    assert found["status"] == "finished"
    assert found["rounds"] == 3
    assert found["metrics"]["confusion"] != found["exact"]["metrics"]["confusion"]
    assert 0 <= found["exact"]["metrics"]["accuracy"] <= 1
    assert found["exact"]["metrics"]["examples"] == sum(
        c["examples"] for c in found["client_metrics"].values()
    )
    assert list(found["local_only"]) == SITES
    assert all(0 <= alone["accuracy"] <= 1 for alone in found["local_only"].values())
    assert 0 <= found["pooled"]["accuracy"] <= 1
    assert found["privacy"]["epsilon"] == max(spent(folder).values()) <= 8
    assert found["privacy"]["delta"] == 1e-3
    assert found["privacy"]["clients"] == spent(folder)
    assert "one record" in found["privacy"]["guarantee"]
    assert found["seconds"]["total"] >= found["seconds"]["rounds"] > 0
    plan = json.loads((folder.path / "plan.json").read_text())
    vector = plan["bytes_up_per_client_round"]
    assert vector > 4 * found["trainable_parameters"]
    assert vector <= found["bytes"]["up_per_client_round"] < vector + 4000
    assert found["encryption"]["mode"] == "secure-sum"
    assert "only sums of updates" in found["privacy"]["guarantee"]
    assert found["bytes"]["up_total"] // 12 == found["bytes"]["up_per_client_round"]
    assert len(found["adapter_sha256"]) == 64
    assert found["reproducible"] is True
    assert (folder.path / "adapter" / "README.md").is_file()
    assert plan["privacy"]["epsilon"] == 8.0
    kinds = [event["event"] for event in folder.read_events()]
    assert kinds[:3] == ["partition", "prepared", "ready"]
    assert kinds.count("round") == 3
    assert kinds.count("evaluation") == 4


@pytest.mark.parametrize("adapter", ["head", "lora"])
def test_a_private_head_on_several_layers_is_trained_and_then_predicts(
    adapter, quick, start, texts
):
    folder = start(quick("example", model={"adapter": adapter, "pooling": "layers"}))
    found = result(folder)
    assert found["privacy"]["epsilon"] == max(spent(folder).values()) <= 8
    head = 2 * 3 * 16 + 2
    if adapter == "head":
        assert found["trainable_parameters"] == head
    else:
        assert found["trainable_parameters"] > head
    chances = [p.probabilities for p in Predictor.load(folder.path, "cpu").predict(texts[:4])]
    assert all(sum(chance.values()) == pytest.approx(1) for chance in chances)
    # A head that training left at zero would say one half of every text.
    assert any(abs(chance["positive"] - 0.5) > 1e-3 for chance in chances)
    readme = (folder.path / "adapter" / "README.md").read_text()
    assert "output_hidden_states=True" in readme


def test_without_privacy_the_result_claims_none(quick, start):
    found = result(start(quick()))["privacy"]
    assert (found["unit"], found["epsilon"], found["delta"]) == ("none", None, None)
    assert found["guarantee"].startswith("No differential privacy")


@pytest.mark.parametrize(("unit", "most"), [("example", 3), ("none", 2)])
def test_the_number_of_workers_does_not_change_a_bit(unit, most, quick, start):
    job = quick(unit, model=lora(quick))
    hashes = {sha(start(job, f"with-{n}", n)) for n in range(1, most + 1)}
    assert len(hashes) == 1


def lora(quick):
    return {**quick().model.model_dump(exclude={"lora"}), "lora": {"rank": 2}, "adapter": "lora"}


def test_the_same_job_gives_the_same_model_and_another_seed_another(quick, start):
    hashes = [sha(start(quick("example", seed=seed), f"{n}")) for n, seed in enumerate((1, 1, 2))]
    assert hashes[0] == hashes[1] != hashes[2]


def test_otherwise_noise_is_new_in_every_run(quick, start):
    hashes = {sha(start(quick("example"), name, reproducible=False)) for name in "ab"}
    assert len(hashes) == 2


def test_a_run_never_writes_over_another(quick, start):
    folder = start(quick())
    with pytest.raises(RunFolderError, match="exists already"):
        start(quick())
    assert result(folder)["status"] == "finished"


def test_a_plan_that_is_refused_leaves_nothing_behind(quick, start, tmp_path):
    with pytest.raises(PlanRefused, match=r"cohort\.size is 9"):
        start(quick(cohort={"size": 9}))
    assert list(tmp_path.iterdir()) == []


def test_a_plan_alone_trains_and_writes_nothing(quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan, federation = plan_job(quick("example"))
    assert [client.name for client in plan.clients] == SITES
    assert plan.epsilon <= 8
    assert sum(len(share.train) + len(share.test) for share in federation.shares) == 144
    assert list(tmp_path.iterdir()) == []


def test_a_shared_ledger_refuses_the_same_job_a_second_time(quick, start, tmp_path):
    job, ledgers = quick("example"), tmp_path / "ledgers"
    start(job, "one", ledgers=ledgers)
    with pytest.raises(
        RoundFailed, match="0 of 4 clients are ready.*too little privacy budget left"
    ):
        start(job, "two", ledgers=ledgers)
    found = {}
    for path in ledgers.glob("*.sqlite"):
        with Ledger(path) as ledger:
            found[path.stem] = len(ledger.entries())
    # The published size, three rounds, and the test of the last model.
    assert found == dict.fromkeys(SITES, 1 + 3 + 1)


def test_a_shared_ledger_lets_a_job_through_that_fits_beside_the_first(quick, start, tmp_path):
    ledgers = tmp_path / "ledgers"
    small = quick("example", privacy={"epsilon": 1.0, "limit": 4.0})
    start(small, "one", ledgers=ledgers)
    second = start(small, "two", ledgers=ledgers)
    assert result(second)["privacy"]["epsilon"] <= 1.0
    with Ledger(ledgers / "film.sqlite") as ledger:
        [dataset] = {entry.dataset for entry in ledger.entries()}
        assert 1.0 < ledger.spent(dataset, 1e-3) <= 4.0
