"""Trying a finished run: labels for texts, or a continuation of a prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import ModelError
from ..job import Job
from .base_model import named_digest
from .examples import beginning
from .export import CARD
from .loading import load_learner
from .model import Learner
from .names import clean_text

_BATCH = 32
_PENALTY = 1.2
"""On tokens that were said before (Keskar et al. 2019, section 4.1), for small models repeat themselves."""


@dataclass(frozen=True)
class Prediction:
    """Probabilities by label, most likely first; or the text that a language model went on with."""

    text: str
    probabilities: dict[str, float]
    continuation: str | None = None


class Predictor:
    """A tuned model, loaded from the adapter folder of a run."""

    def __init__(self, learner: Learner, labels: list[str]) -> None:
        self._learner = learner
        self._labels = labels

    @classmethod
    def load(cls, folder: Path, device: str = "auto") -> Predictor:
        """`folder` is a run's folder or its adapter folder. Raises ``ModelError``."""
        folder = folder / "adapter" if (folder / "adapter").is_dir() else folder
        try:
            card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise ModelError(
                f"{folder} holds no adapter ({CARD} is missing or damaged). Name the folder of a "
                "finished run, such as runs/latest."
            ) from None
        _check_base(card)
        learner = load_learner(_job(card, folder, device), len(card["labels"]))
        _load_weights(learner, card, folder)
        return cls(learner, card["labels"])

    def predict(self, texts: Sequence[str], new_tokens: int = 40) -> Iterator[Prediction]:
        """One prediction a text, in order."""
        for start in range(0, len(texts), _BATCH):
            chunk = texts[start : start + _BATCH]
            if self._labels:
                yield from self._classify(chunk)
            else:
                yield from (self._continue(text, new_tokens) for text in chunk)

    @torch.inference_mode()
    def _classify(self, texts: Sequence[str]) -> Iterator[Prediction]:
        network = self._learner.network.eval()
        # Padded by us, as in training: a tokenizer may pad on the other side.
        limit = self._learner.job.model.max_length
        tokenizer = self._learner.tokenizer
        read = [beginning(clean_text(text), tokenizer, limit) for text in texts]
        tokens = tokenizer(read, truncation=True, max_length=limit)
        batch = self._learner.batch_of([np.asarray(row) for row in tokens["input_ids"]])
        for text, row in zip(texts, network(batch).softmax(-1).tolist(), strict=True):
            ranked = sorted(zip(self._labels, row, strict=True), key=lambda pair: -pair[1])
            yield Prediction(text, dict(ranked))

    @torch.inference_mode()
    def _continue(self, text: str, new_tokens: int) -> Prediction:
        network, tokenizer = self._learner.network.eval(), self._learner.tokenizer
        prompt = clean_text(text, goes_on=True)
        if self._learner.length is not None:
            return Prediction(text, {}, self._continue_padded(prompt, new_tokens))
        inputs = tokenizer(prompt, return_tensors="pt").to(network.device)
        output = network.backbone.generate(  # type: ignore[operator]
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=new_tokens,
            do_sample=False,
            repetition_penalty=_PENALTY,
            pad_token_id=tokenizer.pad_token_id,
        )
        fresh = output[0, inputs["input_ids"].shape[1] :]
        return Prediction(text, {}, tokenizer.decode(fresh, skip_special_tokens=True))

    def _continue_padded(self, text: str, new_tokens: int) -> str:
        """The same words, each from the whole text padded as in training and tests.

        ``generate`` never pads a text on its right, and this model would say something else then. Of a
        text that has outgrown ``max_length`` the last so many tokens are read.
        """
        from transformers import RepetitionPenaltyLogitsProcessor

        learner, limit = self._learner, self._learner.job.model.max_length
        penalise = RepetitionPenaltyLogitsProcessor(_PENALTY)
        tokens: list[int] = learner.tokenizer(text)["input_ids"]
        given, ends = len(tokens), _ends(learner)
        for _ in range(new_tokens):
            read = tokens[-limit:]
            logits = learner.network(learner.batch_of([np.asarray(read)]))[:, len(read) - 1]
            seen = torch.tensor([tokens], device=logits.device)
            tokens = [*tokens, int(penalise(seen, logits).argmax())]
            if tokens[-1] in ends:
                break
        return str(learner.tokenizer.decode(tokens[given:], skip_special_tokens=True))


def _ends(learner: Learner) -> list[int]:
    """Tokens after which a text is over."""
    config: Any = learner.network.backbone
    found = config.generation_config.eos_token_id
    return found if isinstance(found, list) else [found]


def _job(card: dict[str, Any], folder: Path, device: str) -> Job:
    model = dict(card["model"])
    if card["adapter"] == "full":
        model["base"] = str(folder)
    model["adapter"] = card["adapter"]
    model.pop("sha256", None)  # a job's, which the card names as base_sha256
    data = {"path": "-", "labels": card["labels"] or None}
    return Job.build(
        {"task": card["task"], "model": model, "data": data, "training": {"device": device}},
        source=str(folder / CARD),
    )


def _check_base(card: dict[str, Any]) -> None:
    if card["adapter"] != "full" and named_digest(card["base"]) != card["base_sha256"]:
        raise ModelError(
            f"{card['base']} here is not the base model that was tuned (SHA-256 differs from "
            f"{card['base_sha256'][:12]}); the adapter does not fit it."
        )


def _load_weights(learner: Learner, card: dict[str, Any], folder: Path) -> None:
    from safetensors.torch import load_file

    network = learner.network
    if card["adapter"] != "full":
        import peft

        tensors = load_file(folder / "adapter_model.safetensors")
        peft.set_peft_model_state_dict(network.backbone, tensors)
    if network.mean_head is not None:
        network.mean_head.load_state_dict(load_file(folder / "head.safetensors"))
