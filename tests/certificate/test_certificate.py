"""Certificates of real runs: what they bind, and that nothing about them can be changed unnoticed."""

import hashlib
import json
import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.certificate.check import KEY, verify
from umbel.certificate.form import FILE, Certificate
from umbel.certificate.seal import seal_head
from umbel.errors import CertificateError
from umbel.job import Job
from umbel.privacy.ledger.ledger import Ledger
from umbel.privacy.secagg.keys import Identity
from umbel.simulations.engine import Options, simulate

from .altered import SITES, edit, read, resigned, wrong


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
