"""The tokenizer of a base model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(f"{folder} has no usable tokenizer: {first}") from None
    # Without its files, some kinds of tokenizer load with special tokens and nothing else.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise ModelError(f"{folder} has no usable tokenizer: it has no vocabulary.")
    return tokenizer
