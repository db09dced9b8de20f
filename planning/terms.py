"""The terms of a job in a consortium: every number that both sides derive, and that nobody is told.

Plan, server, agent and red team each hold a ``Terms`` and compute nothing that it says a second time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from ..job import Job
from ..privacy.accounting.accountant import MechanismEvent
from ..privacy.noise.client_noise import (
    TAIL,
    ClientPart,
    ServerNoise,
    UpdateNoise,
    clipping_range,
    split_noise,
)
from ..privacy.noise.counts_noise import Change
from ..privacy.noise.scale import Scale
from ..privacy.randomness import SecretStream
from ..privacy.secagg.parameters import Thresholds, fewest, smallest_sum, thresholds
from ..privacy.secagg.roster import MOST_CLIP, Limits
from ..quantities import rounded_up
from ..strategies import buffered
from ..strategies.fedbuff import UNIT
from .cohorts import groups_of
from .limits import expected_update, secure_limits
from .noise import PrivateRecipe, change_of, event_of_test, private_recipe

_ROOM = 1.25
"""Room beyond a bound, for float32 rounding and for decayed weights."""
_ADAPTIVE = 16.0
"""How far an adaptive clipping norm may rise."""


@dataclass(frozen=True)
class Terms:
    """What a job means among so many members: of noise, of sums, and of what fits into them."""

    job: Job
    consortium: int
    """Members of the roster, whether they take part in this job or not."""

    @cached_property
    def limits(self) -> Limits:
        """What every member of the secure sums insists on."""
        return secure_limits(self.job.encryption)

    @cached_property
    def colluders(self) -> int:
        """Members that may be on the server's side, at most."""
        return math.ceil(self.limits.colluders * self.consortium)

    @cached_property
    def fewest_in_a_sum(self) -> int:
        """Members of any sum that is opened, at least, whichever cohort the server picks."""
        return smallest_sum(self.consortium, self.limits)

    @cached_property
    def noise_shares(self) -> int:
        """Honest clients in any sum that may be opened, at least: so many share its noise.

        Every member sees to it, whichever cohort the server picks of the consortium: no sum is opened of
        fewer than ``smallest_sum``, and no more members collude than are tolerated.
        """
        return self.fewest_in_a_sum - self.colluders if self.job.encrypted else 1

    @cached_property
    def counts_shares(self) -> int:
        """How many clients share the noise of a test: 1 if every owner adds the whole.

        Noise that is shared rests on honest members; under example-level privacy an owner relies on
        nobody, so that a server with invented members around it reads nothing without noise.
        """
        return max(1, self.noise_shares) if self.job.per_client and self.job.encrypted else 1

    @cached_property
    def client_noise(self) -> tuple[float, float]:
        """Noise multipliers of a whole update, and of the count beside it, under client-level privacy."""
        sigma = self.recipe(1, self.job.training.rounds).noise_multiplier
        return split_noise(sigma, self.job.privacy.clipping == "adaptive")

    @property
    def change(self) -> Change:
        """The most by which neighbours differ in the counts of a test."""
        return change_of(self.job)

    def recipe(self, training_size: int, participations: int, tests: int = 0) -> PrivateRecipe:
        """Noise and sampling of a client with that published number of training units."""
        return private_recipe(self.job, training_size, participations, tests)

    def test_event(self, tests: int) -> MechanismEvent | None:
        """One of so many planned tests that leave private counts; None if no counts are private."""
        return event_of_test(self.job, tests)

    def cohort_size(self, clients: int) -> int:
        """Clients asked in a round, of so many; the fewest if sums are of whoever is ready."""
        rule = buffered(self.job.strategy)
        return min(rule.buffer if rule else self.job.cohort.size or clients, clients)

    @property
    def asynchronous(self) -> bool:
        """Whether sums are of whoever is ready."""
        return buffered(self.job.strategy) is not None

    @property
    def weight_unit(self) -> int:
        """What a client's weight in the plan is multiplied by in a sum: room for that of its staleness."""
        return UNIT if self.asynchronous else 1

    def tested_by(self, clients: int) -> int:
        """Clients that test a model together, of so many."""
        return clients if self.asynchronous else self.cohort_size(clients)

    def thresholds(self, cohort: int) -> list[Thresholds]:
        """The numbers of each group of a cohort of so many clients."""
        spec = self.job.encryption
        groups = groups_of([str(number) for number in range(cohort)], self.job)
        return [
            thresholds(len(group), spec.colluders, spec.confirm, self.consortium)
            for group in groups
        ]

    def fewest_answers(self, cohort: int) -> int:
        """Fewest answers for a round of so many clients to count.

        As few as its sums are opened of, so that a round survives the absences that the roster's
        thresholds allow; the job may ask for more. Without encryption all, unless the job asks for fewer.
        """
        minimum = self.job.cohort.minimum
        if not self.job.encrypted:
            return minimum or cohort
        least = sum(fewest(numbers, self.limits) for numbers in self.thresholds(cohort))
        return max(minimum or 0, least)

    def clip(self, parameters: int) -> float:
        """Largest magnitude of an entry of an update of so many numbers, as all sides compute it.

        An update beyond it is scaled down as a whole, so it should never bite; a malicious member takes
        a mean as far as the clip, so it should not be larger than updates may need. It is a multiple of
        what an update comes to by the job's own numbers (``limits.expected_update``); under client-level
        privacy of the clipping norm, with room for its noise. Raises ``PlanRefused`` if no noise meets
        the target.
        """
        job = self.job
        if job.encryption.clip is not None:
            return job.encryption.clip
        reach = self._hidden_client if job.per_client else expected_update(job, parameters)
        # At most before it is rounded: a learning rate of 10^300 makes it infinite.
        return min(MOST_CLIP, rounded_up(min(MOST_CLIP, _ROOM * reach)))

    def clipping_room(self, parameters: int, members: int) -> tuple[float, float]:
        """Least and largest clipping norm that fit the sums of a cohort of so many members."""
        update, _ = self.client_noise
        noise = update if self.job.noised_by_clients else 0.0
        scale = Scale(members, self.clip(parameters))
        return clipping_range(noise, self.noise_shares, parameters, scale)

    def client_part(self, clipping_norm: float, stream: SecretStream) -> ClientPart:
        """What a client does to its update in a job with client-level privacy."""
        update, count = self.client_noise
        distributed = self.job.noised_by_clients
        own = update if distributed else 0.0
        noise = UpdateNoise(clipping_norm, own, self.noise_shares, stream)
        return ClientPart(noise, count, distributed)

    def server_noise(self, clipping_norm: float, stream: SecretStream) -> ServerNoise:
        """What the server of a job with central noise adds in a round."""
        return ServerNoise(clipping_norm, *self.client_noise, stream)

    @property
    def _hidden_client(self) -> float:
        """What one client's part comes to if its whole update is clipped and hidden."""
        (update, _), privacy = self.client_noise, self.job.privacy
        norm = privacy.clipping_norm * (_ADAPTIVE if privacy.clipping == "adaptive" else 1.0)
        if not self.job.noised_by_clients:
            return norm
        shares = max(1, self.noise_shares)
        return norm * (1 + TAIL * 2 * update / math.sqrt(shares))
