"""How texts and names are compared: one canonical form of each, that follows from itself alone.

The rule for the value of a label, group or client: a table that is written as CSV, JSON lines, Parquet or
an Excel workbook gives the same names. So

- line ends are "\\n", characters are composed (NFC), blanks around are cut off;
- a truth value is ``true`` or ``false``, however it is capitalised;
- a decimal number is its shortest spelling: ``1`` for ``1.0`` and ``+1``, ``0.5`` for ``0.50``. A number with
  leading zeros (``007``) or with an exponent other than those that programs write (``1e-05``) is a name, and
  stays as it is;
- a day is ``2026-11-27`` with and without the hour 0 that tables give it; of a time the T is a blank;
- every other name stays as it is: ``yes`` is not ``true``, and ``1`` is not ``true``.

Guarantee: what a value becomes depends on this value alone, so that every owner comes to the same classes
without a look at other records, or at other owners.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from decimal import Decimal

_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")
_DECIMAL = re.compile(r"([+-]?)(0|[1-9][0-9]*)(?:\.([0-9]+))?(e[+-][0-9]{2,3})?")
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]([0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?)"
)
_TRUTH = ("true", "false")


def clean_text(text: str | None, *, goes_on: bool = False) -> str:
    """A text as Umbel reads every one, in training, tests and predictions: one text, one answer.

    goes_on: the text is a prompt, whose end decides what comes next and stays as it is.
    """
    if text is None:
        return ""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = unicodedata.normalize("NFC", text)
    return text.lstrip() if goes_on else text.strip()


def label_name(name: str | None) -> str:
    """The canonical form of a label, group or client; "" if there is none."""
    return canonical(clean_text(name))


def canonical(name: str) -> str:
    """The canonical form of a name that is clean."""
    folded = name.casefold()
    if folded in _TRUTH:
        return folded
    number = _DECIMAL.fullmatch(name)
    if number is None:
        time = _TIME.fullmatch(name)
        if time is None:
            return name
        return f"{time[1]} {time[2]}" if time[2].strip("0:.") else time[1]
    sign, whole, fraction, exponent = number.groups()
    fraction = (fraction or "").rstrip("0")
    if fraction or exponent:
        # More digits than a float64 has stay as they are written.
        spelled = number_name(float(name))
        if Decimal(spelled) == Decimal(name):
            return spelled
    shortest = whole + (f".{fraction}" if fraction else "") + (exponent or "")
    return f"-{shortest}" if sign == "-" and shortest != "0" else shortest


def number_name(value: float) -> str:
    """A float64 as Python and pandas spell it, a whole one without a decimal point."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e16 else repr(value)


def sort_names(names: Iterable[str]) -> list[str]:
    """Distinct names in order: by value if all are numbers ("2" before "10"), else by spelling."""
    distinct = sorted(set(names))
    if all(_NUMBER.fullmatch(name) for name in distinct):
        distinct.sort(key=Decimal)
    return distinct


def folded(name: str) -> str:
    """What a name has in common with those that people would take for it: without case, width, blanks and
    leading zeros."""
    found = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    return (found.lstrip("0") or "0") if found.isdecimal() else found


def alike(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of names that people would take for one (``folded``)."""
    first: dict[str, str] = {}
    found = []
    for name in sort_names(names):
        other = first.setdefault(folded(name), name)
        if other != name:
            found.append((other, name))
    return found


_NOTHING = frozenset(
    (
        "nan",
        "na",
        "n/a",
        "#n/a",
        "n.a.",
        "none",
        "null",
        "nil",
        "<na>",
        "nat",
        "missing",
        "-",
        "--",
        "?",
        ".",
    )
)
"""What programs and people write for a value that is missing, in lower case."""
_YES = frozenset(("true", "yes", "y", "t", "1", "on"))
_NO = frozenset(("false", "no", "n", "f", "0", "off"))


def stands_for_nothing(name: str) -> bool:
    """Whether a name usually means that there is no value, as ``nan`` does. It follows from itself alone."""
    return name.casefold() in _NOTHING


def variants(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that people may have meant as one, beyond those that are ``alike``: yes and true.

    Only if there is more than one word for either answer: ``0`` and ``1`` alone are two classes.
    """
    distinct = sort_names(names)
    groups = [[n for n in distinct if n.casefold() in words] for words in (_YES, _NO)]
    return [group for group in groups if len({name.casefold() for name in group}) > 1]
