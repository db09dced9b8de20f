"""A probe of the model that is really loaded: do its texts leave each other alone, and can it train?

Per-record privacy rests on one thing that no accountant sees: that a record's gradient does not depend
on the other records of its batch. Architectures break it in many ways (padding without a mask, time as
the first axis, state between calls), so the very network that will train is tried out, on its device, in
its precision, with the gradients taken as in training, before anything is charged.

The texts are invented, so a verdict tells nothing of any record. Trained tensors are moved away from
their start while the probe lasts: there heads and adapters are zero, every gradient is zero, and every
network would pass. A gradient of zero makes a probe fail as inconclusive.

Checks, each text by text: (1) outputs and gradients of a text alone, padded longer, moved in the batch,
beside other neighbours and in another microbatch agree; (2) gradients of single examples equal those of
one text at a time, taken by plain autograd; (3) in a language model a later token changes no earlier
logit; (4) a forward and a backward pass works at ``max_length`` x microbatch; (5) the same call twice in
training mode gives the same numbers and changes no buffer; (6) a text beside, and after, one of
``max_length`` is what it was before; (7) on a quantised base a test costs no trained tensor its gradient.
And the weights are those that owners take steps from (``received``).

Tolerances, as shares of the norm of the single text's output or gradient: 2e-4 in float32, where rounding
was measured to make 3e-6 and real leaks 6e-4 and more; 0.1 under bfloat16, whose rounding depends on the
shape of a batch. So the probe runs in float32 first, even if training does not: what couples texts in
float32 couples them in bfloat16. A coupling below the tolerance is not seen.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import torch

from ... import __version__
from ...errors import ModelError
from ...job import Job
from ...storage.cache import cache_folder, write_once
from ..away import away_from_start
from ..base_model import base_folder, checked, named_digest
from ..device import choose_device, use_bfloat16
from ..loading import load_learner
from ..model import Learner, ModelShape
from ..quantization import quantized_by
from ..shaping import PLAIN, Shaping
from ..tasks import Task, task_for
from .independence import CannotRun, Coupled, Independence
from .received import keeps_apart
from .verdict import INDEPENDENT, Verdict

_LIBRARIES = ("torch", "transformers", "peft", "opacus", "tokenizers")


def probed(learner: Learner) -> Learner:
    """The learner with the verdict of a probe, made now or found in the cache.

    Raises ``ModelError`` for a model that cannot run as the job says, whatever its padding.
    """
    job = learner.job
    known = shape_known(job, learner.shaping)
    verdict = known.verdict if known else _found_unpadded(job, learner.shaping)
    if verdict is None:
        task = task_for(job, len(job.data.labels or ()))
        verdict = _with_room(learner, task, probe(learner, task))
    learner = replace(learner, verdict=verdict)
    if known is None:
        _remember(job, learner.shaping, learner.shape())
    return learner


def shape_known(job: Job, shaping: Shaping = PLAIN) -> ModelShape | None:
    """What loading and probing the job's model here would say, if it did so before; None if not.

    That is filed under the digest of the model's files, the job's settings and the versions of all that
    loads it, so a plan need not load it again.
    """
    try:
        digest = checked(job)
        found = json.loads(_place(job, shaping).read_text(encoding="utf-8"))
        return ModelShape(
            {name: tuple(shape) for name, shape in found["trained"].items()},
            found["total_parameters"],
            digest,
            str(base_folder(job.model.base)),
            Verdict(**found["verdict"]),
            found["fixed_digest"],
            {name: tuple(shape) for name, shape in found["personal"].items()},
        )
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return None


def fitted(job: Job, shaping: Shaping = PLAIN) -> Job:
    """The job, padded as its base model needs it; loads and probes the model unless it is known."""
    known = shape_known(job, shaping)
    verdict = known.verdict if known else None
    if verdict is None:
        verdict = probed(load_learner(job, len(job.data.labels or ()), shaping)).verdict
    return job.padded() if verdict and verdict.padding == "max_length" else job


def probe(learner: Learner, task: Task) -> Verdict:
    """Try out the network as it will train, test and predict; leave it as it was loaded."""
    with away_from_start(learner, seed=20):
        if learner.length is None:
            try:
                _check(learner, task)
                return INDEPENDENT
            except Coupled as error:
                reason = str(error)
            except CannotRun:
                # Some cannot read a short text alone.
                reason = "it fails on a short text"
        else:
            reason = ""
        try:
            _check(replace(learner, job=learner.job.padded()), task)
        except Coupled as error:
            return Verdict(None, str(error))
        except CannotRun:
            _check_length(learner, task)
            raise
        return Verdict("max_length", reason)


def _with_room(learner: Learner, task: Task, verdict: Verdict) -> Verdict:
    """The verdict, or why no owner would begin with these weights: rounding tells texts' company."""
    if not learner.job.noised_locally or verdict.padding is None:
        return verdict
    if verdict.padding == "max_length":
        learner = replace(learner, job=learner.job.padded())
    reason = keeps_apart(learner, task)
    return Verdict(None, reason) if reason else verdict


