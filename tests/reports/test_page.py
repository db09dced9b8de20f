"""The page stands alone, says what was guaranteed, and shows names as text."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser

import pytest

from umbel.reports.page import write_page
from umbel.reports.plots import draw


class Page(HTMLParser):
    """Collects tags, what they refer to, and the visible text; fails on tags left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.references: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)
        self.references += [v for k, v in attrs if k in ("src", "href", "srcset", "poster")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(folder, pictures=()) -> Page:
    return Page(write_page(folder, pictures).read_text(encoding="utf-8"))


def test_the_page_refers_to_nothing_outside_itself(tmp_path, write_run):
    folder = write_run(tmp_path / "run")
    source = write_page(folder).read_text(encoding="utf-8")
    page = Page(source)
    assert len(page.references) == 4
    start = "data:image/svg+xml;base64,"
    assert all(reference.startswith(start) for reference in page.references)
    pictures = [base64.b64decode(r.removeprefix(start)).decode() for r in page.references]
    for picture in pictures:
        links = re.findall(r'(?:href|src)="([^"]*)"', picture)
        assert all(link.startswith(("#", "data:image/png;")) for link in links)
    assert "<text" in pictures[0]
    assert not page.tags & {"script", "link", "iframe", "object", "base"}
    assert not re.search(r"https?://|@import|url\(", source)


def test_names_from_the_run_are_shown_as_text(tmp_path, write_run):
    evil = "<script>alert(1)</script>"
    folder = write_run(
        tmp_path / "run",
        clients=[evil, "film"],
        labels=["<b>no</b>", "yes"],
        failed={evil: "<img src=x onerror=alert(1)>"},
        job='\n[strategy]\nname = "</code><script>"\n',
    )
    page = read(folder)
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert evil in page.text
    assert "<img src=x onerror=alert(1)>" in page.text
    assert 'name = "</code><script>"' in page.text


def test_the_officer_reads_the_guarantee_and_what_was_spent(tmp_path, write_run):
    folder = write_run(tmp_path / "run")
    result = json.loads((folder / "result.json").read_text())
    text = read(folder).text
    assert result["privacy"]["guarantee"] in text
    assert "limit 4.00 · δ = 1e-5" in text
    assert f"{result['metrics']['accuracy']:.1%}" in text
    assert result["adapter_sha256"] in text
    assert "epsilon = 4.0" in text


def test_a_run_with_known_noise_says_that_no_guarantee_holds(tmp_path, write_run):
    folder = write_run(tmp_path / "run")
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(result | {"reproducible": True}))
    assert "no guarantee holds" in read(folder).text


def encrypted(folder, mode, sees):
    plan = json.loads((folder / "plan.json").read_text())
    plan["encryption"] = {"mode": mode, "server_sees": sees}
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder


def test_the_officer_reads_what_the_server_saw(tmp_path, write_run):
    sees = "The server sees only sums over the cohort's 4 clients."
    text = read(encrypted(write_run(tmp_path / "run"), "secure-sum", sees)).text
    assert "What the server sees" in text
    assert sees in text
    assert "NOT ENCRYPTED" not in text


def test_a_run_without_encryption_is_shouted(tmp_path, write_run):
    sees = "NOT ENCRYPTED: the server sees each client's own update."
    folder = encrypted(write_run(tmp_path / "run"), "none", sees)
    assert sees in read(folder).text
    assert '<section class="box bad"><h2>NOT ENCRYPTED' in (folder / "report.html").read_text()


def test_a_run_without_privacy_says_so(tmp_path, write_run):
    text = read(write_run(tmp_path / "run", unit="none")).text
    assert "No differential privacy: the model may reveal records." in text
    assert "Privacy of each client" not in text


@pytest.mark.parametrize("task", ["text-classification", "causal-lm"])
def test_an_unfinished_run_has_a_page(tmp_path, write_run, task):
    folder = write_run(tmp_path / "run", ran=2, task=task, failed={"shop": "out of memory"})
    text = read(folder, None).text
    assert "unfinished: 2 of 10 rounds" in text
    assert "out of memory" in text


def test_a_run_that_has_not_begun_has_a_page(tmp_path):
    (tmp_path / "plan.json").write_text('{"task": "text-classification"}')
    assert "Nothing has been tested yet" in read(tmp_path).text


def test_pictures_that_were_drawn_already_are_not_drawn_again(tmp_path, write_run):
    folder = write_run(tmp_path / "run")
    pictures = draw(folder)
    before = [path.stat().st_mtime_ns for path in pictures]
    write_page(folder, pictures)
    assert [path.stat().st_mtime_ns for path in pictures] == before
