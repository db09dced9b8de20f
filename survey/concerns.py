"""What the texts and classes of a file make doubtful, in the lines of a survey, of a plan and of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ..learning.reading.names import sort_names, stands_for_nothing, variants
from ..quantities import counted, verb
from .texts import copies, giveaways, odd_characters

_NAMED = 20
_MOST = 20_000
"""Of more texts than this, so many are looked at, evenly spread."""


def concerns(texts: Sequence[str], labels: Sequence[str] | None) -> list[str]:
    """A line for each; nothing in it is of a single text."""
    step = -(-len(texts) // _MOST) or 1
    texts, labels = texts[::step], labels and labels[::step]
    lines = concern_lines(
        odd_characters(texts),
        copies(texts, labels).contradicting,
        giveaways(texts, labels) if labels else (),
        Counter(labels or ()),
        sum(map(stands_for_nothing, texts)),
    )
    seen = f" (Of {counted(len(texts), 'text')} looked at.)" if step > 1 else ""
    return [f"{line}{seen}" for line in lines]


def concern_lines(
    odd: Mapping[str, int],
    contradicting: int,
    giveaway: Iterable[str],
    classes: Mapping[str, int],
    texts_of_nothing: int,
) -> list[str]:
    """The same, of what was counted."""
    lines = [f"{counted(n, 'text')} {verb(n, 'has', 'have')} {what}." for what, n in odd.items()]
    if contradicting:
        rows = counted(contradicting, "row")
        lines.append(
            f"{rows} {verb(contradicting, 'has', 'have')} a text that also occurs with another label: "
            "no model can be right about all of them."
        )
    for phrase in giveaway:
        lines.append(f"{phrase[0].upper()}{phrase[1:]}: the model may learn only that.")
    return lines + _names_of_classes(classes, texts_of_nothing)


def _names_of_classes(classes: Mapping[str, int], texts_of_nothing: int) -> list[str]:
    """Classes that stand for nothing, texts that do, and classes that may be one."""
    lines = []
    nothing = [name for name in classes if stands_for_nothing(name)]
    if nothing:
        said = ", ".join(f"{name!r} ({counted(classes[name], 'row')})" for name in nothing)
        others = sort_names(name for name in classes if name not in nothing)
        lines.append(
            f"A class that usually stands for a missing value: {said}. To leave these rows out, name "
            f"only the other classes: --set data.labels={_listed(others)}"
        )
    if texts_of_nothing:
        texts = counted(texts_of_nothing, "text")
        lines.append(
            f"{texts} {verb(texts_of_nothing, 'is', 'are')} a word for a missing value, such as nan. To "
            "leave them out, empty these cells."
        )
    for group in variants(classes):
        lines.append(
            f"The classes {', '.join(map(repr, group))} may be one class in several spellings. If so, give "
            "them one name in the file."
        )
    return lines


def _listed(names: list[str]) -> str:
    shown = ", ".join(f'"{name}"' for name in names[:_NAMED])
    return f"'[{shown}{', ...' if len(names) > _NAMED else ''}]'"