def _check_length(learner: Learner, task: Task) -> None:
    """Say how long a text may be, if length alone is what a model cannot do."""
    asked = learner.longest
    longest = Independence(learner, task).longest_that_runs()
    if 4 <= longest < asked:
        raise ModelError(
            f"model.max_length = {asked}: {learner.job.model.base} has room for {longest} tokens in a "
            f"text. Set model.max_length to {longest} or less."
        )


def _check(learner: Learner, task: Task) -> None:
    """Raise ``Coupled`` unless texts are independent in float32 and in the precision of the job."""
    network, autocast = learner.network, learner.network.autocast
    try:
        if autocast:
            network.autocast = False
            Independence(learner, task, fewer=True).run()
        network.autocast = autocast
        Independence(learner, task).run()
    finally:
        network.autocast = autocast


def _found_unpadded(job: Job, shaping: Shaping) -> Verdict | None:
    """What a probe found that began with natural padding and ended with that of `job`."""
    if job.model.padding == "longest":
        return None
    model = job.model.model_copy(update={"padding": "longest"})
    known = shape_known(job.model_copy(update={"model": model}), shaping)
    verdict = known.verdict if known else None
    return verdict if verdict and verdict.padding == "max_length" else None


def _remember(job: Job, shaping: Shaping, shape: ModelShape) -> None:
    text = json.dumps(asdict(shape))
    write_once(_place(job, shaping), lambda made: made.write_text(text, encoding="utf-8"))


def _place(job: Job, shaping: Shaping) -> Path:
    """A verdict is filed under all that it can depend on: model, settings, device and versions."""
    device = choose_device(job.training.device)
    training = job.training
    parts = [
        named_digest(job.model.base),
        job.task,
        job.adapter,
        job.privacy.unit,
        job.model.model_dump_json(exclude={"sha256"}),
        str(len(job.data.labels or ())),
        f"{training.microbatch} {training.gradient_checkpointing} {job.privacy.clipping_norm}",
        f"{device.type} {torch.cuda.get_device_name(device) if device.type == 'cuda' else ''}",
        str(use_bfloat16(training.precision, device)),
        shaping.key,
        # Fixed tensors of an adapter are drawn by the seed, and their digest is remembered.
        str(job.seed if shaping.key else ""),
        *(f"{name} {version(name)}" for name in _LIBRARIES),
        quantized_by(job.model.quantization),
        f"umbel {__version__} {_own_code()}",
    ]
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:40]
    return cache_folder("probes") / f"{name}.json"


@lru_cache(maxsize=1)
def _own_code() -> str:
    """SHA-256 of what loads, probes and takes gradients: another build asks again."""
    digest = hashlib.sha256()
    for file in _own_files():
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _own_files() -> list[Path]:
    root = Path(__file__).resolve().parent.parent.parent
    rooms = ("learning", "privacy", "strategies")
    return sorted(file for room in rooms for file in (root / room).rglob("*.py"))
