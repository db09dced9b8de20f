"""Today's code reads what earlier code wrote, bit for bit: the frozen files of tests/vectors/.

Ledgers, certificates and what owners keep of their own are read for ever, of every folder. What lives no
longer than a run (messages, a journal, digests) is of one version at all machines: the newest folder has it,
and a change makes a new one.
"""

import hashlib
import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from umbel.certificate.form import Certificate
from umbel.certificate.seal import bound_row, seal_head
from umbel.client.own_state import Own, OwnStates
from umbel.errors import CertificateError, LedgerError, ProtocolError
from umbel.privacy.accounting.accountant import MechanismEvent
from umbel.privacy.ledger.export import to_json
from umbel.privacy.ledger.ledger import Ledger
from umbel.privacy.secagg.counted import Place
from umbel.privacy.secagg.journal import Journal
from umbel.privacy.secagg.masks import digest_of
from umbel.run.run_folder import RunFolder
from umbel.server.slots import OpenRound, OpenSlot, OpenSum, OpenSums

FOLDER = Path(__file__).parents[2] / "vectors"
VERSIONS = sorted(int(path.name) for path in FOLDER.iterdir() if path.is_dir()) or [1]
LEDGER, RUN = "ledger.sqlite", "a run"
CHARGES = [
    MechanismEvent(1.25, 0.125, 40),
    MechanismEvent(8.0, 1.0, 3, "concentrated"),
    MechanismEvent(50.0, 1.0, 1, "pure"),
]
_SLOT = OpenSlot(9, ["st-anna", "st-mary"], ["st-anna", "st-mary"], ["st-mary"], [])
_ROSTER = hashlib.sha256(b"roster").hexdigest()
SUMS = [
    OpenSum(
        {"st-anna": 2, "st-mary": 3},
        OpenRound("train", 4, 1, False, [_SLOT], _ROSTER, left_out=[["st-john"]]),
    ),
    OpenSum({"st-luke": 3}, OpenRound("train", 5, 0, False, [OpenSlot(10, ["st-luke"])], _ROSTER)),
]


@pytest.fixture(scope="module", autouse=True)
def _anew(request):
    """Write a folder, if UMBEL_VECTORS asks for one that is not there."""
    if version := os.environ.get("UMBEL_VECTORS"):
        make(FOLDER / str(int(version)), request.getfixturevalue)
        pytest.exit(f"tests/vectors/{version} is written", 0)


WITH_STATES = [version for version in VERSIONS if (FOLDER / str(version) / "states").exists()]


@pytest.fixture(params=VERSIONS)
def vectors(request):
    return FOLDER / str(request.param)


@pytest.fixture
def newest():
    return FOLDER / str(VERSIONS[-1])


def name_of(kind):
    """Two kinds may have one name, and then lie in two files."""
    return f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}"


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_each_message_is_read_and_written_again(newest, message_kinds):
    known = {name_of(kind): kind for kind in message_kinds}
    frozen = read(newest / "messages.json")
    assert len(frozen) > 30
    for name, written in frozen.items():
        data = bytes.fromhex(written)
        found = known[name].from_bytes(data)
        assert found.to_bytes() == data, name
        with pytest.raises(ProtocolError):
            known[name].from_bytes(data[:-1])


@pytest.fixture
def ledger(vectors, tmp_path):
    for name in (LEDGER, "ledger.witness"):
        shutil.copy(vectors / name, tmp_path)
    with Ledger(tmp_path / LEDGER) as opened:
        yield opened


def test_a_ledger_holds_what_was_charged_and_goes_on(ledger, vectors):
    frozen = read(vectors / "ledger.json")
    assert ledger.verify(frozen["head"]) == len(CHARGES)
    assert [entry.event for entry in ledger.entries()] == CHARGES
    exported = json.loads(to_json(ledger.entries(), ledger.identity))
    assert exported == frozen["export"]
    assert ledger.spent("records", 1e-5) == pytest.approx(frozen["epsilon"], rel=1e-9)
    charge(ledger, CHARGES[0], "4/0")
    assert ledger.verify(frozen["head"]) == len(CHARGES) + 1


