"""The figures of a certificate: they follow from what was run and charged."""

import json
import shutil

import pytest

from umbel.certificate.check import KEY, verify
from umbel.certificate.form import FILE, Certificate
from umbel.privacy.accounting.accountant import MechanismEvent, epsilon
from umbel.privacy.ledger.ledger import Ledger
from umbel.privacy.secagg.keys import Identity
from umbel.run.run_folder import RunFolder
from umbel.server.conclusion import certify

from .altered import SITES, edit, resigned, wrong


def test_it_lists_training_and_tests_and_both_together_cost_what_is_claimed(finished):
    guarantee = Certificate.read(finished / FILE).guarantee
    assert sum(alike.clients for alike in guarantee.spending) == len(SITES)
    for alike in guarantee.spending:
        size, tests, training = alike.mechanisms
        assert (size.what, size.kind, size.steps) == ("size", "pure", 1)
        assert (tests.what, tests.kind, tests.steps) == ("tests", "concentrated", 3)
        assert (training.what, training.kind, training.steps) == ("training", "gaussian", 4)
        every = [MechanismEvent(**m.model_dump(exclude={"what"})) for m in alike.mechanisms]
        assert epsilon(every, guarantee.delta) == pytest.approx(alike.epsilon)
        assert epsilon(every[2:], guarantee.delta) < 0.9 * alike.epsilon


def test_the_mechanisms_are_those_that_the_ledgers_were_charged(finished):
    stated = {
        (m.kind, m.noise_multiplier, m.sampling_rate)
        for alike in Certificate.read(finished / FILE).guarantee.spending
        for m in alike.mechanisms
    }
    charged = set()
    for site in SITES:
        with Ledger(finished / "ledgers" / f"{site}.sqlite") as ledger:
            events = [entry.event for entry in ledger.entries()]
        charged |= {(e.kind, e.noise_multiplier, e.sampling_rate) for e in events}
    assert charged == stated


@pytest.mark.parametrize(
    "change",
    [
        lambda alike, size, tests, training: alike.update(epsilon=alike["epsilon"] / 2),
        lambda alike, size, tests, training: alike.update(mechanisms=[]),
        lambda alike, size, tests, training: training.update(noise_multiplier=0.5),
        lambda alike, size, tests, training: training.update(noise_multiplier=-1.0),
        lambda alike, size, tests, training: training.update(steps=training["steps"] * 2),
        lambda alike, size, tests, training: training.update(kind="none"),
        lambda alike, size, tests, training: tests.update(noise_multiplier=1.0),
        lambda alike, size, tests, training: tests.update(steps=4),
        lambda alike, size, tests, training: size.update(noise_multiplier=0.1),
    ],
)
def test_an_epsilon_that_does_not_follow_from_what_was_run_is_refused_even_if_it_is_signed(
    change, run
):
    def edited(values):
        alike = values["guarantee"]["spending"][0]
        change(alike, *alike["mechanisms"])

    resigned(run, edited)
    assert "epsilon" in wrong(verify(run))


def test_a_certificate_without_the_published_size_is_refused(run):
    resigned(run, lambda v: v["guarantee"]["spending"][0]["mechanisms"].pop(0))
    assert "by the job, sizes" in wrong(verify(run / FILE, adapter=run / "adapter"))["guarantee"]


def test_a_test_fewer_than_the_job_asks_for_is_refused_from_the_certificate_alone(run):
    resigned(run, lambda v: v["guarantee"]["spending"][0]["mechanisms"][1].update(steps=2))
    found = wrong(verify(run / FILE, adapter=run / "adapter"))
    assert list(found) == ["guarantee"]
    assert "2 tests are planned, but the job has at most 3" in found["guarantee"]


@pytest.mark.parametrize(
    ("name", "value"), [("unit", "none"), ("delta", 1e-2), ("epsilon_limit", 9.0)]
)
def test_other_terms_than_the_jobs_are_refused(name, value, run):
    resigned(run, lambda values: values["guarantee"].update({name: value}))
    assert f"by the job, {name}" in wrong(verify(run))["guarantee"]


def test_a_planned_epsilon_below_a_clients_or_above_the_limit_is_refused(run):
    planned = Certificate.read(run / FILE).guarantee.epsilon_planned
    resigned(run, lambda values: values["guarantee"].update(epsilon_planned=planned * 0.9))
    assert list(wrong(verify(run))) == ["epsilon"]
    resigned(run, lambda values: values["guarantee"].update(epsilon_planned=8.5))
    assert list(wrong(verify(run))) == ["epsilon"]


def test_a_ledger_that_was_set_back_is_noticed_and_one_that_went_on_is_not(run):
    ledgers, older = run / "ledgers", run / "older"
    shutil.copytree(ledgers, older)
    with Ledger(ledgers / "film.sqlite") as ledger:
        dataset = ledger.entries()[0].dataset
        ledger.reserve(
            dataset, MechanismEvent(5.0, 0.1, 1), job="j", key="k", delta=1e-3, limit=100.0
        )
    assert verify(run).valid
    # Everything that lies beside it is set back too, so that only the certificate remembers.
    for path in ledgers.glob("film.*"):
        path.unlink()
    with Ledger(ledgers / "film.sqlite"):
        pass
    assert "1 of 4 certified heads" in wrong(verify(run))["ledgers"]
    shutil.rmtree(ledgers)
    older.rename(ledgers)
    assert verify(run).valid


def test_a_file_alone_verifies_without_the_run(run, tmp_path):
    shutil.copy(run / FILE, tmp_path / "alone.json")
    verdict = verify(tmp_path / "alone.json")
    assert verdict.valid
    assert {f.what: f.holds for f in verdict.findings}["adapter"] is None
    assert verify(tmp_path / "alone.json", adapter=run / "adapter").valid


def test_an_audit_is_bound_by_its_numbers_and_none_of_its_texts(run):
    audit = {
        "lower_bound": 0.4,
        "attack": {"auc": 0.51, "texts": ["a record"], "clients": {"film": {"auc": 0.9}}},
        "passed": True,
        "odds": float("inf"),
    }
    (run / "audit.json").write_text(json.dumps(audit))
    found = {f.what: f for f in verify(run).findings}
    assert found["audit.json"].holds is None
    certificate = certify(RunFolder(run), Identity((run / KEY).read_bytes()))
    assert certificate.audit.figures == {"lower_bound": 0.4, "attack.auc": 0.51, "passed": True}
    assert b"a record" not in certificate.to_bytes()
    assert b"film" not in certificate.to_bytes()
    assert verify(run).valid
    edit(run / "audit.json", lambda values: values.update(lower_bound=0.1))
    assert list(wrong(verify(run))) == ["audit.json"]


def test_the_second_accountant_hears_of_what_costs_most_and_agrees(finished):
    verdict = verify(finished)
    (found,) = [f for f in verdict.findings if f.what == "second opinion"]
    spent = Certificate.read(finished / FILE).guarantee.epsilon_planned
    told = float(found.text.rsplit(" ", 1)[1])
    assert told == pytest.approx(spent, rel=0.01)


def test_where_the_second_accountant_is_not_installed_it_is_said_how_to_have_it(
    finished, monkeypatch
):
    monkeypatch.setattr("umbel.privacy.accounting.second.installed", lambda: False)
    (found,) = [f for f in verify(finished).findings if f.what == "second opinion"]
    assert found.holds is None
    assert "pip install dp-accounting" in found.text
