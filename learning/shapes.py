"""Passes of one shape, in which a text comes to the same numbers to the last bit, whatever is beside it.

How a product is rounded follows from its shape: of eight texts it is another one than of seven, and of 24
tokens another one than of 25. With weights that a server made so, an answer or a gradient hangs on such a
last bit: a LayerNorm's outputs sum to zero, so a head of ones and minus ones reads nothing but rounding.
One record less then changed the answers that others were counted with.

Guarantee of ``Passes``: how many rows there are is fixed, and how long a row is padded follows from its own
text, so every product that a text is in has the same shape whatever else is there. What a text then comes to
is a function of itself and of its place, and ``together`` and ``train_together`` find out whether its place
matters on this machine. If it does, texts are tested one by one.

Assumptions: which operations are made, and in which order, follows from shapes and not from the numbers
in other rows. That texts are independent but for rounding is what the probe finds out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from ..privacy.dpsgd.optimizer import backward, example_gradients
from .away import away_from_start
from .batches import make_batch, microbatch
from .network import Batch
from .private_counts import PrivateTask
from .tasks import Objective, task_for

if TYPE_CHECKING:
    from .examples import Examples
    from .model import Learner

_log = logging.getLogger(__name__)

FEATURES_AT_ONCE = 256
"""Rows of a pass through a head alone."""
TEST_BATCH = 1024
"""Examples with features in one pass of a test whose passes are not of one shape."""
_SHORTEST, _LEAST = 16, 4
_KNOWN: WeakKeyDictionary[nn.Module, dict[tuple[str, int, frozenset[str]], bool]] = (
    WeakKeyDictionary()
)
"""By network, purpose and number of threads: whether rows may share a pass."""
_WIDTHS: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


class Passes:
    """How some examples go through a network, `rows` at a time."""

    def __init__(self, learner: Learner, examples: Examples, rows: int) -> None:
        self._learner, self._examples, self._rows = learner, examples, rows
        self._padded = np.zeros(len(examples), np.int64)
        if examples.features is None:
            lengths = np.asarray(padded_lengths(learner))
            place = np.searchsorted(lengths, examples.lengths).clip(max=len(lengths) - 1)
            self._padded = np.maximum(lengths[place], examples.lengths)

    def chunks(
        self, indices: np.ndarray | None = None, *, alone: bool = False
    ) -> Iterator[np.ndarray]:
        """The examples at these `indices`, or all, in parts that go through together; each by itself if
        `alone`, which changes nothing of what it comes to."""
        if indices is None:
            indices = np.arange(len(self._padded))
        size, padded = 1 if alone else self._rows, self._padded[indices]
        for length in np.unique(padded):
            alike = indices[padded == length]
            for start in range(0, len(alike), size):
                yield alike[start : start + size]

    def batch(self, chunk: np.ndarray) -> Batch:
        """A batch of exactly `rows` rows: the chunk, and then its first text again and again."""
        whole = np.concatenate([chunk, np.repeat(chunk[:1], self._rows - len(chunk))])
        learner, length = self._learner, int(self._padded[chunk[0]])
        return make_batch(self._examples, whole, learner.inputs, learner.network.device, length)

    def counted(self, chunk: np.ndarray) -> Batch:
        """The same, with weights: rows that only fill it weigh 0."""
        return weighed(self.batch(chunk), len(chunk))


def weighed(batch: Batch, real: int | None = None) -> Batch:
    """A batch with weights, of which rows behind the first `real` ones weigh 0."""
    weights = batch.get("weights", torch.ones_like(batch["labels"]))
    places = torch.arange(len(weights), device=weights.device)
    kept = places < (len(weights) if real is None else real)
    return {**batch, "weights": torch.where(kept, weights, torch.zeros_like(weights))}


def rows_of(learner: Learner, *, on_features: bool = False) -> int:
    """Rows of a pass without gradients: as many as in training, or one if places matter."""
    if not together(learner):
        return 1
    return FEATURES_AT_ONCE if on_features else _rows(learner)


def rows_to_train(learner: Learner, *, on_features: bool) -> int:
    """Rows of a pass with gradients; 0 if places matter, so that passes are made as they fall."""
    if not (together(learner) and (on_features or train_together(learner))):
        return 0
    return FEATURES_AT_ONCE if on_features else _rows(learner)


def rows_that_fill(learner: Learner) -> int:
    """As how many texts of the greatest length the rows that only fill passes count, at most, in time."""
    most = _rows(learner) - 1  # of each length
    return -(-sum(padded_lengths(learner)) * most // learner.longest)


def lengths_up_to(longest: int) -> list[int]:
    """The lengths that texts are padded to: each half as long again as the one before."""
    found = [_SHORTEST]
    while found[-1] < longest:
        found.append((found[-1] * 3 // 2 + 7) // 8 * 8)
    return [*found[:-1], longest]


def failing_costs(learner: Learner) -> int:
    """As how many texts a pass counts that fails, and is taken again text by text."""
    rows = rows_of(learner)
    return rows * (1 + rows)


def padded_lengths(learner: Learner) -> list[int]:
    """The lengths that this model's texts are padded to in such passes."""
    longest = learner.longest
    return [longest] if learner.length is not None else lengths_up_to(longest)


def feature_width(learner: Learner) -> int:
    """How many numbers a head reads of a text: looked at once."""
    if learner.network not in _WIDTHS:
        _WIDTHS[learner.network] = _feature_width(learner)
    return _WIDTHS[learner.network]


@torch.inference_mode()
def _feature_width(learner: Learner) -> int:
    (text,) = learner.inputs.invented([learner.longest])
    return int(learner.network.features(learner.batch_of([text])).flatten(1).shape[1])


