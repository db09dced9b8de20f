"""The SuperNode: Flower's process at a data owner, which connects to the SuperLink.

It carries messages and nothing else. What it would start for a message, an app that came from the
server, is never started: the agent takes the message itself (``tasks``).
Run as a process of its own: ``python -m umbel.flower.node``.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..errors import DeploymentError
from ..storage.processes import end_with_parent
from . import connect_directly, quiet_logs

BUSY_SECONDS = 0.2
"""How often it asks the SuperLink for messages while a run is on; Flower's own is 3 always."""
IDLE_SECONDS = 1.0
HEARTBEAT_SECONDS = 10
"""How often it sends a heartbeat; Flower's own is 30. After two missing ones the SuperLink considers
the node gone, and admits it again."""
KEPT_SECONDS = 50.0
"""How long a connection stays open without a request; less than the SuperLink's own time."""
_BUSY_FOR = 60.0
"""How long after a message a run counts as being on."""
_REPLY_SECONDS = 0.02
"""How often it looks, in its own memory, for the agent's reply; Flower's own is 0.5."""


@dataclass(frozen=True)
class Node:
    """Where a SuperNode connects to, as whom, and where the agent finds it."""

    address: str
    """Of the SuperLink: host:port."""
    ca: Path
    key: Path
    """EC private key, PEM: what the SuperLink knows the owner by."""
    secret: Path
    port: int
    """On 127.0.0.1, for the agent."""
    wake: int = -1
    """Descriptor of a pipe into which a byte is written when a message arrives; -1 for none."""
    proxy: str | None = None
    """URL of an HTTP proxy on the way to the SuperLink."""

    @property
    def local_address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """The process to start."""
        paths = (str(path) for path in (self.ca, self.key, self.secret))
        rest = (str(self.port), str(self.wake), *([self.proxy] if self.proxy else []))
        return [sys.executable, "-m", __name__, self.address, *paths, *rest]


def serve(node: Node) -> None:
    """Run the SuperNode in this process until it is told to stop."""
    import httpx

    # By their names: the packages have functions of the same names as the modules.
    main_loop = import_module("flwr.supernode.start_client_internal")
    flower = import_module("flwr.supernode.cli.flower_supernode")
    # Its main loop sleeps three seconds whenever there is no message, four times a round.
    main_loop.time = SimpleNamespace(  # type: ignore[attr-defined]
        **{**vars(time), "sleep": _Sleep(node.wake)}
    )
    for name in ("flwr.supernode.fleet_http_connection", "flwr.supercore.heartbeat"):
        import_module(name).HEARTBEAT_DEFAULT_INTERVAL = HEARTBEAT_SECONDS  # type: ignore[attr-defined]
    # Between heartbeats the connection stays: Flower's client closes one that was idle for five seconds,
    # as it is while the agent trains, and each new one has to find a place at the public port, beside
    # whatever strangers try there (``admission``).
    connect_directly(node.proxy, limits=httpx.Limits(keepalive_expiry=KEPT_SECONDS))
    _drop_messages_of_ended_runs(main_loop)
    sys.argv = [
        *("flower-supernode", "--superlink", node.address, "--root-certificates", str(node.ca)),
        *("--auth-supernode-private-key", str(node.key), "--isolation", "process"),
        *("--superexec-auth-secret-file", str(node.secret)),
        *("--host", "127.0.0.1", "--port", str(node.port)),
    ]
    end_with_parent()
    end_with_any_thread()
    quiet_logs()
    flower.flower_supernode()


def end_with_any_thread() -> None:
    """End this process if one of its threads fails, so that the agent starts another.

    Flower's heartbeat is a thread that a single refused request ends. Its process would go on without:
    for the agent connected, for the server away.
    """
    usual = threading.excepthook

    def end(failed: threading.ExceptHookArgs) -> None:
        usual(failed)
        os._exit(1)

    threading.excepthook = end


def _drop_messages_of_ended_runs(main_loop: Any) -> None:
    """Have Flower drop a message whose run ends while it is being fetched.

    Its exception for that is no ``Exception``, so its loop passes by what would drop the message: the
    task stays, and an agent that takes it waits two hours for the rest and answers nothing else.
    """
    over = main_loop.RunNotRunningException

    def named(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            try:
                return function(*given, **options)
            except over:
                raise DeploymentError("the run of this message is over") from None

        return call

    fetch = main_loop._pull_and_store_message

    def fetched(**given: Any) -> Any:
        confirm = named(given["confirm_message_received"])
        return fetch(**{**given, "confirm_message_received": confirm})

    main_loop.pull_objects = named(main_loop.pull_objects)
    main_loop._pull_and_store_message = fetched


class _Sleep:
    """Stands for ``time.sleep`` in Flower's main loop: shorter, and it says when a message came.

    The loop sleeps three seconds for lack of a message, and half a second at a time for lack of the
    agent's reply to one.
    """

    def __init__(self, wake: int) -> None:
        self._wake = wake
        self._announced = False
        self._busy_until = 0.0

    def __call__(self, seconds: float) -> None:
        now = time.monotonic()
        if seconds > 1:
            self._announced = False
            time.sleep(BUSY_SECONDS if now < self._busy_until else IDLE_SECONDS)
            return
        self._busy_until = now + _BUSY_FOR
        if not self._announced and self._wake >= 0:
            self._announced = True
            os.write(self._wake, b"!")
        time.sleep(_REPLY_SECONDS)


def parsed(arguments: Sequence[str] | None = None) -> Node:
    """The node of a command line (``Node.command``)."""
    parser = argparse.ArgumentParser(description="Flower's SuperNode, started by umbel client run.")
    for name in ("address", "ca", "key", "secret", "port", "wake"):
        parser.add_argument(name, type={"address": str, "port": int, "wake": int}.get(name, Path))
    parser.add_argument("proxy", nargs="?")
    return Node(**vars(parser.parse_args(arguments)))


def main() -> None:
    serve(parsed())


if __name__ == "__main__":
    main()
