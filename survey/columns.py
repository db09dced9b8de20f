"""What each column of a file seems to hold."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..learning.reading.names import label_name

Kind = Literal[
    "empty", "one value", "text", "classes", "number", "dates", "identifier", "groups", "other"
]

_NUMBER = re.compile(r"[+-]?[0-9]*[.,]?[0-9]+([eE][+-]?[0-9]+)?")
_DATE = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{1,2}([./-])[0-9]{1,2}\2[0-9]{2,4})([T ][0-9:.]+(Z|[+-][0-9:]+)?)?"
)
_CODE = re.compile(r"[A-Za-z0-9_.:/+-]+")
"""What programs make up to tell records apart: no text has only these characters."""
_UNSPACED = re.compile(
    "[\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Letters of scripts without blanks between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""
_WORTH = 3
"""As many letters of an alphabet as one of those says, about."""
_FEW_UNSPACED = 5
"""A name has fewer of them, a sentence more."""
_MOST_CLASSES = 50
_TEXT_LENGTH = 24
"""If the values are mostly different and have at least this many characters on average, they are texts."""
_NAMES_OF_LABELS = ("label", "class", "category", "target", "sentiment", "intent", "y")


@dataclass(frozen=True)
class Column:
    """One column: how many rows fill it, with how many different values, of what kind."""

    name: str
    filled: int
    distinct: int
    kind: Kind
    longest_mean: float
    """Mean number of characters of the filled cells; one of a script without blanks counts as three."""


def describe(name: str, values: Sequence[str | None]) -> Column:
    """Look at all values of a column. What it seems to be is a guess, and shown as one."""
    filled = [value.strip() for value in values if value and value.strip()]
    distinct = len(set(map(label_name, filled)))
    mean = sum(map(_length, filled)) / len(filled) if filled else 0.0
    return Column(name, len(filled), distinct, _kind(filled, distinct, mean), mean)


def _length(value: str) -> int:
    return len(value) + (_WORTH - 1) * len(_UNSPACED.findall(value))


def _has_words(value: str) -> bool:
    return " " in value or len(_UNSPACED.findall(value)) >= _FEW_UNSPACED


def _kind(filled: list[str], distinct: int, mean: float) -> Kind:
    if not filled:
        return "empty"
    if all(map(_DATE.fullmatch, filled)):
        return "dates"
    if distinct == 1 and len(filled) > 1:
        return "one value"
    share = distinct / len(filled)
    if distinct <= _MOST_CLASSES and (share <= 0.2 or distinct <= 2) and mean <= _TEXT_LENGTH * 2:
        return "classes"
    if share > 0.98 and mean >= _TEXT_LENGTH and all(map(_CODE.fullmatch, filled)):
        return "identifier"
    if mean >= _TEXT_LENGTH and share > 0.5:
        return "text"
    if all(_NUMBER.fullmatch(value) for value in filled):
        return "identifier" if share > 0.98 and all(v.isdigit() for v in filled) else "number"
    spaced = sum(map(_has_words, filled)) / len(filled)
    if share > 0.98 and spaced < 0.05:
        return "identifier"
    if share > 0.98:
        return "text"
    return "groups" if spaced < 0.5 and distinct > 2 else "other"


def text_column(columns: Sequence[Column]) -> str | None:
    """The column that seems to hold the texts: the one called so, else the longest."""
    for column in columns:
        if column.name.strip().casefold() == "text" and column.filled:
            return column.name
    texts = [column for column in columns if column.kind == "text"]
    return max(texts, key=lambda column: column.longest_mean).name if texts else None


def label_column(columns: Sequence[Column], text: str | None) -> str | None:
    """The column that seems to hold the classes: the one with such a name, else the only one of the kind."""
    others = [column for column in columns if column.name != text and column.filled]
    for wanted in _NAMES_OF_LABELS:
        for column in others:
            if column.name.strip().casefold() == wanted:
                return column.name
    classes = [column for column in others if column.kind == "classes" and column.distinct > 1]
    return classes[0].name if len(classes) == 1 else None


def label_candidates(columns: Sequence[Column], text: str | None) -> list[str]:
    """All columns that may hold the classes."""
    return [
        column.name
        for column in columns
        if column.name != text and column.kind == "classes" and column.distinct > 1
    ]


def share_told(values: Sequence[str], labels: Sequence[str]) -> float:
    """Share of rows in which the value tells the label; 0 if not nearly all, or if one label is usual."""
    of_value: dict[str, Counter[str]] = {}
    for value, label in zip(values, labels, strict=True):
        of_value.setdefault(value, Counter())[label] += 1
    right = sum(max(of.values()) for of in of_value.values()) / len(values)
    usual = max(Counter(labels).values()) / len(labels)
    return right if right >= 0.98 and usual <= 0.95 else 0.0


def tellers(
    columns: Mapping[str, Sequence[str | None]], label: str, skip: Sequence[str]
) -> dict[str, float]:
    """Columns whose value tells the label in nearly all rows, with the share of rows in which it does.

    Those with a value for each row tell nothing, and those with one value for all neither.
    """
    labels = columns[label]
    found = {}
    for name, values in columns.items():
        pairs = [(v, y) for v, y in zip(values, labels, strict=True) if v and y]
        if name not in (label, *skip) and 2 <= len({v for v, _ in pairs}) <= len(pairs) / 2:
            told = share_told(*zip(*pairs, strict=True))
            if told:
                found[name] = told
    return found
