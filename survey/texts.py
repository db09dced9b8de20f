"""What the texts of a file are like: copies, odd characters, words that give the label away, lengths."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .columns import share_told

_ODD = {
    "characters that could not be decoded (�)": re.compile("\ufffd"),
    "letters of another encoding (such as Ã© for é)": re.compile("[ÃÂ][\x80-\xbf]|â€"),
    "control characters": re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"),
    "invisible characters": re.compile("[\u200b\u200e\u200f\u2060\ufeff]"),
    "HTML (tags, or &amp; and its like)": re.compile(
        r"</?[a-zA-Z][^<>]{0,80}>|&(?:[a-z]{2,8}|#\d+);"
    ),
}
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Copies:
    """Rows beyond the first of each text."""

    equal: int
    """Equal to the last character."""
    nearly: int
    """Equal but for upper case, spaces and signs; those that are `equal` not counted again."""
    contradicting: int
    """Rows whose text also occurs with another label."""


def copies(texts: Sequence[str], labels: Sequence[str] | None) -> Copies:
    """Count copies among `texts`, and texts that have several labels."""
    equal = len(texts) - len(set(texts))
    bare = [" ".join(_WORD.findall(text.casefold())) or text for text in texts]
    nearly = len(texts) - len(set(bare)) - equal
    contradicting = 0
    if labels is not None:
        of_text: dict[str, set[str]] = {}
        for text, label in zip(texts, labels, strict=True):
            of_text.setdefault(text, set()).add(label)
        contradicting = sum(len(of_text[text]) > 1 for text in texts)
    return Copies(equal, max(0, nearly), contradicting)


def odd_characters(texts: Sequence[str]) -> dict[str, int]:
    """Rows with characters that hint at a file written or read wrongly, by what they are."""
    found = {what: sum(bool(p.search(text)) for text in texts) for what, p in _ODD.items()}
    return {what: count for what, count in found.items() if count}


def _letters(word: str) -> str:
    """What is left of a code such as [N-1023] that numbers records."""
    return "".join(filter(str.isalpha, word))


def giveaways(texts: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Ways in which texts seem to contain their own label, each a phrase for a sentence."""
    found = []
    for which, place in (("first", 0), ("last", -1)):
        words = [(text.split() or [""])[place].casefold() for text in texts]
        for of, said in ((words, ""), ([_letters(word) for word in words], ", its digits aside,")):
            told = share_told(of, labels) if len(set(of)) <= len(texts) / 10 else 0.0
            if told:
                found.append(
                    f"the {which} word of a text{said} determines its label in {told:.0%} of the rows"
                )
                break
    names = {label: _WORD.findall(label.casefold()) for label in set(labels)}
    own = other = 0
    for text, label in zip(texts, labels, strict=True):
        words_of_text = set(_WORD.findall(text.casefold()))
        named = {one for one, parts in names.items() if parts and words_of_text.issuperset(parts)}
        own += named == {label}
        other += bool(named - {label})
    if own >= 0.5 * len(texts) and other <= 0.02 * len(texts):
        found.append(f"{own / len(texts):.0%} of the texts contain the name of their own label")
    return found
