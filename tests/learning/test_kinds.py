"""A file whose first bytes disagree with its name is called what it is, for every pair of formats."""

import bz2
import gzip
import io
import json
import lzma
import zipfile

import openpyxl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from umbel.errors import DataError
from umbel.learning.reading.layout import USUAL
from umbel.learning.reading.tables import find_layout, read_table

ROWS = [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(6)]
TABLE = pa.Table.from_pylist(ROWS)
COMMAS = "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS)


def written(write):
    made = io.BytesIO()
    write(made)
    return made.getvalue()


def workbook(made):
    book = openpyxl.Workbook()
    for row in (["text", "label"], *map(list, map(dict.values, ROWS))):
        book.active.append(row)
    book.save(made)


def zipped(*names):
    def write(made):
        with zipfile.ZipFile(made, "w") as archive:
            for name in names:
                archive.writestr(name, COMMAS)

    return written(write)


FORMATS = {
    "CSV": (COMMAS.encode(), {".csv"}),
    "TSV": (COMMAS.replace(",", "\t").encode(), {".tsv", ".tab", ".csv"}),
    "CSV in UTF-16": (COMMAS.encode("utf-16"), {".csv"}),
    "lines of JSON": ("\n".join(map(json.dumps, ROWS)).encode(), {".jsonl", ".ndjson", ".json"}),
    "a list of JSON": (json.dumps(ROWS, indent=2).encode(), {".json"}),
    "a workbook": (written(workbook), {".xlsx", ".xlsm"}),
    "Parquet": (written(lambda made: pa.parquet.write_table(TABLE, made)), {".parquet"}),
    "Feather": (
        written(lambda made: pa.feather.write_feather(TABLE, made)),
        {".feather", ".arrow"},
    ),
    "gzip": (gzip.compress(COMMAS.encode()), {".csv.gz"}),
    "bzip2": (bz2.compress(COMMAS.encode()), {".csv.bz2"}),
    "xz": (lzma.compress(COMMAS.encode()), {".csv.xz"}),
    "zstd": (pa.compress(COMMAS.encode(), codec="zstd", asbytes=True), {".csv.zst"}),
    "zip": (zipped("word/rows.csv"), {".zip"}),
    "an old workbook": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), set()),
    "a sheet of LibreOffice": (zipped("mimetype", "content.xml"), set()),
    "a document of Word": (zipped("[Content_Types].xml", "word/document.xml"), set()),
    "PDF": (b"%PDF-1.7\n" + bytes(600), set()),
    "a web page": (b"\n<!DOCTYPE html>\n<html><table></table></html>", set()),
    "XML": (b'<?xml version="1.0"?>\n<rows><row/></rows>', set()),
    "a database": (b"SQLite format 3\x00" + bytes(600), set()),
}
ENDINGS = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".json", ".xlsx", ".xlsm", ".parquet", ".feather",
           ".arrow", ".csv.gz", ".csv.bz2", ".csv.xz", ".csv.zst", ".zip")  # fmt: skip
READ_ANYWAY = {
    ("CSV", ".tsv"),
    ("CSV", ".tab"),
    ("CSV in UTF-16", ".tsv"),
    ("CSV in UTF-16", ".tab"),
}
"""The header says what separates columns, whatever the name does."""


@pytest.mark.parametrize("kind", FORMATS)
def test_every_pair_of_bytes_and_name_is_read_or_called_what_it_is(tmp_path, kind):
    content, fit = FORMATS[kind]
    for name in ENDINGS:
        path = tmp_path / f"rows{name}"
        path.write_bytes(content)
        if name in fit or (kind, name) in READ_ANYWAY:
            assert len(read_table(path, "text", ["label"], layout=find_layout(path, USUAL))) == 6
            continue
        for look in (find_layout, lambda file: read_table(file, "text", ["label"])):
            with pytest.raises(DataError) as refused:
                look(path)
            said = str(refused.value)
            assert said.startswith(str(path)), (kind, name)
            assert " is " in said, (kind, name)
            assert "binary data" not in said, (kind, name)
            assert "zip file. Save" not in said, (kind, name)
            assert "magic" not in said, (kind, name)
