"""Jobs whose first rounds measure the centre of the features (``learning.centring``): which there are."""

from __future__ import annotations

from collections.abc import Iterator

from ..job import Job


def centring_refusals(job: Job) -> Iterator[str]:
    """Why a job's head has no steps around a centre; nothing if it asks for none."""
    training = job.training
    if not training.centre_rounds:
        return
    said = f"training.centre_rounds = {training.centre_rounds}"
    if not (job.adapter == "head" and job.pooled and job.kind.softmax):
        yield (
            f'{said} is for a linear head on pooled features (model.adapter = "head", model.pooling = "mean" '
            'or "layers") of a task that sorts records into classes: remove it'
        )
    if training.optimizer != "sgd":
        yield f'{said} needs training.optimizer = "sgd": others scale each weight by its own past'
    if job.strategy.name != "fedavg":
        yield f'{said} needs strategy.name = "fedavg": another strategy would move the centre'
    if job.privacy.unit not in ("example", "none"):
        yield f'{said} is not used with privacy.unit = "{job.privacy.unit}": remove it'
    if training.centre_rounds >= training.rounds:
        yield f"{said} leaves none of training.rounds = {training.rounds} to learn the task in"


def centring_warnings(job: Job) -> list[str]:
    """What the first rounds of such a job are."""
    rounds = job.training.centre_rounds
    if not rounds:
        return []
    which = "The first round measures" if rounds == 1 else f"The first {rounds} rounds measure"
    return [
        f"{which} where features lie (training.centre_rounds). Until then nothing of the task is learned, "
        "and a test is as good as a guess."
    ]
