"""Tables as people meet them in Python: text in a terminal, HTML in a notebook."""

from __future__ import annotations

import html
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

from ..foreign import console

if TYPE_CHECKING:
    from rich.console import RenderableType

_WIDTH = 100


class Shown:
    """Something that Python and notebooks show as a table."""

    def table(self) -> RenderableType:
        """The table that the command line prints."""
        raise NotImplementedError

    def __repr__(self) -> str:
        out = io.StringIO()
        console(file=out, width=_WIDTH, highlight=False, force_jupyter=False).print(self.table())
        return out.getvalue().strip("\n")

    def _repr_html_(self) -> str:
        return f'<pre style="line-height:1.3">{html.escape(repr(self))}</pre>'


class Rows(Sequence[dict[str, Any]]):
    """Rows with the same keys, in order. ``pandas.DataFrame(rows)`` takes them; so does ``to_pandas``."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self._rows = list(rows)
        self.columns = list(dict.fromkeys(key for row in self._rows for key in row))

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    @overload
    def __getitem__(self, index: str) -> list[Any]: ...
    def __getitem__(self, index: int | slice | str) -> Any:
        """A row, some rows, or, by its name, a column."""
        if isinstance(index, str):
            if index not in self.columns:
                raise KeyError(f"{index!r}; there is {', '.join(self.columns) or 'nothing'}")
            return [row.get(index) for row in self._rows]
        found = self._rows[index]
        return Rows(found) if isinstance(found, list) else found

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._rows)

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame``; pandas must be installed."""
        import pandas

        return pandas.DataFrame(self._rows, columns=self.columns)

    def _cells(self) -> list[list[str]]:
        return [[_cell(row.get(key)) for key in self.columns] for row in self._rows]

    def __repr__(self) -> str:
        lines = [self.columns, *self._cells()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
            for line in lines
        )

    def _repr_html_(self) -> str:
        def line(tag: str, cells: Sequence[str]) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

        body = "".join(line("td", cells) for cells in self._cells())
        return f"<table><thead>{line('th', self.columns)}</thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
