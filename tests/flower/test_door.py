"""The public port, over real TLS: what strangers can make it hold, and for how long."""

import asyncio
import contextlib
import socket
import ssl
import threading
from base64 import b64encode
from http.client import HTTPSConnection

import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec

from umbel.consortium.authority import Consortium
from umbel.flower.admission import Admission, Bounds
from umbel.flower.door import MOST_FIELDS, MOST_HEAD, MOST_UNKNOWN, Door, Server
from umbel.flower.link import _listen
from umbel.flower.members import FLEET, MOST_OTHER, MOST_STRANGE, MembersOnly
from umbel.privacy.secagg.roster import Limits

MIB = 2**20


def signed(key):
    """The header fields that a SuperNode of this key sends, made as it makes them."""
    from flwr.common.constant import TIMESTAMP_HEADER
    from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
    from flwr.supercore.date import now
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

    stamp = now().isoformat()
    return {
        FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(public_key_to_bytes(key.public_key())).decode(),
        TIMESTAMP_HEADER: stamp,
        FLEET_HTTP_SIGNATURE_HEADER: b64encode(sign_message(key, stamp.encode())).decode(),
    }


class Port:
    """A door on loopback, with Flower's own register of nodes behind it."""

    def __init__(self, consortium, bounds, patience, guarded):
        from fastapi import FastAPI
        from flwr.server.superlink.linkstate import LinkStateFactory
        from flwr.supercore.object_store import ObjectStoreFactory
        from flwr.supercore.primitives.asymmetric import public_key_to_bytes
        from flwr.superlink.federation import NoOpFederationManager

        self.consortium = consortium
        self.member, self.nobody = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
        flower = FastAPI()
        objects = ObjectStoreFactory(":flwr-in-memory:")
        states = LinkStateFactory(":flwr-in-memory:", NoOpFederationManager(), objects)
        flower.state.linkstate_factory = states
        states.state().create_node("a", "a", public_key_to_bytes(self.member.public_key()), 30)
        self.bodies = []
        self.may_end = threading.Semaphore(2**20)
        """How many answers Flower may still say the end of, after their last byte."""
        listener, local = _listen("127.0.0.1", 0), _listen("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        self.admission = Admission(bounds)
        self.door = Door(listener, self.admission)
        app = (
            self._flower
            if not guarded
            else MembersOnly(flower, self.port, self.door, self._flower, patience)
        )
        config = uvicorn.Config(
            app,
            log_level="critical",
            interface="asgi3",
            lifespan="off",
            ssl_certfile=str(consortium.server_certificate),
            ssl_keyfile=str(consortium.server_key),
        )
        self.server = Server(config, self.door) if guarded else uvicorn.Server(config)
        sockets = [local] if guarded else [local, listener]
        self.server.capture_signals = contextlib.nullcontext  # not the main thread
        self.thread = threading.Thread(target=lambda: asyncio.run(self.server.serve(sockets)))
        ready, startup = threading.Event(), self.server.startup

        async def started(sockets=None):
            await startup(sockets)
            ready.set()

        self.server.startup = started
        self.thread.start()
        assert ready.wait(240)

    async def _flower(self, scope, receive, send):
        """In Flower's place: reads whole bodies, as Flower does before it looks who sent them."""
        parts, more = [], True
        while more:
            message = await receive()
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        self.bodies.append(len(b"".join(parts)))
        length = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": b"ok", "more_body": True})
        assert await asyncio.to_thread(self.may_end.acquire, timeout=240)
        await send({"type": "http.response.body", "body": b""})

    def connect(self, seconds=240.0):
        context = ssl.create_default_context(cafile=str(self.consortium.ca_certificate))
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=seconds)
        return context.wrap_socket(plain, server_hostname="localhost")

    def post(self, path, body=b"", headers=None):
        context = ssl.create_default_context(cafile=str(self.consortium.ca_certificate))
        connection = HTTPSConnection("localhost", self.port, context=context, timeout=240)
        connection.request("POST", path, body, headers or {})
        return connection.getresponse().status

    def announce(self, path, length, headers):
        """The answer to a request that says how long its body is, and does not send it."""
        return self.post(path, b"", {"Content-Length": str(length), **headers})

    def close(self):
        self.server.should_exit = self.server.force_exit = True
        self.thread.join()


