"""Taking work from Flower, over real HTTP: what there is, what is ours, and what goes wrong in words."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from flwr.proto.runtime_pb2 import AcquireTaskRequest, AcquireTaskResponse
from flwr.supercore.constant import TaskType

from umbel.errors import DeploymentError
from umbel.flower.tasks import Claim, Runtime, in_words


class Queue:
    """A server with tasks, each given out once: (run, token)."""

    def __init__(self, tasks=(), status=200):
        self.asked = []
        queue = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                queue.asked.append((self.path, AcquireTaskRequest.FromString(body)))
                reply = AcquireTaskResponse()
                if waiting:
                    reply.task.run_id, reply.token = waiting.pop(0)
                content = reply.SerializeToString()
                self.send_response(status)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments):
                pass

        waiting = list(tasks)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def runtime():
    opened = []

    def start(*tasks, status=200):
        queue = Queue(tasks, status)
        found = Runtime(queue.address, None, b"s" * 32)
        opened.extend([found, queue])
        return found, queue

    yield start
    for one in opened:
        one.close()


@pytest.mark.parametrize(
    ("kind", "type_"), [("client", TaskType.CLIENT_APP), ("server", TaskType.SERVER_APP)]
)
def test_the_oldest_task_of_its_kind_is_taken(runtime, kind, type_):
    found, queue = runtime((7, "first"), (8, "second"))
    assert found.acquire(kind) == Claim(7, "first")
    assert found.acquire(kind) == Claim(8, "second")
    assert found.acquire(kind) is None
    for path, request in queue.asked:
        assert path.endswith("/acquire-task")
        assert list(request.supported_task_types) == [type_]


def test_a_task_without_a_token_is_none(runtime):
    found, _ = runtime((7, ""))
    assert found.acquire("client") is None


def test_a_server_that_refuses_or_is_gone_is_an_error_in_words(runtime):
    found, queue = runtime(status=500)
    with pytest.raises(DeploymentError, match=f"{queue.address} does not answer"):
        found.acquire("client")
    with socket.socket() as bound:  # nobody listens there
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        gone = Runtime(address, None, b"s" * 32)
        with pytest.raises(DeploymentError, match=f"{address} does not answer"):
            gone.acquire("client")
        gone.close()


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "its run is over, or another process has taken it"), (503, "HTTP 503")],
)
def test_what_flower_says_with_a_page_of_http_is_said_in_words(status, words):
    request = httpx.Request("POST", "http://127.0.0.1/v1")
    response = httpx.Response(status, request=request)
    said = f"^The SuperNode no longer takes part in this message: {words}$"
    with pytest.raises(DeploymentError, match=said), in_words("The SuperNode"):
        response.raise_for_status()
    said = "^The SuperLink does not answer: gone$"
    with pytest.raises(DeploymentError, match=said), in_words("The SuperLink"):
        raise httpx.ConnectError("gone", request=request)
    with pytest.raises(KeyError), in_words("The SuperLink"):
        raise KeyError("not Flower's")
