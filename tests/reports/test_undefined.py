"""Noise can outweigh private counts: a figure is then not defined, and everything that shows it says so."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from rich.console import Console

from umbel.consortium.authority import Consortium
from umbel.errors import UmbelError
from umbel.learning.classification_counts import ClassificationCounts
from umbel.learning.language_counts import LanguageCounts
from umbel.learning.private_counts import PrivateCounts
from umbel.privacy.secagg.roster import Limits
from umbel.quantities import NOT_DEFINED, WHY_NOT_DEFINED
from umbel.reports.compare import compare
from umbel.reports.page import write_page
from umbel.reports.plots import draw
from umbel.reports.progress import Progress
from umbel.reports.tables import result_table
from umbel.run.events import Kept, from_json
from umbel.run.outcome import kept_line
from umbel.run.record import RunRecord
from umbel.run.store import Store

LABELS = ["negative", "positive"]
DROWNED = {
    "text-classification": PrivateCounts(
        ClassificationCounts, 2, np.array([[3, -9], [2, -8]]), np.array([-50])
    ).metrics(LABELS),
    "causal-lm": PrivateCounts(LanguageCounts, 0, np.array([[-12]]), np.array([40])).metrics([]),
}
METRIC = {"text-classification": "accuracy", "causal-lm": "perplexity"}


@pytest.fixture(params=list(DROWNED))
def task(request):
    return request.param


def drown(folder, task, exact=False):
    """As if noise had outweighed the counts of every test; `exact`: a simulation that knows better."""
    path = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["event"] == "evaluation":
            line.update(exact=line["metrics"] if exact else {}, metrics=DROWNED[task], clients={})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = folder / "result.json"
    if path.exists():
        result = json.loads(path.read_text())
        known = {"metrics": result["metrics"], "initial": result["initial"]}
        result |= {"metrics": DROWNED[task], "initial": DROWNED[task], "local_only": {}}
        result |= {"client_metrics": {}, "client_initial": {}, "pooled": None}
        path.write_text(json.dumps(result | {"exact": known if exact else None}))
    return folder


def table(folder):
    console = Console(width=100)
    with console.capture() as captured:
        console.print(result_table(RunRecord.read(folder)))
    return " ".join(captured.get().split())


def page(folder):
    text = unescape(re.sub("<[^>]*>", " ", write_page(folder, ()).read_text(encoding="utf-8")))
    return " ".join(text.split("The job")[0].split())


@pytest.mark.parametrize("ran", [2, 10])
def test_table_page_and_plots_say_that_nothing_is_defined_and_why(tmp_path, write_run, task, ran):
    folder = drown(write_run(tmp_path / "run", task=task, ran=ran), task)
    for text in (table(folder), page(folder)):
        assert text.count(NOT_DEFINED) >= 2  # before training, and after
        assert text.count(WHY_NOT_DEFINED) == 1
        assert not re.search(r"\bNone\b(?! on record)|\bnan\b", text)
    assert {path.stem for path in draw(folder)} == {"partition", "epsilon"}


def test_beside_exact_figures_the_server_sees_none(tmp_path, write_run, task):
    folder = drown(write_run(tmp_path / "run", task=task), task, exact=True)
    shown = table(folder)
    assert f"as a server sees it {NOT_DEFINED}" in re.sub("→ ", "", shown)
    assert f"a server sees {NOT_DEFINED}" in page(folder)
    assert WHY_NOT_DEFINED in shown
    assert "learning-curve" in {path.stem for path in draw(folder)}


def test_the_figures_that_are_defined_are_explained_nowhere(tmp_path, write_run, task):
    folder = write_run(tmp_path / "run", task=task)
    assert NOT_DEFINED not in (table(folder) + page(folder)).lower()


def test_a_comparison_shows_it_and_draws_the_others(tmp_path, write_run, task):
    drowned = drown(write_run(tmp_path / "a", name="a", task=task), task)
    other = write_run(tmp_path / "b", name="b", task=task)
    console = Console(width=140)
    with console.capture() as captured:
        console.print(compare([drowned, other], tmp_path / "both.png")[0])
    assert NOT_DEFINED in captured.get()
    with pytest.raises(UmbelError, match="noise outweighs their counts"):
        compare([drowned, drowned])


def test_a_run_that_is_watched_says_it(capsys, umbel, tmp_path, task):
    event = from_json({"event": "evaluation", "round": 3, "metrics": DROWNED[task]})
    Progress().event(event)
    said = f"{METRIC[task]} {NOT_DEFINED} (noise outweighs the counts)"
    assert said in " ".join(capsys.readouterr().err.split())
    consortium = Consortium.create(tmp_path / "hospitals", "127.0.0.1", 9443, Limits(4))
    store = Store(consortium.database)
    store.add("reviews", "0" * 32, 3)
    store.tell("reviews", event)
    _, out, _ = umbel("status", "reviews", "--consortium", consortium.path)
    assert f"The model after round 3: {said}" in out


def test_a_choice_that_no_figure_spoke_for_says_so():
    kept = Kept(round=4, ended_early=False, on="private counts")
    assert kept_line(kept) == "The last model, after round 4, is the result."
    line = kept_line(replace(kept, metric="accuracy"))
    assert "accuracy was not defined in any test (private counts)" in line


def test_noise_that_leaves_few_of_many_records_gives_no_figure_beyond_a_float():
    found = PrivateCounts(LanguageCounts, 0, np.array([[1]]), np.array([64 * 100])).metrics([])
    assert found["loss"] > 710
    assert found["perplexity"] is None
