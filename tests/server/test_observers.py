"""Observers read how runs stand over a port of its own, and change nothing, whatever they send."""

import contextlib
import http.client
import json
import os
import socket
import ssl
import threading
import time

import pytest

from umbel.consortium.authority import Consortium
from umbel.consortium.card import Card
from umbel.consortium.key_handovers import KINDS
from umbel.consortium.observing import ObserverFolder
from umbel.consortium.rotation import rotate
from umbel.consortium.warrants import check_job_signature, sign_job
from umbel.errors import ConsortiumError, PlanRefused, ProtocolError
from umbel.privacy.secagg.keys import Identity
from umbel.privacy.secagg.roster import Limits, Roster, SignedRoster, open_roster
from umbel.privacy.secagg.signed import DAY, Signed, Statement
from umbel.run.events import from_json
from umbel.run.run_folder import RunFolder
from umbel.run.store import Store
from umbel.server import observers
from umbel.server.observers import GRANT, Grant, asking, grant, observer_of, withdraw
from umbel.server.split import split
from umbel.server.window import Window

AUDITOR = Identity(bytes(range(64)))
STRANGER = Identity(bytes(range(1, 65)))


@pytest.fixture
def consortium(job_of, tmp_path):
    made = Consortium.create(tmp_path / "hospitals", "localhost", 9443, Limits())
    folder = RunFolder.create(made.runs / "night", job_of())
    folder.write_json("result.json", {"rounds": 3})
    store = Store(made.database)
    store.add("night", "a" * 32, 3)
    store.tell("night", from_json({"event": "round", "round": 2, "aggregated": True}))
    store.set_status("night", "running")
    grant(made, "auditor", AUDITOR.public.signing.hex())
    return made


@pytest.fixture
def window(consortium):
    with Window(consortium, "127.0.0.1", 0) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.05,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def answer(window, method, path, asked):
    context = ssl.create_default_context(cafile=window.consortium.ca_certificate)
    connection = http.client.HTTPSConnection(
        "localhost", window.server_address[1], timeout=60, context=context
    )
    with contextlib.closing(connection):
        connection.request(method, path, None, {"Authorization": f"Umbel {asked}"})
        reply = connection.getresponse()
        return reply.status, reply.read()


def test_an_observer_reads_runs_their_events_and_reports(consortium, window):
    def found(path):
        status, body = answer(window, "GET", path, asking(AUDITOR, consortium.card.id, path))
        assert status == 200
        return json.loads(body)

    [run] = found("/runs")
    assert (run["name"], run["status"], run["round"]) == ("night", "running", 2)
    assert found("/runs/night")["events"][0]["round"] == 2
    assert found("/runs/night/report") == {"result.json": {"rounds": 3}}
    for path in ("/runs/day", "/runs/night/log", "/", "/runs/../operator.key", "/operator.key"):
        assert answer(window, "GET", path, asking(AUDITOR, consortium.card.id, path))[0] == 404


def test_an_observer_starts_stops_and_changes_nothing(window, consortium):
    before = Store(consortium.database).runs()
    for verb in ("run", "stop", "finish", "resume", "deliver"):
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            path = f"/runs/night/{verb}"
            assert answer(window, method, path, asking(AUDITOR, consortium.card.id, path))[0] == 501
        assert answer(window, "GET", path, asking(AUDITOR, consortium.card.id, path))[0] == 404
    assert Store(consortium.database).runs() == before
    assert len(list(consortium.runs.iterdir())) == 2  # with the link to the latest


def test_an_observers_key_signs_nothing_that_anybody_takes(consortium):
    card, job = consortium.card, '{"name":"its own"}'
    order = sign_job(AUDITOR, card.id, "run", job)
    with pytest.raises(PlanRefused, match="not signed by the operator"):
        check_job_signature(card.operator_key_bytes, card.id, "run", job, order)
    roster = SignedRoster.sign(Roster(1, (), Limits(), bytes(32)), AUDITOR).to_bytes()
    with pytest.raises(ProtocolError):
        open_roster(roster, card.consortium_key_bytes)
    # Its request to read is taken for nothing else either, not even by who believes its key.
    with pytest.raises(PlanRefused):
        own = AUDITOR.public.signing
        check_job_signature(own, card.id, "run", job, asking(AUDITOR, consortium.card.id, "/runs"))


