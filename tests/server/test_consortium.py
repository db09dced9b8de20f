"""The operator's folder: what it makes, whom it admits, and what a crash leaves behind."""

import contextlib
import errno
import os
import ssl
import stat
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from umbel.cli.consortium import consortium_app
from umbel.consortium.authority import Consortium
from umbel.consortium.card import Request, public_pem
from umbel.errors import ConsortiumError, FileError, JobError
from umbel.privacy.secagg.keys import Identity
from umbel.privacy.secagg.roster import Limits, SignedRoster, open_roster
from umbel.privacy.secagg.signed import DAY
from umbel.run.store import Store
from umbel.server.supervisor import Supervisor

LIMITS = Limits(minimum=4, clip=2.0)


@pytest.fixture
def consortium(tmp_path):
    return Consortium.create(tmp_path / "hospitals", "127.0.0.1", 9443, LIMITS)


@pytest.fixture
def ask(consortium):
    """A request of a new owner, with chosen keys where they are given."""

    def build(name, identity=None, node=None, card=None):
        node = node or public_pem(ec.generate_private_key(ec.SECP384R1()).public_key())
        identity = identity or Identity(os.urandom(64))
        return Request.make(card or consortium.card, name, identity, node)

    return build


def names(consortium):
    return [member.name for member in consortium.members()]


def test_only_the_operator_can_read_the_folder_and_its_secrets(consortium):
    assert stat.S_IMODE(consortium.path.stat().st_mode) == 0o700
    for name in ("consortium.key", "operator.key", "ca.key", "server.key"):
        assert stat.S_IMODE((consortium.path / name).stat().st_mode) == 0o600
    assert [path.name for path in consortium.path.parent.iterdir()] == ["hospitals"]


def test_a_new_folder_has_a_card_for_its_keys_and_nobody_in_it(consortium):
    again = Consortium.open(consortium.path)
    assert again.card.name == "hospitals"
    assert again.card.consortium_key_bytes == again.identity.public.signing
    assert again.card.operator_key_bytes == again.operator.public.signing
    assert again.limits == LIMITS
    assert again.roster() is None
    assert again.members() == []


def test_what_exists_is_never_overwritten(consortium):
    before = {path: path.read_bytes() for path in consortium.path.iterdir() if path.is_file()}
    with pytest.raises(FileError, match="exists already"):
        Consortium.create(consortium.path, "other.example.org", 9443, LIMITS)
    assert {path: path.read_bytes() for path in before} == before


def test_a_full_disk_leaves_no_folder_and_no_admission(consortium, ask, tmp_path, monkeypatch):
    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match="No space left"):
        Consortium.create(tmp_path / "banks", "127.0.0.1", 9443, LIMITS)
    with pytest.raises(FileError, match="No space left"):
        consortium.admit(ask("st-mary"))
    assert [path.name for path in tmp_path.iterdir()] == ["hospitals"]
    assert consortium.members() == []
    assert list((consortium.path / "rosters").iterdir()) == []


@pytest.mark.parametrize(("host", "port"), [("a/b", 9443), ("", 9443), ("a.org", 0)])
def test_an_address_that_cannot_be_is_refused_before_anything_is_made(tmp_path, host, port):
    with pytest.raises(ConsortiumError):
        Consortium.create(tmp_path / "hospitals", host, port, LIMITS)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_none_says_how_to_make_one(tmp_path):
    with pytest.raises(ConsortiumError, match="umbel consortium create"):
        Consortium.open(tmp_path)


def test_a_key_of_another_consortium_is_noticed(consortium):
    (consortium.path / "operator.key").write_bytes(os.urandom(64))
    with pytest.raises(ConsortiumError, match="is not the key that"):
        _ = Consortium.open(consortium.path).operator


