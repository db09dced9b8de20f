"""What strangers at the public port cost a server: its memory, and the time of a round beside them."""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import deployment_jobs as jobs
from deployment import Bar
from deployment_watch import Seen, Watch

from umbel.consortium.authority import Consortium
from umbel.privacy.secagg.roster import Limits
from umbel.run.store import Store
from umbel.simulations.rehearsal import Stage, set_up
from umbel.storage.processes import free_port

MOST_SLOWER, MOST_GROWTH = 1.5, 64.0
CONNECTIONS, SECONDS, ROUNDS = 1000, 300, 4
MEGABYTE = 2**20
CROWD = Path(__file__).with_name("strangers_crowd.py")
_MORE = 1000
"""Rounds of the job: more than are ever measured."""
_AT_MOST = 150.0
"""Seconds of the part on rounds, its start included."""

ABOUT = f"""\
On this machine, over loopback: `umbel server`, and a process that holds --connections connections to its
public port without being a member, as many of each kind: silent after TLS, silent without, a body of a
terabyte as fast as it goes, a body of a byte a second, header fields without end. Each is begun again a
second after the server has ended it. They come from the address that the members come from, too: the
hardest case.

  memory  What Flower's process holds (VmRSS) before they come, and at most in --seconds with them.
  rounds  {jobs.AGENTS} agents, about 1M trained parameters, --rounds rounds of two small steps; then as many
          of the same run beside the strangers. Medians, without the first round and the one in which
          they come. What the strangers' own process takes of the two cores is in it. It ends within
          {_AT_MOST:.0f} seconds: a round that is in progress then counts as no shorter than it was so far.

Bars: a round is at most {MOST_SLOWER:g} times slower; the memory grows by at most {MOST_GROWTH:g} MiB, in the
part on memory: in the other one messages of members take more, and grow with the first rounds.
"""


def measure_memory(folder: Path, connections: int, seconds: int) -> dict[str, Any]:
    """A server without members."""
    consortium = Consortium.create(folder / "c", "127.0.0.1", free_port(), Limits(), "strangers")
    port = consortium.card.port
    server = [sys.executable, "-m", "umbel.cli", "server", "--consortium", str(consortium.path)]
    with jobs.watched([[*server, "--host", "127.0.0.1"]], folder) as watch:
        link = _link(watch)
        begun = time.time()
        done = subprocess.run(
            _crowd(port, connections, seconds), capture_output=True, text=True, check=True
        )
        after = time.time()
    return {**_grown(link, begun, after), "crowd": json.loads(done.stdout)}


