"""What opening an owner's ledger of 10,000 events and charging one more takes.

Beside it, in the same run: reading and hashing every row and composing all of them anew with
dp-accounting, as one would without canonical events, cached spectra and a witness.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from umbel.privacy.accounting.accountant import MechanismEvent, canonical, epsilon
from umbel.privacy.ledger.chain import Entry
from umbel.privacy.ledger.ledger import Ledger

BAR_MILLISECONDS = 50.0
EVENTS, DATA_SETS, MECHANISMS = 10_000, 2, 5
DELTA, LIMIT = 1e-5, 1e4
MANY = 50
SMOKE = {"EVENTS": 200, "MANY": 2}


def mechanism(place: int) -> MechanismEvent:
    """One of `MECHANISMS` jobs' rounds."""
    return MechanismEvent(4.0 + place, 0.02 + 0.01 * place, 8)


class FilledLedger(Ledger):
    """One that takes many rows at once."""

    def fill(self, entries: Iterable[Entry]) -> None:
        """Rows as ``reserve`` writes them, in one transaction."""
        with self._turn():
            for entry in entries:
                self._append(entry)
        self._witness_rows()


def fill(path: Path) -> None:
    """A ledger of `EVENTS` rows, in a second instead of minutes."""
    rows = (
        Entry(
            number=0,
            dataset=f"{n % DATA_SETS}" * 64,
            event=mechanism(n * MECHANISMS // EVENTS),
            job="a" * 64,
            key=f"run-{n // 200}/{n % 200}/0",
            delta=DELTA,
            limit=LIMIT,
            replay=False,
            recorded="2026-01-01T00:00:00+00:00",
            hash="",
        )
        for n in range(EVENTS)
    )
    with FilledLedger(path) as ledger:
        ledger.fill(rows)


def charge(path: Path, key: str) -> float:
    """Milliseconds to open the ledger and reserve a round in it."""
    start = time.perf_counter()
    with Ledger(path) as ledger:
        ledger.reserve("0" * 64, mechanism(0), job="j", key=key, delta=DELTA, limit=LIMIT)
    return 1e3 * (time.perf_counter() - start)


def naive(path: Path) -> float:
    """Milliseconds to check every row and compose the data set's events from nothing."""
    start = time.perf_counter()
    with Ledger(path) as ledger:
        events = ledger.events("0" * 64)
    by_dp_accounting(events)
    return 1e3 * (time.perf_counter() - start)


def by_dp_accounting(events: list[MechanismEvent]) -> float:
    from dp_accounting.pld import privacy_loss_distribution as pld

    found = None
    for event in canonical(events):
        some = pld.from_gaussian_mechanism(
            event.noise_multiplier,
            sampling_prob=event.sampling_rate,
            value_discretization_interval=1e-3,
        ).self_compose(event.steps)
        found = some if found is None else found.compose(some)
    assert found is not None
    return float(found.get_epsilon_for_delta(DELTA))


def many_mechanisms() -> dict[str, float]:
    """Seconds for `MANY` different jobs: first, once more with one round added, and naively."""
    events = [MechanismEvent(1.0 + n / 20, 0.02 + n / 2000, 8) for n in range(MANY)]
    times = {}
    for name, some in (("first", events), ("next", [*events, events[0]])):
        start = time.perf_counter()
        epsilon(some, DELTA)
        times[name] = time.perf_counter() - start
    start = time.perf_counter()
    by_dp_accounting(events)
    return times | {"naive": time.perf_counter() - start}


def measure(repeats: int, naively: int = 3) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        fill(path)
        script = "import umbel.privacy.accounting.losses, sys\n"
        script += f"sys.path.insert(0, {str(Path(__file__).parent)!r})"
        script += f"; import ledger; from pathlib import Path; print(ledger.charge(Path({str(path)!r}), 'x'))"
        first = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        charge(path, "first")
        warm = [charge(path, f"run/{n}/0") for n in range(repeats)]
        slow = [naive(path) for _ in range(naively)]
    many = many_mechanisms()
    return {
        "events": EVENTS,
        "charge_ms": statistics.median(warm),
        "charge_ms_slowest": max(warm),
        "first_of_a_process_ms": float(first.stdout),
        "naive_ms": statistics.median(slow),
        "ratio": statistics.median(slow) / statistics.median(warm),
        "mechanisms_first_s": many["first"],
        "mechanisms_next_s": many["next"],
        "mechanisms_naive_s": many["naive"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument(
        "--smoke", action="store_true", help="a little of each, no bars: does it run?"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 if the bar is missed")
    options = parser.parse_args()
    if options.smoke:
        globals().update(SMOKE)
    found = measure(1, 1) if options.smoke else measure(options.repeats)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print(
            f"open and charge, {EVENTS:,} events: {found['charge_ms']:.1f} ms "
            f"(bar {BAR_MILLISECONDS:g}; slowest {found['charge_ms_slowest']:.1f}, first of a "
            f"process {found['first_of_a_process_ms']:.1f})\n"
            f"hashing and composing everything: {found['naive_ms']:.0f} ms, "
            f"{found['ratio']:.0f} times as long\n"
            f"{MANY} different jobs: {found['mechanisms_first_s']:.2f} s at first, "
            f"{found['mechanisms_next_s']:.3f} s for each more round; dp-accounting "
            f"{found['mechanisms_naive_s']:.1f} s"
        )
    if options.check and not options.smoke and found["charge_ms"] > BAR_MILLISECONDS:
        sys.exit(1)


if __name__ == "__main__":
    main()