def test_each_admission_signs_a_roster_that_follows_the_one_before(consortium, ask, tmp_path):
    key = consortium.card.consortium_key_bytes
    known = None
    for epoch, name in enumerate(["st-mary", "north", "coast"], start=1):
        ask(name).write(tmp_path / "request.json")
        consortium.admit(tmp_path / "request.json")
        roster = open_roster(consortium.roster(), key, known)
        assert roster.epoch == epoch
        assert roster.previous == (known.hash if known else bytes(32))
        assert roster.limits == LIMITS
        known = roster
    assert names(consortium) == ["coast", "north", "st-mary"]
    assert [open_roster(consortium.roster_of(e), key).epoch for e in (1, 2, 3)] == [1, 2, 3]
    with pytest.raises(ConsortiumError, match="There is no roster"):
        consortium.roster_of(4)


def test_the_same_request_once_more_changes_nothing(consortium, ask):
    mary = ask("st-mary")
    consortium.admit(mary)
    before = consortium.roster()
    assert consortium.admit(mary) == mary
    assert consortium.roster() == before


def test_a_name_with_other_keys_is_refused_with_a_way_out(consortium, ask):
    consortium.admit(ask("st-mary"))
    new = ask("st-mary")
    with pytest.raises(ConsortiumError, match="umbel consortium remove .* st-mary"):
        consortium.admit(new)
    consortium.remove("st-mary")
    assert consortium.admit(new) == new
    assert consortium.members() == [new]
    assert consortium.current_roster().epoch == 3


def test_no_two_members_share_a_key_or_a_name_in_another_case(consortium, ask):
    identity = Identity(os.urandom(64))
    half = Identity(os.urandom(32) + identity.to_secret_bytes()[32:])
    mary = ask("st-mary", identity)
    consortium.admit(mary)
    for other in [
        ask("north", identity),
        ask("north", half),
        ask("north", node=mary.node_key),
        ask("ST-Mary"),
    ]:
        with pytest.raises(ConsortiumError, match=r"never share a key|only in case"):
            consortium.admit(other)
    assert names(consortium) == ["st-mary"]


def test_a_request_that_does_not_check_is_never_stored(consortium, ask, tmp_path):
    forged = ask("st-mary").model_copy(update={"name": "north"})
    with pytest.raises(ConsortiumError, match="not signed"):
        consortium.admit(forged)
    other = Consortium.create(tmp_path / "banks", "127.0.0.1", 9443, LIMITS)
    with pytest.raises(ConsortiumError, match="another consortium"):
        consortium.admit(ask("st-mary", card=other.card))
    assert list((consortium.path / "members").iterdir()) == []
    assert consortium.roster() is None


def test_removing_a_stranger_names_who_is_near(consortium, ask):
    with pytest.raises(ConsortiumError, match="no members yet"):
        consortium.remove("st-mary")
    consortium.admit(ask("st-mary"))
    with pytest.raises(ConsortiumError, match="Did you mean 'st-mary'"):
        consortium.remove("st-marry")
    assert consortium.remove("st-mary") is True
    epoch = consortium.epoch
    assert consortium.remove("st-mary") is False  # it was removed: nothing changes
    assert consortium.epoch == epoch
    assert consortium.members() == []
    assert consortium.current_roster().members == ()


@pytest.mark.parametrize("moment", ["before the request", "before the roster", "before it lasts"])
def test_an_admission_that_was_cut_is_done_again_and_ends_well(
    moment, consortium, ask, forked, monkeypatch
):
    consortium.admit(ask("north"))
    mary = ask("st-mary")
    calls = {"before the request": 1, "before the roster": 2, "before it lasts": 3}[moment]
    begun = iter(range(1, 10))
    replace = os.replace

    def die_at(source, target):
        if next(begun) == calls:
            os._exit(9)
        replace(source, target)
        if calls == 3 and "rosters" in str(target):
            os._exit(9)

    def cut():
        os.replace = die_at
        Consortium.open(consortium.path).admit(mary)

    assert forked(cut) == 9
    left = Consortium.open(consortium.path)
    assert names(left) == (["north", "st-mary"] if calls == 3 else ["north"])
    left.admit(mary)
    assert names(left) == ["north", "st-mary"]
    assert left.current_roster().epoch == 2


