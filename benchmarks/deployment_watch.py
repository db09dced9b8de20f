"""Memory and CPU time of the processes of a deployment on this machine, read from /proc (Linux)."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

INTERVAL = 0.05
_RESCAN = 0.5
_TICK = os.sysconf("SC_CLK_TCK")
_ROLES = {
    "umbel.flower.link": "link",
    "umbel.flower.node": "node",
    "deployment_node.py": "node",
    "umbel.server.coordinator": "coordinator",
    "deployment_agent.py": "agent",
}


@dataclass
class Seen:
    """What is known of one process."""

    role: str
    started: float = field(default_factory=time.time)
    peak: int = 0
    """Bytes: VmHWM, the most that ever was resident."""
    resident: list[tuple[float, int]] = field(default_factory=list)
    """Time and bytes: VmRSS."""
    cpu: list[tuple[float, float]] = field(default_factory=list)
    """Time and CPU seconds so far, all threads."""

    def peak_between(self, begin: float, end: float) -> int:
        """Most resident bytes among the samples of a time."""
        return max((size for at, size in self.resident if begin <= at <= end), default=0)

    def cpu_between(self, begin: float, end: float) -> float:
        spent = [seconds for at, seconds in self.cpu if begin <= at <= end]
        return spent[-1] - spent[0] if spent else 0.0


class Watch:
    """Samples these processes and all their descendants until it is closed."""

    def __init__(self, processes: Iterable[subprocess.Popen[bytes]]) -> None:
        self._roots = {process.pid for process in processes}
        self._known: dict[int, Seen | None] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def of(self, role: str) -> list[Seen]:
        """All processes of a role that were ever seen, oldest first."""
        return [seen for seen in self._known.values() if seen and seen.role == role]

    def peak(self, role: str) -> int:
        return max((seen.peak for seen in self.of(role)), default=0)

    def _run(self) -> None:
        scanned = 0.0
        while not self._over.wait(INTERVAL):
            if time.monotonic() - scanned > _RESCAN:
                self._scan()
                scanned = time.monotonic()
            for pid, seen in list(self._known.items()):
                if seen is not None:
                    with contextlib.suppress(OSError, ValueError, IndexError):
                        _sample(pid, seen)

    def _scan(self) -> None:
        parents = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError, ValueError, IndexError):
                    parents[int(entry.name)] = int(_stat(int(entry.name))[1])
        for pid in parents:
            if self._known.get(pid) is None and self._is_ours(pid, parents):
                # A process that was just forked still has its parent's command line.
                self._known[pid] = _recognised(pid)

    def _is_ours(self, pid: int, parents: dict[int, int]) -> bool:
        while pid > 1 and pid not in self._roots:
            pid = parents.get(pid, 0)
        return pid in self._roots


def _recognised(pid: int) -> Seen | None:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except OSError:
        return None
    return next((Seen(r) for w in words for name, r in _ROLES.items() if w.endswith(name)), None)


def _sample(pid: int, seen: Seen) -> None:
    now = time.time()
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            seen.peak = max(seen.peak, 1024 * int(line.split()[1]))
        elif line.startswith("VmRSS:"):
            seen.resident.append((now, 1024 * int(line.split()[1])))
    user, system = _stat(pid)[11:13]
    seen.cpu.append((now, (int(user) + int(system)) / _TICK))


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on: the second, a name, may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
