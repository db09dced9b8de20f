"""Texts that nobody wrote, for probing a model: random tokens, framed as its tokenizer frames texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WORD = "a"


def invented_texts(
    tokenizer: PreTrainedTokenizerBase, lengths: Sequence[int], seed: int = 0
) -> list[np.ndarray]:
    """Token ids, one array per length, the same for the same seed; with the tokenizer's first and last
    tokens, which some architectures look for."""
    generator = np.random.default_rng(seed)
    special = set(tokenizer.all_special_ids)
    first, last = frame(tokenizer)
    texts = []
    for length in lengths:
        drawn = generator.integers(0, len(tokenizer), 4 * length + 64)
        inner = [int(token) for token in drawn if token not in special]
        whole = [*first, *inner[: max(0, length - len(first) - len(last))], *last]
        texts.append(np.asarray(whole[-length:], dtype=np.int64))
    return texts


def frame(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The tokens before and behind every text."""
    whole = list(tokenizer(_WORD)["input_ids"])
    bare = list(tokenizer(_WORD, add_special_tokens=False)["input_ids"])
    for start in range(len(whole) - len(bare) + 1):
        if bare and whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    return [], []


def unlike_sizes(candidates: Iterable[int], sizes: set[int]) -> int:
    """The first candidate that is no size of the model, so that no axis is taken for another; else
    the last one."""
    number = 0
    for number in candidates:
        if number not in sizes:
            break
    return number


def sizes_of(config: Any) -> set[int]:
    """Every whole number in a model's configuration, also in the parts of it."""
    values = config.to_dict() if hasattr(config, "to_dict") else config
    return set(_numbers(values))


def _numbers(values: Any) -> Iterable[int]:
    if isinstance(values, Mapping):
        values = list(values.values())
    if isinstance(values, list | tuple):
        for value in values:
            yield from _numbers(value)
    elif isinstance(values, int) and not isinstance(values, bool):
        yield values
