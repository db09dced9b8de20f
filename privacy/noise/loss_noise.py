"""An owner's mean loss, which it releases with the whole noise itself, and how much noise that is.

Notation: n the *published* number of training units (records or groups), C the clip of a unit's loss, S the
sum of the clipped losses in whole steps of C / ``LOSS_STEPS``, and z the noise multiplier. What is released
is

    L = C * min(1, max(z / n, (S + round(N)) / (n * LOSS_STEPS))),  N ~ Normal(0, (z * LOSS_STEPS)^2).

Guarantee: one release is one ``MechanismEvent(z, 1.0, 1)``, the Gaussian mechanism without sampling, for
one unit added or removed. A unit adds a whole number of 0 to ``LOSS_STEPS`` to S, so z is the deviation
over the most that it can change. S is whole, so S + round(N) = round(S + N): rounding is post-processing of
the Gaussian mechanism (Dwork and Roth 2014, Prop. 2.1 and Theorem A.1), and leaves none of the low bits
that tell of a sum of floating-point numbers (Mironov 2012). n, C and z do not follow from the records but
through the published size, which is charged, so the division and both bounds are post-processing, too.

Assumptions: those of ``SecretStream``; the noise is drawn once for each charge, and S leaves in no other
form; what a unit adds depends on itself and on the model alone (``learning.trainer.test``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..accounting.accountant import MechanismEvent, noise_multiplier, tidy
from ..randomness import SecretStream
from .counts_noise import LOSS_STEPS


def losses_event(target: float, delta: float, releases: int, share: float) -> MechanismEvent:
    """`releases` releases of a loss, which together take `share` of what `target` leaves room for.

    One Gaussian release without sampling that costs epsilon `target` has some noise multiplier s, and 1 / s^2
    of such releases adds up. The losses get `share` (above 0, below 1) of that, in equal parts, whatever else
    is released. Raises ``PlanRefused`` if no noise meets the target.
    """
    whole = noise_multiplier(target, delta, 1.0, 1)
    return MechanismEvent(tidy(whole * math.sqrt(releases / share)), 1.0, releases)


@dataclass(frozen=True)
class LossNoise:
    """The noise of one release at one owner, drawn when it was charged."""

    event: MechanismEvent
    clip: float
    """C, in the unit of the loss."""
    units: int
    """n."""
    drawn: int
    """round(N). A secret."""

    @classmethod
    def draw(
        cls, event: MechanismEvent, clip: float, units: int, stream: SecretStream
    ) -> LossNoise:
        deviation = event.noise_multiplier * LOSS_STEPS
        return cls(event, clip, units, int(np.rint(deviation * stream.normal(1)[0])))

    def hide(self, total: int) -> float:
        """L, of S: what may leave, and what a weight may follow from."""
        units = max(1, self.units)
        share = (total + self.drawn) / (units * LOSS_STEPS)
        # Below its own deviation a loss is noise, and a power of it would be any number.
        return self.clip * min(1.0, max(self.event.noise_multiplier / units, share))
