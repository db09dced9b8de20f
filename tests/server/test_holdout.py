"""What a public file must be, and what it says of a model."""

import csv
import json

import numpy as np
import pyarrow as pa
import pytest

from umbel.errors import DataError, PlanRefused
from umbel.learning.tasks import task_for
from umbel.learning.trainer import test as count
from umbel.run.run_folder import RunFolder
from umbel.server.holdout import PublicTest, note_public, public_corpus, read_public
from umbel.simulations.engine import plan_job

ROWS = [("a fine day", "positive"), ("a sad affair", "negative"), ("so good", "positive")]


@pytest.fixture
def public(job_of, tmp_path):
    """A job with a public file of this text."""

    def build(text=None, **sections):
        path = tmp_path / "public.csv"
        lines = ["text,label", *(f"{said},{label}" for said, label in ROWS)]
        path.write_text("\n".join(lines) + "\n" if text is None else text)
        evaluation = {"public_path": str(path), **sections.pop("evaluation", {})}
        return job_of("bert", evaluation=evaluation, **sections)

    return build


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("text,label\n", "no rows"),
        ("txt,label\na,positive\n", "no column 'text'"),
        ("text,label\na,good\n", "the label 'good' is not in data.labels"),
        ("text,label\n,positive\n", "no usable row"),
    ],
)
def test_a_file_that_cannot_be_tested_on_is_refused_with_its_place(text, words, public):
    with pytest.raises(DataError, match=f"^evaluation.public_path: .*{words}") as caught:
        plan_job(public(text))
    assert "public.csv" in str(caught.value)


def test_a_file_that_is_not_there_is_refused(public, tmp_path):
    job = public()
    (tmp_path / "public.csv").unlink()
    with pytest.raises(DataError, match=r"evaluation.public_path: There is no data file .*public"):
        plan_job(job)


def test_the_owners_own_file_is_not_public(public, reviews_csv):
    with pytest.raises(PlanRefused, match="which is not public"):
        plan_job(public(evaluation={"public_path": str(reviews_csv)}))


def test_a_job_without_a_public_file_reads_none(job_of):
    assert read_public(job_of("bert")) is None
    assert public_corpus(job_of("bert")) is None


def test_rows_need_no_group_and_the_limit_of_the_data_does_not_cut_them(public):
    job = public(data={"group_column": "site", "limit": 1})
    assert len(read_public(job).examples) == len(ROWS)


def save_split(path, rows):
    """As `datasets` saves a split."""
    path.mkdir(parents=True)
    table = pa.Table.from_pylist(rows)
    with (path / "data.arrow").open("wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    state = {"_data_files": [{"filename": "data.arrow"}], "_split": None}
    (path / "state.json").write_text(json.dumps(state))
    (path / "dataset_info.json").write_text(json.dumps({"features": {}}))


def test_of_a_saved_data_set_with_a_test_split_that_one_is_taken(public, tmp_path):
    rows = [{"text": text, "label": label} for text, label in ROWS]
    save_split(tmp_path / "saved" / "train", rows * 3)
    save_split(tmp_path / "saved" / "test", rows)
    splits = {"splits": ["train", "test"]}
    (tmp_path / "saved" / "dataset_dict.json").write_text(json.dumps(splits))
    records = read_public(public(evaluation={"public_path": str(tmp_path / "saved")}))
    assert len(records.examples) == len(ROWS)
    assert records.sha256 == read_public(public()).sha256


@pytest.mark.parametrize("adapter", ["head", "lora"])
def test_figures_are_those_of_the_model_on_these_records(adapter, public, learner_of):
    job = public(model={"adapter": adapter})
    learner = learner_of(job)
    records = read_public(job)
    generator = np.random.default_rng(3)
    arrays = {
        name: generator.normal(size=array.shape).astype(np.float32)
        for name, array in learner.initial.items()
    }
    found = PublicTest(learner, records)(arrays)
    counts = count(learner, task_for(job, 2), arrays, records.examples)
    expected = counts.metrics(job.data.labels)
    assert found["examples"] == len(ROWS)
    assert found["confusion"] == expected["confusion"]
    assert found["loss"] == pytest.approx(expected["loss"])


def test_a_run_goes_on_with_the_same_records_only(public, tmp_path):
    job = public()
    folder = RunFolder.create(tmp_path / "run", job)
    note_public(folder, read_public(job))
    note_public(folder, read_public(job))
    [event] = folder.read_events()
    assert event["examples"] == len(ROWS)
    lines = (tmp_path / "public.csv").read_text().splitlines()
    with (tmp_path / "public.csv").open("w", newline="") as file:
        csv.writer(file).writerows(csv.reader([lines[0], *reversed(lines[1:])]))
    note_public(folder, read_public(job))
    changed = read_public(public("text,label\nso good,negative\n"))
    with pytest.raises(DataError, match="has changed since this run began"):
        note_public(folder, changed)
