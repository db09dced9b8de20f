"""Tasks whose records are numbers: read, planned, trained with noise, tested, predicted, exported."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from umbel.learning.predict import Predictor
from umbel.planning.noise import change_of
from umbel.redteam.audit import audit_run
from umbel.reports.page import write_page
from umbel.reports.predictions import Asked, prediction_line
from umbel.reports.tables import result_table
from umbel.run.record import RunRecord
from umbel.simulations.engine import Options, simulate

SIDE = 4


@pytest.fixture(scope="module")
def sighted(tmp_path_factory):
    """Models that take in 4 by 4 numbers and have no tokenizer: with a head of two classes, and bare."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    folder = tmp_path_factory.mktemp("models")
    config = ViTConfig(
        image_size=SIDE,
        patch_size=2,
        num_channels=1,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = ViTForImageClassification(config).eval()
    model.save_pretrained(folder / "classes")
    model.vit.save_pretrained(folder / "bare")
    return folder


def squares(count, seed):
    """Dark and light squares, as a column of a table says them, and one that is none."""
    generator = np.random.default_rng(seed)
    for number in range(count):
        level = 2 * (number % 2) - 1
        values = (level + generator.normal(0, 0.1, SIDE**2)).round(3).tolist()
        yield {"text": json.dumps(values), "label": ("dark", "light")[number % 2]}
    yield {"text": "[0.5, 0.5]", "label": "light"}


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("adapter", ["head", "full"])
def test_a_task_whose_records_are_arrays_is_one_file(job_of, tmp_path, sighted, adapter):
    """Read, encode, collate, losses, private counts, predict, page, model card: from a file of its own."""
    data = tmp_path / "squares.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in squares(240, 1)))
    job = job_of(
        str(sighted / "classes"),
        task="squares",
        model={"adapter": adapter, "pooling": "own", "max_length": SIDE**2},
        data={"path": str(data), "labels": ["dark", "light"]},
        privacy={"epsilon": 200.0, "delta": 1e-3, "limit": 1000.0},
        training={"learning_rate": {"head": 2.0, "full": 0.01}[adapter], "batch_size": 40},
        simulation={"partition": "iid", "clients": 3},
    )
    run = simulate(job, Options(run_dir=tmp_path / "run", workers=1, reproducible=True)).path
    result = json.loads((run / "result.json").read_text())
    assert result["task"] == "squares"
    assert 0 <= result["metrics"]["accuracy"] <= 1
    card = (run / "adapter" / "README.md").read_text()
    assert "It sorts squares of numbers into" in card
    assert "umbel.Run.open" in card
    page = write_page(run, ()).read_text(encoding="utf-8")
    assert "squares" in page
    *rows, broken = squares(40, 2)
    predictor = Predictor.load(run)
    found = list(predictor.predict([row["text"] for row in rows]))
    likeliest = [max(one.probabilities, key=one.probabilities.get) for one in found]
    right = sum(said == row["label"] for said, row in zip(likeliest, rows, strict=True))
    assert right >= 36
    assert [one.probabilities for one in predictor.predict([""])] == [{}]


NOISED = {"epsilon": 200.0, "delta": 1e-3, "limit": 1000.0}


def slopes(count, seed):
    """Rows of 16 numbers around a level from 0 to 1, and that level; and one row that is too short."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        level = generator.random()
        values = (2 * level - 1 + generator.normal(0, 0.05, SIDE**2)).round(3)
        yield ",".join(str(value) for value in [*values, round(level, 3)])
    yield "0.5,0.5"


def of_slopes(job_of, sighted, folder, model, **sections):
    data = folder / "slopes.jsonl"
    data.write_text("".join(json.dumps({"text": row}) + "\n" for row in slopes(240, 1)))
    return job_of(
        str(sighted / "bare"),
        task="slopes",
        model={"pooling": "own", "max_length": SIDE**2 + 1} | model,
        data={"path": str(data), "label_column": None, "labels": None},
        training={"learning_rate": 0.05, "batch_size": 40, "rounds": 3},
        simulation={"partition": "iid", "clients": 3},
        **sections,
    )


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(
            {"model": {"adapter": "head", "pooling": "mean"}, "privacy": NOISED}, id="noised head"
        ),
        pytest.param(
            {"model": {"adapter": "full"}, "privacy": NOISED},
            id="noised model",
            marks=pytest.mark.slow,
        ),
        pytest.param({"model": {"adapter": "head"}, "privacy": {"unit": "none"}}, id="exact"),
        pytest.param(
            {
                "model": {"adapter": "head"},
                "privacy": NOISED | {"unit": "client"},
                "evaluation": {"counts": "private"},
            },
            id="client",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_task_with_counts_of_its_own_shape_is_one_file(job_of, tmp_path, sighted, options):
    job = of_slopes(job_of, sighted, tmp_path, **options)
    assert change_of(job).sums == 3
    run = simulate(job, Options(run_dir=tmp_path / "run", workers=1, reproducible=True)).path
    result = json.loads((run / "result.json").read_text())
    assert (result["task"], result["rounds"]) == ("slopes", 3)
    assert result["metrics"].keys() >= {"r2", "loss", "examples"}
    assert "R²" in write_page(run, ()).read_text(encoding="utf-8")
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(result_table(RunRecord.read(run)))
    assert "R² on" in console.export_text()
    predictor = Predictor.load(run)
    *rows, _ = slopes(20, 2)
    found = list(predictor.predict(rows))
    assert all(one.said and one.values.keys() == {"slope"} for one in found)
    assert prediction_line(Asked(rows[0]), found[0], False).startswith("slope ")
    assert json.loads(prediction_line(Asked(rows[0]), found[0], True))["values"] == found[0].values
    assert not any(one.said for one in predictor.predict([""]))
    card = (run / "adapter" / "README.md").read_text()
    assert "transformers and peft alone do not know how the task slopes reads records" in card


@pytest.mark.slow
@pytest.mark.usefixtures("installed")
def test_a_run_of_such_a_task_is_audited_as_far_as_that_goes(job_of, tmp_path, sighted):
    job = of_slopes(job_of, sighted, tmp_path, {"adapter": "head"}, privacy=NOISED)
    run = simulate(job, Options(run_dir=tmp_path / "run", workers=1, reproducible=True)).path
    found = audit_run(run, canaries=40)
    assert not found["broken"]
    assert found["mislabelled"] == {"skipped": "only for a task with classes"}
    assert "skipped" in found["inversion"]
