"""The only room that touches Flower's non-public and deprecated parts.

Here: messages and grids in one process. ``link`` is Flower's server process, ``node`` the one that
connects a data owner to it, ``tasks`` how our own processes take work from either.

Flower sets the identity of a task and the ids of messages inside its own runtimes. A grid of ours
has to do the same, and there is no public way. The same holds for starting Flower's simulation
from Python.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

SERVER_NODE = 1


def connect_directly(proxy: str | None = None, **options: Any) -> None:
    """Have Flower's HTTP clients of this process connect as we say, whatever the environment says.

    Flower's own take proxies from it, also for loopback, and a proxy that does not answer holds all up.
    What they connect to is this machine and the consortium's server: no proxy but the one given, and
    no certificates but the consortium's. options: of ``httpx.Client``, besides.
    """
    import httpx

    client = import_module("flwr.supercore.protobuf.client")
    made = partial(httpx.Client, trust_env=False, proxy=proxy, **options)
    client.httpx = SimpleNamespace(**{**vars(httpx), "Client": made})  # type: ignore[attr-defined]


connect_directly()

UNREACHED = frozenset(
    {
        ErrorCode.MESSAGE_UNAVAILABLE,
        ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
        ErrorCode.NODE_UNAVAILABLE,
    }
)
"""Flower's own error codes for a message, or an answer, that did not arrive."""


def take_server_identity(run_id: int) -> None:
    """Let this process create messages as the server of a run."""
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = SERVER_NODE
    TaskIdentity.task_id = 0


def empty_run(run_id: int) -> Run:
    return Run.create_empty(run_id)


def stamp(message: Message) -> str:
    """Give a message the id that a SuperLink would give it."""
    message.metadata.__dict__["_message_id"] = uuid.uuid4().hex
    return message.metadata.message_id


def refuse(message: Message, code: int, reason: str) -> Message:
    """An error reply."""
    return Message(Error(code, reason), reply_to=message)


def quiet_logs() -> None:
    """Flower logs every strategy call at INFO; our own progress replaces that. No colours in files."""
    import logging

    from flwr.common.logger import update_console_handler

    update_console_handler(timestamps=True, colored=False)
    logging.getLogger("flwr").setLevel(logging.WARNING)


def run_flower_simulation(
    serve: Callable[[Grid], None], client_app: ClientApp, nodes: int, backend: Mapping[str, Any]
) -> None:
    """Start Ray, let `serve` talk to `nodes` virtual nodes over Flower's grid, and stop Ray again.

    `serve` runs in a thread of Flower's, beginning before the nodes exist and before Ray has
    started; a failure of Ray raises here while `serve` goes on. backend: ``init_args`` of Ray and
    ``client_resources`` of an actor.
    """
    import logging

    from flwr.simulation import run_simulation

    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        serve(grid)

    # What matters comes as an error reply or an exception; below that Flower logs tracebacks, and
    # that calling it from Python is deprecated.
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    pythonpath = os.environ.get("PYTHONPATH")
    try:
        run_simulation(server_app, client_app, nodes, backend_config=dict(backend))
    finally:
        # Flower leaves the whole of sys.path there, for every later child of this process.
        if pythonpath is None:
            os.environ.pop("PYTHONPATH", None)
        else:
            os.environ["PYTHONPATH"] = pythonpath
        quiet_logs()