def measure_rounds(folder: Path, connections: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Rounds of one run alone, then as many beside strangers; it ends when they are done, or in `seconds`."""
    until = time.monotonic() + seconds
    stage = set_up(jobs.million(_MORE), folder)
    agents = [stage.agent(owner) for owner in stage.owners]
    with jobs.watched([stage.server(), *agents], folder) as watch:
        ends, at_first = _Ends(stage, stage.place().path.name, until), time.time()
        alone = ends.lengths(rounds)
        begun = time.time()
        with _beside(_crowd(stage.consortium.card.port, connections, 0)):
            ends.lengths(1)  # the round in which they came
            beside = ends.lengths(rounds)
            after = time.time()
        (link,) = watch.of("link")
    if len(beside) - ends.cut < min(2, rounds):
        sys.exit(
            f"Too few rounds were over after {seconds:.0f} s: the machine has too much other work."
        )
    # Told, not judged: a server's first rounds take memory for members' messages, whoever else comes.
    before, most = link.peak_between(at_first, begun), link.peak_between(begun, after)
    return {
        "alone": alone,
        "beside": beside,
        "whole": not ends.cut,
        "slower": statistics.median(beside) / statistics.median(alone),
        "cpu_link": link.cpu_between(begun, after),
        "seconds": after - begun,
        "before": before,
        "most": most,
        "grown_mib": (most - before) / MEGABYTE,
    }


class _Ends:
    """How long the rounds of a run take, one after another, until the time is up."""

    def __init__(self, stage: Stage, run: str, until: float) -> None:
        self._store, self._run, self._until = Store(stage.consortium.database), run, until
        self._seen, self._waiting = 0, list[float]()
        self._last: float | None = None
        self.cut = False
        """Whether the time was up in the middle of a round."""

    def lengths(self, rounds: int) -> list[float]:
        """Seconds of the next so many rounds, the first of the run not among them.

        If the time is up before, what the round in progress has taken so far counts as one that took no less,
        so that rounds that do not end do not look short.
        """
        found: list[float] = []
        while len(found) < rounds and not self.cut:
            end, before = self._next(), self._last
            if before is not None:
                found.append(end - before)
            self._last = end
        return found

    def _next(self) -> float:
        """When the next round ends; now, if the time is up."""
        while not self._waiting:
            if time.monotonic() > self._until:
                self.cut = True
                return time.time()
            if (row := self._store.run(self._run)).over:
                sys.exit(f"the run {row.status}: {row.reason}")
            for number, when, event in self._store.events(self._run, self._seen):
                self._seen = number
                if event["event"] == "round" and event["aggregated"]:
                    self._waiting.append(datetime.fromisoformat(when).timestamp())
            time.sleep(0.1)
        return self._waiting.pop(0)


def _link(watch: Watch) -> Seen:
    """Flower's process, once it answers."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for seen in watch.of("link"):
            # It has imported everything when it has stopped growing.
            sizes = [size for _, size in seen.resident[-40:]]
            if len(sizes) == 40 and max(sizes) - min(sizes) < MEGABYTE:
                return seen
        time.sleep(0.2)
    sys.exit("the server did not start")


def _grown(link: Seen, begun: float, after: float) -> dict[str, float]:
    before = [size for at, size in link.resident if at <= begun][-1]
    most = link.peak_between(begun, after)
    return {"before": before, "most": most, "grown_mib": (most - before) / MEGABYTE}


def _crowd(port: int, connections: int, seconds: int) -> list[str]:
    return [sys.executable, str(CROWD), str(port), str(connections), str(seconds)]


@contextlib.contextmanager
def _beside(command: list[str]) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        time.sleep(3)  # they are all there
        yield
    finally:
        process.kill()
        process.wait()


def bars(figures: dict[str, Any]) -> list[Bar]:
    found = []
    if "memory" in figures:
        grown = figures["memory"]["grown_mib"]
        found.append(Bar("MiB that the server grows by", grown, MOST_GROWTH))
    if "rounds" in figures:
        found.append(Bar("times as slow as alone", figures["rounds"]["slower"], MOST_SLOWER))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--seconds", type=int, default=SECONDS, help="of the part on memory")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", choices=("memory", "rounds"), action="append", help="[both]")
    parser.add_argument("--smoke", action="store_true", help="memory, with few, for seconds")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    given = parser.parse_args()
    if given.smoke:
        given.connections, given.seconds, given.only = 60, 4, ["memory"]
    figures: dict[str, Any] = {"connections": given.connections}
    with tempfile.TemporaryDirectory(prefix="umbel-strangers-") as name:
        folder = Path(name).resolve()
        for part in given.only or ["memory", "rounds"]:
            if part == "memory":
                figures[part] = measure_memory(folder / part, given.connections, given.seconds)
            else:
                figures[part] = measure_rounds(
                    folder / part, given.connections, given.rounds, _AT_MOST
                )
            if not given.json:
                print(part, json.dumps(figures[part]), flush=True)
    judged = bars(figures)
    if given.json:
        print(json.dumps(figures | {"bars": [asdict(bar) | {"held": bar.held} for bar in judged]}))
    else:
        print("bars\n" + "\n".join(str(bar) for bar in judged))
    return int(given.check and not all(bar.held for bar in judged))


if __name__ == "__main__":
    sys.exit(main())