@pytest.fixture(scope="module")
def consortium(tmp_path_factory):
    return Consortium.create(tmp_path_factory.mktemp("door") / "c", "localhost", 9443, Limits())


@pytest.fixture
def port_of(consortium):
    made = []

    def build(patience=30.0, guarded=True, **bounds):
        # As many as a test makes, at once; each bound is another test's.
        few = {"each_second": 1e6, "each_address": 1e6, "each_familiar": 1e6, **bounds}
        made.append(Port(consortium, Bounds(**few), patience, guarded))
        return made[-1]

    yield build
    for port in made:
        port.close()


@pytest.fixture
def port(port_of):
    return port_of()


def head(path, length, fields=""):
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{fields}\r\n".encode()


def ended(connection):
    """Whether the server has ended it, within what its own time-out allows."""
    try:
        while connection.recv(65536):
            pass
    except (ConnectionResetError, ssl.SSLError, BrokenPipeError):
        return True
    except TimeoutError:
        return False
    return True


def pushed(connection, data, most, seconds=240):
    """Bytes that the other side took before it ended the connection, up to `most`."""
    sent = 0
    connection.settimeout(seconds)
    with contextlib.suppress(OSError):
        while sent < most:
            connection.sendall(data)
            sent += len(data)
    return sent


def test_a_members_request_reaches_flower_whole(port):
    body = bytes(3 * MIB)
    for _ in range(2):
        assert port.post(f"{FLEET}push-object", body, signed(port.member)) == 200
    assert port.bodies == [len(body)] * 2


def test_a_member_may_ask_again_as_soon_as_it_has_the_answer(port):
    """Whether or not the port has heard by then that the answer is over."""
    port.may_end = threading.Semaphore(0)
    context = ssl.create_default_context(cafile=str(port.consortium.ca_certificate))
    connection = HTTPSConnection("localhost", port.port, context=context, timeout=240)
    for number in range(4):
        connection.request("POST", f"{FLEET}push-object", b"x", signed(port.member))
        if number:
            port.may_end.release()  # the answer before is over only now
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"ok")
    port.may_end.release()
    assert port.bodies == [1] * 4


@pytest.mark.parametrize("path", ["/v1/control/list-runs", "/", "/v1/runtime/push-object", "/docs"])
def test_other_paths_are_not_there(port, path):
    assert port.post(path, b"", signed(port.member)) == 404


def test_a_stranger_is_answered_before_its_body_is_read(port, port_of):
    """And reaches Flower, which holds all of it, where the port is open as it was before."""
    size = 40 * MIB
    for path in (f"{FLEET}push-object", f"{FLEET}push-messages"):
        with port.connect() as connection:
            connection.sendall(head(path, size))
            assert b" 401 " in connection.recv(100)
            assert (
                pushed(connection, bytes(65536), size) < 16 * MIB
            )  # what the system takes in by itself
    assert not port.bodies
    before = port_of(guarded=False)
    with before.connect() as connection:
        connection.sendall(head(f"{FLEET}push-object", size))
        assert pushed(connection, bytes(65536), size, seconds=240) == size
        assert connection.recv(100)
    assert before.bodies == [size]


@pytest.mark.parametrize("change", ["signature", "key", "stamp", "none"])
def test_without_a_valid_signature_nobody_is_a_member(port, change):
    from flwr.common.constant import TIMESTAMP_HEADER
    from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER

    fields = signed(port.member)
    if change == "none":
        fields = {}
    elif change == "stamp":
        fields[TIMESTAMP_HEADER] = "2020-01-01T00:00:00+00:00"
    else:
        name = {"signature": FLEET_HTTP_SIGNATURE_HEADER, "key": FLEET_HTTP_PUBLIC_KEY_HEADER}[
            change
        ]
        fields[name] = signed(port.nobody)[name]
    for path in (f"{FLEET}push-object", f"{FLEET}activate-node"):
        assert port.post(path, b"x", fields) == 401
    assert not port.bodies


