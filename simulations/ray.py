"""Flower's own Ray simulation as the place where virtual clients run.

The server's side is our own round loop over the grid that Flower makes. The clients' side is the
``ClientApp`` that a deployment uses too; in a Ray actor it speaks for any virtual owner, with one
model for the whole process. A reproducible run gives the same adapter as with our own workers.
"""

from __future__ import annotations

import logging
import pickle
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from queue import Queue
from typing import Any

from flwr.app import Context, Message
from flwr.serverapp import Grid

from ..client.app import build_client_app
from ..errors import UmbelError
from ..flower import run_flower_simulation
from ..server.exchange import CohortGrid
from .site import FIRST_NODE, Site, SiteSettings

_POLL_SECONDS = 0.02


def require_ray() -> None:
    """Raise an ``UmbelError`` if Ray is not installed."""
    if find_spec("ray") is None:
        raise UmbelError(
            "The ray engine needs the package ray: pip install 'umbel[ray]'. "
            "The in-process engine needs nothing more, and is faster on one machine."
        )


@contextmanager
def ray_grid(settings: SiteSettings, actors: int) -> Iterator[Grid]:
    """Start Ray with `actors` processes and give a grid of all virtual clients; stop Ray at the end.

    Flower numbers its nodes at random, so who is behind a node is known only from its answer to
    ``query.prepare``. A failure of Ray raises ``UmbelError`` from the grid's ``pull_messages``.
    """
    clients = len(settings.federation.shares)
    with tempfile.TemporaryDirectory(prefix="umbel-ray-") as folder:
        file = Path(folder) / "settings.pickle"
        file.write_bytes(pickle.dumps(settings))
        simulation = _Simulation(VirtualOwners(file), clients, _backend(actors))
        try:
            yield simulation.grid()
        finally:
            simulation.stop()


@dataclass(frozen=True)
class VirtualOwners:
    """Answers as the owner that a node's ``partition-id`` names. Travels with every message."""

    settings: Path

    def __call__(self, message: Message, context: Context) -> Message:
        return _site(self.settings).handle(
            FIRST_NODE + int(context.node_config["partition-id"]), message
        )


@lru_cache(maxsize=1)
def _site(settings: Path) -> Site:
    """The site of this Ray actor: Flower hands it a new app with every message, the model stays."""
    return Site(pickle.loads(settings.read_bytes()))


class _Simulation:
    """Flower's simulation in a thread of its own, and the grid that it made."""

    def __init__(self, owners: VirtualOwners, clients: int, backend: dict[str, Any]) -> None:
        self._clients = clients
        self._grids: Queue[Grid | None] = Queue()
        self._done = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(owners, backend), daemon=True)
        self._thread.start()

    def grid(self) -> Grid:
        """Flower's grid, once all nodes are there."""
        grid = self._grids.get()
        while grid is not None and len(list(grid.get_node_ids())) < self._clients:
            self.check()
            time.sleep(_POLL_SECONDS)
        self.check()
        assert grid is not None, "without a grid there is a failure to raise"
        return _RayGrid(grid, self.check)

    def check(self) -> None:
        if self._failure is not None:
            raise UmbelError(
                f"Ray stopped: {_root(self._failure)}. Use fewer --workers, or leave out "
                "--engine ray; finished rounds are kept; resume with --resume."
            )

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def _run(self, owners: VirtualOwners, backend: dict[str, Any]) -> None:
        try:
            run_flower_simulation(self._serve, build_client_app(owners), self._clients, backend)
        except Exception as error:
            self._failure = error
            self._grids.put(None)

    def _serve(self, grid: Grid) -> None:
        self._grids.put(grid)
        self._done.wait()


class _RayGrid(CohortGrid):
    """Flower's grid, which does not wait for the answers of a Ray that is gone."""

    def __init__(self, grid: Grid, check: Callable[[], None]) -> None:
        super().__init__(grid, grid.get_node_ids())
        self._check = check

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self._check()
        return super().pull_messages(message_ids)


def _backend(actors: int) -> dict[str, Any]:
    """An actor takes one CPU, and its share of the GPUs if there are any."""
    import torch

    gpus = torch.cuda.device_count()
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    return {
        "init_args": {"num_cpus": actors, "num_gpus": gpus, **quiet},
        "client_resources": {"num_cpus": 1, "num_gpus": min(1.0, gpus / actors)},
    }


def _root(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    first = str(error).strip().splitlines()
    return f"{first[0].rstrip('.') if first else ''} ({type(error).__name__})"
