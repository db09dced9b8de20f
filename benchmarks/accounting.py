"""The accountant of record beside Google's dp-accounting: what both say, and how long they take.

Random schedules of Poisson-sampled Gaussian steps at two noises, and the search for the noise that an
epsilon of 4 needs (200 steps at a rate of 0.1), which every plan makes for every client.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable

from umbel.privacy.accounting import second
from umbel.privacy.accounting.accountant import MechanismEvent, epsilon, noise_multiplier

DELTA = 1e-5
SCHEDULES = 12
FURTHEST = 1e-3
LEAST_FASTER = 10.0


def schedules(count: int) -> list[list[MechanismEvent]]:
    draw = random.Random(5)
    return [
        [
            MechanismEvent(draw.uniform(0.7, 4), draw.uniform(0.01, 0.5), draw.randint(20, 400)),
            MechanismEvent(draw.uniform(4, 20), 1.0, draw.randint(1, 8)),
        ]
        for _ in range(count)
    ]


def timed(act: Callable[[], float]) -> tuple[float, float]:
    begun = time.perf_counter()
    found = act()
    return found, time.perf_counter() - begun


def search(closeness: float | None) -> dict[str, float]:
    """Seconds for the noise of an epsilon of 4, and that noise. closeness: of theirs; None: what it takes."""
    import dp_accounting
    from dp_accounting.mechanism_calibration import calibrate_dp_mechanism
    from dp_accounting.pld import PLDAccountant

    def event(sigma: float) -> dp_accounting.DpEvent:
        sampled = dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.GaussianDpEvent(sigma))
        return dp_accounting.SelfComposedDpEvent(sampled, 200)

    ours, our_seconds = timed(lambda: noise_multiplier(4.0, DELTA, 0.1, 200))
    theirs, their_seconds = timed(
        lambda: calibrate_dp_mechanism(PLDAccountant, event, 4.0, DELTA, tol=closeness)
    )
    return {"ours": ours, "ours_s": our_seconds, "theirs": theirs, "theirs_s": their_seconds}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    parser.add_argument("--smoke", action="store_true", help="few schedules, no bars")
    arguments = parser.parse_args()
    pairs, ours, theirs = [], [], []
    for events in schedules(2 if arguments.smoke else SCHEDULES):
        one, seconds = timed(lambda events=events: epsilon(events, DELTA))
        ours.append(seconds)
        other, seconds = timed(lambda events=events: second.epsilon(events, DELTA))
        theirs.append(seconds)
        pairs.append(one / other)
    figures = {
        "ratio": [min(pairs), max(pairs)],
        "ours_ms": 1e3 * statistics.median(ours),
        "theirs_ms": 1e3 * statistics.median(theirs),
        "search": search(0.3 if arguments.smoke else None),
    }
    faster = figures["theirs_ms"] / figures["ours_ms"]
    if arguments.json:
        print(json.dumps(figures, indent=1))
    else:
        print(f"epsilon, ours / dp-accounting's: {min(pairs):.6f} to {max(pairs):.6f}")
        print(f"a schedule: {figures['ours_ms']:.1f} and {figures['theirs_ms']:.0f} ms")
        found = figures["search"]
        print(
            f"noise for epsilon 4: {found['ours']:.4f} in {found['ours_s']:.2f} s and "
            f"{found['theirs']:.4f} in {found['theirs_s']:.1f} s"
        )
    kept = max(abs(p - 1) for p in pairs) <= FURTHEST and faster >= LEAST_FASTER
    return int(arguments.check and not arguments.smoke and not kept)


if __name__ == "__main__":
    sys.exit(main())
