"""The same rows in every format that is read, and what is read of them: what tests of intake share."""

from __future__ import annotations

import csv
import io
import json
import random
from datetime import date, datetime

import openpyxl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet

from umbel.job import DataSpec
from umbel.learning.data import load_corpus

LABELS = {
    "truth": [True, False],
    "whole": [0, 1, 2, -7],
    "fraction": [0.1, 1.0, 0.5, 2.25, 1e-05, 1e22, -0.0],
    "name": ["good", "bad", "so so", "ü", "007", "1e5", "yes"],
    "day": [date(2026, 11, 27), date(1970, 1, 1)],
    "time": [datetime(2026, 11, 27, 12, 5, 9), datetime(1970, 1, 1)],
}


def drawn(seed, kind, count=40):
    """Rows of (text, label); some labels are missing."""
    at = random.Random(f"{seed} {kind}")
    pieces = [
        "word",
        'a "quote"',
        "comma, semicolon; bar|",
        "tab\there",
        "two\nlines",
        "grün",
        "又晴了",
        '"',
        "5'",
    ]
    rows = [
        (" ".join(at.choices(pieces, k=at.randint(1, 5))), at.choice(LABELS[kind]))
        for _ in range(count)
    ]
    rows[:2] = [("the first", LABELS[kind][0]), ("the second", LABELS[kind][1])]
    rows[7] = ("no label", None)
    return rows


def as_delimited(path, rows, delimiter=",", encoding="utf-8", **how):
    made = io.StringIO()
    writer = csv.writer(made, delimiter=delimiter, **how)
    writer.writerow(["text", "label"])
    writer.writerows([text, "" if label is None else label] for text, label in rows)
    path.write_bytes(made.getvalue().encode(encoding))
    return path


def as_objects(rows):
    plain = [label.isoformat() if isinstance(label, date) else label for _, label in rows]
    return [{"text": text, "label": label} for (text, _), label in zip(rows, plain, strict=True)]


def as_lines(path, rows, encoding="utf-8"):
    lines = [json.dumps(one, ensure_ascii=False) for one in as_objects(rows)]
    path.write_bytes("\n".join(lines).encode(encoding))
    return path


def as_list(path, rows):
    path.write_text(json.dumps(as_objects(rows), indent=1), encoding="utf-8")
    return path


def as_sheet(path, rows):
    book = openpyxl.Workbook()
    for row in (("text", "label"), *rows):
        book.active.append(row)
    book.save(path)
    return path


def as_arrow(path, rows):
    table = pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]})
    write = pa.parquet.write_table if path.suffix == ".parquet" else pa.feather.write_feather
    write(table, path)
    return path


WRITERS = {
    "commas.csv": as_delimited,
    "semicolons.csv": lambda path, rows: as_delimited(path, rows, ";"),
    "bars.csv": lambda path, rows: as_delimited(path, rows, "|", quoting=csv.QUOTE_ALL),
    "tabs.csv": lambda path, rows: as_delimited(path, rows, "\t"),
    "tabs.tsv": lambda path, rows: as_delimited(path, rows, "\t"),
    "backslash.csv": lambda path, rows: as_delimited(
        path, rows, quoting=csv.QUOTE_ALL, doublequote=False, escapechar="\\"
    ),
    "lines.jsonl": as_lines,
    "list.json": as_list,
    "lines.json": as_lines,
    "sheet.xlsx": as_sheet,
    "table.parquet": as_arrow,
    "table.feather": as_arrow,
    **{
        f"{encoding}.csv": lambda path, rows, encoding=encoding: as_delimited(
            path, rows, ";", encoding
        )
        for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "gb18030")
    },
    "utf-16.jsonl": lambda path, rows: as_lines(path, rows, "utf-16"),
}


def corpus_of(path, **spec):
    found = load_corpus(DataSpec(path=str(path), **spec), "text-classification")
    return list(
        zip(found.texts, [found.label_names[label] for label in found.labels], strict=True)
    ), found
