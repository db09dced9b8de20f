"""Trying a finished run: labels for texts, or a continuation of a prompt."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import ModelError
from ..job import Job
from .base_model import named_digest
from .continuation import Continuation
from .examples import Examples, TokensInMemory
from .export import CARD, read_card
from .loading import load_learner
from .model import Learner
from .shapes import Passes, rows_of
from .tasks import Task, task_for
from .tasks.task import FoundSpan

_log = logging.getLogger(__name__)
_CHUNK = 256
"""Number of texts that are read before the first is answered."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of a text: as its task answers (``learning.tasks.Task.answers``), or continued.

    Nothing of a text that says nothing: a blank one, or one that cannot be read.
    """

    text: str
    probabilities: dict[str, float]
    """By label, most likely first."""
    continuation: str | None = None
    """The text that a language model continued with."""
    values: dict[str, float] = field(default_factory=dict)
    """Numbers by name, of a task that answers with numbers."""
    spans: tuple[FoundSpan, ...] | None = None
    """Of a task that marks spans: those that were found, in characters of `text`, which is then cleaned."""

    @property
    def said(self) -> bool:
        """Whether there is an answer."""
        answered = bool(self.probabilities or self.values)
        return answered or self.continuation is not None or self.spans is not None


class Predictor:
    """A tuned model, loaded from the adapter folder of a run.

    Guarantee: what it says of a text is a function of that text, to the last bit; it does not depend on the
    other texts of the call.

    Assumption: as in ``shapes``, whose passes it makes; the base model may couple texts otherwise only on an
    accelerator, and the plan warns of such a model.
    """

    def __init__(self, learner: Learner, labels: list[str], at_once: int | None = None) -> None:
        """at_once: texts in a pass. Default: what suits the device."""
        self._learner = learner
        self._labels = labels
        self._at_once = at_once

    @classmethod
    def load(cls, folder: Path, device: str = "auto") -> Predictor:
        """`folder` is a run's folder or its adapter folder. Raises ``ModelError``."""
        folder = adapter_folder(folder)
        return cls(load_exported(folder, device), read_card(folder)["labels"])

    def predict(self, texts: Sequence[str], new_tokens: int = 40) -> Iterator[Prediction]:
        """One prediction a text, in order."""
        self._learner.network.eval()
        if self._learner.job.kind.continues:
            yield from (self._continue(text, new_tokens) for text in texts)
            return
        for start in range(0, len(texts), _CHUNK):
            yield from self._answer(texts[start : start + _CHUNK])

    def _answer(self, texts: Sequence[str]) -> list[Prediction]:
        rows = [self._read(text) for text in texts]
        found = [Prediction(text, {}) for text in texts]
        inputs = self._learner.inputs
        for places, outputs in self._outputs(rows):
            answers = self._task.answers(outputs, self._labels)
            for place, answer in zip(places, answers, strict=True):
                record = inputs.record(texts[place])
                told = inputs.told(record, answer, self._learner.longest)
                found[place] = Prediction(
                    texts[place] if told.text is None else told.text,
                    dict(told.probabilities),
                    values=dict(told.values),
                    spans=told.spans,
                )
        return found

    @cached_property
    def _task(self) -> Task:
        return task_for(self._learner.job, len(self._labels))

    def _read(self, text: str) -> np.ndarray:
        """The row of a text, as in training; an empty one if there is nothing in it that can be read."""
        inputs = self._learner.inputs
        record = inputs.record(text)
        if not record:
            return np.zeros(0, inputs.dtype)
        try:
            (row,) = inputs.encode([record], self._learner.longest)
        except Exception as error:  # as in training, where such a record is left out
            _log.info("a record cannot be read: %s", error)
            return np.zeros(0, inputs.dtype)
        return np.asarray(row, inputs.dtype)

    @torch.inference_mode()
    def _outputs(self, rows: list[np.ndarray]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """The outputs for some of the texts that can be read, a row for each, with their places."""
        learner, network = self._learner, self._learner.network
        full = [place for place, row in enumerate(rows) if len(row)]
        if self._rows == 1:
            for place in full:
                batch = learner.batch_of([rows[place]])
                yield [place], network(batch)
            return
        values = [rows[place] for place in full]
        unlabelled = np.zeros(len(full), np.int64)
        examples = Examples(TokensInMemory(Path(), values, unlabelled), np.arange(len(full)))
        passes = Passes(learner, examples, self._rows)
        for chunk in passes.chunks():
            yield [full[place] for place in chunk], network(passes.batch(chunk))[: len(chunk)]

    @cached_property
    def _rows(self) -> int:
        """Texts in a pass. A CPU takes one nearly as fast as its share of several."""
        if self._at_once is not None:
            return self._at_once
        return 1 if self._learner.network.device.type == "cpu" else rows_of(self._learner)

    @cached_property
    def _continuation(self) -> Continuation:
        return Continuation(self._learner)

    def _continue(self, text: str, new_tokens: int) -> Prediction:
        return Prediction(text, {}, self._continuation.of(text, new_tokens))


def adapter_folder(run: Path) -> Path:
    """The adapter's folder of a run's, or of one that is an adapter's itself. Raises ``ModelError``."""
    if not run.is_dir():
        raise ModelError(f"There is no folder {run}. Name the folder of a finished run.")
    return run / "adapter" if (run / "adapter").is_dir() else run


def load_exported(folder: Path, device: str) -> Learner:
    """The tuned model of an adapter's folder, on its base. Raises ``ModelError``."""
    card = read_card(folder)
    _check_base(card)
    learner = load_learner(_job(card, folder, device), len(card["labels"]))
    _load_weights(learner, card, folder)
    return learner


def _job(card: dict[str, Any], folder: Path, device: str) -> Job:
    model = dict(card["model"])
    if card["adapter"] == "full":
        model["base"] = str(folder)
    model["adapter"] = card["adapter"]
    model.pop("sha256", None)  # a job's, which the card names as base_sha256
    data = {"path": "-", "labels": card["labels"] or None}
    training = {"device": device, "precision": card["precision"]}
    return Job.build(
        {"task": card["task"], "model": model, "data": data, "training": training},
        source=str(folder / CARD),
    )


def _check_base(card: dict[str, Any]) -> None:
    if card["adapter"] != "full" and named_digest(card["base"]) != card["base_sha256"]:
        raise ModelError(
            f"{card['base']} on this machine is not the base model that was tuned (SHA-256 "
            f"differs from {card['base_sha256'][:12]}), so the adapter does not fit it. Install "
            "the files that it was tuned with."
        )


def load_adapter(learner: Learner, folder: Path) -> None:
    """Put the weights of an adapter folder into a learner of the same kind. Raises ``ModelError``."""
    _load_weights(learner, read_card(folder), folder)


def _load_weights(learner: Learner, card: dict[str, Any], folder: Path) -> None:
    from safetensors.torch import load_file

    network = learner.network
    if card["adapter"] != "full":
        import peft

        tensors = load_file(folder / "adapter_model.safetensors")
        peft.set_peft_model_state_dict(network.backbone, tensors)
    if network.mean_head is not None:
        network.mean_head.load_state_dict(load_file(folder / "head.safetensors"))
