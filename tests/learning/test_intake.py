"""The same table, written in every way that people write one, is the same corpus.

Tables are drawn at random: texts with quotes, delimiters, line ends and letters of many scripts; labels of
every kind that a table can hold.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import tomllib
import zipfile
from datetime import date, datetime
from decimal import Decimal

import openpyxl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from umbel.client.propose import propose
from umbel.client.settings import settings_text
from umbel.errors import DataError
from umbel.job import DataSpec
from umbel.learning.data import load_corpus
from umbel.learning.reading.encoding import NAMES
from umbel.learning.reading.header import column_names
from umbel.learning.reading.layout import Layout
from umbel.learning.reading.names import canonical, label_name
from umbel.learning.reading.packing import PACKED, most_bytes
from umbel.learning.reading.tables import read_table

SEEDS = range(4)

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


@pytest.mark.parametrize("kind", LABELS)
def test_every_format_gives_the_same_records_and_classes(tmp_path, kind):
    for seed in SEEDS:
        rows = drawn(seed, kind)
        expected = None
        for name, write in WRITERS.items():
            found, corpus = corpus_of(write(tmp_path / name, rows))
            expected = expected or found
            assert found == expected, name
            assert corpus.dropped == {"no label": 1}, name
        assert [text for text, _ in expected] == [text for text, label in rows if label is not None]
        assert len({label for _, label in expected}) == len({label for _, label in rows} - {None})


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("one", ["commas.csv", "sheet.xlsx"])
def test_training_and_test_files_of_two_formats_have_the_same_classes(tmp_path, kind, one):
    rows = drawn(9, kind)
    first = WRITERS[one](tmp_path / one, rows)
    classes = corpus_of(first)[1].label_names
    for name, write in WRITERS.items():
        second = write(tmp_path / f"test-{name}", rows[:5])
        assert corpus_of(first, test_path=str(second))[1].label_names == classes, name


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize(
    "name", ["semicolons.csv", "lines.jsonl", "sheet.xlsx", "table.parquet", "table.feather"]
)
def test_compressed_files_are_read_as_what_is_in_them(tmp_path, name, packed):
    rows = drawn(1, "name")
    plain = WRITERS[name](tmp_path / name, rows)
    path = tmp_path / f"{name}{packed}"
    path.write_bytes(pack(packed, plain.read_bytes(), name))
    assert column_names(path) == column_names(plain)
    assert corpus_of(path)[0] == corpus_of(plain)[0]
    assert f"unpacked as {PACKED[packed]}" in corpus_of(path)[1].notes[0]


def pack(packed, content, name):
    if packed == ".zip":
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"folder/{name}", content)
            archive.writestr(f"__MACOSX/folder/._{name}", b"what a Mac adds")
        return made.getvalue()
    if packed == ".zst":
        return pa.compress(content, codec="zstd", asbytes=True)
    return {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[packed](content)


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("name", ["bomb.csv", "bomb.jsonl", "bomb.parquet"])
def test_what_unpacks_to_far_too_much_is_refused(tmp_path, monkeypatch, name, packed):
    monkeypatch.setattr("umbel.learning.reading.packing._ALWAYS", 1 << 20)
    path = tmp_path / f"{name}{packed}"
    path.write_bytes(pack(packed, b"text,label\n" + bytes(3 << 20), name))
    assert most_bytes(path) < 3 << 20
    with pytest.raises(DataError, match="unpacks to more than 1 MiB"):
        read_table(path, "text", ["label"], lenient=True)


def test_a_workbook_that_unpacks_to_far_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("umbel.learning.reading.packing._ALWAYS", 1 << 20)
    path = as_sheet(tmp_path / "bomb.xlsx", [("a" * 30_000, "b")] * 500 + [("c", "d")])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet9.xml", bytes(3 << 20))
    with pytest.raises(DataError, match="too much for its size"):
        read_table(path, "text", ["label"])


SPOKEN = {
    "cp1252": [
        "Das Gerät läuft schön – “wirklich”",
        "Größe passt, Füße tun nicht weh",
        "l’été à Paris, garçon",
    ],
    "cp1250": ["Zażółć gęślą jaźń, świetny", "Nie polecam, źle działa", "łatwy i tani, żółty"],
    "cp1251": ["Очень хороший товар", "Плохое качество, не советую", "Быстрая доставка, спасибо"],
    "koi8_r": ["Очень хороший товар", "Плохое качество, не советую", "Быстрая доставка, спасибо"],
    "cp1253": ["Πολύ καλό προϊόν, το συνιστώ", "Κακή ποιότητα", "Γρήγορη παράδοση"],
    "cp1254": [
        "Çok güzel bir ürün, tavsiye ederim",
        "Kötü kalite, beğenmedim, ışık",
        "Hızlı kargo, şık",
    ],
    "mac_roman": ["Das Gerät läuft schön", "Größe passt, Füße", "l’été à Paris, garçon"],
    "cp850": ["Das Gerät läuft schön", "Größe passt, Füße", "übel überteuert"],
    "gb18030": ["这个产品非常好，我很喜欢", "质量太差了，不推荐", "物流很快，谢谢"],
    "big5": ["這個產品非常好，我很喜歡", "品質太差了，不推薦", "物流很快，謝謝"],
    "cp932": [
        "とても良い商品です。おすすめします",
        "品質が悪い、がっかりしました",
        "配送が早くて助かりました",
    ],
    "euc_jp": [
        "とても良い商品です。おすすめします",
        "品質が悪い、がっかりしました",
        "配送が早くて助かりました",
    ],
    "cp949": ["정말 좋은 제품입니다. 추천합니다", "품질이 너무 나쁩니다", "배송이 빨라서 좋았어요"],
}


@pytest.mark.parametrize("encoding", SPOKEN)
@pytest.mark.parametrize("count", [6, 300])
def test_an_encoding_is_found_and_said(tmp_path, encoding, count):
    texts = [f"{SPOKEN[encoding][n % 3]} {n}" for n in range(count)]
    rows = [(text, "ab"[n % 2]) for n, text in enumerate(texts)]
    path = as_delimited(tmp_path / "rows.csv", rows, ";", encoding)
    found, corpus = corpus_of(path)
    assert [text for text, _ in found] == texts
    assert f"{encoding} ({NAMES[encoding]}), guessed" in corpus.notes[0]
    assert corpus_of(path, encoding=encoding)[0] == found
    declared = propose(path).declared
    assert (declared.encoding, declared.text_column) == (encoding, "text")
    agent = read_table(path, "text", lenient=True, layout=declared.layout)
    assert agent.columns["text"] == texts


def test_quotes_of_windows_never_become_control_characters(tmp_path):
    rows = [("It’s “fine” – really…", "a"), ("L’été", "b")] * 5
    path = as_delimited(tmp_path / "rows.csv", rows, encoding="cp1252")
    assert corpus_of(path)[0] == rows
    with pytest.raises(DataError, match="set cp1252"):
        corpus_of(path, encoding="latin-1")
    plain = as_delimited(tmp_path / "plain.csv", [("grün", "a"), ("rot", "b")], encoding="latin-1")
    assert corpus_of(plain, encoding="latin-1")[0] == [("grün", "a"), ("rot", "b")]


@pytest.mark.parametrize("wrong", ["utf-8", "gb18030", "utf-16", "no-such", "hex"])
def test_an_encoding_that_does_not_fit_is_refused(tmp_path, wrong):
    rows = [("gr\xfcn \x9f \xff", "a"), ("\xe9t\xe9", "b")] * 5
    path = as_delimited(tmp_path / "rows.csv", rows, encoding="latin-1")
    with pytest.raises(DataError, match=r"encoding|is not"):
        corpus_of(path, encoding=wrong)


def test_utf_8_is_not_read_as_anything_else(tmp_path):
    path = as_delimited(tmp_path / "rows.csv", [("grün", "a"), ("été", "b")])
    with pytest.raises(DataError, match="is UTF-8, not cp1252"):
        corpus_of(path, encoding="cp1252")


def test_what_is_done_to_a_file_is_said(tmp_path):
    rows = [("two\nlines", "a"), ("three\nmore\nlines", "b"), ("one", "a")]
    _, corpus = corpus_of(as_delimited(tmp_path / "rows.csv", rows, ";"))
    assert corpus.notes == (
        "columns separated by semicolons",
        "2 rows span several lines, the longest 3: line ends within quotes are part of a field",
    )
    assert corpus_of(as_delimited(tmp_path / "plain.csv", [("a", "1"), ("b", "2")]))[1].notes == ()


def test_quotes_that_enclose_nothing_are_characters(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text(
        'label\ttext\na\t"Great" movie\nb\tsays "no\na\t"open\nb\tfine\n', encoding="utf-8"
    )
    found, corpus = corpus_of(path)
    assert [text for text, _ in found] == ['"Great" movie', 'says "no', '"open', "fine"]
    assert "quotes read as plain characters" in corpus.notes[0]
    declared = propose(path).declared
    assert declared.quoting == "none"
    assert (
        read_table(path, "text", lenient=True, layout=declared.layout).columns["text"][0]
        == '"Great" movie'
    )


def test_a_line_sep_of_excel_and_empty_cells_at_the_end_are_no_obstacle(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("sep=;\ntext;label\nfine, I say;a;;\nill;b\n", encoding="utf-8")
    found, corpus = corpus_of(path)
    assert found == [("fine, I say", "a"), ("ill", "b")]
    assert corpus.notes == ("columns separated by semicolons",)


def test_the_columns_that_are_asked_for_tell_the_delimiter(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text;label, main\nfine, I say;a\nill;b\n", encoding="utf-8")
    assert corpus_of(path, label_column="label, main")[0] == [("fine, I say", "a"), ("ill", "b")]


@pytest.mark.parametrize("form", ["lines.jsonl", "list.json", "table.parquet", "table.feather"])
def test_fields_within_fields_are_reached_by_their_paths(tmp_path, form):
    rows = [{"doc": {"text": f"text {n}", "meta": {"label": n % 2 == 0}}, "n": n} for n in range(6)]
    path = tmp_path / form
    if form.endswith(("jsonl", "json")):
        listed = json.dumps(rows) if form == "list.json" else "\n".join(map(json.dumps, rows))
        path.write_text(listed)
    elif form.endswith("parquet"):
        pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        pa.feather.write_feather(pa.Table.from_pylist(rows), path)
    assert column_names(path) == ["doc.text", "doc.meta.label", "n"]
    found, _ = corpus_of(path, text_column="doc.text", label_column="doc.meta.label")
    assert found == [(f"text {n}", "true" if n % 2 == 0 else "false") for n in range(6)]
    with pytest.raises(DataError, match=r"mean 'doc\.text'"):
        corpus_of(path, text_column="doc.txt", label_column="n")


def test_a_name_with_a_dot_comes_before_a_path(tmp_path):
    path = tmp_path / "rows.jsonl"
    record = {"doc.text": "whole", "doc": {"text": "inner"}, "label": "a"}
    path.write_text(json.dumps(record))
    assert read_table(path, "doc.text").columns["doc.text"] == ["whole"]


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


def test_a_few_unreadable_rows_are_left_out_and_said_and_many_are_refused(tmp_path):
    lines = [json.dumps({"text": f"text {n}", "label": "ab"[n % 2]}) for n in range(300)]
    path = tmp_path / "rows.jsonl"
    lines[7:7] = ["{broken", '{"text": 3, "label": "a"}']
    path.write_text("\n".join(lines))
    found, corpus = corpus_of(path)
    assert len(found) == 300
    assert corpus.dropped == {"unreadable": 2}
    assert "2 unreadable; the first is line 8: it is not valid JSON" in corpus.notes[0]
    path.write_text("\n".join(lines + ["{broken"] * 2))
    with pytest.raises(
        DataError, match=r"line 8: it is not valid JSON.* 4 of 304 rows cannot be read"
    ):
        corpus_of(path)


@pytest.mark.parametrize("kind", ["truth", "whole", "fraction"])
def test_numbers_of_any_width_and_precision_are_the_same_names(tmp_path, kind):
    types = {
        "truth": [pa.bool_()],
        "whole": [
            pa.int8(),
            pa.int64(),
            pa.float32(),
            pa.float64(),
            pa.string(),
            pa.decimal128(9, 3),
        ],
        "fraction": [
            pa.float32(),
            pa.float64(),
            pa.decimal128(9, 3),
            pa.dictionary(pa.int8(), pa.string()),
        ],
    }
    values = {"truth": [True, False], "whole": [1, 0, 2], "fraction": [0.1, 0.25, 3.5]}[kind]
    expected = {label_name(str(value)) for value in values}
    for form in types[kind]:
        plain = [Decimal(str(v)) for v in values] if pa.types.is_decimal(form) else values
        if pa.types.is_string(form) or pa.types.is_dictionary(form):
            plain = [str(v) for v in values]
        table = pa.table({"text": ["t"] * len(values), "label": pa.array(plain).cast(form)})
        path = tmp_path / "rows.parquet"
        pa.parquet.write_table(table, path)
        assert set(corpus_of(path)[1].label_names) == expected, form


def test_a_canonical_name_is_its_own_canonical_name():
    at = random.Random(3)
    for _ in range(3000):
        name = "".join(at.choices("0123456789.eE+-TtrueFals:", k=at.randint(1, 9)))
        assert canonical(canonical(name)) == canonical(name), name
    for value in [at.uniform(-1e6, 1e6) for _ in range(300)] + [
        10.0**n for n in range(-300, 300, 7)
    ]:
        assert label_name(repr(value)) == label_name(json.dumps(value)) == canonical(repr(value))
    for spelled in ("1.0", "+1", "1.000", "1"):
        assert canonical(spelled) == "1"
    for kept in ("007", "1e5", "1.2.3", "yes", "-", "0x1", "1,5", "None"):
        assert canonical(kept) == kept


def test_a_column_of_one_text_per_line_keeps_its_blank_lines(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text\none\n\nthree\n\n\n", encoding="utf-8")
    assert read_table(path, "text").columns["text"] == ["one", "", "three"]


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "backslash.csv"])
def test_an_agent_reads_what_a_simulation_reads(tmp_path, name):
    """By what its owner declared when it looked at the file."""
    rows = drawn(5, "name")
    path = WRITERS[name](tmp_path / name, rows)
    declared = propose(path).declared
    strict = read_table(path, "text", ["label"])
    agent = read_table(path, "text", ["label"], lenient=True, layout=declared.layout)
    assert agent.columns == strict.columns
    assert Layout(declared.encoding, declared.quoting) == declared.layout
