"""The words of a text, by one rule for every language: spans begin and end with them.

A word is a run of letters, digits and underscores; every other sign that is no blank is a word by itself, and
so is every Chinese character and Japanese kana, between which no blank stands. A tokenizer cuts words
further, or joins some; but what a span is must not depend on the base model.
"""

from __future__ import annotations

import re
from itertools import takewhile

_SINGLE = "\\u3040-\\u30ff\\u3400-\\u4dbf\\u4e00-\\u9fff\\uf900-\\ufaff"
WORD = f"[{_SINGLE}]|[^\\W{_SINGLE}]+|[^\\w\\s]"
"""A pattern of ``re``; the code of a model card has it, too."""
_WORD = re.compile(WORD)


def words_of(text: str, before: int | None = None) -> list[tuple[int, int]]:
    """Where each word begins and ends, in characters of the text; of those that begin `before` a place."""
    words = (found.span() for found in _WORD.finditer(text))
    return list(words if before is None else takewhile(lambda word: word[0] < before, words))
