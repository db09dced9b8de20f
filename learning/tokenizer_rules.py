"""Whether a tokenizer's rules take every text in a time that its length bounds.

A tokenizer is a small program in a file: patterns, replacements and a vocabulary. With patterns that
repeat what repeats, or replacements that grow what they replace, one phrase takes hours or all memory,
and how long an owner takes would tell that somebody's text contains it.

Guarantee of ``check_rules``: no pattern has a repetition, without a bound, of something that itself
repeats or has alternatives; a text grows by at most ``_MOST_GROWTH``; no word is cut in more than the
time of ``_LONGEST_WORD`` characters. So the time of a text is at most a polynomial of its length, which
``examples.beginning`` bounds. Nothing of it is tried out, and no text is looked at.

Not guaranteed: which polynomial. Two repetitions in a row can take the square of a text's length.
Tokenizers without a fast backend are the code of their library, and are not looked into.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any

from ..errors import ModelError

_MOST_GROWTH = 1000.0
_LONGEST_WORD = 400
_UNICODE = 18.0
"""At most this many characters replace one under Unicode normalisation (UAX 15)."""
_GROWTH = {
    **dict.fromkeys(("NFKC", "NFKD", "NFC", "NFD"), _UNICODE),
    "BertNormalizer": 3.0,
    "ByteLevel": 4.0,
}
_TOKEN = re.compile(
    r"\\[pP]\{[^}]*\}|\\x\{[^}]*\}|\\.|\[:\^?\w+:\]|\(\?#[^)]*\)|\(\?[a-zA-Z-]*[:)]|\(\?<[\w']+>|\(\?[=!>]"
    r"|\(\?<[=!]|\{\d*,?\d*\}|.",
    re.DOTALL,
)

_ONE = re.compile(r"\\[rnt]|\\\W|[\w ]")
"""A token that stands for one character."""


def check_rules(state: dict[str, Any], name: str) -> None:
    """Raise ``ModelError`` for rules of a fast tokenizer that some text could keep busy without end.

    state: what ``tokenizer.json`` holds. name: of the model, for the message.
    """
    for pattern in _patterns(state):
        if _explodes(pattern):
            raise ModelError(
                f"{name} has no usable tokenizer: its pattern {pattern[:80]!r} repeats something that "
                "itself repeats or has alternatives, so some texts would take hours. Rewrite it in "
                "tokenizer.json without a repetition inside a repetition."
            )
    growth = _growth(state.get("normalizer"))
    if growth > _MOST_GROWTH:
        raise ModelError(
            f"{name} has no usable tokenizer: its normalizer can make a text {growth:,.0f} times as long, "
            f"and {_MOST_GROWTH:,.0f} is allowed. Remove replacements from tokenizer.json."
        )
    longest = (state.get("model") or {}).get("max_input_chars_per_word") or 0
    if longest > _LONGEST_WORD:
        raise ModelError(
            f"{name} has no usable tokenizer: max_input_chars_per_word = {longest:,} in tokenizer.json; "
            f"set it to {_LONGEST_WORD} or less (100 is usual), or long words take hours."
        )


def _patterns(rules: Any) -> Iterator[str]:
    """All regular expressions below `rules`."""
    if isinstance(rules, dict):
        if isinstance(rules.get("Regex"), str):
            yield rules["Regex"]
        for part in (part for key, part in rules.items() if key != "vocab"):
            yield from _patterns(part)
    elif isinstance(rules, list):
        for part in rules:
            if isinstance(part, dict | list):
                yield from _patterns(part)


def _growth(rules: Any) -> float:
    """How many characters a normalizer can make of one."""
    if not isinstance(rules, dict):
        return 1.0
    kind = rules.get("type")
    if kind == "Sequence":
        product = 1.0
        for part in rules.get("normalizers", ()):
            product = min(product * _growth(part), 1e12)
        return product
    if kind == "Replace":
        pattern = rules.get("pattern") or {}
        shortest = max(1, len(pattern["String"])) if "String" in pattern else 1
        # A pattern that matches nothing puts its content between all characters.
        empty = 1.0 if "Regex" in pattern or not pattern.get("String") else 0.0
        return max(1.0, empty + len(rules.get("content") or "") / shortest)
    if kind == "Precompiled":
        return _longest_of(rules.get("precompiled_charsmap"))
    return _GROWTH.get(str(kind), 1.0)


def _longest_of(charsmap: Any) -> float:
    """The longest text in a table of SentencePiece: a trie behind its length, then texts that end with 0."""
    if isinstance(charsmap, str):
        charsmap = base64.b64decode(charsmap)
    table = bytes(charsmap or b"")
    texts = table[4 + int.from_bytes(table[:4], "little") :].split(b"\0")
    return max(1.0, *map(len, texts))


def _explodes(pattern: str) -> bool:
    """Whether a repetition without bound has a repetition or alternatives in what it repeats.

    Read as Oniguruma's syntax, of which only groups, classes and quantifiers matter. Possessive and lazy
    quantifiers are taken for greedy ones.
    """
    branching = [False]  # by open group: whether it has anything that can match in several ways
    last = False  # the same of the part that a quantifier would repeat
    depth = 0  # of character classes
    tokens = _TOKEN.findall(pattern)
    for place, token in enumerate(tokens):
        if depth or token == "[":
            depth += (token == "[") - (token == "]")
            last = False
        elif token.startswith("(") and not _is_option(token):
            branching.append(False)
        elif token == ")" and len(branching) > 1:
            last = branching.pop()
            branching[-1] |= last
        elif token == "|":
            branching[-1], last = True, False
        elif token in ("*", "+") or re.fullmatch(r"\{\d*,\}", token):
            if last:
                return True
            branching[-1] = True
            last = False  # what follows makes it lazy or possessive, and repeats nothing
        elif token == "?":
            branching[-1] |= not _told_apart(tokens[place - 1 : place + 2])
        elif re.fullmatch(r"\{\d*,?\d+\}", token):
            branching[-1] |= "," in token
        else:
            last = False
    return False


def _told_apart(tokens: list[str]) -> bool:
    """Of ``a?b``: whether the next character says if the first is there."""
    first, last = (tokens[0], tokens[-1]) if len(tokens) == 3 else ("", "")
    return first != last and bool(_ONE.fullmatch(first) and _ONE.fullmatch(last))


def _is_option(token: str) -> bool:
    """A comment, or a switch for what follows: no group."""
    return token.startswith("(?") and token.endswith(")")
