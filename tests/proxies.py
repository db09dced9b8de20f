"""Proxies for tests: one that takes connections and never answers, and one that does its work."""

import contextlib
import socket
import threading

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "ftp_proxy")


class Silent:
    """Accepts every connection, and says nothing for ever."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self._taken = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def environment(self):
        """With this proxy for everything, as users and systems set it."""
        url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        names = [*VARIABLES, *map(str.upper, VARIABLES)]
        return {**dict.fromkeys(names, url), "no_proxy": "", "NO_PROXY": ""}

    @property
    def asked(self):
        """How many connections came."""
        return len(self._taken)

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                self._taken.append(self._listener.accept()[0])

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for taken in [self._listener, *self._taken]:
            taken.close()


class Connecting:
    """Passes CONNECT on, or answers each request with `refusal`."""

    def __init__(self, refusal=None):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._refusal = refusal
        self.asked = []
        """What it was asked to connect to."""
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(
                    target=self._serve, args=(self._listener.accept()[0],), daemon=True
                ).start()

    def _serve(self, client):
        with contextlib.suppress(OSError, EOFError), client:
            address = _request(client).split()[1].decode()
            self.asked.append(address)
            if self._refusal:
                client.sendall(f"HTTP/1.1 {self._refusal}\r\n\r\n".encode())
                return
            host, _, port = address.rpartition(":")
            with socket.create_connection((host.strip("[]"), int(port))) as server:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=_pass_on, args=(server, client), daemon=True)
                back.start()
                _pass_on(client, server)
                back.join()

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _request(client):
    found = b""
    while b"\r\n\r\n" not in found:
        part = client.recv(1)
        if not part:
            raise EOFError
        found += part
    return found


def _pass_on(source, target):
    with contextlib.suppress(OSError):
        while part := source.recv(65536):
            target.sendall(part)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