def test_nobody_reads_whom_the_operator_has_not_granted_it(consortium, window, monkeypatch):
    now, mine = time.time(), Grant(consortium.card.id, "me", STRANGER.public.signing).to_bytes()
    own = Signed.sign(Statement(GRANT, 1, int(now), int(now) + DAY, mine), STRANGER)
    # Whoever may write into the folder is no operator: without its signature nothing is granted.
    (consortium.path / "observers" / "me.grant").write_text(own.to_hex())
    requests = {
        "a stranger": asking(STRANGER, consortium.card.id, "/runs"),
        "for another path": asking(AUDITOR, consortium.card.id, "/runs/night"),
        "an old one": asking(AUDITOR, consortium.card.id, "/runs", now - DAY),
        "nothing": "",
        "no statement": "ab",
        "an order": sign_job(AUDITOR, consortium.card.id, "run", "{}"),
    }
    for what, asked in requests.items():
        assert answer(window, "GET", "/runs", asked)[0] == 403, what
    assert answer(window, "GET", "/runs", asking(AUDITOR, consortium.card.id, "/runs"))[0] == 200
    # Weakened: a server that believes what lies in its folder, whoever signed it.
    monkeypatch.setattr(observers, "_granted", lambda *_: [Grant.from_bytes(mine)])
    assert answer(window, "GET", "/runs", asking(STRANGER, consortium.card.id, "/runs"))[0] == 200


def test_what_an_observer_asks_of_one_consortium_is_good_at_no_other(consortium, tmp_path):
    """A server that gets a request could else read with it wherever the same key may."""
    other = Consortium.create(tmp_path / "other", "localhost", 9443, Limits())
    grant(other, "auditor", AUDITOR.public.signing.hex())
    asked = asking(AUDITOR, consortium.card.id, "/runs")
    assert observer_of(consortium, "/runs", asked, time.time()) == "auditor"
    with pytest.raises(ConsortiumError, match="may not read"):
        observer_of(other, "/runs", asked, time.time())


def test_a_grant_ends_is_withdrawn_and_goes_with_the_key_that_signed_it(consortium):
    now = time.time()
    asked = asking(AUDITOR, consortium.card.id, "/runs")
    assert observer_of(consortium, "/runs", asked, now) == "auditor"
    later = now + 366 * DAY
    with pytest.raises(ConsortiumError, match="may not read"):
        observer_of(consortium, "/runs", asking(AUDITOR, consortium.card.id, "/runs", later), later)
    rotate(consortium, "operator")
    with pytest.raises(ConsortiumError, match="may not read"):
        observer_of(consortium, "/runs", asked, now)
    grant(consortium, "auditor", AUDITOR.public.signing.hex())
    assert observer_of(consortium, "/runs", asked, now) == "auditor"
    withdraw(consortium, "auditor")
    with pytest.raises(ConsortiumError, match="may not read"):
        observer_of(consortium, "/runs", asked, now)
    for name, key in (("../x", "ab" * 32), ("x", "ab"), ("x", "no")):
        with pytest.raises(ConsortiumError, match="cannot be an observer"):
            grant(consortium, name, key)
    with pytest.raises(ConsortiumError, match="is not an observer"):
        withdraw(consortium, "nobody")


def test_a_window_goes_by_keys_and_certificate_as_they_are_now(consortium, window):
    def served():
        context = ssl.create_default_context(cafile=consortium.ca_certificate)
        with (
            socket.create_connection(window.server_address) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            return secure.getpeercert()["serialNumber"]

    before = served()
    consortium.renew_certificate()
    assert served() != before
    assert answer(window, "GET", "/runs", asking(AUDITOR, consortium.card.id, "/runs"))[0] == 200
    rotate(Consortium.open(consortium.path), "operator")
    assert answer(window, "GET", "/runs", asking(AUDITOR, consortium.card.id, "/runs"))[0] == 403
    grant(consortium, "auditor", AUDITOR.public.signing.hex())
    assert answer(window, "GET", "/runs", asking(AUDITOR, consortium.card.id, "/runs"))[0] == 200


def test_a_port_that_is_taken_is_said(consortium, window, umbel, monkeypatch):
    monkeypatch.setattr("umbel.storage.processes._PORT_SECONDS", 0.0)
    port = window.server_address[1]
    status, _, err = umbel(
        "window", "--consortium", consortium.path, "--host", "127.0.0.1", "--port", port
    )
    assert (status, f"Port {port} of 127.0.0.1 cannot be used" in err) == (2, True)


def test_a_grant_is_withdrawn_where_the_server_is(consortium, umbel, tmp_path):
    Store(consortium.database).set_status("night", "finished")
    keys = split(consortium, tmp_path / "keys")
    status, out, _ = umbel("consortium", "observer", keys.path, "auditor")
    assert (status, "in the server's folder as well" in out) == (0, True)
    status, out, _ = umbel("consortium", "observer", consortium.path, "auditor")
    assert (status, out.strip()) == (0, "auditor can no longer read.")


def test_strangers_that_say_nothing_hold_few_places_and_end(consortium, monkeypatch):
    monkeypatch.setattr("umbel.server.window._SECONDS", 0.5)
    with Window(consortium, "127.0.0.1", 0) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.05,))
        thread.start()
        try:
            silent = [socket.create_connection(made.server_address) for _ in range(40)]
            for one in silent:
                one.settimeout(60)
                with contextlib.suppress(ConnectionError):
                    assert one.recv(1) == b""  # it was ended
                one.close()
            # Who ended may not have left its place yet: it gives way.
            monkeypatch.setattr("umbel.server.window._GRACE", 0.0)
            asked = asking(AUDITOR, consortium.card.id, "/runs")
            assert answer(made, "GET", "/runs", asked)[0] == 200
        finally:
            made.shutdown()
            thread.join()


