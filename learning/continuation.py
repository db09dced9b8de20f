"""How a language model continues with a text: the likeliest token again and again, read as in training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .invented import frame
from .model import Learner

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PENALTY = 1.2
"""On tokens that came before (Keskar et al. 2019, section 4.1): small models repeat themselves."""


def first_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer puts before every text. What it puts behind a text would end it."""
    return frame(tokenizer)[0]


def ends(learner: Learner) -> list[int]:
    """Tokens after which a text is over: those of the base model, and the one that training puts there."""
    backbone: Any = learner.network.backbone
    known = backbone.generation_config.eos_token_id
    known = known if isinstance(known, list) else [known]
    found = {*known, learner.tokenizer.eos_token_id} - {None}
    return sorted(int(token) for token in found)


class Continuation:
    """Goes on with texts. Each token is said from the last ``max_length`` tokens, padded as in training.

    So a text is never read at a length, or a place, that training and tests did not have.
    """

    def __init__(self, learner: Learner) -> None:
        from transformers import GenerationConfig

        self._learner = learner
        self._tokenizer = learner.tokenizer
        self._first = first_tokens(learner.tokenizer)
        self._ends = ends(learner)
        # What a base model's own settings would add (sampling, words that are never said) is not ours.
        self._settings = {
            "do_sample": False,
            "repetition_penalty": PENALTY,
            "pad_token_id": learner.tokenizer.pad_token_id,
            "eos_token_id": self._ends or None,
        }
        backbone: Any = learner.network.backbone
        backbone.generation_config = GenerationConfig(**self._settings)

    @torch.inference_mode()
    def of(self, prompt: str, new_tokens: int) -> str | None:
        """What comes next; None for a text of which the tokenizer makes nothing."""
        given: list[int] = self._tokenizer(prompt, add_special_tokens=False)["input_ids"]
        if not given:
            return None
        tokens = self._quickly([*self._first, *given], new_tokens)
        most = len(self._first) + len(given) + new_tokens
        while len(tokens) < most and not self._over(tokens, given):
            tokens.append(self._next(tokens))
        fresh = tokens[len(self._first) + len(given) :]
        return str(self._tokenizer.decode(fresh, skip_special_tokens=True))

    def _over(self, tokens: list[int], given: list[int]) -> bool:
        return len(tokens) > len(self._first) + len(given) and tokens[-1] in self._ends

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

    def _next(self, tokens: list[int]) -> int:
        from transformers import RepetitionPenaltyLogitsProcessor

        learner = self._learner
        first, rest = tokens[: len(self._first)], tokens[len(self._first) :]
        seen = [*first, *rest[-(learner.longest - len(first)) :]]
        logits = learner.network(learner.batch_of([np.asarray(seen)]))[:, len(seen) - 1]
        said = torch.tensor([tokens], device=logits.device)
        return int(RepetitionPenaltyLogitsProcessor(PENALTY)(said, logits).argmax())
