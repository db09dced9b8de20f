"""The record of processing: everything in it comes from the plan and the run, and nothing else does."""

import html
import io
import json
import re

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.t2CharStringPen import T2CharStringPen
from fontTools.pens.ttGlyphPen import TTGlyphPen
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import font_manager
from pypdf import PdfReader

from umbel.reports import fonts, processing_pdf
from umbel.reports.processing import Entry, Part, ProcessingRecord
from umbel.reports.processing_page import page_text
from umbel.reports.tables import encryption_line
from umbel.run.record import RunRecord

PARTS = [
    "Who is responsible", "Purpose", "Data", "Recipients",
    "Technical and organisational measures", "Guarantee", "Retention", "Signature",
]  # fmt: skip
HOSTILE = [
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7*7 }}", '=HYPERLINK("http://x")',
    "\x1b[31mred\x1b[0m", "\u202egnp.exe", "a\nb\r\nStatus: private", "x" * 20_000, "\x00\ufeff",
]  # fmt: skip


@pytest.fixture(autouse=True)
def our_fonts_alone(monkeypatch):
    """As on a machine on which no others are installed: each test means the same everywhere."""
    manager = font_manager.fontManager
    monkeypatch.setattr(
        manager, "ttflist", [one for one in manager.ttflist if one.name == "DejaVu Sans"]
    )
    for known in (fonts.families_for, fonts._covered):
        known.cache_clear()
    yield
    for known in (fonts.families_for, fonts._covered):
        known.cache_clear()


def one(*texts):
    """A record with these texts, wherever others write some."""
    entries = [Entry.known(text, text) for text in texts]
    return ProcessingRecord(
        job="job", run=entries[0].text, owner=entries[0].text, state="planned", made="2026-01-01",
        parts=(Part("Data", (*entries, Entry.blank("Purpose"))),),
    )  # fmt: skip


def words_of(pdf):
    """What a reader finds in a PDF, without the white space that ends lines."""
    pages = PdfReader(io.BytesIO(pdf)).pages
    return "".join("".join(page.extract_text().split()) for page in pages)


def squeezed(text):
    return "".join(text.split())


def test_a_run_has_a_record_as_a_page_and_a_pdf(tmp_path, write_run, umbel):
    folder = write_run(tmp_path / "run", clients=["film", "shop"])
    status, out, err = umbel("record", folder)
    assert status == 0, err
    page = html.unescape((folder / "record.html").read_text(encoding="utf-8"))
    pdf = words_of((folder / "record.pdf").read_bytes())
    assert out.splitlines()[:2] == [str(folder / "record.html"), str(folder / "record.pdf")]
    record = RunRecord.read(folder)
    for part in PARTS:
        assert f". {part}</h2>" in page
        assert squeezed(part) in pdf
    seen = encryption_line(record.plan)
    assert record.guarantee.removesuffix(seen).strip() in page
    assert squeezed(seen) in pdf
    assert "Epsilon that it has cost" in page
    # A line to fill in for each thing that no file says.
    assert page.count('class="blank"') == int(re.search(r"empty lines \((\d+)\)", page)[1]) > 10


def test_a_record_takes_the_place_of_an_earlier_one_and_of_no_other_file(
    tmp_path, write_run, umbel
):
    folder = write_run(tmp_path / "run", clients=["film", "shop"])
    assert umbel("record", folder)[0] == umbel("record", folder)[0] == 0
    for kind in ("html", "pdf"):
        file = folder / f"record.{kind}"
        made = file.read_bytes()
        file.write_bytes(b"somebody's only copy")
        status, _, err = umbel("record", folder)
        assert (status, str(file) in err, file.read_bytes()) == (2, True, b"somebody's only copy")
        file.write_bytes(made)


def test_the_figures_of_one_owner_are_its_own(tmp_path, write_run, umbel):
    folder = write_run(tmp_path / "run", clients=["film", "shop"])
    record = RunRecord.read(folder)
    status, out, err = umbel("record", folder, "--owner", "shop", "--json", "--out", tmp_path)
    assert status == 0, err
    found = json.loads(out)
    said = {e["name"]: e["text"] for part in found["parts"] for e in part["entries"]}
    assert said["Controller"] == found["owner"] == "shop"
    assert said["Epsilon that it has cost"].startswith(figure(record.epsilon["shop"]))
    assert "film" not in said["Published size (noised)"]
    assert [e for part in found["parts"] for e in part["entries"] if e["text"] == ""] == []
    status, _, err = umbel("record", folder, "--owner", "nobody")
    assert status == 2
    assert "film, shop" in err


