"""How much epsilon a sequence of noisy steps costs, and how much noise an epsilon needs.

Three kinds of mechanism, each with a noise multiplier sigma, the noise's standard deviation over the
most that one record can move the sum (its clipping norm; of a pure release, 1 / epsilon):

- ``gaussian``: Poisson-sampled Gaussian noise. Each record takes part in a step independently with
  probability q, and normal noise is added to the sum. Neighbouring data sets differ by one record
  added or removed.
- ``concentrated``: a release without sampling that is rho-zCDP with rho = 1 / (2 sigma^2) (Bun and
  Steinke 2016), whatever its noise; so is the discrete Gaussian (Canonne, Kamath, Steinke 2020).
  Anyone who charges it says who the neighbours are, and proves rho for them.
- ``pure``: a release that is (1 / sigma)-differentially private with delta 0, such as a number with
  two-sided geometric noise of scale sigma (Ghosh, Roughgarden, Sundararajan 2009).

Gaussian steps are composed by their privacy loss distributions (``losses``), whose rounding is
pessimistic. Of a concentrated release only its Renyi divergences are known, so a mixture is bounded
twice, and the smaller bound holds: by Renyi divergences of everything, which add up; and by
epsilon_1 + epsilon_2 at delta_1 + delta_2 (basic composition), where the first is that of the
Gaussian steps' losses and the second that of the concentrated releases, over several ways to divide
delta. What pure releases cost is added to the rest (basic composition). All hold when each mechanism
is chosen after seeing what came before, as long as the schedule of noise is not (every event is fixed
before the data is touched).

An epsilon of a run is the composition of all its events, never a sum or a maximum of the epsilons
of its parts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from ...errors import PlanRefused
from ...quantities import rounded_up
from . import losses, renyi

Kind = Literal["gaussian", "concentrated", "pure"]

MOST_NOISE = 1e4
MOST_MECHANISMS = 128
"""If there are more different (sigma, q) than this, they are merged into fewer that cost at least as much."""
NOISE_PRECISION = 1.001
"""The least noise for an epsilon is searched up to this factor."""
_MOST_FOR_RENYI = 1024
# An epsilon that protects nobody.
_MEANINGLESS = 1e5
# A grid puts this much of a step's variance on top of it, at most: 0.1 % of epsilon.
_SHARE_OF_VARIANCE = 0.002
_MOST_POINTS = 2**18
# The default of dp-accounting: no figure is below what it says.
_FINEST = 1e-4
# Parts of delta that concentrated releases get beside Gaussian steps.
_SHARES_OF_DELTA = (0.9, 0.5, 0.1, 0.01)
# What floating-point numbers lose in 10^6 steps is below this.
_MARGIN = 1 + 1e-6


@dataclass(frozen=True, order=True)
class MechanismEvent:
    """`steps` steps of one mechanism of `kind`, as this module describes them.

    `noise_multiplier` is the noise's standard deviation over the clipping norm, `sampling_rate` the
    probability of each record to take part in a step: 1 for ``concentrated`` and ``pure`` releases.
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int
    kind: Kind = "gaussian"

    def __post_init__(self) -> None:
        if not (self.noise_multiplier >= 0 and math.isfinite(self.noise_multiplier)):
            raise ValueError(f"noise_multiplier must be finite and >= 0: {self.noise_multiplier}")
        if not 0 <= self.sampling_rate <= 1:
            raise ValueError(f"sampling_rate must lie in [0, 1]: {self.sampling_rate}")
        if self.steps < 0:
            raise ValueError(f"steps must be >= 0: {self.steps}")
        if self.kind not in ("gaussian", "concentrated", "pure"):
            raise ValueError(f"kind must be gaussian, concentrated or pure: {self.kind}")
        if self.kind != "gaussian" and self.sampling_rate != 1:
            raise ValueError(f"a {self.kind} release must have sampling_rate 1: {self}")


Events = tuple[MechanismEvent, ...]


def canonical(events: Iterable[MechanismEvent]) -> Events:
    """The same composition, shortest: equal mechanisms merged by adding steps, then sorted.

    Composition does not depend on the order, and the accountant's time grows with the number of
    different mechanisms, not with their steps.
    """
    steps: dict[tuple[float, float, Kind], int] = {}
    for event in events:
        if event.steps and event.sampling_rate:
            mechanism = (float(event.noise_multiplier), float(event.sampling_rate), event.kind)
            steps[mechanism] = steps.get(mechanism, 0) + int(event.steps)
    return tuple(
        sorted(MechanismEvent(sigma, rate, n, kind) for (sigma, rate, kind), n in steps.items())
    )


