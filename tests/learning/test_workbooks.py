"""Workbooks: which sheet is read, where its table begins, and how much may be unpacked."""

from __future__ import annotations

import tomllib
import zipfile

import openpyxl
import pytest

from umbel.client.propose import propose
from umbel.client.settings import settings_text
from umbel.errors import DataError
from umbel.learning.reading.header import column_names
from umbel.learning.reading.layout import Layout
from umbel.learning.reading.tables import read_table

from .writers import as_delimited, as_sheet, corpus_of


def test_a_workbook_that_unpacks_to_far_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("umbel.learning.reading.packing._ALWAYS", 1 << 20)
    path = as_sheet(tmp_path / "bomb.xlsx", [("a" * 30_000, "b")] * 500 + [("c", "d")])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet9.xml", bytes(3 << 20))
    with pytest.raises(DataError, match="too much for its size"):
        read_table(path, "text", ["label"])


def test_of_a_workbook_the_sheet_with_the_columns_is_read_and_titles_above_are_not(tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["About this file"])
    sheet = book.create_sheet("Reviews")
    for row in (["Reviews of 2026"], [], ["id", "text", "label"], [1, "fine", True], [], [2, 2026, False],
                [3, "#N/A", True], [4, "ill", "#DIV/0!"]):  # fmt: skip
        sheet.append(row)
    hidden = book.create_sheet("Old")
    hidden.append(["text", "label"])
    hidden.sheet_state = "hidden"
    path = tmp_path / "book.xlsx"
    book.save(path)
    found, corpus = corpus_of(path)
    assert found == [("fine", "true"), ("2026", "false")]
    assert corpus.dropped == {"empty text": 1, "no label": 1}
    assert corpus.notes[0] == "sheet 'Reviews', of 2 sheets"
    with pytest.raises(DataError, match="no column 'txt'"):
        corpus_of(path, text_column="txt")


@pytest.fixture
def yearly(tmp_path):
    """A workbook with a sheet per year, one of them hidden."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title in ("2024", "2025", "2026"):
        sheet = book.create_sheet(title)
        for row in (["text", "label"], [f"fine in {title}", "a"], [f"ill in {title}", "b"]):
            sheet.append(row)
    book["2024"].sheet_state = "hidden"
    book.create_sheet("Notes").append(["about this file"])
    book.save(tmp_path / "book.xlsx")
    return tmp_path / "book.xlsx"


def test_a_sheet_that_is_named_is_read_hidden_or_not(yearly):
    found, corpus = corpus_of(yearly)
    assert [text for text, _ in found] == ["fine in 2025", "ill in 2025"]
    assert corpus.notes[0] == (
        "sheet '2025', of 3 sheets (the columns are also in '2026': data.sheet names one)"
    )
    for title in ("2024", "2025", "2026"):
        found, corpus = corpus_of(yearly, sheet=title)
        assert [text for text, _ in found] == [f"fine in {title}", f"ill in {title}"]
        assert corpus.notes == (f"sheet {title!r}, as asked",)


def test_an_owner_declares_a_sheet(yearly):
    declared = propose(yearly, sheet="2026").declared
    assert declared.layout == Layout(sheet="2026")
    settings = tomllib.loads(settings_text("north", declared))
    assert settings["data"]["sheet"] == "2026"
    assert propose(yearly).declared.sheet is None


def test_a_sheet_that_is_not_there_is_refused_with_those_that_are(yearly, tmp_path):
    asked = Layout(sheet="2027")
    for look in (
        lambda: corpus_of(yearly, sheet="2027"),
        lambda: column_names(yearly, asked),
        lambda: read_table(yearly, "text", lenient=True, layout=asked),
    ):
        with pytest.raises(
            DataError,
            match=r"no sheet '2027'. Its sheets: '2024' \(hidden\), '2025', '2026', 'Notes'",
        ):
            look()
    with pytest.raises(DataError, match="no column 'text'"):
        corpus_of(yearly, sheet="Notes")
    plain = as_delimited(tmp_path / "rows.csv", [("a", "b")])
    with pytest.raises(DataError, match="not an Excel workbook"):
        corpus_of(plain, sheet="2026")
