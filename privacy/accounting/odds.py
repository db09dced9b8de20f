"""How often somebody who guesses whether a record was there can be right: an epsilon in plain words."""

from __future__ import annotations

import math
from collections.abc import Iterable

from . import accountant
from .accountant import MechanismEvent


def most_right(events: Iterable[MechanismEvent], delta: float) -> float:
    """Upper bound on the share of right guesses, 0.5 to 1, of anyone who tells two neighbouring data sets,
    one of which was chosen by a fair coin, apart by all releases of `events` together.

    It is (1 + TV) / 2 for the total variation TV between what they release, which of each part adds up,
    also if parts are chosen by what came before: of Gaussian steps it is the delta that holds with an
    epsilon of 0; of releases that are rho-zCDP at most sqrt(rho / 2) (Pinsker's inequality; Bun and Steinke
    2016, Lemma 1.1: the divergence is at most rho); of pure ones tanh(epsilon / 2). All of it is at most
    (e^epsilon - 1 + 2 delta) / (e^epsilon + 1) of the composition (Kairouz, Oh, Viswanath 2015).
    """
    found = accountant.canonical(events)
    epsilon = accountant.epsilon(found, delta)
    whole = 1.0
    if epsilon < 700:
        whole = math.tanh(epsilon / 2) + 2 * delta / (math.exp(epsilon) + 1)
    pure = math.fsum(e.steps / e.noise_multiplier for e in found if e.kind == "pure")
    rho = accountant.rho(e for e in found if e.kind == "concentrated")
    gaussian = tuple(e for e in found if e.kind == "gaussian" and e.steps and e.sampling_rate)
    parts = math.tanh(pure / 2) + math.sqrt(rho / 2)
    if parts < whole and gaussian:
        parts += accountant.least_delta(gaussian)
    return (1 + min(1.0, whole, parts)) / 2
