"""Certificates of real runs: what they bind, and that nothing about them can be changed unnoticed."""

import hashlib
import json
import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.certificate.check import KEY, verify
from umbel.certificate.form import FILE, Certificate, CertifiedRoster
from umbel.certificate.issue import issue
from umbel.certificate.seal import seal_head
from umbel.client.home import Home
from umbel.errors import CertificateError
from umbel.job import Job
from umbel.privacy.accounting.accountant import MechanismEvent, epsilon
from umbel.privacy.ledger.ledger import Ledger
from umbel.privacy.secagg.keys import Identity
from umbel.privacy.secagg.roster import Entry, Limits, Roster
from umbel.run.run_folder import RunFolder
from umbel.server.conclusion import certify
from umbel.simulations.engine import Options, simulate

SITES = ["film", "press", "shop", "social"]


@pytest.fixture(scope="module")
def finished(job_of, tmp_path_factory):
    """The folder of a small encrypted simulation whose training and tests are private."""
    job = job_of(
        "bert",
        training={"rounds": 2, "batch_size": 64},
        evaluation={"epsilon": 4.0, "every": 1},
    )
    return simulate(job, Options(tmp_path_factory.mktemp("runs") / "run", workers=1)).path


@pytest.fixture
def run(finished, tmp_path):
    """The same, to be changed."""
    return shutil.copytree(finished, tmp_path / "run")


def read(path):
    return json.loads(path.read_text())


def edit(path, change):
    values = read(path)
    change(values)
    path.write_text(json.dumps(values))


def wrong(verdict):
    """What differs, by name."""
    assert not verdict.valid
    return {found.what: found.text for found in verdict.findings if found.holds is False}


def resigned(run, change, key=None):
    """The run's certificate with other content, signed anew by the run's own key, or by another."""
    certificate = Certificate.read(run / FILE)
    values = certificate.model_dump(mode="json")
    change(values)
    signer = key or Identity((run / KEY).read_bytes())
    changed = Certificate.model_validate(values).signed_by(signer)
    (run / FILE).write_bytes(changed.to_bytes())


def test_a_finished_run_verifies_and_every_check_was_made(finished):
    verdict = verify(finished)
    assert verdict.valid
    made = {found.what: found.holds for found in verdict.findings}
    assert made.pop("signer") is None
    assert set(made) == {
        "signature", "job digest", "job.toml", "guarantee", "epsilon", "plan.json", "result.json",
        "adapter", "ledgers", "rounds", "second opinion",
    }  # fmt: skip
    assert all(made.values())


def test_it_binds_what_the_run_says_of_itself(finished):
    certificate, result = Certificate.read(finished / FILE), read(finished / "result.json")
    plan = read(finished / "plan.json")
    assert certificate.kind == "simulation"
    assert certificate.roster is None
    assert certificate.run == read(finished / "run.json")["id"]
    assert certificate.adapter.sha256 == result["adapter_sha256"]
    assert certificate.base.sha256 == result["base_sha256"]
    assert certificate.guarantee.sentence == plan["guarantee"]
    assert certificate.guarantee.epsilon_spent == result["privacy"]["epsilon"]
    assert certificate.guarantee.epsilon_planned == max(c["epsilon"] for c in plan["clients"])
    assert certificate.figures["examples"] == result["metrics"]["examples"]
    assert certificate.rounds.cohort_sizes == [4, 4]
    job = Job.build(certificate.job.canonical)
    assert hashlib.sha256(job.to_json().encode()).hexdigest() == certificate.job.sha256
    with Ledger(finished / "ledgers" / "film.sqlite") as ledger:
        assert {entry.job for entry in ledger.entries_of(certificate.run)} == {
            certificate.job.sha256
        }


def test_it_names_no_owner_and_gives_no_ledger_head_in_the_clear(finished):
    text = (finished / FILE).read_text()
    assert not any(f'"{site}"' in text for site in SITES)
    sealed, found = Certificate.read(finished / FILE).ledgers.sealed_heads, []
    for site in SITES:
        with Ledger(finished / "ledgers" / f"{site}.sqlite") as ledger:
            found.append(seal_head(ledger.identity, ledger.head()))
            secrets = (ledger.head(), ledger.identity, ledger.entries()[-1].dataset)
            assert not any(secret in text for secret in secrets)
            assert seal_head(os.urandom(16).hex(), ledger.head()) not in sealed
    assert sealed == sorted(found)


def test_the_secret_of_a_simulation_is_its_users_alone(finished):
    assert (finished / KEY).stat().st_mode & 0o077 == 0


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_byte_can_be_changed(finished, data):
    content = bytearray((finished / FILE).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CertificateError):
        Certificate.from_bytes(bytes(content), "it")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_byte_can_be_missing_or_added(finished, data):
    content = (finished / FILE).read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    more = data.draw(st.binary(min_size=1, max_size=3))
    with pytest.raises(CertificateError):
        Certificate.from_bytes(content[:place], "it")
    changed = content[:place] + more + content[place:]
    if changed != content:
        with pytest.raises(CertificateError):
            Certificate.from_bytes(changed, "it")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"cohort_sizes"', '"cohort_sizes": [4], "cohort_sizes"'),
        ('  "run"', '   "run"'),
        ('"seeded": false', '"seeded": NaN'),
        ('"run": "', '"run": "\\ud800'),
        ('"local_steps": 2', '"local_steps": 1e999'),
        ('"local_steps": 2', '"local_steps": ' + "[" * 300 + "]" * 300),
        ('"local_steps": 2', '"local_steps": ' + "[" * 5000 + "]" * 5000),
    ],
)
def test_no_other_way_to_write_it_is_taken(finished, before, after):
    text = (finished / FILE).read_text()
    assert before in text
    with pytest.raises(CertificateError, match="changed"):
        Certificate.from_bytes(text.replace(before, after, 1).encode(), "it")


