"""The canary audit if noise hides whole clients: does a sum leak more than it claims?

A canary is a client whose update is one of two, as far apart as clipping allows; a coin says which.
The attacker sees the sums of all rounds but for the other clients' updates, which he knows, and
with no more noise than a sum is sure to have: that of the fewest honest clients, or the server's.
Each canary goes through rounds of its own, by the code of every real run: encoding, clipping, noise.
So together they are one mechanism, and the theorem of ``bound`` holds for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..job import Job
from ..planning.terms import Terms
from ..privacy.noise.client_noise import UpdateNoise
from ..privacy.noise.scale import Scale
from ..privacy.randomness import SecretStream
from ..privacy.secagg.fixed_point import Contribution, Layout, decode, encode
from .canaries import BLOCK, NORMAL_999, CanaryAudit, Measured, Observation, Tell, guessable, judge

_FAR = 1e3
"""Length of a canary's update over the clipping norm."""


def audit_clients(
    job: Job,
    members: int,
    consortium: int,
    *,
    rounds: int,
    claim: float,
    canaries: int,
    secrets: Callable[[], SecretStream] = SecretStream.from_os,
    tell: Tell = lambda *_: None,
) -> tuple[CanaryAudit, Measured]:
    """Replay the rounds of a job for `canaries` clients, and judge by what all sums say of each.

    members: of a cohort, which decides the grid of its sums; consortium: of the roster; rounds: that
    the audited client took part in. `secrets` gives fresh streams for coins and noise.
    """
    blocks = math.ceil(canaries / BLOCK)
    parts = []
    for block in range(blocks):
        tell("canaries", block, blocks)
        count = min(BLOCK, canaries - block * BLOCK)
        replay = _Replay(Terms(job, consortium), members, secrets)
        parts.append(replay.observe(rounds, count))
    coins = np.concatenate([part.coins for part in parts])
    releases = np.concatenate([part.releases for part in parts], axis=1)
    delta = job.privacy.delta
    some = guessable(canaries, delta)
    found = judge(coins[:some], releases.sum(axis=0)[:some], claim, delta)
    residue = releases - np.where(coins, 0.5, -0.5)
    sigma = math.sqrt(float(np.mean(residue**2)))
    error = NORMAL_999 / math.sqrt(2 * residue.size)
    return found, Measured(sigma, sigma * (1 - error), sigma * (1 + error), 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class _Replay:
    """The sums of a job's clients, as they are opened."""

    terms: Terms
    members: int
    secrets: Callable[[], SecretStream]

    @property
    def job(self) -> Job:
        return self.terms.job

    def observe(self, rounds: int, count: int) -> Observation:
        """`count` canaries, each in the sums of so many rounds.

        Releases are in units of 2 C, the most that a client's data can change: 1/2 or -1/2, plus noise
        whose deviation is the noise multiplier.
        """
        norm = self.job.privacy.clipping_norm
        coins = (self.secrets().words(count) & 1).astype(bool)
        noise = self._noise(rounds * count).reshape(rounds, count)
        ends = [self._clipped(sign) for sign in (-1, 1)]
        return Observation(coins, (noise + np.where(coins, ends[1], ends[0])) / (2 * norm))

    def _clipped(self, sign: int) -> float:
        """What a canary's long update adds to the sum, without noise."""
        norm = self.job.privacy.clipping_norm
        bare = UpdateNoise(norm, 0.0, 1, self.secrets())
        update = np.array([sign * _FAR * norm], np.float32)
        return float(self._sum([update], [bare])[0])

    def _noise(self, size: int) -> npt.NDArray[np.float64]:
        """(size,) noise of entries of a sum: as little as any sum has that may be opened."""
        norm = self.job.privacy.clipping_norm
        if not self.job.noised_by_clients:
            alone = np.zeros(size)
            self.terms.server_noise(norm, self.secrets()).hide_mean(alone, 1)
            return alone
        honest = range(self.terms.noise_shares)
        shares = [self.terms.client_part(norm, self.secrets()) for _ in honest]
        nothing = [np.zeros(size, np.float32)] * len(shares)
        return self._sum(nothing, [share.noise for share in shares])

    def _sum(
        self, updates: list[npt.NDArray[np.float32]], noises: list[UpdateNoise]
    ) -> npt.NDArray[np.float64]:
        """The sum of these clients' parts, as it is opened."""
        layout = Layout(len(updates[0]), 0, 0)
        scale = Scale(self.members, self.terms.clip(layout.parameters))
        total = np.zeros(layout.length, np.uint32)
        for update, noise in zip(updates, noises, strict=True):
            part = Contribution([update], [], [], 1, noise)
            total += encode(part, layout, scale, 1, self.secrets().words)
        return decode(total, layout, scale, 1, len(updates)).mean * len(updates)
