"""The result that goes to the owners: it arrives as it was packed, and nothing else is ever written."""

import json
import os
import pickle
import shutil
import stat
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.certificate.check import verify
from umbel.certificate.form import FILE, Certificate
from umbel.certificate.issue import issue
from umbel.certificate.parcel import Parcel, pack, sealed, unpack
from umbel.client.models import Models
from umbel.client.own_state import Own
from umbel.client.rules import ResultRules
from umbel.errors import CertificateError, PlanRefused
from umbel.learning.base_model import pinned
from umbel.privacy.secagg.keys import Identity
from umbel.privacy.secagg.signed import DAY
from umbel.run.run_folder import RunFolder
from umbel.simulations.engine import Options, simulate

from .parcels import (
    CONSORTIUM,
    OPERATOR,
    SERVER,
    WEIGHTS,
    by_server,
    certified,
    delegated,
    expected,
    identity,
    receiver,
)


@pytest.fixture(scope="module")
def run(job_of, tmp_path_factory):
    """A finished run, certified by an operator's key."""
    job = pinned(job_of("bert", training={"rounds": 1}, privacy={"unit": "none"}))
    folder = simulate(job, Options(tmp_path_factory.mktemp("runs") / "run", workers=1))
    result = folder.read_json("result.json")
    result["roster"] = {"consortium": CONSORTIUM, "epoch": 3, "sha256": "0" * 64}
    folder.write(FILE, issue(folder.path, result, OPERATOR).to_bytes())
    return folder


@pytest.fixture(scope="module")
def parcel(run):
    return pack(run.path, identity(run), OPERATOR)


@pytest.fixture(scope="module")
def contents(run, parcel):
    return unpack(parcel, expected(run))[1]


def test_an_owner_keeps_the_adapter_its_certificate_and_the_model_card(run, parcel, tmp_path):
    models = Models(tmp_path / "models")
    for _ in range(2):  # the second time it is there already
        place = models.keep("st-mary", run.job, ResultRules(), expected(run), parcel)
    for path in run.path.joinpath("adapter").rglob("*"):
        assert (place / "adapter" / path.name).read_bytes() == path.read_bytes()
    verdict = verify(place / FILE, adapter=place / "adapter", key=OPERATOR.public.signing.hex())
    assert verdict.valid, verdict.findings
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    [model] = models.list()
    assert (model.run, model.rounds, model.path) == (identity(run), 1, str(place))
    assert [path.name for path in (tmp_path / "models").iterdir()] == [place.name]


def test_a_newer_certificate_takes_the_place_of_the_earlier_one(run, contents, parcel, tmp_path):
    models = Models(tmp_path / "models")
    models.keep("st-mary", run.job, ResultRules(), expected(run), parcel)
    certificate = Certificate.from_bytes(contents[FILE], "it")
    newer = certificate.model_copy(update={"issued": "2100-01-01T00:00:00+00:00"})
    changed = contents | {FILE: newer.signed_by(OPERATOR).to_bytes()}
    again = sealed(changed, identity(run), OPERATOR)
    models.keep("st-mary", run.job, ResultRules(), expected(run), again)
    assert [model.issued for model in models.list()] == ["2100-01-01T00:00:00+00:00"]


def test_an_earlier_result_does_not_come_back(run, contents, parcel, tmp_path):
    """A server has them all, and may send any of them again."""
    models = Models(tmp_path / "models")
    newer = Certificate.from_bytes(contents[FILE], "it").model_copy(
        update={"issued": "2100-01-01T00:00:00+00:00"}
    )
    changed = sealed(
        contents | {FILE: newer.signed_by(OPERATOR).to_bytes()}, identity(run), OPERATOR
    )
    for one in (changed, parcel):
        models.keep("st-mary", run.job, ResultRules(), expected(run), one)
    assert [model.issued for model in models.list()] == [newer.issued]