def test_admissions_at_the_same_time_give_one_roster_each(consortium, ask):
    requests = [ask(f"owner-{number}") for number in range(8)]
    threads = [
        threading.Thread(target=Consortium.open(consortium.path).admit, args=[request])
        for request in requests
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names(consortium)) == 8
    assert consortium.current_roster().epoch == 8


def test_a_damaged_roster_is_noticed(consortium, ask):
    consortium.admit(ask("st-mary"))
    path = consortium.path / "rosters" / "0001"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ConsortiumError, match="Restore it from a backup"):
        consortium.members()


def handshake(consortium, name):
    """A TLS handshake in memory, as strict as Python's ssl can be; the server's certificate."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(consortium.server_certificate, consortium.server_key)
    client = ssl.create_default_context(cadata=consortium.card.ca_certificate)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    owner = client.wrap_bio(down, up, server_hostname=name)
    operator = server.wrap_bio(up, down, server_side=True)
    for _ in range(3):
        for side in (owner, operator):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return owner.getpeercert()


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "::1"])
def test_owners_trust_the_server_by_the_card_alone(consortium, name):
    assert handshake(consortium, name)


def test_another_host_name_is_refused(consortium):
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(consortium, "elsewhere.example.org")


def test_the_server_of_another_consortium_is_refused(consortium, tmp_path):
    other = Consortium.create(tmp_path / "banks", "127.0.0.1", 9443, LIMITS)
    (consortium.path / "server.crt").write_bytes(other.server_certificate.read_bytes())
    (consortium.path / "server.key").write_bytes(other.server_key.read_bytes())
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(consortium, "127.0.0.1")


def test_an_expired_certificate_is_refused_until_it_is_renewed(tmp_path):
    long_ago = datetime.now(UTC) - timedelta(days=1000)
    old = Consortium.create(tmp_path / "old", "umbel.example.org", 9443, LIMITS, now=long_ago)
    card = (old.path / "consortium.json").read_bytes()
    assert old.certificate_days_left() == -175 - 1
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(old, "umbel.example.org")
    old.renew_certificate()
    assert old.certificate_days_left() > 800
    assert handshake(old, "umbel.example.org")
    assert (old.path / "consortium.json").read_bytes() == card


def test_a_certificate_never_outlives_its_authority(tmp_path):
    long_ago = datetime.now(UTC) - timedelta(days=3600)
    old = Consortium.create(tmp_path / "old", "127.0.0.1", 9443, LIMITS, now=long_ago)
    old.renew_certificate()
    assert old.certificate_days_left() == 49
    with pytest.raises(ConsortiumError, match="Make a new consortium"):
        old.renew_certificate(now=datetime.now(UTC) + timedelta(days=100))


@pytest.fixture
def command():
    def run(*arguments, **options):
        return CliRunner().invoke(consortium_app, list(map(str, arguments)), **options)

    return run


def test_commands_make_admit_list_remove_and_renew(command, tmp_path, ask):
    folder, request = tmp_path / "clinics", tmp_path / "st-mary.request.json"
    made = command("create", folder, "--host", "localhost")
    assert made.exit_code == 0, made.output
    clinics = Consortium.open(folder)
    assert clinics.card.address == "localhost:9443"
    assert clinics.limits == Limits()
    mary = ask("st-mary", card=clinics.card)
    mary.write(request)
    assert isinstance(command("admit", folder, request).exception, ConsortiumError)
    wrong = command("admit", folder, request, "--fingerprint", "0000", "--yes")
    assert "differs from the one that you gave" in str(wrong.exception)
    assert clinics.members() == []
    right = command("admit", folder, request, "--fingerprint", mary.fingerprint)
    assert right.exit_code == 0, right.output
    assert mary.fingerprint in right.output
    assert mary.fingerprint in command("members", folder).output
    assert command("remove", folder, "st-mary").exit_code == 0
    assert command("admit", folder, request, "--yes").exit_code == 0
    assert clinics.current_roster().epoch == 3
    assert command("renew", folder).exit_code == 0


def test_a_consortium_takes_its_limits_from_a_job(command, tmp_path):
    job = tmp_path / "job.toml"
    job.write_text('[data]\npath = "x.csv"\n[encryption]\nminimum = 5\nclip = 1.5\n')
    made = command("create", tmp_path / "clinics", "--host", "a.org", "--job", job)
    assert made.exit_code == 0, made.output
    assert Consortium.open(tmp_path / "clinics").limits == Limits(minimum=5, clip=1.5)
    missing = command("create", tmp_path / "b", "--host", "a.org", "--job", tmp_path / "no.toml")
    assert isinstance(missing.exception, JobError)


def test_a_member_whose_request_is_lost_is_named_and_can_be_removed(consortium, ask):
    for name in ("st-mary", "north"):
        consortium.admit(ask(name))
    (consortium.path / "members" / "north.json").unlink()
    with pytest.raises(ConsortiumError, match="The request of the member 'north' is missing"):
        consortium.members()
    consortium.remove("north")
    assert names(consortium) == ["st-mary"]


def test_a_request_that_is_not_the_rosters_lets_nobody_in(consortium, ask):
    consortium.admit(ask("st-mary"))
    ask("st-mary").write(consortium.path / "members" / "st-mary.json")
    keys, unreadable = consortium.node_keys()
    assert (keys, list(unreadable)) == ({}, ["st-mary"])


def test_a_roster_that_was_signed_for_long_is_not_cut_short_unasked(consortium, ask):
    consortium.admit(ask("st-mary"))
    consortium.prolong(400)
    ends = consortium.roster_ends()
    consortium.prolong()
    assert ends - 2 * DAY <= consortium.roster_ends() <= ends + 2 * DAY
    consortium.prolong(10)
    assert consortium.roster_ends() < ends - 300 * DAY


def test_a_link_that_ends_at_its_start_is_told_with_its_last_words(consortium, monkeypatch):
    server = Supervisor(consortium, "127.0.0.1")
    monkeypatch.setattr("umbel.server.supervisor._LONGEST_BACKOFF", 0.0)
    (consortium.path / "server.key").unlink()
    for _ in range(3):
        server._start_link()
        server._process.wait(600)
    [(what, (_, text))] = Store(consortium.database).notes().items()
    assert what == "link"
    assert "ends with status 1 each time it is started" in text
    assert "`--ssl-keyfile` does not point to a file" in text
    server._link_begun -= 60.0
    server._look_ahead()
    assert not Store(consortium.database).notes()


def test_a_server_says_in_time_what_will_end_and_takes_it_back(consortium, ask):
    consortium.admit(ask("st-mary"))
    server = Supervisor(consortium)

    def told():
        server._look_next = 0.0
        server._look_ahead()
        return {what: text for what, (_, text) in Store(consortium.database).notes().items()}

    assert told() == {}
    consortium.prolong(10)
    assert "it holds until" in told()["roster"]
    assert "umbel sign roster" in told()["roster"]
    over = int(time.time()) - 60
    ended = SignedRoster.sign(consortium.current_roster(), consortium.identity, expires=over)
    (consortium.path / "rosters" / "0001").write_bytes(ended.to_bytes())
    assert "it ended on" in told()["roster"]
    consortium.prolong()
    assert told() == {}
    consortium.renew_certificate(datetime.now(UTC) - timedelta(days=810))
    assert "umbel consortium renew" in told()["certificate"]
    consortium.renew_certificate()
    assert told() == {}