def test_a_sealed_head_still_names_its_row(ledger, vectors):
    frozen = read(vectors / "ledger.json")
    assert seal_head(ledger.identity, ledger.head()) == frozen["sealed"]
    charge(ledger, CHARGES[0], "4/0")
    assert bound_row(ledger, [frozen["sealed"]]).hash == frozen["head"]


def test_a_ledger_in_which_a_row_was_edited_is_refused(vectors, tmp_path):
    for name in (LEDGER, "ledger.witness"):
        shutil.copy(vectors / name, tmp_path)
    data = (tmp_path / LEDGER).read_bytes()
    assert b"records" in data
    (tmp_path / LEDGER).write_bytes(data.replace(b"records", b"RECORDS", 1))
    with pytest.raises(LedgerError), Ledger(tmp_path / LEDGER) as edited:
        edited.verify()


def test_a_journal_gives_back_its_state_and_its_vector(newest, tmp_path):
    frozen = read(newest / "journal.json")
    for name in ("journal-0", "journal-1", "witness", "vector"):
        shutil.copy(newest / name, tmp_path)
    journal = Journal(tmp_path, RUN)
    with journal.turn() as turn:
        assert turn.state.to_bytes().hex() == frozen["state"]
        assert journal.vector(bytes.fromhex(frozen["vector"])).tolist() == frozen["words"]


def test_the_sums_in_progress_of_a_run_are_read_and_written_again(newest, tmp_path):
    shutil.copy(newest / "sums.json", tmp_path)
    left = OpenSums(RunFolder(tmp_path)).left()
    assert left == SUMS
    make_sums(tmp_path)
    assert (tmp_path / "sums.json").read_bytes() == (newest / "sums.json").read_bytes()


@pytest.mark.parametrize("version", WITH_STATES)
def test_what_an_owner_keeps_is_current_and_what_it_proposed_follows(version, tmp_path):
    frozen = read(FOLDER / str(version) / "states.json")
    shutil.copytree(FOLDER / str(version) / "states", tmp_path, dirs_exist_ok=True)
    states, shapes = OwnStates(tmp_path), {"weight": (2, 3), "scale": ()}
    current = states.current(RUN, frozen["job"], shapes)
    followed = states.begin(RUN, frozen["job"], shapes, 2, lambda places: bool(places))
    found = [
        (own.round, {name: array.tolist() for name, array in own.arrays.items()})
        for own in (current, followed)
    ]
    assert found == [(1, frozen["current"]), (2, frozen["proposed"])]


def test_the_newest_folder_has_what_an_owner_keeps():
    assert VERSIONS[-1] in WITH_STATES


def test_a_certificate_is_as_it_was_signed(vectors):
    data = (vectors / "certificate.json").read_bytes()
    certificate = Certificate.from_bytes(data, "the frozen one")
    assert certificate.to_bytes() == data
    changed = data.replace(b'"simulation"', b'"deployment"', 1)
    assert changed != data
    with pytest.raises(CertificateError):
        Certificate.from_bytes(changed, "it")


def test_digests_and_arrays_are_the_same_bytes(newest):
    assert values() == read(newest / "values.json")


def values():
    """What follows from fixed inputs alone."""
    from flwr.app import ConfigRecord, RecordDict

    from umbel.wire.packing import pack
    from umbel.wire.requests import ASSIGNMENT, request_digest, update_digest

    told = {
        "version": "0", "run": RUN, "job": "{}", "round": 3, "attempt": 1, "participations": 2,
        "test": True, "clipping_norm": 0.5, "cohort": 3,
    }  # fmt: skip
    content = RecordDict({ASSIGNMENT: ConfigRecord(told), "config": ConfigRecord({"lr": 0.125})})
    arrays = {
        "weight": np.arange(6, dtype=np.float32).reshape(2, 3) / 4,
        "scale": np.array(-1.5, dtype=np.float32),
    }
    return {
        "request": request_digest("train", content, arrays).hex(),
        "update": update_digest(content, arrays).hex(),
        "arrays": {name: pack(array).data.hex() for name, array in arrays.items()},
        "masked": digest_of(np.arange(9, dtype=np.uint32)).hex(),
    }


