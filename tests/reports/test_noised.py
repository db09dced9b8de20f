"""A figure that carries noise is never shown without how much, wherever it stands."""

import json
import re
from html import unescape

import pytest
from rich.console import Console

from umbel import quantities
from umbel.errors import UmbelError
from umbel.quantities import NOT_DEFINED, OUTWEIGHED
from umbel.reports.compare import compare
from umbel.reports.page import write_page
from umbel.reports.tables import result_table
from umbel.run.record import RunRecord


@pytest.fixture
def run(tmp_path, write_run):
    def build(counts, deviation=0.07):
        folder = write_run(tmp_path / counts)
        path = folder / "plan.json"
        plan = json.loads(path.read_text())
        plan["evaluation"] = {"counts": counts, "deviation": deviation, "deviation_of": "accuracy"}
        path.write_text(json.dumps(plan))
        return folder

    return build


def everywhere(folder):
    """The terminal's table, the page, and a comparison."""
    console = Console(width=120)
    with console.capture() as captured:
        console.print(result_table(RunRecord.read(folder)))
        console.print(compare([folder])[0])
    page = write_page(folder, ()).read_text(encoding="utf-8")
    yield from captured.get().split("Adapter")
    yield unescape(re.sub("<[^>]*>", " ", page)).split("The job")[0]


def test_a_deployments_figures_show_their_noise(run):
    final = RunRecord.read(run("private")).final["accuracy"]
    for text in everywhere(run("private")):
        assert f"{final:.1%} ± 7.0%" in text


def test_figures_without_noise_show_none(run):
    for text in everywhere(run("exact")):
        assert "±" not in text


def test_figures_that_noise_outweighs_are_shown_nowhere(run):
    folder = run("private", deviation=1.03)
    console = Console(width=120)
    with console.capture() as captured:
        console.print(result_table(RunRecord.read(folder)))
    page = write_page(folder, ()).read_text(encoding="utf-8")
    for text in (captured.get().split("Adapter")[0], page.split("The job")[0]):
        assert NOT_DEFINED in text
        assert "% ±" not in text
    with pytest.raises(UmbelError, match="noise outweighs"):
        compare([folder])


@pytest.mark.parametrize(
    ("blur", "said"),
    [
        ({}, ["accuracy 0.970"]),
        ({"accuracy": 0.07}, ["accuracy 0.970 ± 0.07"]),
        ({"accuracy": OUTWEIGHED * 1.01}, ["accuracy not defined (noise outweighs the counts)"]),
        ({"loss": 5.0}, ["accuracy 0.970"]),
    ],
)
def test_a_run_that_is_watched_shows_the_noise_of_its_figures(blur, said):
    assert quantities.tested_texts({"accuracy": 0.97, "examples": 40}, ".3f", blur) == said
