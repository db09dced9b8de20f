"""The tokenizer of a base model, and what it must be able to do whatever the records say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelError
from .hugging_face import one_sentence
from .model_files import sealed
from .tokenizer_rules import check_rules

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Letters and signs of many scripts: a vocabulary that knows all of these knows everything.
_RARE = "☃漢語ꙮ𝄞ℵⴰ한ղღअไЖλأ😀𐍈ʘɮ∰"


def load_tokenizer(folder: Path | str) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`, with a padding token; a ``ModelError`` for one that cannot be used.

    Without an unknown token, a text in letters that the vocabulary lacks would make the tokenizer fail,
    or would come out empty: that is found here with letters of our own, not with a record.
    """
    from transformers import AutoTokenizer

    folder = Path(folder)
    with one_sentence(f"{folder} has no usable tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(sealed(folder), trust_remote_code=False)
        # Without its files, some kinds of tokenizer load with special tokens and nothing else.
        if len(tokenizer) <= len(tokenizer.all_special_tokens):
            raise ModelError(
                f"{folder} has no usable tokenizer: it has no vocabulary. Copy the files of "
                "the model's own tokenizer into that folder (tokenizer.json, tokenizer_config.json)."
            )
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        if tokenizer.pad_token_id is None:
            raise ModelError(
                f"{folder} has no usable tokenizer: it has no padding, end or unknown token. Name one as "
                '"pad_token" in tokenizer_config.json.'
            )
        if tokenizer.is_fast:
            backend = tokenizer.backend_tokenizer
            check_rules(json.loads(backend.to_str()), str(folder))
            if getattr(backend.model, "dropout", None) is not None:
                backend.model.dropout = None  # or one text would have other tokens each time
        _check_unknown_words(tokenizer, folder)
    return tokenizer


def _check_unknown_words(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    for letter in _RARE:
        try:
            found = tokenizer(letter, add_special_tokens=False)["input_ids"]
        except Exception:
            found = None
        if not found:
            raise ModelError(
                f"{folder} has no usable tokenizer: it does not know every letter ({letter!r} gives no "
                "token) and has no token for unknown words. Add an unknown token to "
                'tokenizer.json\'s model and as "unk_token" in tokenizer_config.json.'
            )


def state_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """All that decides about tokens, without the settings that the last call left behind."""
    if tokenizer.is_fast:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state |= {"truncation": tokenizer.truncation_side, "padding": None}
    else:
        # Written in Python: its class, its vocabulary and what it was made with.
        state = {
            "class": type(tokenizer).__qualname__,
            "vocabulary": tokenizer.get_vocab(),
            "settings": {name: str(value) for name, value in tokenizer.init_kwargs.items()},
            "truncation": tokenizer.truncation_side,
        }
    return json.dumps(state, sort_keys=True)