class Shape(NamedTuple):
    """What passes look like."""

    rows: int
    """At most, or exactly."""
    fixed: bool
    """Whether each has this many rows, and one of the lengths that ``Passes`` pad to; else both vary."""

    def lengths(self, learner: Learner) -> list[int]:
        """Lengths from the shortest to the longest, between which lie all others."""
        found = padded_lengths(learner)
        return found if self.fixed or learner.length is not None else [_LEAST, *found]


def shape_of_steps(learner: Learner, *, on_features: bool) -> Shape:
    """Of this job's passes with gradients."""
    rows = rows_to_train(learner, on_features=on_features) if learner.job.noised_locally else 0
    if rows:
        return Shape(rows, fixed=True)
    if on_features:
        return Shape(learner.job.training.microbatch or FEATURES_AT_ONCE, fixed=False)
    return Shape(_rows(learner), fixed=False)


def shape_of_tests(learner: Learner, task: Objective, *, on_features: bool) -> Shape:
    """Of this job's passes of a test, counted by `task`."""
    if isinstance(task, PrivateTask) and learner.job.noised_locally:
        return Shape(rows_of(learner, on_features=on_features), fixed=True)
    return Shape(TEST_BATCH if on_features else _rows(learner), fixed=False)


def together(learner: Learner) -> bool:
    """Whether a text comes to the same bits at every place of a pass, and beside other texts.

    Tried once a process, on invented texts and with weights of our own: those of a server could hide it.
    Leaves the trained tensors as they are.
    """
    return _known(learner, "test", _outputs)


def train_together(learner: Learner) -> bool:
    """The same of the length of its gradient."""
    return _known(learner, "train", _norms)


def _rows(learner: Learner) -> int:
    return microbatch(learner.job.training, learner.network.device)


_Told = Callable[["Learner", list[np.ndarray], int], Tensor]
"""The outputs of some texts, padded to a length: a row for each."""


def _known(learner: Learner, what: str, told: _Told) -> bool:
    known = _KNOWN.setdefault(learner.network, {})
    # What rests in a step adds nothing to the length of its gradient.
    parameters = learner.network.named_parameters() if what == "train" else ()
    active = frozenset(name for name, parameter in parameters if parameter.requires_grad)
    key = (what, torch.get_num_threads(), active)
    if key not in known:
        with away_from_start(learner, seed=21):
            try:
                known[key] = _tried(learner, told)
            except Exception as error:  # a lack of memory, for one
                _log.warning("whether texts may share a pass could not be tested: %s", error)
                known[key] = False
    return known[key]


def _tried(learner: Learner, told: _Told) -> bool:
    lengths = padded_lengths(learner)
    if not all(_alike(learner, told, length) for length in {lengths[0], lengths[-1]}):
        return False
    return told is not _outputs or not learner.network.head_alone or _head_alike(learner)


def _alike(learner: Learner, told: _Told, length: int) -> bool:
    """Of two texts among others: first and last in one pass, moved and beside others in the next."""
    size = _rows(learner)
    if size == 1:
        return True
    lengths = [max(3, length - n % 3) for n in range(2 * size)]
    texts = [text[:length] for text in learner.inputs.invented(lengths, seed=5)]
    first = told(learner, texts[:size], length)
    second = told(learner, [texts[size - 1], *texts[size : 2 * size - 2], texts[0]], length)
    return torch.equal(first[0], second[-1]) and torch.equal(first[-1], second[0])


def _batch(learner: Learner, texts: list[np.ndarray], length: int) -> Batch:
    return learner.inputs.collate(texts, learner.network.device, length)


@torch.inference_mode()
def _outputs(learner: Learner, texts: list[np.ndarray], length: int) -> Tensor:
    network, batch = learner.network.eval(), _batch(learner, texts, length)
    outputs = [network(batch).flatten(1)]
    if network.mean_head is not None or network.head_alone:
        outputs.append(network.features(batch).flatten(1))
    return torch.cat(outputs, dim=1)


def _norms(learner: Learner, texts: list[np.ndarray], length: int) -> Tensor:
    network = learner.network.train()
    classes = len(learner.job.data.labels or ())
    # The first and the last label are told apart by text, not by place.
    labels = [int(text[len(text) // 2]) % max(2, classes) for text in texts]
    batch = _batch(learner, texts, length) | {"labels": torch.tensor(labels, device=network.device)}
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    gradients = example_gradients(network, parameters, strict=False)
    try:
        losses = task_for(learner.job, classes).losses(gradients.module(batch), batch)
        with torch.autocast(losses.device.type, enabled=False):
            backward(losses, parameters)
            with torch.no_grad():
                return gradients.norms(len(losses)).detach()[:, None]
    finally:
        gradients.forget()
        gradients.close()
        network.zero_grad(set_to_none=True)


@torch.inference_mode()
def _head_alike(learner: Learner) -> bool:
    """The same of a head that reads features."""
    network, generator = learner.network.eval(), np.random.default_rng(22)
    drawn = generator.normal(0, 1, (2 * FEATURES_AT_ONCE, feature_width(learner)))
    drawn = drawn.astype(np.float32)
    rows = torch.from_numpy(drawn).to(network.device)
    first = network({"features": rows[:FEATURES_AT_ONCE]})
    ends = rows[FEATURES_AT_ONCE - 1 : FEATURES_AT_ONCE], rows[:1]
    second = network({"features": torch.cat([ends[0], rows[FEATURES_AT_ONCE:-2], ends[1]])})
    return torch.equal(first[0], second[-1]) and torch.equal(first[-1], second[0])
