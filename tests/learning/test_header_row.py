"""The row that names the columns is found below titles, and no row of records is taken for it."""

import itertools

import openpyxl
import pytest

from umbel.errors import DataError
from umbel.learning.reading.header import column_names
from umbel.learning.reading.layout import USUAL
from umbel.learning.reading.tables import find_layout, read_table

ROWS = [[f"text {n}, and more", "ab"[n % 2], str(2020 + n)] for n in range(9)]
NAMES = ["text", "label", "when"]
TITLES = {
    "none": [],
    "one": [["Export of reviews 2026-11-02"]],
    "a title and an empty row": [["Export of reviews"], []],
    "several": [["Export of reviews"], ["made by Finance"], []],
    "headings of groups": [["All of 2026"], [], ["Content of it", "", ""]],
}


def as_csv(path, rows, delimiter, padded):
    lines = [
        delimiter.join(cell if delimiter not in cell else f'"{cell}"' for cell in row)
        + (delimiter * (len(NAMES) - max(1, len(row))) if padded and len(row) < len(NAMES) else "")
        for row in rows
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def as_sheet(path, rows):
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)
    return path


@pytest.mark.parametrize("titles", TITLES)
def test_a_header_below_titles_is_found_with_and_without_names(tmp_path, titles):
    rows = [*TITLES[titles], NAMES, *ROWS]
    files = [as_sheet(tmp_path / "rows.xlsx", rows)]
    for number, (delimiter, padded) in enumerate(itertools.product(",;\t|", (False, True))):
        files.append(as_csv(tmp_path / f"rows{number}.csv", rows, delimiter, padded))
    for path in files:
        assert column_names(path) == NAMES, path
        assert column_names(path, wanted=["label"]) == NAMES, path
        for lenient in (False, True):
            table = read_table(
                path, "text", ["label"], lenient=lenient, layout=find_layout(path, USUAL)
            )
            assert table.columns["text"] == [row[0] for row in ROWS], path
            assert not table.faults
        unnamed = read_table(path, None, [], NAMES, lenient=True)
        assert unnamed.columns["label"] == [row[1] for row in ROWS], path


WITHOUT_TITLES = {
    "pandas' index": ",text\n0,fine\n1,ill\n",
    "an index of words": ",text\nfirst,fine\nsecond,ill\n",
    "one column with commas": "text\nhello, you\ngood, bad\n",
    "a header of few names": "text,label,,\nfine,a,x,y\nill,b,z,w\n",
    "records with more fields": "text,label\nfine,a,b\nill,b,c\n",
    "numbers below": "a,b\n1,2\n3,4\n",
}


@pytest.mark.parametrize("kind", WITHOUT_TITLES)
def test_a_first_row_that_is_no_title_stays_the_header(tmp_path, kind):
    path = tmp_path / "rows.csv"
    path.write_text(WITHOUT_TITLES[kind])
    first = WITHOUT_TITLES[kind].split("\n")[0]
    assert column_names(path) == first.split(",")


def test_no_record_decides_which_row_is_the_header_if_the_first_has_the_columns(tmp_path):
    path = tmp_path / "rows.csv"
    for record in ("text,label,more", "a;b;c;d", "", '"open', "text;label"):
        path.write_text(f"text,label\n{record}\nfine,a\n")
        assert column_names(path, wanted=["text", "label"]) == ["text", "label"]


def test_the_sheet_with_the_records_is_looked_at_and_the_others_are_said(tmp_path):
    path = tmp_path / "book.xlsx"
    book = openpyxl.Workbook()
    book.active.title = "Read me"
    for row in (["Export"], ["made by Finance"], ["Sheet", "Rows"], ["Tickets", 9]):
        book.active.append(row)
    for title, rows in (("Tickets", ROWS), ("Archive", ROWS[:4])):
        sheet = book.create_sheet(title)
        for row in (["All tickets"], [], NAMES, *rows):
            sheet.append(row)
    book.save(path)
    assert column_names(path) == NAMES
    table = read_table(path, "text", ["label"])
    assert len(table) == 9
    said = " ".join(table.notes)
    for part in ("'Read me'", "'Tickets' (9 rows: text, label, when)", "'Archive' (4 rows:"):
        assert part in said


@pytest.mark.parametrize("of_three", [2, 3])
def test_cells_that_are_merged_or_hold_unsaved_formulas_are_a_reason(tmp_path, of_three):
    path = tmp_path / "book.xlsx"
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(NAMES)
    for n, row in enumerate(ROWS):
        sheet.append([row[0], row[1] if n % 3 == 0 else None, "=1+1"])
    for first in (2, 5, 8):
        sheet.merge_cells(
            start_row=first, end_row=first + of_three - 1, start_column=2, end_column=2
        )
    book.save(path)
    said = read_table(path, "text", ["label", "when"]).notes
    assert f"{3 * (of_three - 1)} cells of column 'label' are merged" in " ".join(said)
    assert "9 cells of column 'when' hold formulas without a saved value" in " ".join(said)
    assert read_table(path, "text", ["label"], lenient=True).notes == ()
    assert read_table(path, "text").notes == ()


@pytest.mark.parametrize("label", ["a", "b"])
def test_a_file_that_ends_within_a_quote_loses_its_last_row_alone(tmp_path, label):
    path = tmp_path / "rows.csv"
    lines = [f"text {n},{'ab'[n % 2]}" for n in range(300)]
    path.write_text("\n".join(["text,label", *lines, f'the end is open,"{label}']))
    table = read_table(path, "text", ["label"])
    assert list(table.faults) == [300]
    assert set(table.columns["label"][:300]) == {"a", "b"}
    assert find_layout(path, USUAL) == USUAL


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.xlsx"])
def test_blanks_around_a_name_do_not_hide_a_column(tmp_path, name):
    rows = [[" text ", "label\u00a0", " a"], *ROWS]
    path = tmp_path / name
    if name.endswith("xlsx"):
        as_sheet(path, rows)
    else:
        as_csv(path, rows, "," if name.endswith("csv") else "\t", False)
    assert column_names(path)[0] == " text "
    table = read_table(path, "text", ["label", "a"])
    assert [table.columns[one][0] for one in ("text", "label", "a")] == ROWS[0]
    assert read_table(path, " text ").columns[" text "][0] == ROWS[0][0]


def test_a_name_that_two_columns_have_but_for_blanks_is_not_guessed(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(" text,text ,label\na,b,c\n")
    with pytest.raises(DataError, match="no column 'text'"):
        read_table(path, "text")


def test_a_pattern_that_the_shell_did_not_fill_in_is_called_one(tmp_path):
    (tmp_path / "one.csv").write_text("text,label\na,b\n")
    with pytest.raises(DataError, match="a pattern \\(1 file"):
        read_table(tmp_path / "*.csv", "text")