def figure(epsilon):
    from umbel.quantities import epsilon_text

    return epsilon_text(epsilon)


def test_a_planned_job_has_one_too_and_says_that_nothing_has_run(tmp_path, umbel, tiny):
    rows = [f"text {number},{'ab'[number % 2]}" for number in range(900)]
    (tmp_path / "few.csv").write_text("\n".join(["text,label", *rows]))
    (tmp_path / "job.toml").write_text(
        f'[model]\nbase = "{tiny("bert")}"\n[data]\npath = "few.csv"\n'
    )
    status, out, err = umbel("record", tmp_path / "job.toml", "--out", tmp_path / "new", "--json")
    assert status == 0, err
    found = json.loads(out)
    assert found["state"] == "planned; nothing has run"
    assert [part["title"] for part in found["parts"]] == PARTS
    said = {e["name"]: e["text"] for part in found["parts"] for e in part["entries"]}
    assert "Epsilon that it has cost" not in said
    assert said["In plain words"].startswith("an attacker who knows everything except one record")
    assert all((tmp_path / "new" / f"job.record.{kind}").is_file() for kind in ("html", "pdf"))


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_others_wrote_is_text_on_the_page_and_in_the_pdf(text):
    record = one(text)
    page = page_text("processing.html", record=record)
    assert "<script" not in page
    assert "<img" not in page
    assert all(c.isprintable() or c == "\n" for c in page)
    assert html.unescape(page).count("Status: private") == page.count(r"\r\nStatus: private")
    pdf = processing_pdf.pdf_of(record)
    read = PdfReader(io.BytesIO(pdf))
    assert not any(page.get("/Annots") for page in read.pages)
    assert not {"/Names", "/AA", "/AcroForm"} & set(read.trailer["/Root"])
    assert squeezed(record.run)[:60] in words_of(pdf)


@given(st.lists(st.text(max_size=300), min_size=1, max_size=4))
@settings(max_examples=5, deadline=None)
def test_any_text_makes_a_pdf_that_opens(texts):
    assert len(PdfReader(io.BytesIO(processing_pdf.pdf_of(one(*texts)))).pages) >= 1


def font(characters, curves):
    """A font that draws a square for each of them."""
    names = [".notdef", *(f"c{number}" for number in range(len(characters)))]
    made = FontBuilder(1000, isTTF=curves == "quadratic")
    made.setupGlyphOrder(names)
    made.setupCharacterMap({ord(c): n for c, n in zip(characters, names[1:], strict=True)})
    pen = TTGlyphPen(None) if curves == "quadratic" else T2CharStringPen(1000, None)
    pen.moveTo((100, 0))
    for point in ((900, 0), (900, 800), (100, 800)):
        pen.lineTo(point)
    pen.closePath()
    if curves == "quadratic":
        made.setupGlyf(dict.fromkeys(names, pen.glyph()))
    else:
        made.setupCFF("Made", {}, dict.fromkeys(names, pen.getCharString()), {})
    made.setupHorizontalMetrics(dict.fromkeys(names, (1000, 100)))
    made.setupHorizontalHeader(ascent=800, descent=-200)
    made.setupNameTable({"familyName": "Umbel Test", "styleName": "Regular"})
    made.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    made.setupPost()
    return made


@pytest.mark.parametrize("curves", ["quadratic", "cubic"])
def test_chinese_names_are_set_in_an_installed_font_that_has_them(curves, tmp_path, caplog):
    record = one("北京医院")
    boxes = processing_pdf.pdf_of(record)
    assert squeezed("4 characters are not in any installed font") in words_of(boxes)
    assert "No installed font has" in caplog.text
    caplog.clear()
    file = tmp_path / {"quadratic": "made.ttf", "cubic": "made.otf"}[curves]
    font("北京医院", curves).save(file)
    font_manager.fontManager.addfont(file)
    for known in (fonts.families_for, fonts._covered):
        known.cache_clear()
    pdf = words_of(processing_pdf.pdf_of(record))
    assert not caplog.records
    assert "notinanyinstalledfont" not in pdf
    assert pdf.count("北京医院") == 4  # and nothing says that a font cannot be used
    assert page_text("processing.html", record=record).count("北京医院") == 4
