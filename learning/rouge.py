"""ROUGE-L: how much of a reference an answer has in the same order (Lin 2004, "ROUGE: A Package for Automatic
Evaluation of Summaries", section 3.1)."""

from __future__ import annotations

import re

_WORD = re.compile(r"\w+")


def rouge_l(reference: str, answer: str) -> float:
    """F-measure (beta = 1) of the longest common subsequence of words, from 0 to 1; case does not count."""
    wanted, said = _words(reference), _words(answer)
    common = _longest_common(wanted, said)
    if not common:
        return 0.0
    recall, precision = common / len(wanted), common / len(said)
    return 2 * recall * precision / (recall + precision)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _longest_common(one: list[str], other: list[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        diagonal = 0  # without this word, and without the present one of `other`
        for place, each in enumerate(other, start=1):
            longer = diagonal + 1 if word == each else max(row[place], row[place - 1])
            diagonal, row[place] = row[place], longer
    return row[-1]
