"""What the texts and classes of a file make doubtful, in the lines of a survey, of a plan and of a run."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..errors import UmbelError
from ..job import DataSpec
from ..learning.reading.header import column_names, unread_columns
from ..learning.reading.layout import Layout
from ..learning.reading.names import sort_names, stands_for_nothing, variants
from ..learning.reading.tables import find_layout, read_table
from ..quantities import counted, verb
from ..storage.documents import toml_value
from .columns import tellers
from .texts import Copies, copies, giveaways, odd_characters

_NAMED = 20
_MOST = 20_000
"""Of more texts than this, so many are looked at, evenly spread."""


def concerns(
    texts: Sequence[str], labels: Sequence[str] | None, telling: Mapping[str, float] | None = None
) -> list[str]:
    """A line for each; nothing in it is of a single text. telling: as ``telling_columns`` finds them."""
    step = -(-len(texts) // _MOST) or 1
    texts, labels = texts[::step], labels and labels[::step]
    lines = concern_lines(
        odd_characters(texts),
        copies(texts, labels),
        giveaways(texts, labels) if labels else (),
        Counter(labels or ()),
        sum(map(stands_for_nothing, texts)),
        {},
    )
    seen = f" (Of {counted(len(texts), 'text')} looked at.)" if step > 1 else ""
    return [f"{line}{seen}" for line in lines] + _telling_lines(telling or {})


def telling_columns(data: DataSpec, skip: Sequence[str] = ()) -> dict[str, float]:
    """Columns of a job's file that determine the label, though it does not read them: with the share of rows.

    Nothing if the file cannot be looked at: what is wrong with it is said by who trains on it.
    """
    if data.path is None or data.label_column is None:
        return {}
    path, read = Path(data.path), (data.text_column, data.label_column, *skip)
    try:
        layout = find_layout(path, Layout(data.encoding, data.quoting, data.sheet))
        unread = unread_columns(path, layout)
        others = [
            name for name in column_names(path, layout, read[:2]) if name not in (*read, *unread)
        ]
        if not others:
            return {}
        label = data.label_column
        table = read_table(path, None, [label], others, lenient=True, layout=layout)
    except UmbelError:
        return {}
    step = -(-len(table) // _MOST) or 1
    some = {name: values[::step] for name, values in table.columns.items()}
    return tellers(some, label, [])


def concern_lines(
    odd: Mapping[str, int],
    of: Copies,
    giveaway: Iterable[str],
    classes: Mapping[str, int],
    texts_of_nothing: int,
    telling: Mapping[str, float],
) -> list[str]:
    """The same, of what was counted."""
    lines = [f"{counted(n, 'text')} {verb(n, 'has', 'have')} {what}." for what, n in odd.items()]
    if of.contradicting:
        rows = counted(of.contradicting, "row")
        lines.append(
            f"{rows} {verb(of.contradicting, 'has', 'have')} a text that also occurs with another label: "
            "no model can be right about all of them."
        )
    for phrase in giveaway:
        lines.append(f"{phrase[0].upper()}{phrase[1:]}: the model may learn only that.")
    lines += _names_of_classes(classes, texts_of_nothing)
    if of.nearly:
        lines.append(
            "Equal texts stay on one side of the split between training and test; the "
            f"{counted(of.nearly, 'near copy')} may be on both, which makes a test look better "
            "than it is."
        )
    return lines + _telling_lines(telling)


def _telling_lines(telling: Mapping[str, float]) -> list[str]:
    return [
        f"Column {name!r} determines the label in {share:.1%} of the rows. It is not read, but "
        "make sure that the texts do not repeat it."
        for name, share in telling.items()
    ]


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
        name = max(group, key=lambda name: (classes[name], name))
        others = [other for other in group if other != name]
        lines.append(
            f"The classes {', '.join(map(repr, group))} may be one class in several spellings. If so, count "
            f"them as one: --set data.spellings={_spelled(name, others)}"
        )
    return lines


def _spelled(name: str, others: list[str]) -> str:
    return shlex.quote(toml_value({name: others}))


def _listed(names: list[str]) -> str:
    shown = toml_value(names[:_NAMED]).removesuffix("]")
    return shlex.quote(f"{shown}{', ...' if len(names) > _NAMED else ''}]")
