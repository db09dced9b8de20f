"""What a trip to the agents and back costs without any of Umbel's own work."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deployment_jobs import AGENT, LONGEST

from umbel.errors import DeploymentError
from umbel.flower import quiet_logs
from umbel.flower.control import Control
from umbel.flower.link import Link
from umbel.flower.tasks import Runtime, grid_of
from umbel.server.exchange import Exchange
from umbel.simulations.rehearsal import Stage, running
from umbel.storage.processes import free_port
from umbel.wire.packing import to_bytes_record


def measure(stage: Stage, folder: Path, node: str, sizes: dict[int, int]) -> dict[int, list[float]]:
    """Seconds of each trip, one after another: {bytes each way: [seconds, ...]}.

    sizes: how many trips for each number of bytes. node: "umbel" for our SuperNode and our
    coordinator's way to ask, "flower" for Flower's SuperNode and its Grid as they are. One more trip
    goes before them, in which nodes learn of the run.
    """
    logs = folder / "agents"
    logs.mkdir(parents=True)
    quiet_logs()  # Flower logs to standard output, where --json prints
    link = _link(stage, folder)
    agents = [[sys.executable, str(AGENT), "echo", node, str(owner.path)] for owner in stage.owners]
    os.environ["FLWR_HOME"] = str(folder / "flower")
    with running([link.command()], folder):
        _await_port(link)
        names = _admitted(stage, link)
        with running(agents, logs), _grid(stage, link) as grid:
            _await_nodes(grid, set(names))
            trip = _as_umbel if node == "umbel" else _as_flower
            trip(grid, names, 0)
            return {
                size: [trip(grid, names, size) for _ in range(count)]
                for size, count in sizes.items()
            }


def _as_umbel(grid: Any, names: dict[int, str], size: int) -> float:
    """As the coordinator asks."""
    messages = _messages(names, size)
    begun = time.monotonic()
    exchange = Exchange(grid, messages, names, LONGEST)
    for _ in exchange:
        pass
    if exchange.failed:
        sys.exit(f"a trip failed: {exchange.failed}")
    return time.monotonic() - begun


def _as_flower(grid: Any, names: dict[int, str], size: int) -> float:
    """As an app of Flower's asks."""
    messages = _messages(names, size)
    begun = time.monotonic()
    replies = list(grid.send_and_receive(messages))
    if len(replies) != len(messages) or any(reply.has_error() for reply in replies):
        sys.exit("a trip failed")
    return time.monotonic() - begun


def _messages(names: dict[int, str], size: int) -> list[Any]:
    """The same bytes for all, new ones each time: nothing is there already."""
    from flwr.app import Message, RecordDict

    content = RecordDict({"payload": to_bytes_record(payload=os.urandom(size))} if size else {})
    return [Message(content, dst_node_id=node, message_type="query.prepare") for node in names]


def _link(stage: Stage, folder: Path) -> Link:
    """The SuperLink of this consortium, with a database of its own."""
    consortium = stage.consortium
    secret = folder / "secret"
    secret.write_bytes(os.urandom(32))
    secret.chmod(0o600)
    return Link(
        "127.0.0.1",
        consortium.card.port,
        free_port(),
        consortium.ca_certificate,
        consortium.server_certificate,
        consortium.server_key,
        secret,
        folder / "state.db",
    )


def _admitted(stage: Stage, link: Link) -> dict[int, str]:
    """The members' nodes, by the ids that Flower gives them."""
    members = {m.node_key.encode(): m.name for m in stage.consortium.members()}
    with contextlib.closing(Control(link)) as control:
        for key, name in members.items():
            control.register(key, name)
        return {node: members[key] for key, node in control.nodes().items()}


@contextlib.contextmanager
def _grid(stage: Stage, link: Link) -> Iterator[Any]:
    root = stage.consortium.ca_certificate.read_bytes()
    with contextlib.closing(Control(link)) as control:
        control.start_run()
    with contextlib.closing(Runtime(link.local_address, root, link.secret.read_bytes())) as runtime:
        while (claim := runtime.acquire("server")) is None:
            time.sleep(0.1)
    with grid_of(link.local_address, root, claim) as grid:
        yield grid


def _await_nodes(grid: Any, wanted: set[int]) -> None:
    end = time.monotonic() + 120
    while not wanted <= set(grid.get_node_ids()):
        if time.monotonic() > end:
            sys.exit("the SuperNodes do not connect")
        time.sleep(0.2)


def _await_port(link: Link) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(OSError, DeploymentError):
            socket.create_connection(("127.0.0.1", link.local_port), 1).close()
            return
        time.sleep(0.1)
    sys.exit("the SuperLink does not start")
