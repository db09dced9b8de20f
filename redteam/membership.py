"""Loss-threshold membership inference (Yeom et al. 2018, "Privacy Risk in Machine Learning").

Records that a model was trained on tend to have a smaller loss than others. How well the loss of
the final model alone tells them apart is what an attacker without further knowledge gets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..learning.examples import Examples
from ..learning.model import Learner
from ..learning.tasks.task import Task

_BATCH = 64
_NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Membership:
    """AUC of the attack with its 95 % interval, and its true-positive rate at 1 % false ones."""

    members: int
    others: int
    auc: float
    low: float
    high: float
    tpr_at_1_percent: float

    @property
    def telling(self) -> bool:
        """Whether the interval excludes guessing."""
        return self.low > 0.5


Losses = tuple[np.ndarray, np.ndarray]
"""float64[n] of records that were trained on, float64[m] of records that were not."""


def attack(groups: Sequence[Losses]) -> Membership:
    """Call those with the smallest losses members, within each group (the records of one client).

    Within, because clients whose texts are harder may have another share of held-out records: over
    all of them together that would look like membership. The interval is DeLong's (DeLong, DeLong,
    Clarke-Pearson 1988), from the placements of each loss among those of the other side, over
    independent groups weighted by what they tell. It is of no use below about 20 records a side.
    """
    members, others = map(np.concatenate, zip(*groups, strict=True))
    if min(len(members), len(others)) == 0:
        raise ValueError("There must be both members and non-members.")
    # A side of one has no variance of its own; if all groups are like that, they are pooled.
    groups = [group for group in groups if min(map(len, group)) > 1] or [(members, others)]
    weights = np.array([len(m) * len(o) / (len(m) + len(o)) for m, o in groups])
    weights /= weights.sum()
    areas, variances, hits = zip(*(_attack_one(m, o) for m, o in groups), strict=True)
    auc = float(weights @ np.array(areas))
    spread = _NORMAL_95 * math.sqrt(float(weights**2 @ np.array(variances)))
    compared = sum(len(m) for m, _ in groups)
    return Membership(
        members=compared,
        others=sum(len(o) for _, o in groups),
        auc=auc,
        low=max(0.0, auc - spread),
        high=min(1.0, auc + spread),
        tpr_at_1_percent=sum(hits) / compared,
    )


def _attack_one(members: np.ndarray, others: np.ndarray) -> tuple[float, float, int]:
    """AUC, its variance, and the members that are found when at most 1 % of others are called so."""
    above = _placements(members, others)
    below = _placements(others, members)
    variance = _variance(above) / len(members) + _variance(below) / len(others)
    threshold = np.sort(others)[int(0.01 * len(others))]
    return float(above.mean()), variance, int((members < threshold).sum())


@torch.no_grad()
def losses_of(
    learner: Learner,
    task: Task,
    examples: Examples,
    tell: Callable[[int], None] = lambda _: None,
) -> np.ndarray:
    """float64[n]: the loss of each example under the weights that the learner's network has."""
    network = learner.network.eval()
    order = np.argsort(examples.lengths, kind="stable")
    found = np.zeros(len(examples))
    for start in range(0, len(order), _BATCH):
        chunk = order[start : start + _BATCH]
        batch = learner.batch(examples, chunk)
        found[chunk] = task.losses(network(batch), batch).double().cpu().numpy()
        tell(len(chunk))
    return found


def _placements(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """For each of ours, the share of theirs that is larger; equal ones count half."""
    ordered = np.sort(theirs)
    smaller = np.searchsorted(ordered, ours, "left")
    not_larger = np.searchsorted(ordered, ours, "right")
    return 1 - (smaller + not_larger) / (2 * len(theirs))


def _variance(values: np.ndarray) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else 0.0
