"""The record of processing as a PDF of A4 pages: text that can be searched, with its fonts within it.

Names in scripts that our own font lacks (Chinese, Japanese, Korean, ...) are set in an installed font that
has them. If none has, the record says so where a reader looks, and so does the log: the page shows them.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from .fonts import faces_for, say_missing, silence
from .processing import Entry, ProcessingRecord

if TYPE_CHECKING:
    from pathlib import Path

    from fpdf import FPDF

_log = logging.getLogger(__name__)
_OWN = "own"
_MARGIN, _NAMES, _LINE, _GAP = 18.0, 48.0, 5.0, 1.6
"""Millimetres: around the page, for the names of entries, of a line of text, between entries."""
_SIZE = 9.5
"""Points."""
_SOFT, _INK = (89, 98, 115), (27, 31, 39)


def pdf_of(record: ProcessingRecord) -> bytes:
    """The whole file."""
    import fpdf

    class Paper(fpdf.FPDF):
        def footer(self) -> None:
            self.set_y(-14)
            self.set_font(_OWN, size=8)
            self.set_text_color(*_SOFT)
            self.cell(0, 5, f"{self.page_no()} of {{nb}}", align="R")

    faces, missing = faces_for(frozenset(_text_of(record)))
    say_missing(missing, "the PDF")
    with silence():
        paper = Paper(format="A4")
        _set_fonts(paper, faces)
        paper.set_title("Record of processing")
        paper.set_creator("Umbel")
        paper.set_lang("en")
        paper.set_margin(_MARGIN)
        paper.set_auto_page_break(True, 20)
        paper.add_page()
        _heading(paper, record, missing)
        for number, part in enumerate(record.parts, 1):
            if paper.will_page_break(25):
                paper.add_page()
            paper.ln(4)
            paper.set_font(_OWN, "B", 11.5)
            paper.set_text_color(*_INK)
            paper.cell(0, 7, f"{number}. {part.title}", new_x="LMARGIN", new_y="NEXT")
            for entry in part.entries:
                _entry(paper, entry)
        return bytes(paper.output())


def _set_fonts(paper: FPDF, faces: list[Path]) -> None:
    regular, bold, *others = faces
    paper.add_font(_OWN, "", regular)
    paper.add_font(_OWN, "B", bold)
    names: list[str] = []
    for face in others:
        name = f"other{len(names)}"
        try:
            paper.add_font(name, "", face)
        except Exception as error:  # whatever is wrong with a font that somebody has installed
            _log.warning("%s cannot be used in the PDF, which shows boxes instead: %s", face, error)
        else:
            names.append(name)
    if names:
        paper.set_fallback_fonts(names, exact_match=False)


def _heading(paper: FPDF, record: ProcessingRecord, missing: str) -> None:
    paper.set_font(_OWN, "B", 16)
    paper.set_text_color(*_INK)
    paper.multi_cell(0, 8, f"Record of processing: {record.job}", new_x="LMARGIN", new_y="NEXT")
    lines = [
        f"At {record.owner}." if record.owner else "",
        f"Run {record.run}." if record.run else "",
        f"State: {record.state}. Drawn up {record.made}.",
        f"Umbel does not know the content of the empty lines ({record.blanks}): fill them in by hand.",
        f"{len(missing)} characters are not in any installed font and are missing here: see the page."
        if missing
        else "",
    ]
    paper.set_font(_OWN, size=_SIZE)
    paper.set_text_color(*_SOFT)
    text = " ".join(filter(None, lines))
    paper.multi_cell(0, _LINE, text, align="L", new_x="LMARGIN", new_y="NEXT")


def _entry(paper: FPDF, entry: Entry) -> None:
    """Name on the left, what is known on the right; of what is not, a line to write on."""
    wide = paper.epw - _NAMES
    names = _lines(paper, entry.name, _NAMES - 2)
    texts = _lines(paper, entry.text or " ", wide)
    # An entry that fits on a page is not parted; a longer one flows on.
    tall = max(names, texts) * _LINE + _GAP
    if tall < paper.eph / 2 and paper.will_page_break(tall):
        paper.add_page()
    top, page = paper.get_y(), paper.page
    paper.set_font(_OWN, size=_SIZE)
    paper.set_text_color(*_SOFT)
    paper.multi_cell(_NAMES - 2, _LINE, entry.name, align="L", new_x="LMARGIN", new_y="NEXT")
    after = paper.get_y()
    paper.set_xy(paper.l_margin + _NAMES, top)
    paper.set_text_color(*_INK)
    if entry.text is None:
        paper.set_font(_OWN, size=7.5)
        paper.set_text_color(*_SOFT)
        paper.cell(wide, _LINE, f"({entry.hint})" if entry.hint else "")
        bottom = top + 1.5 * _LINE
        paper.set_draw_color(*_SOFT)
        paper.line(paper.l_margin + _NAMES, bottom, paper.l_margin + paper.epw, bottom)
        paper.set_xy(paper.l_margin, max(after, bottom) + _GAP)
        return
    paper.multi_cell(wide, _LINE, entry.text, align="L", new_x="LMARGIN", new_y="NEXT")
    below = paper.get_y() if paper.page != page else max(after, paper.get_y())
    paper.set_xy(paper.l_margin, below + _GAP)


def _lines(paper: FPDF, text: str, wide: float) -> int:
    paper.set_font(_OWN, size=_SIZE)
    found = paper.multi_cell(wide, _LINE, text, align="L", dry_run=True, output="LINES")
    return len(found) if isinstance(found, list) else 1


def _text_of(record: ProcessingRecord) -> str:
    texts = [record.job, record.run, record.owner, record.state]
    for part in record.parts:
        texts += [part.title, *(f"{e.name}{e.text or ''}{e.hint}" for e in part.entries)]
    return "".join(texts)
