"""What every process of a deployment needs that starts others, or must be the only one of its kind."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from ..errors import DeploymentError
from ..foreign import PlainFormatter

_SECRET_BYTES = 32
_PARENT = "UMBEL_PARENT"
"""Holds the process id of who started a child."""
_LOOK_SECONDS = 0.2
_PORT_SECONDS = 5.0
_HELD_SECONDS = 1.0
"""``held`` holds a lock for an instant."""
_SAFE = {"PYTHONSAFEPATH": "1"}
"""``python -m`` would first import from the folder in which it is started."""
_PLAIN = {"NO_COLOR": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
"""For a child that writes to a file."""


@contextlib.contextmanager
def alone(lock: Path, refusal: str) -> Iterator[None]:
    """Hold a lock file within the block; ``DeploymentError`` (`refusal`) if another process does."""
    descriptor = os.open(lock, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        until = time.monotonic() + _HELD_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise DeploymentError(refusal) from None
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def held(lock: Path) -> bool:
    """Whether a process holds a lock file (``alone``)."""
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def new_secret(path: Path) -> bytes:
    """A secret that nobody had before, in a file that only this user can read."""
    path.unlink(missing_ok=True)
    secret = os.urandom(_SECRET_BYTES)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secret)
    return secret


def start(
    command: Sequence[str],
    *,
    log: int | IO[bytes] | None = None,
    stdin: int = subprocess.DEVNULL,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a child: the one way in which Umbel starts a process. `log` takes all that it writes.

    Guarantee: the child ends when this process does, also if that is killed. On Linux the kernel sees to
    it, for any command and from its first instant; elsewhere, or if another thread than the main one
    started it, a command of Umbel sees to it itself (``end_with_parent``, which each calls). A child in
    Python imports nothing from the folder that it happens to be in, which others may be able to write.

    Assumptions: the command is not set-user-id, for which the kernel forgets the request.

    The child is in a session of its own: Ctrl-C at a terminal is for this process, which says when
    children end.
    """
    # The kernel takes the end of the thread that forked for the parent's.
    lasting = threading.current_thread() is threading.main_thread()
    by = "kernel" if sys.platform == "linux" and lasting else "itself"
    attached = str(Path(__file__).with_name("attached.py"))
    return subprocess.Popen(
        [sys.executable, "-I", "-S", attached, str(os.getpid()), by, *command],
        stdin=stdin,
        stdout=log,
        stderr=log,
        cwd=cwd,
        pass_fds=tuple(pass_fds),
        env={
            **os.environ,
            **_SAFE,
            **(_PLAIN if log else {}),
            **(environment or {}),
            _PARENT: str(os.getpid()),
        },
        start_new_session=True,
    )


def end_with_parent() -> None:
    """Have this process die when the one that started it does, however that happened.

    For what ``start`` started; any other process has no parent to end with.
    """
    parent = int(os.environ.get(_PARENT, "0"))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_SECONDS)
        os._exit(1)

    if parent:
        threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def orderly() -> Iterator[None]:
    """Within the block SIGTERM is an exit as any other: what was begun is ended, children too."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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


def check_port(host: str, port: int, advice: str) -> None:
    """``DeploymentError`` if this port cannot be listened on. `advice`: what to do about another one.

    A child of a process that was killed lets go of its port within seconds.
    """
    until = time.monotonic() + _PORT_SECONDS
    while True:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                return probe.bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > until:
                    raise DeploymentError(
                        f"Port {port} of {host} cannot be used: {error.strerror}. Stop what uses it, or "
                        f"choose another one with --port ({advice})."
                    ) from None
        time.sleep(0.1)


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
