"""The SuperNode: Flower's process at a data owner, which connects to the SuperLink.

It carries messages and nothing else. What it would start for a message, an app that came from the
server, is never started: the agent takes the message itself (``tasks``).
Run as a process of its own: ``python -m umbel.flower.node``.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

from . import end_with_parent, quiet_logs

POLL_SECONDS = 0.2
"""How often it asks the SuperLink for messages, and for the agent's reply; Flower's own is 3."""


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

    @property
    def local_address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """The process to start."""
        paths = (str(path) for path in (self.ca, self.key, self.secret))
        return [sys.executable, "-m", __name__, self.address, *paths, str(self.port)]


def serve(node: Node) -> None:
    """Run the SuperNode in this process until it is told to stop."""
    # By their names: the packages have functions of the same names as the modules.
    main_loop = import_module("flwr.supernode.start_client_internal")
    flower = import_module("flwr.supernode.cli.flower_supernode")
    # Its main loop sleeps three seconds whenever there is no message, four times a round.
    main_loop.time = SimpleNamespace(  # type: ignore[attr-defined]
        **{**vars(time), "sleep": lambda seconds: time.sleep(min(seconds, POLL_SECONDS))}
    )
    sys.argv = [
        *("flower-supernode", "--superlink", node.address, "--root-certificates", str(node.ca)),
        *("--auth-supernode-private-key", str(node.key), "--isolation", "process"),
        *("--superexec-auth-secret-file", str(node.secret)),
        *("--host", "127.0.0.1", "--port", str(node.port)),
    ]
    end_with_parent()
    quiet_logs()
    flower.flower_supernode()


def main() -> None:
    parser = argparse.ArgumentParser(description="Flower's SuperNode, started by umbel client run.")
    for name in ("address", "ca", "key", "secret", "port"):
        parser.add_argument(name, type={"address": str, "port": int}.get(name, Path))
    serve(Node(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