def test_strangers_that_hold_every_place_keep_no_observer_out(window, monkeypatch):
    monkeypatch.setattr("umbel.server.window._SECONDS", 600)
    asked = asking(AUDITOR, window.consortium.card.id, "/runs")
    monkeypatch.setattr("umbel.server.window._GRACE", 600)
    silent = [socket.create_connection(window.server_address) for _ in range(16)]
    try:
        with pytest.raises((OSError, http.client.HTTPException)):
            answer(window, "GET", "/runs", asked)
        monkeypatch.setattr("umbel.server.window._GRACE", 0.0)  # as after a while
        assert answer(window, "GET", "/runs", asked)[0] == 200
        for one in silent[1:]:  # the oldest gave way; the others are still there
            one.setblocking(False)
            with pytest.raises(BlockingIOError):
                one.recv(1)
    finally:
        for one in silent:
            one.close()


def test_of_a_request_no_more_is_read_than_it_may_have(window):
    """So that strangers hold some kilobytes of this process each, not megabytes."""
    asked = asking(AUDITOR, window.consortium.card.id, "/runs")

    def status(filling):
        context = ssl.create_default_context(cafile=window.consortium.ca_certificate)
        plain = socket.create_connection(window.server_address, timeout=60)
        with context.wrap_socket(plain, server_hostname="localhost") as secured:
            head = b"GET /runs HTTP/1.0\r\n" + b"X: %s\r\n" % (b"x" * 1000) * filling
            secured.sendall(head + f"Authorization: Umbel {asked}\r\n\r\n".encode())
            return secured.recv(12)

    assert status(20) == b"HTTP/1.0 200"
    with contextlib.suppress(OSError):  # what nobody read resets the connection
        assert status(40) in (b"HTTP/1.0 403", b"")


def test_the_commands_do_it(consortium, window, umbel, tmp_path):
    folder, card = tmp_path / "auditor", consortium.path / "consortium.json"
    status, out, _ = umbel("observer", "init", folder, "--consortium", card)
    key = out.split()[1]
    assert (status, Card.read(card).fingerprint in out) == (0, True)
    assert os.stat(folder / "observer.key").st_mode & 0o077 == 0
    look = ("observer", "read", folder, "runs/night", "--port", window.server_address[1])
    status, _, err = umbel(*look)
    assert (status, "may not read" in err) == (2, True)
    assert umbel("consortium", "observer", consortium.path, "dpo", key)[0] == 0
    status, out, _ = umbel(*look)
    assert (status, json.loads(out)["name"]) == (0, "night")
    assert umbel("consortium", "observer", consortium.path, "dpo")[0] == 0
    assert umbel(*look)[0] == 2


@pytest.mark.parametrize("kind", KINDS)
def test_an_observer_follows_keys_that_were_handed_over_and_no_others(
    kind, consortium, window, umbel, tmp_path
):
    folder, card = tmp_path / "auditor", consortium.path / "consortium.json"
    assert umbel("observer", "init", folder, "--consortium", card)[0] == 0
    observer = ObserverFolder(folder)
    key = observer.key.public.signing.hex()
    rotate(consortium, kind)
    consortium.renew_certificate()
    grant(consortium, "dpo", key)
    look = ("observer", "read", folder, "runs", "--port", window.server_address[1])
    status, _, err = umbel(*look)
    # A new authority's certificate is not believed before the card says so; other keys do not matter to TLS.
    assert (status == 0) == (kind != "authority")
    assert ("umbel observer trust" in err) == (kind == "authority")
    other = Consortium.create(tmp_path / "other", "localhost", 9443, Limits())
    before = observer.card
    assert umbel("observer", "trust", other.path / "consortium.json", folder)[0] == 2
    assert observer.card == before
    status, out, _ = umbel("observer", "trust", card, folder)
    assert (status, consortium.card.fingerprint in out) == (0, True)
    assert observer.card.keys == consortium.card.keys
    assert umbel(*look)[0] == 0
    assert observer.trust(before) is False
    assert observer.card.keys == consortium.card.keys


def test_a_card_whose_keys_nobody_handed_over_is_not_followed(consortium, tmp_path):
    """Whoever can change a card on its way may write any key into it, and no handover to it."""
    card = consortium.path / "consortium.json"
    observer = ObserverFolder.create(tmp_path / "auditor", card)
    forged = Consortium.create(tmp_path / "forged", "localhost", 9443, Limits()).card
    for name in ("operator_key", "ca_certificate"):
        with pytest.raises(ProtocolError, match="no handover leads to its keys"):
            changed = consortium.card.model_dump() | {name: getattr(forged, name)}
            observer.trust(Card.build(changed, "card"))
    assert observer.card == Card.read(card)
