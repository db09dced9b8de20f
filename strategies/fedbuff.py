"""Sums of whoever is ready: FedBuff (Nguyen et al. 2022, "Federated learning with buffered asynchronous
aggregation", Alg. 1), with the staleness scaling of its section 5.

Notation: K the buffer, u_k the update of client k, which began with model version v_k, and v the version when
the sum is made; tau_k = v - v_k its staleness. The next model is w + eta_g (1 / K) sum_k s(tau_k) u_k with
s(tau) = 1 / sqrt(1 + tau). Clients with weights n_k take n_k / sum n in place of 1 / K.

Guarantee under example- and group-level privacy: an owner's releases are those of as many rounds as it is
asked for, each (as in a synchronous round) by DP-SGD with noise of its own, on a model that follows from
earlier releases. So they compose adaptively, and noise for its number of participations is enough, whatever
the order and however old the models are. Why a weight changes nothing: the owner's update is finished, with
the *whole* noise in it, before the weight is known; s(tau) is a function of version numbers alone, which are
public, so s(tau) u is post-processing (Dwork and Roth 2014, Prop. 2.1). No owner relies on the noise of
another one, so it does not matter that a small weight makes the noise of the others smaller in the sum.
Assumption: when an owner is ready does not tell of its records (``client.timing``).

Under client-level privacy this is not so. There the members share the noise of the sum, and the weights
s_k <= 1 after the noise leave sum s_k^2 shares of it, while a member of weight 1 still has its whole norm in
it. So that is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..wire.arrays import Arrays
from .averaging import FedAvg

if TYPE_CHECKING:
    from ..job import Job

UNIT = 1024
"""The weight of an update that is not stale: weights are whole numbers, and travel as such in a sum."""


def staleness_weight(staleness: int) -> int:
    """s(tau) = 1 / sqrt(1 + tau) (Nguyen et al. 2022, sec. 5) in units of 1 / ``UNIT``, rounded; at least 1.

    staleness: how many models were made since the one that the update began with, 0 or more.
    """
    return max(1, round(UNIT / math.sqrt(1 + staleness)))


def weighted(update: Arrays, staleness: int) -> Arrays:
    """An update (float32) as it counts: times its weight over that of one that is not stale."""
    share = np.float32(staleness_weight(staleness) / UNIT)
    return {name: array * share for name, array in update.items()}


class FedBuff(FedAvg):
    """Asynchronous rounds (Nguyen et al. 2022, Alg. 1): w <- w + learning_rate * mean of the first `buffer`
    ready updates, each / sqrt(1 + staleness).

    Nobody waits for the slowest client: the members of a sum begin with the next model, others train on.
    No update is more than `max_staleness` models old: clients that would fall behind farther are waited for.
    With 0 all rounds are synchronous.
    """

    buffered = True
    when = "Clients of very different speed. In simulations its clock is virtual."

    def __init__(
        self, buffer: int = 10, max_staleness: int = 10, learning_rate: float = 1.0
    ) -> None:
        """buffer: K, updates in a sum; all clients if there are fewer."""
        super().__init__(learning_rate)
        for name, value, least in (("buffer", buffer, 1), ("max_staleness", max_staleness, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} = {value!r} must be a whole number of {least} or more")
        self.buffer, self.max_staleness = buffer, max_staleness

    @classmethod
    def refusals(cls, job: Job) -> Iterator[str]:
        if job.per_client:
            yield (
                'strategy.name = "fedbuff" weights updates by their staleness, and under '
                'privacy.unit = "client" the noise of a sum would not cover the heaviest one: take '
                'privacy.unit = "example" or "group", or strategy.name = "fedavg"'
            )
        if job.encryption.group_size or job.encryption.name_spoilers:
            yield (
                'strategy.name = "fedbuff" sums the clients that are ready, in one group: remove '
                "encryption.group_size and encryption.name_spoilers"
            )
        if job.cohort.size is not None or job.cohort.joins:
            yield (
                'strategy.name = "fedbuff" has every client train all the time, and sums the first that '
                "are ready: remove cohort.size and cohort.joins; strategy.options.buffer says how many"
            )
