"""What documents quote of example jobs are figures of benchmarks/results/examples.json."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KEPT = json.loads((ROOT / "benchmarks" / "results" / "examples.json").read_text(encoding="utf-8"))
PAGES = [
    *ROOT.glob("README*.md"),
    *ROOT.glob("docs/quick-start*.md"),
    *ROOT.glob("examples/*.toml"),
]
"""Percentages and epsilons with decimals on these pages are what an example job reached."""
TABLE = ROOT / "docs" / "benchmarks.md"
PERCENT = re.compile(r"(\d+\.\d+)(?=(?:–\d+\.\d+)?\s?%)")
EPSILON = re.compile(r"epsilon[^\d\n=]{0,4}(\d+\.\d+)")


def of_examples(names):
    """The figures of these examples, as a page may write them: fractions and percentages."""
    figures = [figure for name in names for figure in KEPT[name]["figures"].values()]
    return {float(figure) for figure in figures} | {round(100 * figure, 4) for figure in figures}


def on_page(text, name=None):
    """The figures on a page that are no example's that the page names, or that it belongs to."""
    named = {*re.findall(r"examples/([\w-]+)\.toml", text), *([name] if name else [])}
    found = PERCENT.findall(text) + EPSILON.findall(text)
    known = of_examples(named & KEPT.keys())
    return [figure for figure in found if float(figure) not in known]


def in_table(text):
    """The figures of rows about an example, in the last cell, that are none of its own."""
    wrong = []
    for line in text.splitlines():
        rows = r"\| `(?:python benchmarks/examples\.py|\.\.\.|examples/)\s?([\w-]+)(?:\.toml)?`"
        row = re.match(rows, line)
        if row and row[1] in KEPT:
            last = line.rstrip(" |").rpartition("|")[2]
            wrong += [
                f for f in re.findall(r"\d+\.\d+", last) if float(f) not in of_examples([row[1]])
            ]
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_figure_of_an_example_on_a_page_is_in_the_results(page):
    name = page.stem if page.suffix == ".toml" else None
    assert on_page(page.read_text(encoding="utf-8"), name) == []


def test_figures_of_examples_in_the_table_of_benchmarks_are_in_the_results():
    assert in_table(TABLE.read_text(encoding="utf-8")) == []


def test_every_kept_figure_says_where_it_comes_from_and_its_first_one_is_quoted():
    quoted = "\n".join(page.read_text(encoding="utf-8") for page in [*PAGES, TABLE])
    written = {float(number) for number in re.findall(r"\d+\.\d+", quoted)}
    for name, kept in KEPT.items():
        assert (ROOT / "examples" / f"{name}.toml").exists()
        assert re.match(r"[0-9a-f]{7}, ", kept["commit"]), name
        assert name in kept["command"]
        assert kept["machine"]
        first = next(iter(kept["figures"].values()))
        assert {first, round(100 * first, 4)} & written, name


def test_a_figure_that_no_run_reached_is_found():
    page = (ROOT / "docs" / "quick-start.zh-CN.md").read_text(encoding="utf-8")
    assert "58.4 %" in page
    assert "epsilon 为 7.75" in page
    assert on_page(page.replace("58.4 %", "59.4 %")) == ["59.4"]
    assert on_page(page.replace("为 7.75", "为 6.75")) == ["6.75"]
    demo = (ROOT / "README.md").read_text(encoding="utf-8")
    assert on_page(demo.replace("89.1%", "89.2%")) == ["89.2"]
    table = TABLE.read_text(encoding="utf-8")
    for figure in ("0.806 at epsilon", "0.850 in", "0.962 in", "81.0 from", "0.813 (0.809"):
        assert table.count(figure) == 1
        assert in_table(table.replace(figure, f"9{figure}")) == [f"9{figure.split()[0]}"]
