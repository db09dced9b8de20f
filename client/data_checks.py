"""Whether an owner's files can be read as client.toml declares them, and what the agent takes of them."""

from __future__ import annotations

from collections.abc import Iterator

from .finding import Finding
from .home import Home

_MOST_COLUMNS, _LONGEST_COLUMN = 20, 40


def data(home: Home) -> Iterator[Finding]:
    from ..learning.reading.columns import check_columns
    from ..learning.reading.header import column_names
    from ..learning.reading.signatures import refuse_other_kinds
    from ..learning.reading.tables import find_layout

    given = home.settings.data
    for path in (home.data, home.test_data):
        if path is None:
            continue
        refuse_other_kinds(path)
        written = find_layout(path, given.layout)
        if written != given.layout:
            yield Finding(
                "data", "warning", f"{path} seems to be written as {written}, but client.toml "
                    f"declares {given.layout}",
                "Records that cannot be read that way are left out. Set it in client.toml: "
                f"{written.toml}",
            )  # fmt: skip
        columns = [given.text_column, given.answer_column, given.label_column]
        if path == home.data:
            columns.append(given.group_column)
        wanted = [name for name in columns if name is not None]
        found = column_names(
            path,
            given.layout,
            wanted,
            given.reads == "pictures",
            given.reads in ("dialogues", "spans"),
        )
        yield Finding("data", "ok", f"{path} has the columns {_columns(found)}")
        check_columns(str(path), wanted, found)
    yield from _records(home)


def _records(home: Home) -> Iterator[Finding]:
    """The records as the agent would take them."""
    import numpy as np

    from ..learning.reading.names import label_name
    from ..learning.spans import labels_of

    source, declared = home.source, home.settings.data
    corpus = source.corpus()
    left_out = "".join(f", {count} left out ({why})" for why, count in corpus.dropped.items())
    labels = declared.labels or []
    yield Finding(
        "data", "warning" if left_out or not len(corpus) else "ok",
        f"{len(corpus)} records{f' in {len(labels)} classes' if labels else ''}{left_out}",
        "Nobody else learns what is left out. Fill the empty fields, add missing classes to "
        "client.toml, or leave it as it is." if left_out else "",
    )  # fmt: skip
    if deadly := len(source.left_out):
        yield Finding(
            "data", "warning", f"{deadly} records are left out: each of them killed the worker",
            f"The agent's log says which ones. To try them again, delete {source.left_out.file}.",
        )  # fmt: skip
    if declared.reads == "spans":
        seen = labels_of(corpus.texts)
        empty = [name for name in labels if label_name(name) not in seen]
    else:
        held = np.bincount(
            corpus.labels if corpus.labels is not None else [], minlength=len(labels)
        )
        empty = [name for name, count in zip(labels, held, strict=False) if not count]
    if empty:
        what = "label" if declared.reads == "spans" else "class"
        yield Finding(
            "data", "warning", f"no record has the {what} {', '.join(map(repr, empty))}",
            "Check labels and label_column in client.toml, unless this is correct.",
        )  # fmt: skip


def _columns(names: list[str]) -> str:
    """Names of columns; a file without a header has a record there, so they are cut."""
    shown = ", ".join(repr(name[:_LONGEST_COLUMN]) for name in names[:_MOST_COLUMNS])
    more = len(names) - _MOST_COLUMNS
    return f"{shown} and {more} more" if more > 0 else shown
