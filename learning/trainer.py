"""Local training and testing: from the global model to an update, on one client's examples.

``train`` takes the job's local steps, with or without example-level privacy, and returns how far
the trained tensors moved. It keeps nothing between rounds: the same inputs give the same update,
whichever process computes it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import ModelError
from ..job import TrainingSpec
from ..job.rate import learning_rate
from ..wire.arrays import Arrays
from .batches import microbatch
from .centring import view_of
from .examples import Examples
from .failures import NOBODY, Touch, left_out_if_it_fails, one_by_one
from .filling import NOTHING, Filling
from .local_half import LocalHalf
from .metrics import Counts
from .model import Learner
from .network import Batch, Network
from .resting import active_parameters, training_only
from .shapes import Passes, rows_to_train, shape_of_tests, weighed
from .steps import DIVERGED, LOWER, PlainRule, PrivateRule, PrivateSteps, Shuffled, seed_of
from .tasks.task import Objective

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepRange:
    """Which of the job's optimizer steps are taken now; the schedule spans all rounds."""

    first: int
    count: int
    total: int


@dataclass(frozen=True)
class Outcome:
    """An update, float32 arrays (local minus global), and the mean training loss."""

    update: Arrays
    loss: float
    diverged: bool = False
    """Whether zeros replace an update that is not finite. Under privacy only noised steps decide that."""
    finished: Arrays = field(default_factory=dict)
    """Of a round with a second sum: the update before the local half made of it what leaves."""


def train(
    learner: Learner,
    task: Objective,
    arrays: Arrays,
    examples: Examples,
    steps: StepRange,
    *,
    seed: int,
    who: str,
    private: PrivateSteps | None = None,
    local: LocalHalf | None = None,
    names: Collection[str] | None = None,
    touch: Touch | None = None,
    filling: Filling = NOTHING,
) -> Outcome:
    """Start from `arrays`, take the steps on `examples`, return the difference.

    names: of the tensors that are trained; the others rest, and are not in the update. Default: all.

    Guarantee under `private`: no record decides whether there is an answer. A record that cannot be
    learned from counts as zero (``PrivateRule``). Weights that are no longer finite follow from
    noised steps alone, so the update of zeros that then stands for the answer, and the end of the
    steps, are post-processing. Under client-level privacy zeros stand for it, too, and nobody is told;
    without privacy it raises ``ModelError``.

    touch: told of each record before it is used, one at a time: for a process that may die of it.
    filling: told of each batch, and then of how to spend work that nothing is kept of.

    `seed` and `who` fix the order of batches and dropout if there is no privacy; private steps
    draw their batches and noise from the secret stream. `local` is the strategy's half of the work here;
    it sees what steps came to after their noise, so it costs no privacy.
    """
    if private is not None:
        learner.check_independent()
    with training_only(learner.network, names):
        return _train(
            learner,
            task,
            arrays,
            examples,
            steps,
            seed=seed,
            who=who,
            private=private,
            local=local,
            touch=touch,
            filling=filling,
        )


def _train(
    learner: Learner,
    task: Objective,
    arrays: Arrays,
    examples: Examples,
    steps: StepRange,
    *,
    seed: int,
    who: str,
    private: PrivateSteps | None,
    local: LocalHalf | None,
    touch: Touch | None,
    filling: Filling,
) -> Outcome:
    """``train``, of what has gradients."""
    spec = learner.job.training
    network = learner.network
    planned = steps.count
    if private is None and len(examples) == 0:
        steps = replace(steps, count=0)
    on_features = examples.features is not None
    rows = rows_to_train(learner, on_features=on_features) if private is not None else 0
    passes = Passes(learner, examples, rows) if rows else None
    view = view_of(learner.job, network, arrays, steps.first)
    view.load(network, arrays)
    module = network.trained_part(on_features)
    # Walking through all modules costs as much as a small step, so only if it changes something.
    if on_features or not module.training:
        module.train()
    device = network.device
    _seed_generators(device, seed_of(seed, who, steps.first))
    active = active_parameters(network)
    names, parameters = [name for name, _ in active], [p for _, p in active]
    start = [p.detach().clone() for p in parameters]
    optimizer = _optimizer(spec, parameters)
    correction = None
    if local is not None:
        correction = _corrected(local, names, start, optimizer)
    rule: PrivateRule | PlainRule
    if private is None:
        rule = PlainRule(module, optimizer, spec, Shuffled(max(1, len(examples)), spec, seed, who))
    else:
        rule = PrivateRule(module, optimizer, private, examples)

    def losses_of(chunk: np.ndarray) -> Tensor:
        if touch is not None:
            touch(int(examples.rows[chunk[0]]))
        batch = passes.batch(chunk) if passes else learner.batch(examples, chunk)
        filling.passed(batch)
        return losses_from(batch)

    def losses_from(batch: Batch) -> Tensor:
        return view.losses(rule.module, task, batch)

    total_loss, seen, diverged = 0.0, 0, False
    with contextlib.closing(rule):
        for step in range(steps.first, steps.first + steps.count):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps.total, spec)
            with training_only(network, local.trains(step, names) if local else None):
                indices = rule.draw(step)
                if passes:
                    chunks = list(passes.chunks(indices, alone=touch is not None))
                else:
                    chunks = list(_chunks(indices, examples, spec, device, alone=touch is not None))
                total_loss += rule.add(chunks, losses_of)
                if touch is not None:
                    touch(NOBODY)
                seen += len(indices)
                if not rule.step():
                    diverged = True
                    break
            filling.stepped()
        update = view.update(
            {
                name: (p.detach() - before).float().cpu().numpy()
                for (name, p), before in zip(active, start, strict=True)
            }
        )
        if correction is not None:
            correction.remove()
        if filling is not NOTHING and isinstance(rule, PlainRule) and len(examples) == 0:
            for _ in range(planned - filling.steps):
                rule.spend_step()
        filling.fill(lambda make: rule.spend(lambda: losses_from(make())))
    if not diverged and all(np.isfinite(array).all() for array in update.values()):
        return Outcome(update, total_loss / max(1, seen))
    if private is None and not learner.job.per_client:
        raise ModelError(f"Training diverged at {who} (a weight became NaN or infinite). {LOWER}")
    if not diverged:
        _log.error("%s", DIVERGED)
    # Only noised steps may say so: without them it may be one record's affair.
    return Outcome(_zeros(network), 0.0, diverged=private is not None)


