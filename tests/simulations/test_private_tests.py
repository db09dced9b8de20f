"""Tests of a model whose counts are noised, charged, or not made at all."""

import io

import pytest
from rich.console import Console

from umbel.certificate.form import FILE, Certificate
from umbel.errors import PlanRefused
from umbel.planning.schedule import most_tests
from umbel.privacy.ledger.ledger import Ledger
from umbel.reports.page import write_page
from umbel.reports.standings import EXACT
from umbel.reports.tables import result_table
from umbel.run.record import RunRecord
from umbel.simulations.engine import Options, plan_job, simulate


@pytest.fixture
def private(job_of):
    """Steps that see all records, so that noise is found fast; tests that cost half of it all."""

    def build(**sections):
        plain = {
            "training": {"batch_size": 64, "rounds": 2},
            "privacy": {"delta": 1e-3, "epsilon": 20.0},
            "evaluation": {"counts": "private", "epsilon": 10.0, "every": 1},
        }
        for name, section in plain.items():
            sections[name] = {**section, **sections.get(name, {})}
        return job_of("bert", **sections)

    return build


def run(job, folder, **options):
    return simulate(job, Options(run_dir=folder, workers=1, reproducible=True, **options))


def entries(folder, site):
    with Ledger(folder.path / "ledgers" / f"{site}.sqlite") as ledger:
        ledger.verify()
        return ledger.entries()


def test_every_test_is_charged_and_all_together_keep_to_the_jobs_epsilon(private, tmp_path):
    job = private()
    folder = run(job, tmp_path / "run")
    plan = folder.read_json("plan.json")
    for client in plan["clients"]:
        found = entries(folder, client["name"])
        tests = [entry for entry in found if entry.event.kind == "concentrated"]
        assert [entry.key.split("/")[1] for entry in tests] == ["test 0", "test 1", "test 2"]
        assert len(tests) == plan["evaluation"]["tests"] == most_tests(job)
        assert len(found) == 1 + len(tests) + job.training.rounds
        with Ledger(folder.path / "ledgers" / f"{client['name']}.sqlite") as ledger:
            spent = ledger.spent(found[0].dataset, job.privacy.delta)
        assert spent == pytest.approx(client["epsilon"], rel=1e-3)
        assert spent <= job.privacy.epsilon
    assert (
        "whose counts carry discrete Gaussian noise that each client adds whole"
        in plan["guarantee"]
    )
    assert "exact counts" not in plan["guarantee"]


@pytest.mark.parametrize("mode", ["secure-sum", "none"])
def test_figures_are_near_the_exact_ones_and_not_equal(mode, private, tmp_path):
    sections = {"encryption": {"mode": mode}, "simulation": {"encryption_required": False}}
    noised = run(private(**sections), tmp_path / "noised").read_json("result.json")
    exact = run(private(evaluation={"counts": "exact"}), tmp_path / "exact").read_json(
        "result.json"
    )
    assert noised["metrics"]["confusion"] != exact["metrics"]["confusion"]
    assert noised["metrics"]["examples"] == pytest.approx(exact["metrics"]["examples"], abs=60)


def test_without_tests_nothing_leaves_of_the_held_out_records(private, tmp_path):
    folder = run(private(evaluation={"counts": "off"}), tmp_path / "run")
    assert folder.read_json("result.json")["metrics"] == {}
    assert [e for e in folder.read_events() if e["event"] == "evaluation"] == []
    assert {entry.event.kind for entry in entries(folder, "film")} == {"gaussian", "pure"}
    assert "held-out records" not in folder.read_json("plan.json")["guarantee"]


def test_tests_leave_less_for_training(private):
    quiet, _ = plan_job(private(evaluation={"counts": "off"}))
    noisy, _ = plan_job(private())
    assert noisy.clients[0].noise_multiplier > quiet.clients[0].noise_multiplier


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"privacy": {"unit": "none"}}, 'evaluation.counts = "private"'),
        ({"evaluation": {"epsilon": 30.0}}, "evaluation.epsilon = 30 leaves nothing"),
    ],
)
def test_what_cannot_be_is_refused(sections, words, private):
    with pytest.raises(PlanRefused, match=words):
        plan_job(private(**sections))


def test_exact_figures_of_a_simulation_stand_beside_what_a_server_sees_and_say_so(
    private, tmp_path
):
    folder = run(private(), tmp_path / "run")
    found = folder.read_json("result.json")
    exact = run(private(evaluation={"counts": "exact"}), tmp_path / "exact")
    # The same records, another model: of the untrained one the exact figures are the same.
    initial = exact.read_json("result.json")["initial"]
    assert found["exact"]["initial"]["confusion"] == initial["confusion"]
    assert found["initial"]["confusion"] != initial["confusion"]
    assert exact.read_json("result.json")["exact"] is None
    record = RunRecord.read(folder.path)
    assert record.final == found["exact"]["metrics"]
    assert record.seen == found["metrics"]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(result_table(record))
    shown = console.export_text()
    assert "as a server sees it" in shown
    assert "Exact figures, read on this machine" in shown
    assert EXACT.split(",")[0] in write_page(folder.path, []).read_text(encoding="utf-8")
    assert Certificate.read(folder.path / FILE).figures["examples"] == found["metrics"]["examples"]
