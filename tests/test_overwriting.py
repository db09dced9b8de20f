"""No command takes the place of a file that is not of the kind that it writes, and its own are replaced."""

import csv

import pytest

from umbel.client.home import Home
from umbel.client.keys import renew_keys, use_new_keys
from umbel.consortium.authority import Consortium
from umbel.consortium.card import Request
from umbel.consortium.packets import SignedJob, read_packet, refuse_others
from umbel.errors import FileError
from umbel.job import Job
from umbel.privacy.accounting.accountant import MechanismEvent
from umbel.privacy.ledger.ledger import Ledger
from umbel.privacy.secagg.roster import Limits
from umbel.server.observers import grant
from umbel.server.signing import signed_order

FOREIGN = b"somebody's only copy\n"


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "notes.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["note", "class"], ["all is well", "fine"], ["oh", "ill"]])
    return path


@pytest.fixture
def consortium(tmp_path):
    return Consortium.create(tmp_path / "hospitals", "localhost", 9443, Limits())


@pytest.fixture
def owner(tmp_path, consortium, data):
    made = Home.create(tmp_path / "mary", consortium.path / "consortium.json", data)
    consortium.admit(made.request_file)
    with Ledger(made.ledger) as ledger:
        event = MechanismEvent(2.0, 0.1, 4)
        ledger.reserve("5eed" * 8, event, job="job", key="run/0/0", delta=1e-6, limit=100)
    return made


def commands(consortium, owner, file):
    """What writes to a file that a person names."""
    return {
        "roster": ("sign", "roster", consortium.path, "--out", file),
        "certificate": ("sign", "certificate", consortium.path, "--out", file),
        "csv": ("ledger", "export", owner.path, "--out", file),
        "json": ("ledger", "export", owner.path, "--format", "json", "--out", file),
        "picture": ("ledger", "show", owner.path, "--plot", file),
    }


@pytest.mark.parametrize("what", ["roster", "certificate", "csv", "json", "picture"])
def test_a_command_replaces_its_own_file_and_no_other(what, consortium, owner, umbel, tmp_path):
    file = tmp_path / "notes.svg"
    command = commands(consortium, owner, file)[what]
    file.write_bytes(FOREIGN)
    before = consortium.roster()
    status, _, err = umbel(*command)
    assert (status, str(file) in err, file.read_bytes()) == (2, True, FOREIGN)
    assert consortium.roster() == before
    file.unlink()
    assert umbel(*command)[0] == 0
    made = file.read_bytes()
    assert umbel(*command)[0] == 0
    assert file.read_bytes()[:20] == made[:20] != FOREIGN[:20]


def test_what_is_in_the_way_and_no_file_is_refused_too(consortium, owner, umbel, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for place in (tmp_path / "folder", tmp_path / "link"):
        command = commands(consortium, owner, place)["roster"]
        assert umbel(*command)[0] == 2
    assert not (tmp_path / "nowhere").exists()


def test_a_new_owner_takes_no_other_ones_request(owner, consortium, data, umbel, tmp_path):
    before = owner.request_file.read_bytes()
    given = ("--data", data, "--consortium", consortium.path / "consortium.json", "--yes")
    status, _, err = umbel("client", "init", tmp_path / "other", "--name", "mary", *given)
    assert (status, "mary.request.json" in err) == (2, True)
    assert owner.request_file.read_bytes() == before
    assert not (tmp_path / "other").exists()


def test_an_owner_writes_over_its_own_request_alone(owner, consortium, data, tmp_path):
    card = consortium.path / "consortium.json"
    other = Home.create(tmp_path / "elsewhere" / "mary", card, data).request_file.read_bytes()
    for foreign in (other, FOREIGN, b"", b"[]"):
        owner.request_file.write_bytes(foreign)
        for write in (owner.write_request, lambda: renew_keys(owner)):
            with pytest.raises(FileError, match="not this folder's request"):
                write()
        assert owner.request_file.read_bytes() == foreign
    owner.request_file.unlink()
    renew_keys(owner)
    renew_keys(owner)
    use_new_keys(owner)
    assert Request.read(owner.request_file).identity == Home.open(owner.path).request.identity


def test_an_order_is_replaced_by_one_for_its_run_alone(consortium, tmp_path):
    job, file = Job.build({"data": {"labels": ["a", "b"]}}), tmp_path / "night.signed"
    signed_order(consortium, job, "night").write(file)
    refuse_others(file, SignedJob, "night")
    for run in ("", "day"):
        with pytest.raises(FileError, match="is not a signed job"):
            refuse_others(file, SignedJob, run)
    assert read_packet(file).run == "night"


def test_a_grant_that_takes_the_place_of_another_is_said(consortium, umbel):
    grant(consortium, "auditor", "ab" * 32)
    again = umbel("consortium", "observer", consortium.path, "auditor", "ab" * 32)
    other = umbel("consortium", "observer", consortium.path, "auditor", "cd" * 32)
    assert [("another key" in out, status) for status, out, _ in (again, other)] == [
        (False, 0),
        (True, 0),
    ]


def test_an_owners_own_model_is_written_to_a_new_folder_alone(owner, umbel, tmp_path):
    """Else what is there already would be passed off as the model of this run."""
    (tmp_path / "adapter").mkdir()
    (tmp_path / "notes").write_bytes(FOREIGN)
    for place in (tmp_path / "adapter", tmp_path / "notes"):
        status, _, err = umbel("client", "own-model", "a-run", owner.path, "--out", place)
        assert (status, "exists already. Choose another folder" in err) == (2, True)
