"""How a language model continues with a text: the likeliest token again and again, read as in training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..errors import ModelError
from .inputs import Texts
from .model import Learner


def ends(learner: Learner) -> list[int]:
    """Tokens after which a text is over: those of the base model, and what training puts there."""
    backbone: Any = learner.network.backbone
    known = backbone.generation_config.eos_token_id
    known = known if isinstance(known, list) else [known]
    found = {*known, learner.tokenizer.eos_token_id, *reader(learner).ends} - {None}
    return sorted(int(token) for token in found)


def reader(learner: Learner) -> Texts:
    """The inputs of a model that goes on with texts; a ``ModelError`` for another."""
    if not isinstance(learner.inputs, Texts):
        raise ModelError(f"The task {learner.job.task} does not read texts.")
    return learner.inputs


class Continuation:
    """Goes on with texts. Each token is said from the last ``max_length`` tokens, padded as in training.

    So a text is never read at a length, or a place, that training and tests did not have.
    """

    def __init__(self, learner: Learner) -> None:
        from transformers import GenerationConfig

        self._learner = learner
        self._tokenizer = learner.tokenizer
        self._inputs = reader(learner)
        self._ends = ends(learner)
        # What a base model's own settings would add (sampling, words that are never said) is not ours.
        self._settings = {
            "do_sample": False,
            "repetition_penalty": self._inputs.penalty,
            "pad_token_id": learner.tokenizer.pad_token_id,
            "eos_token_id": self._ends or None,
        }
        backbone: Any = learner.network.backbone
        backbone.generation_config = GenerationConfig(**self._settings)

    @torch.inference_mode()
    def of(self, prompt: str, new_tokens: int) -> str | None:
        """What comes next; None for a text that says nothing, or of which the tokenizer makes nothing."""
        first, given = self._inputs.prompt(prompt, self._learner.longest)
        if not given:
            return None
        before = len(first) + len(given)
        tokens = self._quickly([*first, *given], new_tokens)
        while len(tokens) < before + new_tokens:
            if len(tokens) > before and tokens[-1] in self._ends:
                break
            tokens.append(self._next(tokens, len(first)))
        return str(self._tokenizer.decode(tokens[before:], skip_special_tokens=True))

    def _quickly(self, tokens: list[int], new_tokens: int) -> list[int]:
        """As long as all fits into what the model reads, and it ignores padding: with kept states."""
        learner = self._learner
        room = min(new_tokens, learner.longest - len(tokens))
        if learner.length is not None or room < 1:
            return list(tokens)
        ids = torch.tensor([tokens], device=learner.network.device)
        backbone: Any = learner.network.backbone
        with learner.network.precision():
            found = backbone.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=room,
                **self._settings,
            )
        return [int(token) for token in found[0]]

    def _next(self, tokens: list[int], stay: int) -> int:
        """Behind the first `stay` tokens, which are always read, and the last ones."""
        from transformers import RepetitionPenaltyLogitsProcessor

        learner = self._learner
        first, rest = tokens[:stay], tokens[stay:]
        seen = [*first, *rest[-(learner.longest - len(first)) :]]
        logits = learner.network(learner.batch_of([np.asarray(seen)]))[:, len(seen) - 1]
        said = torch.tensor([tokens], device=logits.device)
        return int(RepetitionPenaltyLogitsProcessor(self._inputs.penalty)(said, logits).argmax())
