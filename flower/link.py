"""The SuperLink: Flower's server, with one port for data owners and another for this machine.

In Flower's open edition anyone who reaches the port can start runs, and a run carries code. So data
owners reach a port on which only the Fleet API answers, to members (``members``, behind ``door``), and
everything else is served on loopback.
Run as a process of its own: ``python -m umbel.flower.link`` (see ``Link.command``).
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from ..storage.processes import end_with_parent
from . import quiet_logs


@dataclass(frozen=True)
class Link:
    """Where a SuperLink listens, and what it needs to start."""

    host: str
    """Address of the public port."""
    port: int
    local_port: int
    """On 127.0.0.1: the operator's own processes."""
    ca: Path
    certificate: Path
    key: Path
    secret: Path
    """Anyone who knows this token may take a run's work."""
    database: Path

    @property
    def local_address(self) -> str:
        return f"127.0.0.1:{self.local_port}"

    def command(self) -> list[str]:
        """The process to start."""
        return [
            *(sys.executable, "-m", __name__, self.host, str(self.port), str(self.local_port)),
            *(str(path) for path in (self.ca, self.certificate, self.key)),
            *(str(path) for path in (self.secret, self.database)),
        ]


def serve(link: Link) -> None:
    """Run the SuperLink in this process until it is told to stop."""
    import uvicorn
    from flwr.superlink.main import create_app

    from .admission import Admission
    from .door import Door, Server
    from .members import MembersOnly
    from .node import KEPT_SECONDS

    # By its name: the package has a function of the same name as the module.
    flower = import_module("flwr.superlink.cli.flower_superlink")
    sys.argv = [
        *("flower-superlink", "--host", "127.0.0.1", "--port", str(link.local_port)),
        *("--ssl-ca-certfile", str(link.ca), "--ssl-certfile", str(link.certificate)),
        *("--ssl-keyfile", str(link.key), "--enable-supernode-auth"),
        *("--database", str(link.database), "--isolation", "process"),
        *("--superexec-auth-secret-file", str(link.secret)),
        "--disable-runtime-dependency-installation",
    ]
    quiet_logs()
    config = flower._parse_superlink_lifespan_config()
    end_with_parent()
    quiet_logs()
    superlink = create_app(config, flower.SuperLinkLifespan)
    door = Door(_listen(link.host, link.port), Admission())
    server = Server(
        uvicorn.Config(
            MembersOnly(superlink, link.port, door),
            # Else a stranger's garbage is a line each.
            log_level="error",
            access_log=False,
            # Who a connection is of follows from where it comes from, and not from what it says.
            proxy_headers=False,
            ws="none",
            timeout_keep_alive=int(KEPT_SECONDS) + 10,
            ssl_certfile=str(link.certificate),
            ssl_keyfile=str(link.key),
        ),
        door,
    )
    asyncio.run(server.serve(sockets=[_listen("127.0.0.1", link.local_port)]))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(2048)
    listener.setblocking(False)
    return listener


def parsed(arguments: Sequence[str] | None = None) -> Link:
    """The link of a command line (``Link.command``)."""
    parser = argparse.ArgumentParser(description="Flower's SuperLink, started by umbel server.")
    for name in ("host", "port", "local_port", "ca", "certificate", "key", "secret", "database"):
        parser.add_argument(name, type={"host": str}.get(name, int if "port" in name else Path))
    return Link(**vars(parser.parse_args(arguments)))


def main() -> None:
    serve(parsed())


if __name__ == "__main__":
    main()
