"""Flower's clients connect to this machine and the consortium's server, whatever the environment says."""

import importlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

CLIENTS = {
    "FleetHttpClient": "flwr.supernode.fleet_http_client",
    "RuntimeHttpClient": "flwr.supercore.runtime",
    "ControlHttpClient": "flwr.supercore.control.control_http_client",
}


@pytest.fixture
def server():
    """Answers everything with 418; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(418)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=found.serve_forever, args=(0.01,))
    thread.start()
    yield f"127.0.0.1:{found.server_address[1]}"
    found.shutdown()
    thread.join()
    found.server_close()


def ask(name, address):
    """The status with which an address answers one of Flower's clients."""
    import httpx
    from google.protobuf.empty_pb2 import Empty

    import umbel.flower  # noqa: F401

    client = getattr(importlib.import_module(CLIENTS[name]), name).from_server_address(
        server_address=address, insecure=True, root_certificates=None, interceptors=[]
    )
    try:
        client._unary_unary(path="/x", rpc_method="x", request=Empty(), response_type=Empty)
    except httpx.HTTPStatusError as error:
        return error.response.status_code
    finally:
        client.close()


@pytest.mark.parametrize("name", CLIENTS)
def test_no_client_of_flowers_uses_a_proxy_of_the_environment(
    name, server, silent_proxy, monkeypatch
):
    for variable, value in silent_proxy.environment.items():
        monkeypatch.setenv(variable, value)
    assert ask(name, server) == 418
    assert silent_proxy.asked == 0


def test_flower_has_no_other_client():
    from flwr.supercore.protobuf.client import ProtobufClient

    for module in CLIENTS.values():
        importlib.import_module(module)
    assert {made.__name__ for made in ProtobufClient.__subclasses__()} == set(CLIENTS)