def test_a_result_that_was_damaged_at_its_owner_is_whole_when_it_comes_again(run, parcel, tmp_path):
    models = Models(tmp_path / "models")
    place = models.keep("st-mary", run.job, ResultRules(), expected(run), parcel)
    shutil.rmtree(place / "adapter")
    models.keep("st-mary", run.job, ResultRules(), expected(run), parcel)
    assert verify(place / FILE, adapter=place / "adapter").valid


def test_a_crash_while_a_newer_one_takes_its_place_loses_none(run, parcel, tmp_path):
    models = Models(tmp_path / "models")
    place = models.keep("st-mary", run.job, ResultRules(), expected(run), parcel)
    place.rename(place.with_name(f".{place.name}.before"))
    assert [model.run for model in models.list()] == [identity(run)]
    models.keep("st-mary", run.job, ResultRules(), expected(run), parcel)
    assert [path.name for path in (tmp_path / "models").iterdir()] == [place.name]


@pytest.mark.parametrize(
    "name", ["/../../x", "../../etc", "..", "/", ".", "a b", "é" * 99, "a" * 200]
)
def test_a_run_of_any_name_stays_in_the_folder(run, contents, name, tmp_path):
    """The operator signs it, whatever it is."""
    certificate = Certificate.from_bytes(contents[FILE], "it").model_copy(update={"run": name})
    changed = contents | {FILE: certificate.signed_by(OPERATOR).to_bytes()}
    models, parcel = Models(tmp_path / "owner" / "models"), sealed(changed, name, OPERATOR)
    place = models.keep("st-mary", run.job, ResultRules(), expected(run, run=name), parcel)
    assert place.parent == tmp_path / "owner" / "models"
    assert [p.name for p in tmp_path.iterdir()] == ["owner"]
    assert [p.name for p in (tmp_path / "owner").iterdir()] == ["models"]
    assert [p.name for p in place.parent.iterdir()] == [place.name]


def test_a_policy_may_take_none_or_only_small_ones(run, parcel, tmp_path):
    models = Models(tmp_path / "models")
    with pytest.raises(PlanRefused, match=r"results\.accept"):
        models.keep("st-mary", run.job, ResultRules(accept=False), expected(run), parcel)
    with pytest.raises(CertificateError, match="most_megabytes"):
        models.keep("st-mary", run.job, ResultRules(), expected(run, most_bytes=1000), parcel)
    assert not (tmp_path / "models").exists()


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_no_byte_of_it_can_be_changed(run, parcel, data):
    listed, content = bytearray(parcel.listed), bytearray(parcel.content)
    part = data.draw(st.sampled_from([listed, content]))
    place = data.draw(st.integers(0, len(part) - 1))
    if data.draw(st.booleans()):
        part[place] ^= data.draw(st.integers(1, 255))
    else:
        del part[place:]
    changed = Parcel(bytes(listed), bytes(content))
    try:
        _, files = unpack(changed, expected(run))
    except CertificateError:
        return
    assert files == unpack(parcel, expected(run))[1]  # white space in the list, say


@pytest.mark.parametrize(
    "changes",
    [{"run": "another"}, {"job": "0" * 64}, {"consortium": "d" * 32}, {"key": "0" * 64}],
    ids=str,
)
def test_what_is_of_another_run_job_consortium_or_key_is_refused(changes, run, parcel):
    with pytest.raises(CertificateError):
        unpack(parcel, expected(run, **changes))


