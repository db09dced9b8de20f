"""Members of a simulation that do not keep to the rules (``simulation.attackers``): their updates are lies.

An attacker takes part as everybody does: its agent charges, clips, adds client-level noise, and masks.
What it changes is what its training comes to, or the labels that it trains on. It tests honestly, so that
figures are about the model. All attackers of a run work together and know each other's records and
updates, as in the papers; of the others they know nothing but the models.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np

from ..client.work import LocalData, Side, WorkHere, Workplace
from ..job import Job
from ..job.attacks import ATTACKS, AttackName
from ..learning.examples import Examples, TokenStore
from ..learning.model import arrays_digest
from ..learning.steps import PrivateSteps
from ..learning.trainer import Outcome
from ..strategies import LocalRule
from ..wire.arrays import Arrays


@dataclass(frozen=True)
class _FalseLabels(TokenStore):
    """The same texts, each with the class opposite to its own: y becomes C - 1 - y."""

    classes: int = 2

    @cached_property
    def labels(self) -> np.ndarray:
        told = np.load(self.folder / "labels.npy")
        return np.where(told < 0, told, self.classes - 1 - told)

    def __reduce__(self) -> tuple[Any, ...]:
        return _FalseLabels, (self.folder, self.classes)


def sign_flip(update: Arrays, boost: float) -> Arrays:
    """The opposite of what it learned, `boost` times as far."""
    return {name: np.float32(-boost) * array for name, array in update.items()}


def model_replacement(update: Arrays, boost: float) -> Arrays:
    """Bagdasaryan et al. 2020, "How to backdoor federated learning", eq. 3: gamma times the lie."""
    return {name: np.float32(boost) * array for name, array in update.items()}


def inner_product(updates: Sequence[Arrays], boost: float) -> Arrays:
    """Xie et al. 2020, "Fall of empires", eq. 3: -epsilon times the mean of honest updates."""
    return {
        name: (-boost * mean).astype(np.float32) for name, (mean, _) in _moments(updates).items()
    }


def a_little_is_enough(updates: Sequence[Arrays], deviations: float) -> Arrays:
    """Baruch et al. 2019, "A little is enough", Alg. 3: mean - z * deviation, in every coordinate."""
    return {
        name: (mean - deviations * deviation).astype(np.float32)
        for name, (mean, deviation) in _moments(updates).items()
    }


def most_deviations(clients: int, attackers: int) -> float:
    """z_max of Baruch et al. 2019, Alg. 3: with s = n / 2 + 1 - m honest clients beyond it, a median turns.

    With few attackers it is 0, a lie that none can see and that does no harm.
    """
    honest = clients - attackers
    supporters = clients // 2 + 1 - attackers
    share = (honest - supporters) / honest
    # From half of the clients on everybody is outvoted, and any number would do.
    return max(0.0, NormalDist().inv_cdf(min(share, 0.999))) if share > 0 else 0.0


def _moments(updates: Sequence[Arrays]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and standard deviation of each coordinate, float64."""
    stacks = {
        name: np.stack([update[name] for update in updates]).astype(np.float64)
        for name in updates[0]
    }
    return {name: (stack.mean(axis=0), stack.std(axis=0)) for name, stack in stacks.items()}


class Attackers:
    """All attackers of a simulation, as one process knows them.

    What a colleague would send honestly is computed here once more, with noise from the job's seed if
    steps have noise: so it is the same in every process, and no process waits for another.
    """

    def __init__(
        self,
        job: Job,
        clients: int,
        members: Mapping[str, LocalData],
        workplace: Callable[[], Workplace],
        steps: Callable[[str, int], PrivateSteps | None],
    ) -> None:
        """members: what each attacker holds. steps: its private steps in a round, if the job has some."""
        self.kind, self.flips_labels = job.simulation.attack, job.simulation.flips_labels
        self._clients, self.members = clients, members
        self._workplace, self._steps = workplace, steps
        usual = ATTACKS[self.kind].boost(clients, max(1, len(members)))
        self._boost = job.simulation.attack_boost or usual
        self._known: tuple[tuple[int, str], list[Arrays]] | None = None

    @cached_property
    def _works(self) -> dict[str, WorkHere]:
        held = sorted(self.members.items())
        return {name: WorkHere(name, self._workplace(), data) for name, data in held}

    def lie(
        self, outcome: Outcome, job: Job, round_: int, arrays: Arrays, local: LocalRule | None
    ) -> Outcome:
        """What an attacker sends in place of what its own training came to."""
        own = outcome.update

        def honest() -> list[Arrays]:
            return self._honest(job, round_, arrays, local, tuple(own))

        def z() -> float:
            return self._boost * most_deviations(self._clients, len(self.members))

        lies: dict[AttackName, Callable[[], Arrays]] = {
            "label-flip": lambda: own,  # what came of the false labels
            "sign-flip": lambda: sign_flip(own, self._boost),
            "alie": lambda: a_little_is_enough(honest(), z()),
            "ipm": lambda: inner_product(honest(), self._boost),
            "model-replacement": lambda: model_replacement(own, self._boost),
        }
        return replace(outcome, update=lies[self.kind]())

    def _honest(
        self,
        job: Job,
        round_: int,
        arrays: Arrays,
        local: LocalRule | None,
        names: Collection[str],
    ) -> list[Arrays]:
        """What all attackers would send if they were honest, by name; of the last model that came."""
        key = (round_, arrays_digest(arrays))
        if local is not None and local.own:
            local = None  # its state is this attacker's alone, and who asks first must not matter
        if self._known is None or self._known[0] != key:
            found = [
                work.trained(
                    job, round_, arrays, self._steps(name, round_), local, names=names
                ).update
                for name, work in self._works.items()
            ]
            self._known = key, found
        return self._known[1]


class Attacking(WorkHere):
    """The work of an attacker: as an owner's, but for what comes of it."""

    def __init__(
        self, name: str, workplace: Workplace, data: LocalData, attackers: Attackers
    ) -> None:
        super().__init__(name, workplace, data)
        self._attackers = attackers
        self._false: Examples | None = None

    def trained(
        self,
        job: Job,
        round_: int,
        arrays: Arrays,
        private: PrivateSteps | None = None,
        local: LocalRule | None = None,
        *,
        names: Collection[str] | None = None,
        records: bool = True,
        fill: int | None = None,
    ) -> Outcome:
        outcome = super().trained(
            job, round_, arrays, private, local, names=names, records=records, fill=fill
        )
        return self._attackers.lie(outcome, job, round_, arrays, local)

    def _examples(self, side: Side) -> Examples:
        found = super()._examples(side)
        if side != "train" or not self._attackers.flips_labels:
            return found
        if self._false is None:
            classes = len(self._workplace.learner.job.data.labels or ())
            store = _FalseLabels(found.store.folder, classes)
            self._false = Examples(store, found.rows, found.features, found.groups)
        return self._false
