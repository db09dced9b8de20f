"""`umbel client run`: the agent's process. It lives as long as its owner wants to take part.

It keeps a SuperNode running, which connects to the server, and answers the messages that this one
brings. Both may be killed at any time: what was journalled is honoured, what was not is asked again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..errors import DeploymentError
from ..flower.node import Node
from ..flower.tasks import Runtime
from ..privacy.randomness import SecretStream
from ..storage.logs import keep_small, opened
from ..storage.processes import alone, end, free_port, new_secret, start
from .home import Home
from .intake import Intake

_IDLE_SECONDS = 0.1
_ASK_SECONDS = 2.0
"""How often the SuperNode is asked for work, in case its signal was missed."""
_LONGEST_BACKOFF = 15.0
_log = logging.getLogger(__name__)


class Service:
    """An owner's agent and its SuperNode, until it is told to stop."""

    def __init__(
        self, home: Home, secrets: Callable[[int, str], SecretStream] | None = None
    ) -> None:
        # The SuperNode starts in a folder of its own, where a relative path leads elsewhere.
        self.home = Home(home.path.absolute())
        self._intake = Intake(self.home, secrets)
        self._stopping = False

    def stop(self) -> None:
        """Finish the message in progress, then end; asked once more, end at once, as any process may."""
        if self._stopping:
            os._exit(1)  # the children end with it
        self._stopping = True
        _log.info(
            "%s ends after the answer in progress, which may take its whole public amount of work; the "
            "same signal again (Ctrl-C) ends it at once",
            self.home.name,
        )

    def run(self) -> None:
        """Serve until ``stop``. Raises ``DeploymentError`` if another agent serves this owner."""
        refusal = (
            f"Another agent already runs for {self.home.path}. Stop that one first: two at once would "
            "answer with the same keys."
        )
        with alone(self.home.lock, refusal), contextlib.closing(self._intake):
            self._intake.warm()
            self._intake.audit.write("agent started", pid=os.getpid())
            _log.info("%s starts, and connects to %s", self.home.name, self.home.address)
            wait = 1.0
            while not self._stopping:
                begun = time.monotonic()
                with self._node() as node:
                    self._serve(node)
                if self._stopping:
                    break
                wait = 1.0 if time.monotonic() - begun > _LONGEST_BACKOFF else wait
                _log.warning(
                    "the connection to %s ended%s; again in %.0f s",
                    self.home.address,
                    reason(self.home),
                    wait,
                )
                self._pause(wait)
                wait = min(2 * wait, _LONGEST_BACKOFF)
            self._intake.audit.write("agent stopped")

    def _serve(self, node: _Child) -> None:
        """Answer messages while the SuperNode lives."""
        runtime = Runtime(node.node.local_address, None, node.secret)
        connected = False
        try:
            while not self._stopping and node.process.poll() is None:
                keep_small(self.home.path / "node" / "log")
                try:
                    claim = runtime.acquire("client")
                except DeploymentError:
                    self._pause(_IDLE_SECONDS)
                    continue
                if not connected:
                    connected = True
                    _log.info("%s asks %s for work", self.home.name, self.home.address)
                if claim is None:
                    node.wait(_ASK_SECONDS)
                    continue
                try:
                    with runtime.message(claim) as task:
                        task.reply(self._intake.handle(task.message))
                except Exception as error:
                    # The SuperNode is gone or confused: it is started again, and the server asks again.
                    _log.warning("a message could not be answered: %s", error)
                    return
        finally:
            runtime.close()

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < end:
            time.sleep(_IDLE_SECONDS)

    @contextlib.contextmanager
    def _node(self) -> Iterator[_Child]:
        """A SuperNode, which dies with this block, and with this process."""
        home = self.home
        run = home.path / "node"
        run.mkdir(mode=0o700, exist_ok=True)
        secret_file = run / "secret"
        secret = new_secret(secret_file)
        bell, wake = os.pipe()
        node = Node(
            home.address, home.ca_certificate, home.node_key, secret_file, free_port(), wake,
            home.settings.server.proxy,
        )  # fmt: skip
        (run / "log").unlink(missing_ok=True)
        with opened(run / "log") as log:
            process = start(
                node.command(),
                log=log,
                cwd=run,
                pass_fds=[wake],
                environment={"FLWR_HOME": str(run)},
            )
        os.close(wake)
        try:
            yield _Child(node, secret, process, bell)
        finally:
            os.close(bell)
            end([process])


@dataclass(frozen=True)
class _Child:
    node: Node
    secret: bytes
    process: subprocess.Popen[bytes]
    bell: int
    """Descriptor from which a byte can be read for each message that came."""

    def wait(self, seconds: float) -> None:
        """Until a message came, or the SuperNode died, or so many seconds are over."""
        if select.select([self.bell], [], [], seconds)[0]:
            os.read(self.bell, 64)


def reason(home: Home) -> str:
    """Why a SuperNode ended, where its owner or the operator can do something about it."""
    log = home.path / "node" / "log"
    text = log.read_text(encoding="utf-8", errors="replace")
    if "[code: 2004]" in text and home.roster.exists():
        return (
            f": the server does not accept {home.name}. After a crash this passes within half a "
            "minute; if it lasts, ask the operator: it may have removed this member, or not "
            "admitted its new keys yet"
        )
    if "[code: 2004]" in text:
        return (
            f": {home.name} is not a member yet. Send {home.request_file} to the operator, who "
            "admits it with: umbel consortium admit. (If that was done: a server that has just started "
            "accepts new members within seconds.)"
        )
    refused = re.search(r"certificate verify failed: ([^(\n]+)", text)
    if refused:
        return (
            f": the server's certificate is refused ({refused[1].strip().rstrip('.')}). Check the "
            "address in client.toml and this machine's clock; otherwise the operator has to renew "
            "the certificate"
        )
    errors = re.findall(r"^ERROR .*?: {2,}(.+)", text, re.MULTILINE)
    if errors and "401 Unauthorized" in errors[-1]:
        return f": the server does not know {home.name}'s key, or considers this agent gone"
    return f": {errors[-1].strip().rstrip('.')} (all of it: {log})" if errors else ""


def serve(home: Home, secrets: Callable[[int, str], SecretStream] | None = None) -> None:
    """Run the agent in the foreground; SIGTERM and Ctrl-C finish the message in progress."""
    service = Service(home, secrets)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    service.run()
