"""A base model that is a classifier already: its answers are put in the order of the job's labels.

A head says numbers, and its configuration names them. If the job names the same labels in another order, the
first number would be taken for another label: a good classifier would begin with every answer wrong.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import ModelError
from ..job import Job
from .network import own_head
from .reading.names import label_name


def is_classifier(config: Any) -> bool:
    """Whether the folder of a model holds a head of its own for classes, by its configuration."""
    names = config.architectures or ()
    return any(name.endswith("ForSequenceClassification") for name in names)


def order_labels(job: Job, model: nn.Module, config: Any) -> None:
    """Put the outputs of a classifier's head in the job's order, if both name the same labels.

    Names are compared without case. A head for labels of other names stays as it is. config: of the model's
    folder. Raises ``ModelError`` for a head whose last part is no linear layer.
    """
    labels = [_folded(label) for label in job.data.labels or ()]
    held = [_folded(name) for _, name in sorted(config.id2label.items())]
    if not is_classifier(config) or held == labels or sorted(held) != sorted(labels):
        return
    if len(set(labels)) < len(labels):
        return
    last = _last_linear(getattr(model, own_head(model)), len(labels))
    if last is None:
        names = [str(name) for _, name in sorted(config.id2label.items())]
        raise ModelError(
            f"{job.model.base} knows the job's labels in another order, and its head cannot be put in the "
            f'job\'s. Set data.labels = {names}, or model.pooling = "mean".'
        )
    places = torch.tensor([held.index(label) for label in labels])
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.copy_(parameter[places])


def _folded(name: Any) -> str:
    return label_name(str(name)).casefold()


def _last_linear(head: nn.Module, outputs: int) -> nn.Linear | None:
    found = [part for part in head.modules() if isinstance(part, nn.Linear)]
    return found[-1] if found and found[-1].out_features == outputs else None
