"""The record of processing on paper: a page, and the same as a PDF."""

from __future__ import annotations

from pathlib import Path

from ..errors import FileError
from ..storage.files import refuse_foreign, write_durably
from .html import page_text
from .processing import ProcessingRecord
from .processing_pdf import pdf_of

_TITLE = b"Record of processing"
"""Marks each such file; in the PDF it is the title."""


def write_record(record: ProcessingRecord, folder: Path, stem: str) -> tuple[Path, Path]:
    """Write `stem`.html and `stem`.pdf; each whole or not at all, and readable by this user alone.

    Raises ``FileError`` if files of another kind are.
    """
    page, paper = folder / f"{stem}.html", folder / f"{stem}.pdf"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{folder} cannot be made: {error.strerror}") from None
    for path in (page, paper):
        refuse_foreign(path, "a record of processing", lambda content: _TITLE in content)
    write_durably(page, page_text("processing.html", record=record).encode(), secret=True)
    write_durably(paper, pdf_of(record), secret=True)
    return page, paper