def test_who_is_no_member_may_ask_in_with_few_bytes_and_nothing_else(port):
    fields = signed(port.nobody)
    assert port.post(f"{FLEET}activate-node", bytes(MOST_STRANGE), fields) == 200
    assert port.announce(f"{FLEET}activate-node", MOST_STRANGE + 1, fields) == 413
    assert port.post(f"{FLEET}push-object", b"", fields) == 401


def test_who_is_no_member_asks_once_in_a_connection(port):
    """A signature is checked for each request, and how many begin is bounded by connections."""
    context = ssl.create_default_context(cafile=str(port.consortium.ca_certificate))
    for key, once in ((port.nobody, True), (port.member, False)):
        connection = HTTPSConnection("localhost", port.port, context=context, timeout=240)
        connection.request("POST", f"{FLEET}activate-node", b"x", signed(key))
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"ok")
        assert answer.will_close is once
        connection.close()


def test_a_members_body_is_no_longer_than_its_kind_of_request_may_have(port):
    fields = signed(port.member)
    assert port.post(f"{FLEET}pull-messages", bytes(MOST_OTHER), fields) == 200
    assert port.announce(f"{FLEET}pull-messages", MOST_OTHER + 1, fields) == 413
    # One that does not say how long it is, and goes on.
    text = "".join(f"{k}: {v}\r\n" for k, v in fields.items())
    chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
    with port.connect() as connection:
        start = head(f"{FLEET}pull-messages", 0, f"Transfer-Encoding: chunked\r\n{text}")
        connection.sendall(start.replace(b"Content-Length: 0\r\n", b""))
        assert pushed(connection, chunk, 64 * MIB) < 16 * MIB
    assert port.bodies == [MOST_OTHER]


def test_a_stranger_that_says_nothing_or_little_is_ended_in_time(port_of):
    port = port_of(seconds=1.0)
    for said in (b"", b"POST /v1/fleet/", head(f"{FLEET}push-object", 100, "x: y\r\n")[:-2]):
        try:
            with port.connect() as connection:
                connection.sendall(said)
                assert ended(connection)
        except TimeoutError:
            raise
        except OSError:
            continue  # on a busy machine it was ended before all of this was said
    with socket.create_connection(("127.0.0.1", port.port), timeout=240) as plain:
        assert ended(plain)  # not even TLS
    assert port.admission.waiting == 0


def test_a_member_whose_body_comes_too_slowly_is_ended(port_of):
    port = port_of(patience=0.5)
    text = "".join(f"{k}: {v}\r\n" for k, v in signed(port.member).items())
    with port.connect() as connection:
        connection.sendall(head(f"{FLEET}push-object", 100, text) + b"x")
        assert ended(connection)
    assert not port.bodies


@pytest.mark.parametrize(
    "endless",
    [
        b"x" * 4096,
        b"a: b\r\n" * 1000,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 200,
    ],
    ids=["a long line", "many fields", "many requests"],
)
def test_what_is_parsed_before_anybody_is_known_is_bounded(port, endless):
    with port.connect() as connection:
        connection.sendall(b"POST /")
        assert pushed(connection, endless, 32 * MIB) < 4 * MIB
    assert not port.bodies
    assert MOST_FIELDS * 8 < MOST_HEAD < MOST_UNKNOWN


def test_strangers_that_hold_every_place_do_not_keep_a_member_out(port_of):
    port = port_of(waiting=8, grace=0.0)
    held = [port.connect() for _ in range(40)]
    assert port.admission.waiting <= 8
    assert port.post(f"{FLEET}push-object", b"x", signed(port.member)) == 200
    for connection in held:
        connection.close()
    assert port.bodies == [1]
