"""A second opinion on an epsilon, by Google's dp-accounting, if it is installed.

It shares no code with the accountant of record (``accountant``). Of mechanisms that both know, its privacy
loss distributions lie on a grid of 5e-4, of many or small losses on one of 1e-4, and are pessimistic, as
ours are.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from .accountant import MechanismEvent

_GRID, _FINE_GRID = 5e-4, 1e-4
_MOST_STEPS, _LEAST_LOSS = 1000, 0.05
"""On the coarse grid: steps, over which what a point is off adds up, and sampling rate over noise multiplier
of each. Epsilon is off by less than 0.1 % then."""
_SHARES = (0.9, 0.5, 0.1, 0.01)
_ORDERS = [1 + x / 10 for x in range(1, 100)] + [*range(11, 65), 128, 256, 512, 1024]


def installed() -> bool:
    return find_spec("dp_accounting") is not None


def version() -> str:
    from importlib.metadata import version as version_of

    return version_of("dp-accounting")


def epsilon(events: Iterable[MechanismEvent], delta: float) -> float:
    """Upper bound on epsilon of the composition of `events` at `delta`, by dp-accounting.

    Gaussian steps by privacy loss distributions; beside concentrated releases (zCDP), the smaller of
    Renyi accounting of everything and of basic composition of the two parts over several divisions of
    delta; pure releases are added (basic composition). Raises ``ImportError`` if it is not installed.
    Remembered, for clients with the same schedule, and a certificate that is checked again.
    """
    return _epsilon(tuple(event for event in events if event.steps), delta)


@lru_cache(maxsize=256)
def _epsilon(found: tuple[MechanismEvent, ...], delta: float) -> float:
    pure = sum(e.steps / e.noise_multiplier for e in found if e.kind == "pure")
    gaussian = [e for e in found if e.kind == "gaussian"]
    concentrated = [e for e in found if e.kind == "concentrated"]
    # Their distribution takes seconds, and its epsilon at any delta nothing.
    by_losses = _losses(gaussian).get_epsilon_for_delta if gaussian else lambda _: 0.0
    if not concentrated:
        return pure + float(by_losses(delta))
    bounds = [_by_renyi(gaussian + concentrated, delta)]
    if gaussian:
        bounds += [
            float(by_losses((1 - share) * delta)) + _by_renyi(concentrated, share * delta)
            for share in _SHARES
        ]
    return pure + min(bounds)


def _losses(events: list[MechanismEvent]) -> Any:
    """The distribution of the privacy loss of all `events`, of which there is one at least."""
    from dp_accounting.pld import privacy_loss_distribution as pld

    composed = None
    few = sum(event.steps for event in events) <= _MOST_STEPS
    large = all(e.sampling_rate / e.noise_multiplier >= _LEAST_LOSS for e in events)
    grid = _GRID if few and large else _FINE_GRID
    for event in events:
        one = pld.from_gaussian_mechanism(
            event.noise_multiplier,
            sampling_prob=event.sampling_rate,
            value_discretization_interval=grid,
        ).self_compose(event.steps)
        composed = one if composed is None else composed.compose(one)
    return composed


def _by_renyi(events: list[MechanismEvent], delta: float) -> float:
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(_ORDERS)
    for event in events:
        if event.kind == "gaussian":
            gaussian = dp_accounting.GaussianDpEvent(event.noise_multiplier)
            one = dp_accounting.PoissonSampledDpEvent(event.sampling_rate, gaussian)
        else:
            one = dp_accounting.ZCDpEvent(1 / (2 * event.noise_multiplier**2))
        with _quiet():
            accountant.compose(one, event.steps)
    return float(accountant.get_epsilon(delta))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without a warning for each order that cannot be computed: the best of the others counts."""
    absl = logging.getLogger("absl")
    before = absl.level
    absl.setLevel(logging.ERROR)
    try:
        yield
    finally:
        absl.setLevel(before)
