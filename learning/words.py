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
_LONG = re.compile(f"[^\\W{_SINGLE}]{{2}}")


def words_of(text: str, before: int | None = None, first: int = 0) -> list[tuple[int, int]]:
    """Where each word begins and ends, in characters of the text; of those that begin from `first` on and
    `before` a place. No more of the text is looked at."""
    words = (found.span() for found in _WORD.finditer(text, first))
    if cuts_word(text, first):
        next(words)  # the rest of one that begins earlier
    return list(words if before is None else takewhile(lambda word: word[0] < before, words))


def cuts_word(text: str, place: int) -> bool:
    """Whether a word goes on from before a place of the text to behind it."""
    return 0 < place < len(text) and _LONG.match(text, place - 1, place + 1) is not None


def word_around(text: str, place: int) -> str:
    """The word that a place cuts in two."""
    first = place
    while cuts_word(text, first):
        first -= 1
    found = _WORD.match(text, first)
    return found[0] if found else ""
