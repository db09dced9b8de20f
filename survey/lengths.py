"""How long texts are in tokens of a base model, and what a longer ``model.max_length`` would spare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UmbelError
from ..tasks.spec import TaskSpec

if TYPE_CHECKING:
    from ..job import ModelSpec
    from ..learning.inputs import Inputs

WORTH = 0.05
"""If at least this share of texts is cut, it is reported, and a longer length is advised."""
MOST_UNKNOWN = 0.1
"""Share of tokens that the base model does not know from which on it is worth a word."""
_LONGEST = 2048
"""Lengths are counted up to this many tokens."""
_CHUNK = 1000
_SAMPLE = 500
_LONGER = (96, 128, 192, 256, 384, 512)


@dataclass(frozen=True)
class Lengths:
    """How long the texts are, in tokens of the base model."""

    tokens: np.ndarray
    """int64[texts]."""
    longest_read: int = _LONGEST
    """Tokens beyond which the tokenizer's answer was not counted."""
    unknown: float = 0.0
    """Share of all tokens that stand for characters which the tokenizer does not know."""

    def share_cut(self, max_length: int) -> float:
        """Share of texts of which something is cut off."""
        return float((self.tokens > max_length).mean()) if len(self.tokens) else 0.0

    def quantile(self, share: float) -> int:
        return quantile(self.tokens, share)

    def fitting(self, max_length: int) -> int:
        """The least usual length at which few texts are cut, or the longest of them."""
        longer = [n for n in _LONGER if n > max_length]
        fits = [n for n in longer if self.share_cut(n) <= WORTH]
        return next(iter([*fits, *longer[::-1]]), max_length)


def quantile(counts: np.ndarray, share: float) -> int:
    """The least of these counts that at least this share of them does not exceed; 0 of none."""
    return int(np.quantile(counts, share, method="higher")) if len(counts) else 0


def lengths_of(
    kind: TaskSpec, model: ModelSpec, texts: Sequence[str]
) -> tuple[Lengths | None, str]:
    """Lengths of all texts as the task reads them; None, and why, if they cannot be had or are all alike."""
    # Here, because torch comes with them, and reading a plan needs none.
    from ..learning.base_model import base_folder
    from ..learning.inputs import inputs_for

    try:
        inputs = inputs_for(kind, base_folder(model.base), model)
    except UmbelError as error:
        return None, str(error)
    if not inputs.varied:
        return None, f"all records of the task {kind.name} are equally long"
    counts, unknown = np.zeros(len(texts), np.int64), 0
    for start in range(0, len(texts), _CHUNK):
        some = texts[start : start + _CHUNK]
        try:
            read = inputs.encode(some, _LONGEST)
        except Exception:  # some text cannot be read: training leaves it out
            read = [_alone(inputs, text) for text in some]
        counts[start : start + len(some)] = [len(row) for row in read]
        if inputs.unknown is not None:
            unknown += sum(int((np.asarray(row) == inputs.unknown).sum()) for row in read)
    return Lengths(counts, unknown=unknown / max(1, int(counts.sum()))), ""


def cut(kind: TaskSpec, model: ModelSpec, texts: Sequence[str]) -> dict[str, float]:
    """What is cut of texts, by a sample of them: the share, a longer length, and its share; and "whole_turns"
    if dialogues lose whole turns.

    Empty if that is not worth a word.
    """
    step = max(1, len(texts) // _SAMPLE)
    lengths, _ = lengths_of(kind, model, texts[::step])
    max_length = model.max_length
    if lengths is None or lengths.share_cut(max_length) <= WORTH:
        return {}
    longer = lengths.fitting(max_length)
    found = {
        "share": lengths.share_cut(max_length),
        "longer": longer,
        "then": lengths.share_cut(longer),
    }
    return found | ({"whole_turns": 1.0} if kind.reads == "dialogues" else {})


def _alone(inputs: Inputs, text: str) -> Sequence[Any]:
    try:
        (row,) = inputs.encode([text], _LONGEST)
    except Exception:
        return []
    found: Sequence[Any] = row
    return found
