"""Read named columns of a data file, or of a saved Hugging Face dataset, as strings: the one reader of all.

The format follows from the name: ``.csv``, ``.tsv`` and ``.tab`` (quoted like CSV, as spreadsheets and pandas
write it; the header says what separates the columns), ``.jsonl``, ``.ndjson`` and ``.json`` (``lines``),
``.xlsx`` (``sheet``), ``.conll`` and its like (``conll``), ``.parquet``, ``.feather`` and ``.arrow``, each
also compressed (``packing``), and a folder that ``datasets`` wrote with ``save_to_disk``. Every failure is a
``DataError`` that says what is wrong, where, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from ...errors import DataError
from ...quantities import counted, verb
from .arrow_files import ARROW, read_arrow, read_folder, split_names
from .conll import CONLL, read_conll
from .delimited import CALLED, DELIMITED, Delimited, Header, quoting_of, read_delimited
from .dialogues import with_dialogues
from .encoding import find_encoding, usual_codec
from .gaps import gaps
from .json_shape import refuse_shape
from .layout import USUAL, Layout
from .lines import JSON, read_lines
from .packing import ending, inner_name, packing
from .picture_files import PictureFolder, holds_pictures, is_picture_folder, with_pictures
from .picture_limits import MOST_PIXELS
from .sheet import SHEETS, read_sheet, refuse_sheet, sheets_said
from .signatures import refuse_other_kinds, unknown_format
from .table import Table
from .text_files import TextFolder, holds_texts, is_text_folder

TABLES = (*DELIMITED, *JSON, *SHEETS, *ARROW, *CONLL)
"""Endings of files that hold columns."""


def read_table(
    path: Path,
    text: str | None,
    others: Sequence[str] = (),
    optional: Sequence[str] = (),
    split: str | None = None,
    *,
    lenient: bool = False,
    every: bool = False,
    layout: Layout = USUAL,
    pictures: bool = False,
    largest: int = MOST_PIXELS,
    dialogues: bool = False,
    answers: str | None = None,
    lists: bool = False,
    spans: bool = False,
) -> Table:
    """Read column `text`, which must hold strings, and `others`, whose values become strings.

    Columns in `optional` are read if they exist, and their values if they can be read. `split` picks
    a split of a dataset folder; None takes "train", or the only one there is. A record that cannot be read
    stands without values (``Table.faults``); up to 1 % of them are no error. How the file is written is
    found by a look at all of it, as far as `layout` does not say.

    `pictures`: column `text` holds pictures, or names their files, relative to the table's; or `path` is a
    folder or a zip archive of them (``pictures``). They are read as base64; `largest`: without those of more
    pixels, or of files that are too large for so few.

    `dialogues`: column `text` holds lists of messages, or with `answers`, which is the name of another
    column, a question and its answer (``dialogues``).

    `lists`: column `text` may hold lists and objects, which are read as JSON; if `spans`, `others` as well.

    `every`: no number of unreadable records is an error, for a caller that has an answer for each.

    `lenient`: nothing is looked for, and no record, nor their absence, makes this fail. A record is a row of
    Parquet, of a workbook or of a saved dataset, a line of JSON, and of CSV and TSV what ``delimited`` says.
    Guarantee: none but the record itself is affected by what it holds (in CSV and TSV, by an open quote,
    lines near it may be). Assumption: the file as such is whole: what Parquet, Arrow, workbooks and
    compressed files keep beside the values can be read.
    """
    columns = [*([] if text is None else [text]), *others, *([answers] if answers else [])]
    required = list(dict.fromkeys(columns))
    extra = [name for name in dict.fromkeys(optional) if name not in required]
    _check_there(path)
    refuse_sheet(path, layout)
    if pictures and (is_picture_folder(path) if lenient else holds_pictures(path)):
        table = PictureFolder(path).read(text, required, split, largest, by_path=lenient)
    else:
        nested = {text} if lists or (dialogues and answers is None) else set()
        nested |= {text, *others} if spans else set()
        table = _read(path, text, required, extra, split, lenient, layout, pictures, nested)
        if pictures and text is not None and text in table.columns:
            table = with_pictures(table, text, path if path.is_dir() else path.parent, largest)
    if dialogues and text is not None and text in table.columns:
        table = with_dialogues(table, text, answers)
    return table if lenient or every else table.checked()


def _read(
    path: Path,
    text: str | None,
    required: list[str],
    extra: list[str],
    split: str | None,
    lenient: bool,
    layout: Layout,
    pictures: bool,
    nested: Collection[str | None],
) -> Table:
    if path.is_dir() and (is_text_folder(path) if lenient else holds_texts(path)):
        folder = TextFolder(path)
        return folder.read(text, required, extra, split, layout.encoding, by_path=lenient)
    if path.is_dir():
        return read_folder(path, text, required, extra, split, pictures, nested)
    if path.stat().st_size == 0 and not lenient:
        raise DataError(f"{path} is empty: it has no bytes at all. Write the data again.")
    if not lenient:
        refuse_other_kinds(path)
    return _read_file(path, text, required, extra, lenient, layout, pictures, nested)


def splits_of(path: Path, pictures: bool) -> list[str] | None:
    """The parts of a data set that are kept apart, by name; None if it is one."""
    if pictures and holds_pictures(path):
        return PictureFolder(path).splits or None
    if is_text_folder(path):
        return TextFolder(path).splits or None
    return split_names(path)


def is_class_folder(path: Path, pictures: bool) -> bool:
    """Whether each file in it is a record (``class_folders``), for a reader who is lenient."""
    return is_picture_folder(path) if pictures else is_text_folder(path)


def find_layout(path: Path, given: Layout = USUAL) -> Layout:
    """How a file of text is written, by a look at all of it; what is usual stays None."""
    _check_there(path)
    if path.is_dir():
        return Layout(given.encoding, sheet=given.sheet)
    if holds_pictures(path):
        return Layout(sheet=given.sheet)
    refuse_other_kinds(path)
    if ending(path) not in (*DELIMITED, *JSON, *CONLL):
        return Layout(sheet=given.sheet)
    codec = find_encoding(path, given.encoding).codec
    if ending(path) in JSON:
        refuse_shape(path, codec)
    encoding = given.encoding or (None if codec == usual_codec(path, None) else codec)
    quoting = given.quoting
    if quoting is None and ending(path) in DELIMITED:
        quoting = quoting_of(path, codec)
    return Layout(encoding, quoting, given.sheet)


def _read_file(
    path: Path,
    text: str | None,
    required: list[str],
    extra: list[str],
    lenient: bool,
    layout: Layout,
    pictures: bool,
    nested: Collection[str | None],
) -> Table:
    suffix, source = ending(path), str(path)
    notes = [f"unpacked as {packing(path)}: {inner_name(path)}"] if packing(path) else []
    if suffix in SHEETS:
        sheet = read_sheet(path, required, extra, layout.sheet)
        if layout.sheet is not None or sheet.of > 1:
            notes.append(sheet.said(asked=layout.sheet is not None))
            if not lenient and layout.sheet is None:
                notes += filter(None, [sheets_said(path)])
        if not lenient:
            notes += gaps(path, sheet.title, required)
        return Table(source, "sheet row", sheet.numbers, sheet.columns, sheet.faults, tuple(notes))
    if suffix in ARROW:
        table = read_arrow(path, text, required, extra, pictures, nested)
        return Table(source, table.unit, table.numbers, table.columns, table.faults, tuple(notes))
    if suffix not in (*DELIMITED, *JSON, *CONLL):
        raise unknown_format(path)
    if lenient:
        codec = usual_codec(path, layout.encoding)
    else:
        encoding = find_encoding(path, layout.encoding)
        codec = encoding.codec
        notes += [encoding.said] if encoding.said else []
    if suffix in CONLL:
        table = read_conll(path, codec, text, required, extra)
        return replace(table, notes=tuple(notes))
    if suffix in JSON:
        if not lenient:
            refuse_shape(path, codec)
        lines = read_lines(path, codec, text, required, extra, lenient, nested)
        return Table(source, lines.unit, lines.numbers, lines.columns, lines.faults, tuple(notes))
    header, found = read_delimited(path, codec, layout, required, extra)
    if found.faults and not lenient and layout.quoting is None:
        quoting = quoting_of(path, codec)
        if quoting is not None:
            layout = replace(layout, encoding=codec, quoting=quoting)
            header, found = read_delimited(path, codec, layout, required, extra)
    notes += _said(path, header, found, layout)
    return Table(
        source, "data row", range(1, found.rows + 1), found.columns, found.faults, tuple(notes)
    )


def _said(path: Path, header: Header, found: Delimited, layout: Layout) -> list[str]:
    notes = []
    if header.above:
        rows = counted(header.above, "row")
        notes.append(f"the columns are named below {rows} of titles")
    if header.announced or header.delimiter != DELIMITED[ending(path)]:
        separator = CALLED.get(header.delimiter, repr(header.delimiter))
        notes.append(f"columns separated by {separator}")
    if layout.quoting == "none":
        notes.append("quotes read as plain characters, because they enclose no fields")
    elif layout.quoting == "backslash":
        notes.append("a backslash before a quote makes it a plain character")
    if found.several:
        rows = f"{counted(found.several, 'row')} {verb(found.several, 'spans', 'span')}"
        notes.append(
            f"{rows} several lines, the longest {found.longest}: line ends within quotes are part of a field"
        )
    return notes


def _check_there(path: Path) -> None:
    if not path.exists():
        raise DataError(f"There is no data file {path}.{_near_file(path)}")


def _near_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f" Its folder {path.parent} does not exist either. Check data.path."
    if any(sign in path.name for sign in "*?["):
        many = sum(1 for _ in path.parent.glob(path.name))
        return f" It is a pattern ({counted(many, 'file')}); name one file."
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()], n=1)
    return f" Did you mean {path.parent / near[0]}?" if near else " Check data.path."
