"""What every process of a deployment needs that starts others, or must be the only one of its kind."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from .errors import DeploymentError
from .foreign import PlainFormatter

_SECRET_BYTES = 32


@contextlib.contextmanager
def alone(lock: Path, refusal: str) -> Iterator[None]:
    """Hold a lock file within the block; ``DeploymentError`` (`refusal`) where another process does."""
    descriptor = os.open(lock, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DeploymentError(refusal) from None
        yield
    finally:
        os.close(descriptor)


def new_secret(path: Path) -> bytes:
    """A secret that nobody had before, in a file that only this user can read."""
    path.unlink(missing_ok=True)
    secret = os.urandom(_SECRET_BYTES)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secret)
    return secret


def child_environment(flower: Path) -> dict[str, str]:
    """For a process that ends with this one, and whose Flower keeps its files in `flower`."""
    return os.environ | {"UMBEL_PARENT": str(os.getpid()), "FLWR_HOME": str(flower)}


def end_with_parent() -> None:
    """Have this process die when the one that started it does, however that happened.

    `UMBEL_PARENT` holds the parent's process id; without it nothing is watched.
    """
    parent = int(os.environ.get("UMBEL_PARENT", "0"))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    if parent:
        threading.Thread(target=watch, daemon=True).start()


def end(processes: Iterable[subprocess.Popen[bytes]], seconds: float = 5.0) -> None:
    """Ask processes to end, all at once, and kill those that have not after so many seconds each."""
    processes = list(processes)
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def log_to_stderr() -> None:
    """A line an event, with its time, on standard error; of the libraries only warnings."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", force=True
    )
    for handler in logging.getLogger().handlers:
        # What others sent is in it: reasons, and names of runs.
        handler.setFormatter(PlainFormatter("%(asctime)s %(message)s"))
    for noisy in ("alembic", "flwr", "httpcore", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