@torch.no_grad()
def test(
    learner: Learner,
    task: Objective,
    arrays: Arrays,
    examples: Examples,
    *,
    forgiving: bool = False,  # noqa: PT028
    touch: Touch | None = None,  # noqa: PT028
    filling: Filling = NOTHING,  # noqa: PT028
) -> Counts:
    """Counts of the model `arrays` on `examples`; batches group examples of like length.

    Guarantee for private counts that each owner noises: what a record is counted as depends on itself
    alone, to the last bit, whatever the weights (``shapes``).

    If `forgiving`, a record that the model cannot read counts nothing: what stands beside it in a
    batch that fails is counted one by one, as it would have been without it but for rounding.
    touch, filling: as in ``train``.
    """
    network = learner.network
    counts = task.zero()
    if forgiving and examples.features is not None:
        examples = examples.take(np.flatnonzero(np.isfinite(examples.features).all(axis=1)))
    on_features = examples.features is not None
    size, fixed = shape_of_tests(learner, task, on_features=on_features)
    passes = Passes(learner, examples, size) if fixed else None
    network.load(arrays)
    network.eval()

    def counts_of(batch: Batch) -> Counts:
        return task.counts(network(batch), batch)

    def counted(chunk: np.ndarray) -> Counts:
        if touch is not None:
            touch(int(examples.rows[chunk[0]]))
        batch = passes.counted(chunk) if passes else learner.batch(examples, chunk)
        filling.passed(batch)
        return counts_of(batch)

    alone = touch is not None
    chunks = passes.chunks(alone=alone) if passes else _by_length(examples, 1 if alone else size)
    try:
        for chunk in chunks:
            try:
                counts = counts + counted(chunk)
            except Exception as error:
                if not forgiving:
                    raise
                for one in one_by_one(chunk, error):
                    with left_out_if_it_fails():
                        counts = counts + counted(one)
    finally:
        if touch is not None:
            touch(NOBODY)
        filling.fill(lambda make: task.zero() + counts_of(weighed(make()) if passes else make()))
    return counts


def _by_length(examples: Examples, size: int) -> Iterator[np.ndarray]:
    order = np.argsort(examples.lengths, kind="stable")
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _zeros(network: Network) -> Arrays:
    return {n: np.zeros(p.shape, np.float32) for n, p in active_parameters(network)}


def _seed_generators(device: torch.device, seed: int) -> None:
    """Seed what dropout draws from."""
    if device.type == "cpu":
        # torch.manual_seed formats a stack trace for every kind of device that is not there.
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _optimizer(spec: TrainingSpec, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """A fresh optimizer: its state never leaves the owner and never outlives a round."""
    rate = spec.learning_rate or 0.0  # set again before every step
    if spec.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, rate, momentum=spec.momentum, weight_decay=spec.weight_decay
        )
    return torch.optim.AdamW(parameters, rate, weight_decay=spec.weight_decay)


def _corrected(
    local: LocalHalf, names: list[str], start: list[Tensor], optimizer: torch.optim.Optimizer
) -> RemovableHandle:
    """Have the strategy's local half change each step's gradients, after their noise was added."""

    def correct(optimizer: torch.optim.Optimizer, *_: object) -> None:
        parameters = optimizer.param_groups[0]["params"]
        for name, parameter, origin in zip(names, parameters, start, strict=True):
            if parameter.grad is not None:  # it may rest in this step
                local.correct(name, parameter.grad, parameter.detach(), origin)

    return optimizer.register_step_pre_hook(correct)


def _chunks(
    indices: np.ndarray,
    examples: Examples,
    spec: TrainingSpec,
    device: torch.device,
    *,
    alone: bool,
) -> Iterator[np.ndarray]:
    """The batch in microbatches of like length: a third of the tokens would be padding otherwise."""
    if examples.features is not None:
        size = max(1, spec.microbatch or len(indices))
    else:
        size = microbatch(spec, device)
        indices = indices[np.argsort(examples.lengths[indices], kind="stable")]
    if alone:
        size = 1
    for start in range(0, len(indices), size):
        yield indices[start : start + size]
