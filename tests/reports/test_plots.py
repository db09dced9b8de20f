"""Pictures are drawn from what there is, for four clients as for a thousand."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.reports import canvas
from umbel.reports.fonts import families_for
from umbel.reports.plots import draw


def names(paths):
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    return {path.stem for path in paths}


def test_a_private_classification_gets_all_its_pictures(tmp_path, write_run):
    drawn = names(draw(write_run(tmp_path / "run")))
    assert drawn == {"learning-curve", "confusion", "partition", "epsilon"}


def test_a_language_model_without_privacy_gets_the_dumbbells_and_no_epsilon(tmp_path, write_run):
    drawn = names(draw(write_run(tmp_path / "run", task="causal-lm", unit="none")))
    assert drawn == {"learning-curve", "perplexity-by-client", "partition"}


def test_a_stopped_run_is_drawn_as_far_as_it_came(tmp_path, write_run):
    drawn = names(draw(write_run(tmp_path / "run", ran=1)))
    assert drawn == {"learning-curve", "confusion", "partition", "epsilon"}


def test_a_run_that_has_not_begun_has_no_pictures(tmp_path):
    (tmp_path / "plan.json").write_text('{"task": "text-classification", "clients": []}')
    assert draw(tmp_path) == []


def test_a_thousand_clients_are_drawn_in_seconds(tmp_path, write_run):
    clients = [f"site-{place}" for place in range(1000)]
    folder = write_run(tmp_path / "run", clients=clients, rounds=5)
    start = time.process_time()
    assert len(draw(folder)) == 4
    assert time.process_time() - start < 15


def test_fifty_classes_are_drawn(tmp_path, write_run):
    labels = [f"intent {place} with a long name" for place in range(50)]
    sites = [f"site-{place}" for place in range(40)]
    assert len(draw(write_run(tmp_path / "run", clients=sites, labels=labels, rounds=2))) == 4


def test_names_in_any_script_are_letters(tmp_path, write_run, caplog, recwarn):
    """In the SVG, whose text a browser draws, and in the PNG as far as any installed font goes."""
    names = ["北京医院", "مستشفى", "больница"]
    drawn = draw(write_run(tmp_path / "run", clients=names, rounds=2))
    curve = next(path for path in drawn if path.stem == "learning-curve")
    text = curve.with_suffix(".svg").read_text(encoding="utf-8")
    assert all(name in text for name in names)
    with_boxes = [r for r in caplog.records if "No installed font" in r.getMessage()]
    assert not [r for r in caplog.records if r not in with_boxes]
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


def test_characters_come_from_the_first_font_that_has_them_and_the_others_are_named():
    assert families_for(frozenset("abcЖ")) == (("DejaVu Sans",), "")
    families, missing = families_for(frozenset("a\u02ef\U0010fffd"))  # DejaVu Serif has the second
    assert families == ("DejaVu Sans", "DejaVu Serif")
    assert missing == "\U0010fffd"


def test_names_that_look_like_formulas_are_drawn_as_they_are(tmp_path, write_run):
    folder = write_run(tmp_path / "run", clients=["$\\frac$", "a_b^c", "x$"], labels=["$1", "2$"])
    assert len(draw(folder)) == 4


def test_a_diverged_run_is_drawn_without_its_infinite_values(tmp_path, write_run):
    folder = write_run(tmp_path / "run", task="causal-lm", ran=3)
    line = {"event": "evaluation", "round": 4, "metrics": {"perplexity": float("inf")}}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    assert "learning-curve" in names(draw(folder))


@given(st.lists(st.floats(0, 300), min_size=1, max_size=15))
def test_labels_never_overlap_keep_their_order_and_stay_inside(wanted):
    placed = canvas.spread(wanted, gap=20, low=0, high=300)
    order = np.argsort(wanted, kind="stable")
    assert (np.diff(placed[order]) >= 20 - 1e-6).all()
    assert placed.min() >= -1e-6
    assert placed.max() <= 300 + 1e-6


@pytest.mark.parametrize("colour", [*canvas.PALETTE, "#ffffff"])
def test_label_colours_can_be_read_on_white(colour):
    red, green, blue = (int(canvas.readable(colour)[i : i + 2], 16) / 255 for i in (1, 3, 5))
    assert 1.05 / (canvas._luminance(red, green, blue) + 0.05) >= 4.4