def test_another_format_says_which_one_and_what_to_do(run):
    for other in ("umbel certificate 2", "umbel certificate 9"):
        edit(run / FILE, lambda values, other=other: values.update(format=other))
        [text] = wrong(verify(run)).values()
        assert repr(other) in text
        assert "use the version of Umbel that wrote it" in text


def test_a_file_that_was_cut_off_is_refused(run):
    os.truncate(run / FILE, 1000)
    assert "cut off or changed" in wrong(verify(run))["signature"]


def test_without_a_certificate_there_is_nothing_to_rely_on(run):
    (run / FILE).unlink()
    assert "There is no certificate" in wrong(verify(run))["signature"]


def test_an_edited_job_is_named_with_both_values(run):
    path = run / "job.toml"
    text = path.read_text()
    assert "epsilon = 8.0" in text
    path.write_text(text.replace("epsilon = 8.0", "epsilon = 3.0"))
    found = wrong(verify(run))
    assert list(found) == ["job.toml"]
    assert "privacy.epsilon is 3.0, but 8.0 was certified" in found["job.toml"]


def test_a_job_that_does_not_have_its_digest_is_refused_even_if_it_is_signed(run):
    def change(values):
        values["job"]["canonical"]["seed"] = 99

    resigned(run, change)
    assert set(wrong(verify(run))) == {"job digest", "job.toml"}


def test_a_swapped_adapter_is_refused(run, job_of, tmp_path):
    other = simulate(
        job_of("bert", seed=5, training={"rounds": 1, "batch_size": 64}),
        Options(tmp_path / "other", workers=1),
    ).path
    found = wrong(verify(run, adapter=other / "adapter"))
    assert "head.safetensors is not the certified one" in found["adapter"]
    shutil.rmtree(run / "adapter")
    shutil.copytree(other / "adapter", run / "adapter")
    assert list(wrong(verify(run))) == ["adapter"]


def test_any_byte_of_any_file_of_an_adapter_counts(run):
    paths = [path for path in (run / "adapter").iterdir() if path.name != "README.md"]
    assert {path.name for path in paths} == set(Certificate.read(run / FILE).adapter.files)
    for path in paths:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert path.name in wrong(verify(run))["adapter"]
        path.write_bytes(content)
    assert verify(run).valid


def test_a_file_that_was_put_into_an_adapter_folder_is_seen(run):
    (run / "adapter" / "code").mkdir()
    (run / "adapter" / "code" / "modeling.py").write_text("print('loaded')")
    assert "code/modeling.py is not in the certificate" in wrong(verify(run))["adapter"]


def test_a_missing_file_of_an_adapter_is_seen(run):
    (run / "adapter" / "umbel.json").unlink()
    assert "umbel.json is missing" in wrong(verify(run))["adapter"]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("plan.json", lambda plan: plan.update(guarantee="All is well.")),
        ("plan.json", lambda plan: plan["clients"].pop()),
        ("plan.json", lambda plan: plan["clients"][0]["events"]["tests"].update(steps=2)),
        ("result.json", lambda result: result.update(adapter_sha256="0" * 64)),
        ("result.json", lambda result: result["privacy"].update(epsilon=0.1)),
        ("result.json", lambda result: result["metrics"].update(accuracy=0.99)),
        ("result.json", lambda result: result.pop("metrics")),
        ("result.json", lambda result: result["sealed_heads"].pop()),
    ],
)
def test_an_edited_plan_or_result_is_refused(name, change, run):
    edit(run / name, change)
    assert list(wrong(verify(run))) == [name]


def test_another_key_than_the_expected_one_is_refused_and_the_right_one_taken(run):
    right, other = Certificate.read(run / FILE).key, "ab" * 32
    found = {f.what: f.holds for f in verify(run, key=right.upper()).findings}
    assert found["signer"] is True
    text = wrong(verify(run, key=other))["signer"]
    assert right in text
    assert other in text
    assert "Ask the operator" in text


def test_who_signs_other_figures_with_another_key_does_not_pass_for_the_first_signer(run):
    trusted = Certificate.read(run / FILE).key
    resigned(
        run, lambda values: values["figures"].update(accuracy=0.12345), Identity(os.urandom(64))
    )
    assert set(wrong(verify(run, key=trusted))) == {"signer", "result.json"}


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


def test_the_command_says_in_json_what_holds(run, umbel):
    status, out, _ = umbel("verify", run, "--json")
    found = json.loads(out)
    assert (status, found["valid"]) == (0, True)
    assert found["digest"] == hashlib.sha256((run / FILE).read_bytes()).hexdigest()
    assert found["certificate"]["format"] == "umbel certificate 3"
    (run / FILE).write_bytes(b"{}")
    status, out, _ = umbel("verify", run, "--json")
    assert (status, json.loads(out)["valid"]) == (2, False)


def test_the_command_prints_the_sentence_and_what_is_not_proved(run, umbel):
    status, out, _ = umbel("verify", run)
    assert status == 0
    assert "simulation: signed by itself" in out
    assert read(run / "plan.json")["guarantee"] in out
    assert "does not prove that the machines of the data owners ran unmodified software" in out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--key", "abc"), "64 hexadecimal digits"),
        (("--key", "ab" * 32, "--consortium", "x"), "not both"),
        (("--adapter", "nowhere"), "no adapter folder nowhere"),
    ],
)
def test_arguments_that_cannot_be_used_are_said(arguments, text, run, umbel):
    status, _, err = umbel("verify", run, *arguments)
    assert status == 2
    assert text in err


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
