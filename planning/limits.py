"""What binds every member of a secure sum, and how far an entry of an update goes by a job's own numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

from ..job import EncryptionSpec, Job, TrainingSpec
from ..job.centre import farther
from ..job.rate import learning_rate
from ..privacy.accounting.accountant import MOST_NOISE
from ..privacy.secagg.roster import MOST_CLIP, Limits
from .noise import private_recipe

_BETA_1, _BETA_2 = 0.9, 0.999
"""Of Adam, as torch has them."""
_UNEVEN = 4.0
"""The largest entry of a gradient over the root mean square of all entries: at most this in practice."""
_DEVIATIONS = 8.0
_UNCLIPPED = 8.0
"""L2 norm of a gradient that is not clipped: at most this in practice."""
_HEAVIEST = 32.0
"""The largest weight that decay acts on, in practice."""


def secure_limits(spec: EncryptionSpec) -> Limits:
    """What the roster of a consortium that runs such jobs binds every member to.

    The clip there is an upper bound on that of jobs: a member that does not keep to the rules can take a
    mean so far, and no farther. A job that leaves its clip to the plan gets the largest bound.
    """
    minimum = max(spec.minimum, spec.group_size or 0)
    clip = MOST_CLIP if spec.clip is None else spec.clip
    return Limits(minimum, spec.colluders, clip, confirm=spec.confirm)


def keeps_to(spec: EncryptionSpec, limits: Limits) -> bool:
    """Whether a job's encryption is what a roster says, with a clip of its own within the roster's."""
    asked = secure_limits(spec)
    asked = replace(asked, clip=limits.clip, owners=limits.owners)
    return asked == limits and (spec.clip or 0.0) <= limits.clip


def clip_said(job: Job, clip: float) -> str:
    """The clip by its key if the job sets it, else by what it follows from."""
    if job.encryption.clip is not None:
        return f"encryption.clip = {clip:g}"
    origin = "privacy.clipping_norm" if job.per_client else "training.learning_rate and steps"
    return f"a clip of {clip:g} (encryption.clip is not set, so it follows from {origin})"


def expected_update(job: Job, parameters: int) -> float:
    """How far one round's steps may move any one weight.

    AdamW: each step's entry is at most the learning rate times a bound that follows from the weights
    of the two running means (``_adam_reach``), whatever the gradients are, noise or not: proven, but for
    weight decay. SGD: the mean gradient has an L2 norm of about the clipping norm C at most, and its
    entries are no more than 4 times as large as their root mean square C / sqrt(d), and never beyond C;
    noise of the largest multiplier that any data set needs adds 8 deviations. Without a norm that
    clips, 8 stands for it. Around a centre it is ``farther``; a round that measures one moves what carries
    it by ``_measured``, whatever the learning rate.
    """
    spec = job.training
    rates = _largest_round(spec)
    total = math.fsum(rates)
    decay = total * spec.weight_decay * _HEAVIEST
    if spec.optimizer == "adamw":
        reach = math.fsum(r * _adam_reach(i) for i, r in enumerate(rates, start=1))
        return reach + decay
    norm = job.privacy.clipping_norm if job.noised_locally else spec.gradient_clipping or _UNCLIPPED
    step = min(norm, _UNEVEN * norm / math.sqrt(max(1, parameters)))
    noise = math.sqrt(math.fsum(r * r for r in rates)) * _DEVIATIONS * _noise_of_a_step(job)
    reach = (total * step + noise + decay) / (1 - spec.momentum) * farther(job)
    return max(reach, _measured(job)) if spec.centre_rounds else reach


def _measured(job: Job) -> float:
    """How far one round moves any entry that carries the centre of features.

    All rounds that measure come to 1 in the biases and to a mean of features, each ``model.feature_scale``
    long, in the weights, one round to its share of the learning rates: ``learning.centring.Measuring``
    divides by their sum and by a = C / sqrt(K (length^2 + 1)); so it does the noise, a mean over K classes.
    """
    spec, length = job.training, job.model.feature_scale
    steps = spec.local_steps
    measuring = min(spec.centre_rounds, spec.rounds)
    rounds = [_rates(spec, first) for first in range(0, measuring * steps, steps)]
    whole = math.fsum(map(math.fsum, rounds))
    noise = 0.0
    if job.noised_locally:
        deviation = _noise_of_a_step(job) / job.privacy.clipping_norm
        noise = _DEVIATIONS * deviation * math.hypot(length, 1)
    return max(
        (math.fsum(rates) * max(1.0, length) + math.hypot(*rates) * noise) / whole
        for rates in rounds
    )


def _noise_of_a_step(job: Job) -> float:
    """Deviation of the noise in each entry of a mean gradient, at most: of data that are drawn whole."""
    if not job.noised_locally:
        return 0.0
    size = job.training.batch_size
    sigma = private_recipe(job, size, job.training.rounds).noise_multiplier
    return min(sigma, MOST_NOISE) * job.privacy.clipping_norm / size


@lru_cache(maxsize=64)
def _largest_round(spec: TrainingSpec) -> tuple[float, ...]:
    """The learning rates of the round that moves weights farthest."""
    steps = spec.local_steps
    if spec.schedule == "constant" and not spec.warmup:
        return _rates(spec, 0)
    rounds = (_rates(spec, first) for first in range(0, spec.rounds * steps, steps))
    return max(rounds, key=math.fsum)


def _rates(spec: TrainingSpec, first: int) -> tuple[float, ...]:
    """The learning rates of the round that begins with this step."""
    steps = range(first, first + spec.local_steps)
    return tuple(learning_rate(step, spec.rounds * spec.local_steps, spec) for step in steps)


def _adam_reach(step: int) -> float:
    """The largest |m| / sqrt(v) of Adam's corrected means at its step 1, 2, ...: 1, then about 1.

    With gradients g_j of age j the ratio is sum(a_j g_j) / sqrt(sum(b_j g_j^2)), where a_j and b_j are the
    weights of the two means; by Cauchy and Schwarz it is at most sqrt(sum(a_j^2 / b_j)), a geometric
    sum. Grows to 7.3 in the limit (Kingma and Ba 2015, section 2.1, say (1 - beta_1) / sqrt(1 - beta_2)
    for a single gradient).
    """
    ratio = _BETA_1**2 / _BETA_2
    ages = (1 - ratio**step) / (1 - ratio)
    first = (1 - _BETA_1) / (1 - _BETA_1**step)
    second = (1 - _BETA_2) / (1 - _BETA_2**step)
    return first * math.sqrt(ages / second)