@pytest.mark.parametrize(
    "name",
    [
        "../certificate.json", "adapter/../../x.json", "/etc/x.json", "adapter/x/y.json", ".x.json",
        "adapter/x.py", "adapter/pytorch_model.bin", "adapter/x", "adapter/x\x00.json", "adapter/", "",
        "adapter/" + "x" * 200 + ".json",
    ],
)  # fmt: skip
def test_names_stay_inside_and_are_of_kinds_that_hold_no_code(name, run, contents):
    """Even signed by the operator's key."""
    hostile = sealed(contents | {name: b"{}"}, identity(run), OPERATOR)
    with pytest.raises(CertificateError, match="a file is named"):
        unpack(hostile, expected(run))


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        (WEIGHTS, pickle.dumps(os.getcwd), "not a safetensors file"),
        ("adapter/config.json", b'{"auto_map": {"AutoModel": "evil.Model"}}', "asks to load code"),
        ("adapter/config.json", b"[" * 100_000, "cannot be read"),
        ("adapter/notes.md", b"\xff\xfe", "cannot be read"),
    ],
)
def test_what_is_not_of_the_kind_that_it_is_called_is_refused(name, data, why, run, contents):
    import hashlib

    changed = contents | {name: data}
    files = {
        n.removeprefix("adapter/"): hashlib.sha256(d).hexdigest()
        for n, d in changed.items()
        if n.startswith("adapter/") and not n.endswith("README.md")
    }
    changed[FILE] = certified(contents, files)
    with pytest.raises(CertificateError, match=why):
        unpack(sealed(changed, identity(run), OPERATOR), expected(run))


def test_files_that_the_certificate_does_not_name_are_refused(run, contents):
    for changed in (
        contents | {"adapter/more.json": b"{}"},
        contents | {"more.json": b"{}"},
        {name: data for name, data in contents.items() if name != WEIGHTS and name != FILE}
        | {FILE: contents[FILE], "adapter/other.json": b"{}"},
    ):
        with pytest.raises(CertificateError, match="differ from those that the certificate names"):
            unpack(sealed(changed, identity(run), OPERATOR), expected(run))


def test_many_files_and_long_lists_are_refused(run, contents):
    many = contents | {f"adapter/{n}.json": b"{}" for n in range(100)}
    with pytest.raises(CertificateError, match="malformed"):
        unpack(sealed(many, identity(run), OPERATOR), expected(run))
    for listed in (b"[" * 70_000, b"[" * 1000, b"null", json.dumps({"files": 1}).encode()):
        with pytest.raises(CertificateError, match="list of files"):
            unpack(Parcel(listed, b""), expected(run))


def test_a_run_without_a_certificate_by_this_key_is_not_packed(run, tmp_path):
    with pytest.raises(CertificateError, match="another key"):
        pack(run.path, identity(run), Identity(bytes(64)))
    copy = RunFolder(shutil.copytree(run.path, tmp_path / "copy"))
    (copy.path / FILE).unlink()
    with pytest.raises(CertificateError, match="There is no certificate"):
        pack(copy.path, identity(run), OPERATOR)


def test_a_server_that_the_operator_delegated_this_run_may_certify_it(run):
    parcel = by_server(run, delegated(identity(run)))
    certificate, _ = unpack(parcel, expected(run, when=time.time()))
    assert certificate.key == SERVER.public.signing.hex()


def test_a_server_certifies_no_run_that_was_not_delegated_to_it_then(run):
    mine, now = identity(run), time.time()
    cases = {
        "not signed by the operator": (delegated(mine, signer=SERVER), now),
        "another run or consortium": (delegated("b" * 32), now),
        "run or consortium": (delegated(mine, consortium="d" * 32), now),
        "it ended on": (delegated(mine), now + 2 * DAY),
        "not signed by the operator for this run": (delegated(mine, to=Identity(bytes(64))), now),
    }
    for reason, (delegation, when) in cases.items():
        with pytest.raises(CertificateError, match=reason):
            unpack(by_server(run, delegation), expected(run, when=when))
    with pytest.raises(CertificateError, match="not signed by the operator for this run"):
        unpack(by_server(run, delegated(mine), parcels=False), expected(run, when=now))
    # Weakened: an owner that takes whatever key signed.
    weak = expected(run, key=SERVER.public.signing.hex(), when=now)
    assert unpack(by_server(run, delegated("b" * 32), parcels=False), weak)