def charge(ledger, event, key):
    ledger.reserve(
        "records", event, job="ab" * 32, key=f"{RUN}/{key}", delta=1e-5, limit=100.0, replay=True
    )


def make(folder, fixture):
    """A new folder of vectors by today's code."""
    folder.mkdir()
    kinds, message_of = fixture("message_kinds"), fixture("message_of")
    write(folder / "messages.json", {
        name_of(kind): message_of(kind, random.Random(name_of(kind))).to_bytes().hex()
        for kind in kinds
    })  # fmt: skip
    with Ledger(folder / LEDGER) as ledger:
        for number, event in enumerate(CHARGES, 1):
            charge(ledger, event, f"{number}/0")
        write(folder / "ledger.json", {
            "head": ledger.head(),
            "sealed": seal_head(ledger.identity, ledger.head()),
            "epsilon": ledger.spent("records", 1e-5),
            "export": json.loads(to_json(ledger.entries(), ledger.identity)),
        })  # fmt: skip
    make_journal(folder, message_of)
    make_states(folder)
    make_sums(folder)
    make_certificate(folder, fixture)
    write(folder / "values.json", values())


def make_journal(folder, message_of):
    from umbel.privacy.secagg.messages import Slot
    from umbel.privacy.secagg.state import State

    words = np.random.default_rng(3).integers(0, 2**32, 12, dtype=np.uint32)
    slot = Slot(RUN, 7, hashlib.sha256(b"roster").digest(), ("st-anna", "st-mary"))
    journal = Journal(folder, RUN)
    for phase in (1, 3):
        state = State(RUN, (slot,), phase=phase, nonce=bytes(range(32)), vector=digest_of(words))
        with journal.turn() as turn:
            turn.store(state, words)
    (folder / "lock").unlink()
    write(folder / "journal.json", {
        "state": state.to_bytes().hex(), "vector": state.vector.hex(), "words": words.tolist(),
    })  # fmt: skip


def make_states(folder):
    """After the second of two rounds: one state is current, and the next one waits for its sum."""
    job, states = hashlib.sha256(b"job").hexdigest(), OwnStates(folder / "states")
    first = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "scale": np.float32(-1.5)}
    following = {name: np.asarray(array / 4, np.float32) for name, array in first.items()}
    place = Place(hashlib.sha256(b"manifest").digest(), hashlib.sha256(b"roster").digest(), 2)
    states.propose(Own(RUN, job, 0, {}), 1, hashlib.sha256(b"1").digest(), first, place)
    current = states.begin(RUN, job, {n: np.shape(a) for n, a in first.items()}, 1, lambda _: True)
    states.propose(current, 2, hashlib.sha256(b"2").digest(), following, place)
    write(folder / "states.json", {
        "job": job,
        "current": {name: array.tolist() for name, array in first.items()},
        "proposed": {name: array.tolist() for name, array in following.items()},
    })  # fmt: skip


def make_sums(folder):
    notes = OpenSums(RunFolder(folder))
    for number, one in enumerate(SUMS):
        notes.hold(number, one)


def make_certificate(folder, fixture):
    """Of a small run, whose model and data lay where no name of this machine is."""
    from umbel.certificate.form import FILE
    from umbel.privacy.secagg.keys import Identity
    from umbel.simulations.engine import Options, simulate
    from umbel.storage.canonical import canonical_json

    job = fixture("job_of")(training={"rounds": 1})
    run = simulate(job, Options(fixture("tmp_path_factory").mktemp("frozen") / "run", workers=1))
    text = (run.path / FILE).read_text(encoding="utf-8")
    for path, name in ((job.model.base, "models/tiny"), (job.data.path, "reviews.csv")):
        text = text.replace(path, name)
    values = json.loads(text)
    canonical = canonical_json(values["job"]["canonical"])
    values["job"]["sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
    signed = Certificate.model_validate(values).signed_by(Identity(os.urandom(64)))
    (folder / "certificate.json").write_bytes(signed.to_bytes())


def write(path, values):
    path.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")
