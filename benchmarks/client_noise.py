"""What client-level noise costs a client: time, and noise beyond what theory asks for.

Time: an update as a client of a secure sum encodes it, with its share of discrete Gaussian noise,
against the same share as rounded continuous noise from the same generator, and against a sampler
that draws one number after the other. Noise: the sum's deviation over what a trusted server would add,
by its two causes, rounding and shares for those who may be missing.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from umbel.job import Job
from umbel.planning.terms import Terms
from umbel.privacy.noise.client_noise import UpdateNoise
from umbel.privacy.noise.discrete import discrete_gaussian
from umbel.privacy.noise.scale import Scale
from umbel.privacy.randomness import SecretStream
from umbel.privacy.secagg.fixed_point import Contribution, Layout, encode

BAR_SECONDS_A_MILLION = 0.5
BAR_ROUNDING = 0.01
MULTIPLIER, NORM, CLIP = 1.0, 0.5, 8.0
ONE_BY_ONE = 2_000
SMOKE = {"parameters": 5_000, "members": 10, "repeats": 1}


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median of CPU seconds; the first run warms up."""
    work()
    found = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return statistics.median(found)


def times(parameters: int, members: int, repeats: int) -> dict[str, float]:
    """CPU seconds of one client's encoding, and of two other ways to draw its noise."""
    stream, scale = SecretStream.from_os(), Scale(members, CLIP)
    update = [np.random.default_rng(0).normal(size=parameters).astype(np.float32)]
    layout, shares = Layout(parameters, 0, 0), math.ceil(0.7 * members)
    noise = UpdateNoise(NORM, MULTIPLIER, shares, stream)
    deviation = math.ceil(2 * NORM * MULTIPLIER / math.sqrt(shares) * 2.0**scale.bits)

    def encoded(noise: UpdateNoise | None) -> None:
        encode(Contribution(update, [], [], 1, noise), layout, scale, 1, stream.words)

    def continuous() -> None:
        np.rint(stream.normal(parameters) * deviation).astype(np.int64)

    def one_by_one() -> None:
        for _ in range(ONE_BY_ONE):
            discrete_gaussian(1, Fraction(deviation**2), stream)

    return {
        "noised": seconds(lambda: encoded(noise), repeats),
        "plain": seconds(lambda: encoded(None), repeats),
        "continuous": seconds(continuous, repeats),
        "one_by_one": seconds(one_by_one, 1) * parameters / ONE_BY_ONE,
    }


def excess(parameters: int, members: int) -> dict[str, float]:
    """The sum's deviation over what is needed, less one."""
    grid = NORM * 2.0 ** Scale(members, CLIP).bits
    job = Job.build({"data": {}, "encryption": {"minimum": math.ceil(0.8 * members)}})
    return {
        # What rounding may add to the norm is taken off the update, so the noise is larger beside it.
        "rounding": 1 / (1 - math.sqrt(parameters) / grid) - 1,
        "shares": math.sqrt(members / Terms(job, members).noise_shares) - 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--members", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--smoke", action="store_true", help="a little of each, no bars: does it run?"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    options = parser.parse_args()
    if options.smoke:
        vars(options).update(SMOKE, check=False)
    found = times(options.parameters, options.members, options.repeats)
    more = excess(options.parameters, options.members)
    added = (found["noised"] - found["plain"]) * 1e6 / options.parameters
    found |= {
        "added_a_million": added,
        "of_continuous": (found["noised"] - found["plain"]) / found["continuous"],
        "of_one_by_one": (found["noised"] - found["plain"]) / found["one_by_one"],
        **{f"excess_{cause}": value for cause, value in more.items()},
    }
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print(
            f"{options.parameters:,} parameters, {options.members} members, CPU seconds\n"
            f"encoding with noise {found['noised']:.3f}, without {found['plain']:.3f}: "
            f"{added:.3f} a million (bar {BAR_SECONDS_A_MILLION:g})\n"
            f"the noise takes {found['of_continuous']:.1f} times as long as rounded continuous noise, "
            f"1 / {1 / found['of_one_by_one']:.0f} of drawing one by one\n"
            f"more noise than needed: {more['rounding']:.2%} for rounding (bar {BAR_ROUNDING:.0%}), "
            f"{more['shares']:.0%} for clients that may be missing or collude (minimum 80 %)"
        )
    if options.check and (added > BAR_SECONDS_A_MILLION or more["rounding"] > BAR_ROUNDING):
        sys.exit(1)


if __name__ == "__main__":
    main()