def test_who_verifies_a_servers_certificate_asks_for_the_operators_delegation(run, tmp_path):
    key, result = OPERATOR.public.signing.hex(), run.read_json("result.json")
    result["roster"] = {"consortium": CONSORTIUM, "epoch": 3, "sha256": "0" * 64}

    def signer(delegation):
        path = tmp_path / FILE
        path.write_bytes(issue(run.path, result, SERVER, delegation).to_bytes())
        return next(f for f in verify(path, key=key).findings if f.what == "signer")

    good = signer(delegated(identity(run)))
    assert (good.holds, "a server to which the key given delegated" in good.text) == (True, True)
    for delegation in (
        None,
        delegated("b" * 32),
        delegated(identity(run), signer=SERVER),
        delegated(identity(run), days=-1),
        delegated(identity(run), to=Identity(bytes(64))),
    ):
        assert signer(delegation).holds is False


def test_two_runs_of_one_job_leave_two_models(run, contents, tmp_path):
    models, places = Models(tmp_path / "models"), set()
    names = [f"reviews-20261127-08190{n}-{n:016x}" for n in range(3)] + [
        "../../up",
        "a/b",
        "x" * 256,
    ]
    for name in names:
        certificate = Certificate.from_bytes(contents[FILE], "it")
        certificate = certificate.model_copy(update={"run": name}).signed_by(OPERATOR)
        parcel = sealed(contents | {FILE: certificate.to_bytes()}, name, OPERATOR)
        places.add(models.keep("st-mary", run.job, ResultRules(), expected(run, run=name), parcel))
    assert {place.parent for place in places} == {tmp_path / "models"}
    assert sorted(model.run for model in models.list()) == sorted(names)


def test_an_owner_writes_down_that_a_job_is_finished_once_its_certificate_has_come(run, tmp_path):
    intake, parcel, send = receiver(run, tmp_path)
    name = identity(run)
    assert send(parcel.content[:-1]).has_error()
    assert "job finished" not in [entry.event for entry in intake.audit.entries()]
    for _ in range(2):
        assert not send(parcel.content).has_error()
    events = [entry.event for entry in intake.audit.entries()]
    assert events.count("job finished") == 1
    [kept] = intake.home.decisions.list()
    assert (kept.run, kept.status) == (name, "job finished")
    assert "after 1 of 1 rounds" in kept.decisions[-1]["why"]


def test_an_owner_that_is_not_shown_which_state_was_counted_keeps_the_result_and_the_state_before(
    job_of, tmp_path, caplog
):
    """What came with a result may show nothing, or be untrue: it is told once, and comes no better again."""
    job = job_of(
        "bert",
        strategy={"name": "ditto"},
        training={"rounds": 1, "optimizer": "sgd"},
        privacy={"unit": "none"},
        evaluation={"counts": "off"},
    )
    run = simulate(pinned(job), Options(tmp_path / "simulated", workers=1))
    intake, parcel, send = receiver(run, tmp_path)
    states, name, arrays = intake.home.states, identity(run), {"apart/weight": np.ones(3, "<f4")}
    digest = run.job.digest()
    states.propose(Own(name, digest, 0, {}), 1, bytes(32), arrays, None)
    before = states.begin(name, digest, {"apart/weight": (3,)}, 1, lambda places: True)
    states.propose(before, 2, bytes(32), {"apart/weight": np.zeros(3, "<f4")}, None)
    for _ in range(2):
        assert not send(parcel.content, round=2, shown=b"an untrue one").has_error()
        found = intake.home.own_models.current(name, digest, {"apart/weight": (3,)})
        assert (found.round, found.arrays["apart/weight"].tolist()) == (1, [1.0, 1.0, 1.0])
    assert caplog.messages
    assert not list(tmp_path.glob("owners/*/states/*.state"))