def epsilon(events: Iterable[MechanismEvent], delta: float) -> float:
    """Upper bound on epsilon of the composition of `events` at `delta`; 0.0 for no events.

    Infinite if no epsilon holds (a step without noise), and above 100,000. For Gaussian steps
    accurate to about 0.1 %, for epsilons above 0.01; with concentrated releases among them as loose
    as Renyi accounting at most, 9 to 26 %. So are more than 128 different mechanisms, which are merged
    into fewer with less noise and more sampling: looser, never too low. A mechanism costs some 10 ms
    when this process first meets it, and a fraction of a millisecond afterwards.
    """
    pure, rest = _apart(canonical(events))
    return pure + _epsilon(rest, _checked_delta(delta))


def epsilon_rdp(events: Iterable[MechanismEvent], delta: float) -> float:
    """The same by Renyi differential privacy (Mironov 2017; Mironov et al. 2019): a cross-check.

    Another proof and other code, 9 to 26 % looser in the usual range, so never below ``epsilon``.
    """
    pure, rest = _apart(canonical(events))
    return pure + _epsilon_rdp(rest, _checked_delta(delta)) * _MARGIN


def noise_multiplier(epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """The smallest sigma (to 0.1 %, rounded up) whose `steps` steps cost at most `epsilon`.

    ``epsilon([MechanismEvent(sigma, sampling_rate, steps)], delta)`` of the result never passes the
    target. Raises ``PlanRefused``, with the epsilon that could be met, if no sigma up to 10,000
    is enough. Cached; about ten evaluations of the accountant.
    """
    MechanismEvent(0.0, sampling_rate, steps)
    if not math.isfinite(epsilon):
        raise ValueError(f"epsilon must be finite: {epsilon}")
    return _noise_multiplier(epsilon, _checked_delta(delta), sampling_rate, steps)


def tidy(sigma: float) -> float:
    """Five significant digits: what is printed, charged and used is then the same number."""
    return float(f"{sigma:.5g}")


def _checked_delta(delta: float) -> float:
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie between 0 and 1: {delta}")
    return float(delta)


@lru_cache(maxsize=4096)
def _epsilon(events: Events, delta: float) -> float:
    bound = _epsilon_rdp(events, delta)
    if not 0 < bound <= _MEANINGLESS:
        return bound if bound == 0 else math.inf
    events = _fewer(events, MOST_MECHANISMS)
    gaussian = tuple(event for event in events if event.kind == "gaussian")
    shared = rho(event for event in events if event.kind == "concentrated")
    if not gaussian:
        bound = min(bound, renyi.epsilon_zcdp(shared, delta))
    elif not shared:
        bound = min(bound, _epsilon_of_losses(gaussian, delta, bound))
    else:
        for share in _SHARES_OF_DELTA:
            concentrated = renyi.epsilon_zcdp(shared, share * delta)
            if concentrated < bound:
                rest = _epsilon_of_losses(gaussian, (1 - share) * delta, bound)
                bound = min(bound, concentrated + rest)
    return bound * _MARGIN


def _apart(events: Events) -> tuple[float, Events]:
    """What the pure releases cost together, and the other events."""
    pure = [event for event in events if event.kind == "pure"]
    if any(event.noise_multiplier == 0 for event in pure):
        return math.inf, ()
    cost = math.fsum(event.steps / event.noise_multiplier for event in pure)
    return cost, tuple(event for event in events if event.kind != "pure")


def rho(events: Iterable[MechanismEvent]) -> float:
    """Of zCDP: what unsampled events come to together."""
    return math.fsum(event.steps / (2 * event.noise_multiplier**2) for event in events)


def _fewer(events: Events, most: int) -> Events:
    """At most `most` mechanisms that together cost no less.

    Noise is rounded down and sampling up, to ever coarser steps of a logarithm. Less noise costs no
    less, for the rest of it can be added by anyone who looks; nor does more sampling, for the
    hockey-stick divergence of a mixture is convex in q and 0 at q = 0.
    """
    cells = 512.0
    found = events
    while len(found) > most:
        found = canonical(_rounded(event, cells) for event in events)
        cells /= 2
    return found


def _rounded(event: MechanismEvent, cells: float) -> MechanismEvent:
    sigma, rate = event.noise_multiplier, event.sampling_rate
    if sigma:
        sigma = min(sigma, 2.0 ** (math.floor(math.log2(sigma) * cells) / cells))
    if rate < 1:
        rate = min(1.0, max(rate, 2.0 ** (math.ceil(math.log2(rate) * cells) / cells)))
    return MechanismEvent(sigma, rate, event.steps, event.kind)


def _epsilon_of_losses(events: Events, delta: float, magnitude: float) -> float:
    """Of Gaussian steps: the larger of what taking one record away and adding one costs."""
    return max(composed.epsilon(delta) for composed in _both_ways(events, magnitude))


def least_delta(events: Events) -> float:
    """Of Gaussian steps: the delta that holds with an epsilon of 0, at most 1."""
    if any(event.noise_multiplier == 0 for event in events):
        return 1.0
    found = _fewer(events, MOST_MECHANISMS)
    return min(1.0, max(composed.delta(0.0) for composed in _both_ways(found, 1.0)))


def _both_ways(events: Events, magnitude: float) -> tuple[losses.Losses, losses.Losses]:
    """The losses of Gaussian steps, with a record taken away and with one added."""
    steps = [
        ((event.noise_multiplier, event.sampling_rate), event.steps)
        for event in events
        if event.sampling_rate < 1
    ]
    # Gaussian steps without sampling are one, exactly.
    precision = rho(event for event in events if event.sampling_rate == 1)
    if precision:
        steps.append(((1 / math.sqrt(2 * precision), 1.0), 1))
    interval = _interval(steps, magnitude)
    return losses.compose(steps, interval, "remove"), losses.compose(steps, interval, "add")


def _interval(steps: list[tuple[losses.Mechanism, int]], magnitude: float) -> float:
    """Grid of the privacy loss: finer for smaller epsilons, and for steps that lose very little.

    Rounding adds at most interval^2 / 6 to the variance of a step's loss that is wider than the
    grid. The widest loss of all may be cut into so many points.
    """
    interval = _FINEST if magnitude < 1 else 1e-3
    variance = math.fsum(n * _variance(*mechanism) for mechanism, n in steps)
    wanted = math.sqrt(6 * _SHARE_OF_VARIANCE * variance / sum(n for _, n in steps))
    widest = max(losses.width(mechanism) for mechanism, _ in steps)
    widest = max(widest, 2 * magnitude, 16 * math.sqrt(variance) + variance)
    while interval > max(wanted, _FINEST) and 2 * widest / interval < _MOST_POINTS:
        interval = max(interval / 2, _FINEST)
    while widest / interval > _MOST_POINTS:
        interval *= 2
    return interval


def _variance(sigma: float, rate: float) -> float:
    """Of one step's loss, roughly: chi-squared divergence if it is small."""
    precision = sigma**-2
    if rate == 1:
        return precision
    small = rate**2 * math.expm1(min(precision, 50.0))
    return min(small, rate * (precision + precision**2 / 4))


@lru_cache(maxsize=4096)
def _epsilon_rdp(events: Events, delta: float) -> float:
    if not events:
        return 0.0
    if any(event.noise_multiplier == 0 for event in events):
        return math.inf
    events = _fewer(events, _MOST_FOR_RENYI)
    divergences = renyi.concentrated(rho(event for event in events if event.kind == "concentrated"))
    for event in events:
        if event.kind == "gaussian":
            one = renyi.sampled_gaussian(event.noise_multiplier, event.sampling_rate)
            divergences = divergences + event.steps * one
    return renyi.epsilon(divergences, delta)


@lru_cache(maxsize=1024)
def _noise_multiplier(target: float, delta: float, sampling_rate: float, steps: int) -> float:
    def cost(sigma: float) -> float:
        return epsilon([MechanismEvent(sigma, sampling_rate, steps)], delta)

    def cheap_cost(sigma: float) -> float:
        return epsilon_rdp([MechanismEvent(sigma, sampling_rate, steps)], delta)

    if not steps or not sampling_rate:
        return 0.0
    if not (target > 0 and cost(MOST_NOISE) <= target):
        raise PlanRefused(
            f"No noise keeps {steps} steps at sampling rate {sampling_rate:g} within epsilon "
            f"{target:g} at delta {delta:g}; the least that can be met is epsilon "
            f"{rounded_up(cost(MOST_NOISE)):g}."
        )
    # Renyi accounting never claims too little, so its sigma is enough and not far too large.
    high = 1.0
    while cheap_cost(high) > target and high < MOST_NOISE:
        high = min(2 * high, MOST_NOISE)
    while cheap_cost(high / 1.2) <= target:
        high /= 1.2
    low = high / 1.3
    high, low = tidy(high), tidy(low)
    while cost(high) > target:
        low, high = high, min(tidy(1.3 * high), MOST_NOISE)
    while cost(low) <= target:
        low, high = tidy(low / 1.3), low
    while high / low > NOISE_PRECISION:
        guess = _between(low, high, cost(low), cost(high), target)
        # The guess is good to a fraction of the precision; its neighbour closes the bracket.
        if cost(guess) <= target:
            high, neighbour = guess, tidy(guess / (1 + 0.9 * (NOISE_PRECISION - 1)))
        else:
            low, neighbour = guess, tidy(guess * (1 + 0.9 * (NOISE_PRECISION - 1)))
        if low < neighbour < high:
            if cost(neighbour) <= target:
                high = neighbour
            else:
                low = neighbour
    return high


def _between(low: float, high: float, cost_low: float, cost_high: float, target: float) -> float:
    """Interpolate log epsilon over log sigma; the middle if that leaves the bracket."""
    share = 0.5
    if math.isfinite(cost_low) and cost_high > 0:
        share = math.log(cost_low / target) / math.log(cost_low / cost_high)
    guess = tidy(low * (high / low) ** share)
    return guess if low < guess < high else tidy(math.sqrt(low * high))
