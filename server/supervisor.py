"""`umbel server`: keeps the SuperLink and the runs' coordinators alive, and nothing else.

It holds no state of its own: what is to run stands in the store. Whatever dies is started again; what
is killed with it (this process too) goes on when it is started the next time.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import sys
import time
from datetime import datetime

from ..consortium.authority import Consortium
from ..errors import DeploymentError, UmbelError
from ..flower.control import Control
from ..flower.link import Link
from ..foreign import typed
from ..privacy.secagg.signed import DAY, day
from ..run.run_folder import RunFolder
from ..run.store import RunRow, Store
from ..storage.logs import keep_small, last_line, opened
from ..storage.processes import alone, check_port, end, free_port, new_secret, start
from .registry import Registry
from .rosters import awaits_turn
from .run_to_lead import RunToLead

_TICK_SECONDS = 0.3
_START_SECONDS = 60.0
_MOST_CRASHES = 5
_TO_LEAD = ("queued", "running", "finishing", "delivering")
_SOON_DAYS = 30
_LOOK_SECONDS = 60.0
_SOON_SECONDS, _LONGEST_BACKOFF = 30.0, 60.0
"""A link that ends within this time failed at its start; also the longest wait before it is started again."""
_log = logging.getLogger(__name__)


# Vectors come and go every round: glibc is to hand them back, not to keep some in each thread's heap.
_GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_ARENA_MAX": "1"}


class Supervisor:
    """The coordination server of a consortium."""

    def __init__(self, consortium: Consortium, host: str = "0.0.0.0", port: int | None = None):
        self._consortium = consortium
        self._store = Store(consortium.database)
        secret = consortium.path / "secret"
        self._link = Link(
            host,
            port or consortium.card.port,
            free_port(),
            consortium.ca_certificate,
            consortium.server_certificate,
            consortium.server_key,
            secret,
            consortium.flower_state,
        )
        self._stopping = False
        self._process: subprocess.Popen[bytes] | None = None
        self._coordinator: tuple[str, int, subprocess.Popen[bytes]] | None = None
        self._registry = Registry(
            consortium, lambda: Control(self._link), lambda text: self._note("members", text)
        )
        self._crashes: dict[str, int] = {}
        self._told: dict[str, str] = {}
        self._look_next = 0.0
        self._link_begun, self._link_deaths = 0.0, 0

    def stop(self) -> None:
        """End soon; runs in progress go on when the server is started again."""
        self._stopping = True

    def run(self) -> None:
        """Serve until ``stop``. Raises ``DeploymentError`` if the ports or the folder are taken."""
        folder = self._consortium.path
        refusal = f"Another server already runs for {folder}. Stop that one first."
        self._consortium.check_serves()
        with alone(folder / "lock", refusal):
            self._check_certificate()
            new_secret(self._link.secret)
            check_port(
                self._link.host,
                self._link.port,
                "and tell the data owners: it is in consortium.json",
            )
            for what in self._store.notes():
                self._store.note(what, "")
            try:
                while not self._stopping:
                    self._look_ahead()
                    if self._process is None or self._process.poll() is not None:
                        self._start_link()
                    self._registry.settle(keep=self._needs_removed())
                    self._keep_logs_small()
                    try:
                        self._lead()
                        trouble = ""
                    except (UmbelError, OSError) as error:
                        trouble = str(error)
                    self._note("runs", trouble)
                    time.sleep(_TICK_SECONDS)
            finally:
                self._end()

    def _check_certificate(self) -> None:
        if self._consortium.certificate_days_left() < 0:
            raise DeploymentError(
                f"The server's certificate has expired. Make a new one: {self._renewal}"
            )

    @property
    def _renewal(self) -> str:
        """How the server comes to a new certificate."""
        path = typed(self._consortium.path)
        by = f"umbel consortium renew {path}"
        if not self._consortium.holds_keys:
            by = f"umbel sign certificate where the keys are, and umbel take --consortium {path}"
        return f"{by}; then start the server again."

    def _look_ahead(self) -> None:
        """Say in time what will end, and take it back once it was prolonged."""
        if time.monotonic() < self._look_next:
            return
        self._look_next = time.monotonic() + _LOOK_SECONDS
        try:
            ends, left = self._consortium.roster_ends(), self._consortium.certificate_days_left()
        except UmbelError as error:
            _log.warning("%s", error)
            return
        roster = certificate = ""
        if ends and ends < time.time() + _SOON_DAYS * DAY:
            over = ends < time.time()
            how = "it ended on" if over else "it holds until"
            then = "agents do not accept it" if over else "agents do not accept it after that"
            roster = (
                f"{how} {day(ends)}, and {then}: sign a new one with umbel sign roster, on the "
                "machine with the consortium's keys"
            )
        if left < _SOON_DAYS:
            certificate = f"the server's expires in {left} days: {self._renewal}"
        if time.monotonic() - self._link_begun > _SOON_SECONDS:
            self._note("link", "")
        self._note("roster", roster)
        self._note("certificate", certificate)

    def _start_link(self) -> None:
        if self._process is not None:
            self._wait_for_link(self._process.returncode)
        self._link_begun = time.monotonic()
        with opened(self._consortium.path / "link.log") as log:
            self._process = start(self._link.command(), log=log, environment=self._environment())
        until = time.monotonic() + _START_SECONDS
        while not self._stopping:
            if self._process.poll() is not None:
                return
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self._link.local_port), 1),
            ):
                break
            if time.monotonic() > until:
                raise DeploymentError(
                    f"The SuperLink does not start. See {self._consortium.path / 'link.log'}"
                )
            time.sleep(0.1)
        self._registry.forget()
        card = self._consortium.card
        _log.info(
            "%s serves on port %d; data owners need: %s",
            card.name,
            self._link.port,
            self._consortium.path / "consortium.json",
        )

    def _wait_for_link(self, status: int) -> None:
        """Say why the link ended, and wait for longer the oftener it does soon after its start."""
        soon = time.monotonic() - self._link_begun < _SOON_SECONDS
        self._link_deaths = self._link_deaths + 1 if soon else 1
        log = self._consortium.path / "link.log"
        if self._link_deaths == 1:
            _log.warning("the SuperLink ended with status %s: started again", status)
        else:
            said = f"{last_line(log)} (all of it: {log})"
            text = f"it ends with status {status} each time it is started: {said}"
            self._note("link", text)
        until = time.monotonic() + min(2.0 ** (self._link_deaths - 1), _LONGEST_BACKOFF)
        while not self._stopping and time.monotonic() < until:
            time.sleep(_TICK_SECONDS)

    def _environment(self) -> dict[str, str]:
        """Where what a child writes besides lies: in the operator's folder, as all else."""
        folder = self._consortium
        return {"FLWR_HOME": str(folder.path / "flower"), "UMBEL_CACHE": str(folder.cache)}

    def _keep_logs_small(self) -> None:
        keep_small(self._consortium.path / "link.log")
        if self._coordinator is not None:
            keep_small(self._consortium.runs / self._coordinator[0] / "log")

    def _note(self, what: str, text: str) -> None:
        """For the log and for `umbel status`, if it is news; an empty text: nothing is wrong any more."""
        if self._told.get(what, "") == text:
            return
        self._told[what] = text
        self._store.note(what, text)
        if text:
            _log.warning("%s: %s", what, text)

    def _lead(self) -> None:
        """One run at a time: an owner's machine trains for one job at once anyway."""
        if self._coordinator is not None:
            name, flower_run, process = self._coordinator
            if process.poll() is None:
                return
            self._coordinator = None
            self._ended(name, flower_run, process.returncode)
        for run in self._store.runs():
            if run.status == "stopping":  # nobody leads it
                self._store.set_status(run.name, "stopped", "Stopped.")
            elif run.status in _TO_LEAD and (why := self._unreadable(run)):
                # Others must not wait for ever because of it, nor the server end.
                self._store.fail(run.name, why)
                _log.error("%s: %s", run.name, why)
            elif run.status in _TO_LEAD and self._members():
                self._start(run)
                return

    def _unreadable(self, run: RunRow) -> str:
        """Why nobody can lead a run, whatever is done again; empty if somebody can."""
        folder = self._consortium.runs / run.name
        try:
            opened = RunFolder.open(folder)
            _ = opened.job, opened.read_json("run.json")
        except UmbelError as error:
            return (
                f"{error} Restore {folder}, then: umbel resume {run.name}; or start the job again with: "
                "umbel run"
            )
        return ""

    def _needs_removed(self) -> bool:
        """Whether the run in progress is in a round that was begun with a member that was removed since."""
        if self._coordinator is None:
            return False
        folder = RunFolder(self._consortium.runs / self._coordinator[0])
        with contextlib.suppress(UmbelError):
            return awaits_turn(folder, self._consortium)
        return False

    def _members(self) -> bool:
        return self._consortium.roster() is not None

    def _start(self, run: RunRow) -> None:
        with contextlib.closing(Control(self._link)) as control:
            flower_run = control.start_run()
            known = control.nodes()
        names, _ = self._consortium.node_keys()
        nodes = {names[key]: node for key, node in known.items() if key in names}
        task = RunToLead(
            str(self._consortium.path.resolve()),
            run.name,
            self._link.local_address,
            flower_run,
            str(self._link.secret),
            nodes,
        )
        folder = self._consortium.runs / run.name
        how = "begins" if run.status == "queued" else "goes on"
        with opened(folder / "log") as log:
            log.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {run.name} {how}\n".encode())
            log.flush()
            process = start(
                [sys.executable, "-m", "umbel.server.coordinator"],
                log=log,
                stdin=subprocess.PIPE,
                environment=self._environment() | _GIVE_BACK,
            )
        assert process.stdin is not None
        process.stdin.write(task.to_json().encode() + b"\n")
        process.stdin.close()
        self._store.change(run.name, ("queued",), "running")
        self._coordinator = (run.name, flower_run, process)
        _log.info("%s: %s", run.name, how)

    def _ended(self, name: str, flower_run: int, status: int) -> None:
        run = self._store.run(name)
        if run.over or status == 0:  # 0: it said how the run ended, and somebody resumed it since
            reason = f": {run.reason}" if run.reason else ""
            _log.info("%s: %s%s", name, run.status, reason)
            self._crashes.pop(name, None)
            return
        with (
            contextlib.suppress(DeploymentError),
            contextlib.closing(Control(self._link)) as control,
        ):
            control.stop_run(flower_run)
        crashes = self._crashes[name] = self._crashes.get(name, 0) + 1
        log = self._consortium.runs / name / "log"
        if crashes > _MOST_CRASHES:
            text = f"Its coordinator died {crashes} times, the last time with status {status}: see {log}"
            self._store.fail(name, text)
            _log.error("%s: %s", name, text)
        else:
            _log.warning("%s: its coordinator ended with status %s; started again", name, status)

    def _end(self) -> None:
        children = [self._process, self._coordinator[2] if self._coordinator else None]
        end(child for child in children if child is not None)
