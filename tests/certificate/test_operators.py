"""Certificates by an operator's key, and what an owner finds in them of its own ledger."""

import json
import os
import shutil

import pytest

from umbel.certificate.check import KEY, verify
from umbel.certificate.form import FILE, Certificate, CertifiedRoster
from umbel.certificate.issue import issue
from umbel.client.home import Home
from umbel.privacy.accounting.accountant import MechanismEvent
from umbel.privacy.ledger.ledger import Ledger
from umbel.privacy.secagg.keys import Identity
from umbel.privacy.secagg.roster import Entry, Limits, Roster

from .altered import edit, read, resigned, wrong


@pytest.fixture
def operator(tmp_path):
    """An operator's consortium and its card."""
    from umbel.consortium.authority import Consortium

    consortium = Consortium.create(tmp_path / "consortium", "127.0.0.1", 9000, Limits())
    return consortium, tmp_path / "consortium" / "consortium.json"


def deployed(run, consortium, heads=()):
    """Let the run be one between machines, as a coordinator leaves it; its roster."""
    heads = list(heads)
    member = Identity(os.urandom(64))
    roster = Roster(1, (Entry("st-mary", member.public),), Limits(), bytes(32))
    known = CertifiedRoster.of(roster, consortium.card.id)
    edit(run / "run.json", lambda identity: identity.update(signature="ab" * 64))
    edit(run / "run.json", lambda identity: identity.pop("ledgers"))
    shutil.rmtree(run / "ledgers")
    edit(run / "result.json", lambda r: r.update(roster=known.model_dump(), sealed_heads=heads))
    for name in (KEY, FILE):
        (run / name).unlink()
    result = read(run / "result.json")
    (run / FILE).write_bytes(issue(run, result, consortium.operator).to_bytes())
    return known


def test_an_operators_certificate_verifies_by_the_consortiums_card_and_no_other(
    run, operator, umbel, tmp_path
):
    from umbel.consortium.authority import Consortium

    consortium, card = operator
    roster = deployed(run, consortium)
    assert Certificate.read(run / FILE).roster == roster
    status, out, _ = umbel("verify", run, "--consortium", card)
    assert (status, "the operator of 'consortium'" in out) == (0, True)
    assert "4 owners' ledger heads were not reported" in out
    assert "0 of 4 owners' heads are in it" in out
    Consortium.create(tmp_path / "other", "127.0.0.1", 9000, Limits())
    status, out, _ = umbel("verify", run, "--consortium", tmp_path / "other" / "consortium.json")
    assert (status, "DIFFERS  signer" in out) == (2, True)


def test_an_operator_whose_key_was_elsewhere_certifies_later(run, operator, umbel):
    consortium, card = operator
    deployed(run, consortium)
    (run / FILE).unlink()
    status, _, err = umbel("certify", run)
    assert (status, "--consortium" in err) == (2, True)
    status, out, _ = umbel("certify", run, "--consortium", consortium.path)
    assert status == 0
    assert Certificate.read(run / FILE).digest in out
    assert Certificate.read(run / FILE).digest in (run / "adapter" / "README.md").read_text()
    assert umbel("verify", run, "--consortium", card)[0] == 0


@pytest.fixture
def owner(run, operator, tmp_path):
    """The folder of one of a deployed run's owners, with the ledger that the run charged."""
    consortium, card = operator
    (tmp_path / "notes.csv").write_text("text,label\nfine,positive\nill,negative\n")
    home = Home.create(tmp_path / "st-mary", card, tmp_path / "notes.csv")
    for part in ("sqlite", "witness"):
        shutil.copy(run / "ledgers" / f"film.{part}", home.path / f"ledger.{part}")
    deployed(run, consortium, Certificate.read(run / FILE).ledgers.sealed_heads)
    return home


def charge(home, key, job):
    with Ledger(home.ledger) as ledger:
        dataset = ledger.entries()[0].dataset
        event = MechanismEvent(5.0, 0.1, 1)
        ledger.reserve(dataset, event, job=job, key=key, delta=1e-3, limit=1e3)


def test_an_owner_finds_its_own_ledger_in_an_operators_certificate(run, owner, operator, umbel):
    status, out, _ = umbel("verify", run, "--consortium", operator[1])
    assert (status, "4 of 4 owners' heads are in it" in out) == (0, True)
    look = ("ledger", "verify", owner.path, "--certificate", run / FILE)
    status, out, _ = umbel(*look)
    assert status == 0
    assert "names row 6 of this ledger, the last row of its run" in out
    charge(owner, "another run/1/0", "another job")
    assert "the last row of its run" in umbel(*look)[1]
    certificate = Certificate.read(run / FILE)
    charge(owner, f"{certificate.run}/9/0", certificate.job.sha256)
    assert "names row 6 of this ledger; the run added 1 more" in umbel(*look)[1]


def test_an_owner_does_not_find_a_ledger_that_was_set_back(run, owner, umbel):
    owner.ledger.unlink()
    owner.ledger.with_suffix(".witness").unlink()
    charged = Ledger(owner.ledger)
    charged.reserve("d", MechanismEvent(5.0, 0.1, 1), job="j", key="k", delta=1e-3, limit=10)
    charged.close()
    status, _, err = umbel("ledger", "verify", owner.path, "--certificate", run / FILE)
    assert status == 2
    assert "None of the 4 ledger heads" in " ".join(err.split())


def test_an_owner_relies_on_its_operator_and_on_its_own_job_alone(run, owner, operator, umbel):
    look = ("ledger", "verify", owner.path, "--certificate", run / FILE)
    resigned(run, lambda values: values.update(run="another"), operator[0].operator)
    status, _, err = umbel(*look)
    assert (status, "ask the operator" in err) == (2, True)
    resigned(run, lambda values: None, Identity(os.urandom(64)))
    status, _, err = umbel(*look)
    assert (status, "signer: the certificate is signed by" in err) == (2, True)


def test_a_run_that_was_changed_is_not_certified_again(run, umbel):
    edit(run / "result.json", lambda result: result["metrics"].update(examples=10**6))
    status, _, err = umbel("certify", run)
    assert status == 2
    assert "metrics.examples is 1000000.0, but" in err


def test_a_simulation_does_not_pass_for_an_operators_certificate(run, operator):
    _, card = operator
    from umbel.consortium.card import Card

    text = wrong(verify(run, card=Card.read(card)))["signer"]
    assert "a simulation, which signs itself" in text


def test_the_operators_signature_on_a_certificate_is_none_on_a_job(run, operator):
    from umbel.consortium.warrants import check_job_signature
    from umbel.errors import PlanRefused

    consortium, _ = operator
    deployed(run, consortium)
    certificate = Certificate.read(run / FILE)
    job = json.dumps(certificate.job.canonical, sort_keys=True, separators=(",", ":"))
    with pytest.raises(PlanRefused):
        check_job_signature(
            consortium.card.operator_key_bytes,
            consortium.card.id,
            certificate.run,
            job,
            certificate.signature,
        )
