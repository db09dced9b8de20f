"""`umbel window`: a port of its own, over which observers read, and nobody writes.

A process beside the server, so that nothing that happens to it reaches a run. It takes few connections,
for seconds each, of which the oldest gives way to a newcomer, and reads no body and no long head.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import Any

from ..consortium.authority import Consortium
from ..errors import RunFolderError, UmbelError
from ..storage.processes import check_port
from .observers import NotAllowed, observer_of, read

_MOST = 16
"""Connections at once."""
_GRACE = 1.0
"""Seconds after which the oldest is closed, if there are so many."""
_SECONDS = 10.0
_MOST_HEAD = 2**15
"""Bytes of a request, all its lines together; an observer's has about a thousand."""


class Window(http.server.ThreadingHTTPServer):
    """Answers observers of a consortium until ``shutdown``."""

    daemon_threads = True

    def __init__(self, consortium: Consortium, host: str, port: int) -> None:
        """Raises ``DeploymentError`` if the port is taken."""
        self.consortium = consortium
        self._places: dict[_Place, float] = {}
        self._turn = threading.Lock()
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        check_port(host, port, "and tell the observers")
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        place, now = _Place(request), time.monotonic()
        with self._turn:
            oldest = next(iter(self._places), None)
            if oldest is not None and len(self._places) >= _MOST:
                if now - self._places[oldest] < _GRACE:
                    self.shutdown_request(request)
                    return
                # Else anyone who says nothing could hold all places for good.
                del self._places[oldest]
                oldest.end()
            self._places[place] = now
        threading.Thread(target=self._welcome, args=(place, client_address), daemon=True).start()

    def _welcome(self, place: _Place, client_address: Any) -> None:
        request: Any = place.connection
        try:
            request.settimeout(_SECONDS)
            # Each time, for the certificate may have been renewed since.
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(self.consortium.server_certificate, self.consortium.server_key)
            # In this thread, and later: who does not shake hands keeps nobody else waiting.
            with tls.wrap_socket(
                request, server_side=True, do_handshake_on_connect=False
            ) as secured:
                place.connection = secured
                over = threading.Timer(2 * _SECONDS, place.end)
                over.daemon = True
                over.start()
                try:
                    secured.do_handshake()
                    self.finish_request(secured, client_address)
                finally:
                    over.cancel()
        except (OSError, ValueError):
            pass
        finally:
            with self._turn:
                self._places.pop(place, None)
            self.shutdown_request(request)


@dataclass(eq=False)
class _Place:
    """Of one connection."""

    connection: socket.socket

    def end(self) -> None:
        """However slowly it sends: anyone who waits for more reads the end."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


class _Bounded:
    """Lines of a stream, until there are more bytes than a request may have; then it seems to end."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._left = stream, _MOST_HEAD

    def readline(self, most: int) -> bytes:
        line: bytes = self._stream.readline(min(most, self._left))
        self._left -= len(line)
        return line

    def close(self) -> None:
        self._stream.close()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Window
    server_version, sys_version = "Umbel", ""

    def setup(self) -> None:
        super().setup()
        self.rfile: Any = _Bounded(self.rfile)

    def do_GET(self) -> None:
        consortium = self.server.consortium
        given = self.headers.get("Authorization", "")
        try:
            observer_of(consortium, self.path, given.removeprefix("Umbel "), time.time())
            self._answer(200, read(consortium, self.path))
        except NotAllowed as error:
            self._answer(403, {"error": str(error)})
        except RunFolderError as error:
            self._answer(404, {"error": str(error)})
        except UmbelError:
            self._answer(
                500,
                {
                    "error": "The server's folder cannot be read. Ask the operator: the log of "
                    "umbel window says why."
                },
            )

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a stranger could fill the log."""

    def _answer(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
