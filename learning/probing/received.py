"""A check of the weights that came: with them, does rounding leave each record's gradient alone?

A server chooses the weights that a round begins with. Large ones can make a gradient hang on the last
bit of a float32 number: a LayerNorm's outputs sum to zero, so a head of +M and -M reads nothing but
rounding, M times as large. What is rounded how depends on the shape of a batch, so one record more or
less would move what all others add. (With M = 1e8 the sum was measured to move by 6 clipping norms.)

Guarantee: weights with an entry above ``MOST_WEIGHT`` are refused, and so are those with which the
clipped gradients of a few invented texts move by more than 1e-5 of the clipping norm each (root mean
square) from one batch to another; under bfloat16, by more than a tenth. So are those (in float32) with
which rounding decides the likeliest class of two of these texts or more: tests would count by it, and
gradients do not show that. Only weights, job and model decide, never a record.

Not guaranteed: that real texts are rounded like invented ones. Weights made to tell them apart could
pass. It is a second lock: if passes have one shape (``shapes``), rounding cannot carry anything from
record to record, whatever the weights. If every text goes through the model alone and in one shape
(``training.microbatch = 1`` with ``model.padding = "max_length"``), only the largest entry is looked at.

An honest model whose weights are large can be as sensitive, by itself or after some rounds. The base
model as it is loaded is tried by the probe (``keeps_apart``), so no run begins that owners refuse; a run
that comes to such weights ends with them (``server.rounds``).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import ModelError
from ...privacy.dpsgd.optimizer import backward, example_gradients
from ...wire.arrays import Arrays
from ..features import head_reads_features
from ..model import Learner, arrays_digest
from ..network import Batch, compared
from ..tasks import Task

MOST_WEIGHT = 1e4
"""Largest magnitude of a weight that is accepted for training under privacy; real ones are below 100."""
_TOLERANCE, _TOLERANCE_BFLOAT16 = 1e-5, 0.1
"""Shares of the clipping norm."""
_LENGTHS = (11, 3, 7, 5)
_NEIGHBOUR = 29
# Of texts in a sum: so that nothing that moves from one to another cancels.
_WEIGHTS = (1.0, -0.7, 1.3, -1.1)
_LENGTH = math.hypot(*_WEIGHTS)
_TOGETHER, _APART = [[0, 1, 2, 3]], [[-1, 3, 2], [1], [0]]
"""Two arrangements of the texts in passes; -1 is a longer neighbour."""
_NEAR, _MOST_TIED = 16.0, 2
"""Margins below this many times the rounding are near; honest weights never have this many such texts."""
_MORE_NEIGHBOURS = 33
"""For a head alone, whose batches are large: another size changes the order of additions."""

_Passes = list[tuple[list[int], Batch]]
_Said = dict[int, Tensor]
"""Logits of each text, by its place."""


def keeps_apart(learner: Learner, task: Task) -> str:
    """Why owners would refuse the weights of this model as it was loaded; nothing if they would not."""
    found = ReceivedWeights(learner, task).objection(learner.initial)
    learner.network.load(learner.initial)
    learner.network.eval()
    return found


def _goes_alone(learner: Learner) -> bool:
    """Whether each text is a batch of its own, of one shape for all.

    A head on features is tested in batches of many, whatever the microbatch.
    """
    on_features = learner.network.head_alone and head_reads_features(learner)
    return learner.length is not None and learner.job.training.microbatch == 1 and not on_features


class ReceivedWeights:
    """The check of one loaded model, for every round's weights; what stays the same is kept."""

    def __init__(self, learner: Learner, task: Task) -> None:
        self._learner, self._task = learner, task
        limit = learner.longest
        lengths = [min(length, limit) for length in (*_LENGTHS, _NEIGHBOUR)]
        self._texts = learner.inputs.invented(lengths, seed=4)
        self._passes: dict[bool, tuple[_Passes, _Passes]] = {}
        self._last: tuple[tuple[str, frozenset[str]], str] | None = None

    def check(self, arrays: Arrays) -> None:
        """Raise ``ModelError`` for weights with which records would be rounded by their company.

        The weights that were looked at last are answered for at once, if the same tensors train: clients
        that live in one process get the same ones in a round.
        """
        key = self._key(arrays)
        if self._last is None or self._last[0] != key:
            self._last = key, self.objection(arrays)
        if why := self._last[1]:
            raise ModelError(
                f"The weights from the server are not accepted for training under privacy: {why}. If this "
                "run is honest, lower training.learning_rate."
            )

    def _key(self, arrays: Arrays) -> tuple[str, frozenset[str]]:
        """What the answer follows from: ``Network.load`` sets all trained tensors by these arrays."""
        trains = (n for n, p in self._learner.network.named_parameters() if p.requires_grad)
        return arrays_digest(arrays), frozenset(trains)

    def objection(self, arrays: Arrays) -> str:
        """Why no private step is taken from these weights; nothing if it is.

        All passes are made in any case, so that the time tells nothing of an entry that is an owner's own.
        """
        too_large = _too_large(arrays)
        if _goes_alone(self._learner):
            return too_large
        network = self._learner.network
        network.load(arrays)
        autocast = network.autocast
        try:
            network.autocast = False
            found = [too_large, self._compare(_TOLERANCE)]
            network.autocast = autocast
            if autocast:
                found.append(self._compare(_TOLERANCE_BFLOAT16))
        finally:
            network.autocast = autocast
            network.zero_grad(set_to_none=True)
        return next(filter(None, found), "")

    def _compare(self, tolerance: float) -> str:
        network, clip = self._learner.network, self._learner.job.privacy.clipping_norm
        together, apart = self._arrangements(network.autocast)
        module = network.trained_part("features" in together[0][1]).train()
        first, said = self._sum(module, together, clip)
        second, said_apart = self._sum(module, apart, clip)
        moved = float(torch.linalg.vector_norm(first - second)) / clip / _LENGTH
        if not moved <= tolerance:
            return (
                f"rounding moves what a text adds by {moved:.2g} of the clipping norm, depending on the "
                f"other texts in the pass, but {tolerance:g} is allowed (only with training.microbatch = 1 "
                'and model.padding = "max_length" is each text alone)'
            )
        continues = self._learner.job.kind.continues
        tied = 0 if network.autocast or continues else _tied(*map(self._real, (said, said_apart)))
        if tied < _MOST_TIED:
            return ""
        return (
            f"rounding decides what it says of {tied} of {len(_WEIGHTS)} invented texts, so one more "
            "record would change the counts of others"
        )

    def _real(self, said: _Said) -> _Said:
        """Without what is said of padding."""
        return {n: row[: len(self._texts[n])] if row.dim() > 1 else row for n, row in said.items()}

    def _arrangements(self, autocast: bool) -> tuple[_Passes, _Passes]:
        """Both, as tokens or as features, which no trained weight changes if a head alone trains."""
        if autocast not in self._passes:
            learner = self._learner
            featured = learner.network.head_alone and head_reads_features(learner)
            if featured:
                learner.network.eval()
            first, second = (
                [(places, self._batch(places, featured)) for places in arrangement]
                for arrangement in (_TOGETHER, _APART)
            )
            self._passes[autocast] = first, second
        return self._passes[autocast]

    @torch.no_grad()
    def _batch(self, places: list[int], featured: bool) -> Batch:
        learner = self._learner
        batch = learner.batch_of([self._texts[place] for place in places])
        classes = max(2, len(learner.job.data.labels or ()))
        device = learner.network.device
        labels = {"labels": torch.tensor([p % classes for p in places], device=device)}
        if featured:
            found = {"features": learner.network.features(batch), **compared(batch | labels)}
            more = _MORE_NEIGHBOURS if -1 in places else 1
            return {
                n: torch.cat([v[:1].repeat_interleave(more, 0), v[1:]]) for n, v in found.items()
            }
        return batch | labels

    def _sum(self, module: nn.Module, passes: _Passes, clip: float) -> tuple[Tensor, _Said]:
        """The weighted sum of the texts' clipped gradients, as training takes them, and their logits."""
        said: _Said = {}
        parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        gradients = example_gradients(module, parameters, strict=False)
        sizes = [p.numel() for p in parameters.values()]
        total = torch.zeros(sum(sizes), device=self._learner.network.device)
        try:
            for places, batch in passes:
                logits = gradients.module(batch)
                said |= dict(zip(places, logits.detach()[-len(places) :], strict=True))
                losses = self._task.losses(logits, batch)
                with torch.no_grad(), torch.autocast(losses.device.type, enabled=False):
                    with torch.enable_grad():
                        backward(losses, parameters)
                    norms = gradients.norms(len(losses))
                    factors = (clip / norms.clamp_min(1e-30)).clamp(max=1)
                    signs = [_WEIGHTS[p] if p >= 0 else 0.0 for p in places]
                    signs = [0.0] * (len(losses) - len(signs)) + signs
                    counted = norms.isfinite()
                    weights = (factors * torch.tensor(signs, device=norms.device)).where(counted, 0)
                    gradients.add_weighted(weights, counted, torch.split(total, sizes))
                gradients.forget()
        finally:
            gradients.forget()
            gradients.close()
            module.zero_grad(set_to_none=True)
        return total, said


def _too_large(arrays: Arrays) -> str:
    for name, array in arrays.items():
        largest = float(np.abs(array).max(initial=0.0))
        if not largest <= MOST_WEIGHT:
            return f"{name} has an entry of {largest:g}, but none may be above {MOST_WEIGHT:g}"
    return ""


def _tied(said: _Said, apart: _Said) -> int:
    """Of how many texts rounding decides the likeliest class: margins as small as what it moves logits by.

    Classes that are equal to the last bit, as before the first round, are decided by their order.
    Of a text whose places have an answer each, half of them count. Language models, and heads with a single
    output, are held to their gradients alone: what is counted of them is losses first of all.
    """
    texts = [n for n in said if n >= 0 and said[n].shape[-1] > 1]
    if not texts:
        return 0
    moved = max(float((said[place] - apart[place]).abs().max()) for place in texts)
    best = (said[place].topk(2).values for place in texts)
    margins = [float((two[..., 0] - two[..., 1]).median()) for two in best]
    return sum(margin + moved > 0 and margin <= _NEAR * moved for margin in margins)
