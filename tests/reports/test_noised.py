"""A figure that carries noise is never shown without how much, wherever it stands."""

import json
import re
from html import unescape

import pytest
from rich.console import Console

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
