"""Files as people bring them: what can be read is read, what cannot is called what it is."""

import bz2
import csv
import gzip
import io
import lzma
import subprocess
import zipfile

import pytest

from umbel.client.propose import propose
from umbel.errors import DataError
from umbel.learning.reading.header import column_names
from umbel.learning.reading.tables import read_table

ROWS = [
    ("plain", "a"),
    ("with ; and , and | and\ttab", "b"),
    ('with "quotes"', "a"),
    ("two\nlines", "b"),
]


def delimited(delimiter, header=("text", "label"), rows=ROWS):
    made = io.StringIO()
    writer = csv.writer(made, delimiter=delimiter, lineterminator="\n")
    writer.writerows([header, *rows])
    return made.getvalue()


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("ending", ["csv", "tsv"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_header_says_what_separates_the_columns(tmp_path, delimiter, ending, mark, lenient):
    path = tmp_path / f"rows.{ending}"
    path.write_text(mark + delimited(delimiter), encoding="utf-8")
    assert column_names(path) == ["text", "label"]
    table = read_table(path, "text", ["label"], lenient=lenient)
    assert list(zip(table.columns["text"], table.columns["label"], strict=True)) == ROWS


def test_a_header_with_a_comma_is_separated_by_commas_whatever_else_it_holds(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("a;b;c,text\n1;2,x\n", encoding="utf-8")
    assert column_names(path) == ["a;b;c", "text"]
    path.write_text('"one; column"\nx;y\n', encoding="utf-8")
    assert column_names(path) == ["one; column"]


def test_no_record_changes_what_separates_the_columns(tmp_path):
    path = tmp_path / "rows.csv"
    for record in ("a,b,c,d", '"open', "\x00", "x|y|z|a|b", ""):
        path.write_text(f"text;label\n{record}\nfine;1\n", encoding="utf-8")
        assert column_names(path) == ["text", "label"]
        found = read_table(path, "text", ["label"], lenient=True)
        assert ("fine", "1") in zip(found.columns["text"], found.columns["label"], strict=True)


def zipped(name):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(name, "text,label\na,1\n")
    return made.getvalue()


TABLE = b"text,label\nfine,1\nill,2\n"
OTHER_KINDS = {
    "sheet.xlsx": (zipped("[Content_Types].xml"), "Excel workbook"),
    "renamed.csv": (zipped("xl/workbook.xml"), "ending .xlsx"),
    "old.xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "Save it as .xlsx"),
    "old.csv": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "Excel workbook"),
    "sheet.ods": (zipped("mimetype"), "OpenDocument"),
    "some.csv": (zipped("rows.csv"), "ending .zip"),
    "empty.zip": (zipped("folder/"), "holds 0 files"),
    "page.zip": (zipped("page.html"), "ending '.html'"),
    "gz.csv": (gzip.compress(TABLE), "ending .csv.gz"),
    "bz.csv": (bz2.compress(TABLE), "ending .csv.bz2"),
    "xz.jsonl": (lzma.compress(TABLE), "ending .jsonl.xz"),
    "plain.csv.gz": (TABLE, "cannot be unpacked as gzip"),
    "cut.csv.xz": (lzma.compress(TABLE)[:-9], "cut off"),
    "wrong.csv.zst": (TABLE, "cannot be unpacked as zstd"),
    "wrong.zip": (TABLE, "cannot be unpacked as zip"),
    "archive.tar.gz": (gzip.compress(TABLE), "an archive"),
    "page.csv": (b"\n<!DOCTYPE html><html><body>Log in</body></html>", "web page"),
    "pointer.csv": (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "table.csv": (b"PAR1" + bytes(50), "ending .parquet"),
    "list.json": (b'["a", "b"]', "list.json"),
    "rows.txt": (TABLE, "ending .txt"),
    "rows": (TABLE, "no ending"),
    "noise.csv": (bytes(range(1, 256)) * 20, "binary"),
    "mixed.csv": (b"text,label\ngr\xc3\xbcn,1\ngr\xfcn,2\n", "mixes encodings"),
    "header.csv": (b"text,label\n", "no rows"),
    "none.csv": (b"", "empty"),
}


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_another_kind_of_file_is_called_what_it_is(tmp_path, name):
    content, part = OTHER_KINDS[name]
    (tmp_path / name).write_bytes(content)
    for read in (lambda path: read_table(path, "text", ["label"]), propose):
        with pytest.raises(DataError) as refused:
            read(tmp_path / name)
        assert part in str(refused.value)
        assert str(tmp_path / name) in str(refused.value)


@pytest.mark.parametrize("codec", ["utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_the_command_for_lines_of_text_makes_a_table_that_is_read(tmp_path, codec):
    path, lines = tmp_path / "my lines.txt", ["one gr\xfcn", "two"]
    path.write_bytes("".join(f"{line}\n" for line in lines).encode(codec))
    with pytest.raises(DataError) as refused:
        read_table(path, "text", [])
    command = str(refused.value).partition(".tsv: ")[2]
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True, timeout=60)
    assert list(read_table(tmp_path / "my lines.tsv", "text", []).columns["text"]) == lines


def test_names_of_columns_are_found_in_any_case(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(delimited(",", ("Label", "Text ")), encoding="utf-8")
    declared = propose(path).declared
    assert (declared.text_column, declared.label_column) == ("Text ", "Label")
    path.write_text(delimited(",", ("TEXT", "Text")), encoding="utf-8")
    assert propose(path).declared.label_column is None


def test_an_owner_sees_what_is_left_out_before_it_declares(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\na,x\nb,y\n,x\nc,\nd,z\n", encoding="utf-8")
    proposal = propose(path, labels=["x", "y"])
    assert proposal.records == 5
    assert sum(proposal.left_out.values()) == 3
    path.write_text("text,label\na,x\nb,y\n", encoding="utf-8")
    assert not any(propose(path).left_out.values())
