"""Settings for who brings data and no job file: from public numbers, below what is set, and written down."""

import csv
import json
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import umbel
from umbel.job import Job, dotted
from umbel.planning.centring import centring_refusals
from umbel.planning.recipe import STEPS, Numbers, recipe, source
from umbel.server.run import Silent
from umbel.simulations.first import first_job
from umbel.simulations.first import settings as found_by

QUICK = {"training.rounds": 2, "training.local_steps": 2}


def job_of(**values):
    return Job.compose(None, {"data.path": "data.csv", **values})


def file_of(path, texts, labels):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *zip(texts, labels, strict=True)])
    return str(path)


def test_other_texts_and_other_shares_of_classes_change_nothing(tiny, tmp_path):
    """As many records with as many classes: nothing else of a file is seen."""
    tested = file_of(tmp_path / "test.csv", ["held out", "also held out"], "ab")
    files = {
        "short": ([f"word {n}" for n in range(160)], "ab" * 80),
        "long": ([f"{n} is a far longer text, " * 9 for n in range(160)], "a" * 150 + "b" * 10),
    }
    found = [
        found_by(
            {
                "data.path": file_of(tmp_path / f"{name}.csv", *rows),
                "data.test_path": tested,
                "model.base": str(tiny("bert")),
            }
        )
        for name, rows in files.items()
    ]
    assert found[0] == found[1]
    assert len(found[0]) > len(QUICK)


CHOICES = {
    "training.rounds": st.integers(1, 40),
    "training.local_steps": st.integers(1, 30),
    "training.batch_size": st.integers(1, 3000),
    "privacy.clipping_norm": st.floats(0.01, 10),
    "training.weight_decay": st.floats(0, 0.1),
    "model.feature_scale": st.floats(0.5, 32),
}


@settings(max_examples=10)
@given(
    st.lists(st.integers(20, 5000), min_size=1, max_size=6),
    st.integers(2, 60),
    st.sampled_from([None, 0.5, 4.0, 12.0]),
    st.fixed_dictionaries({}, optional=CHOICES),
)
def test_what_is_set_wins(sizes, classes, epsilon, said):
    unit = {"privacy.unit": "none"} if epsilon is None else {"privacy.epsilon": epsilon}
    asked = {**said, **unit}
    found = recipe(job_of(**asked), asked, Numbers(tuple(sizes), classes))
    assert found
    assert not found.keys() & asked.keys()
    whole = job_of(**{**found, **asked})
    kept = dict(dotted(whole.model_dump()))
    assert all(kept[key] == value for key, value in asked.items())
    assert whole.training.learning_rate > 0


@pytest.mark.parametrize("key", STEPS)
def test_who_sets_a_part_of_a_step_sets_the_whole_of_it(key):
    said = {key: dict(dotted(job_of().model_dump()))[key]}
    assert recipe(job_of(**said), said, Numbers((100, 100, 100), 2)) == {}


@pytest.mark.parametrize(
    "other",
    [
        {"task": "causal-lm"},
        {"model.adapter": "lora"},
        {"strategy.name": "fedadam"},
        {"model.pooling": "own"},
        {"privacy.unit": "client"},
        {"privacy.unit": "group", "data.group_column": "text"},
    ],
)
def test_there_is_none_for_what_it_was_not_tried_on(other):
    assert recipe(job_of(**other), other, Numbers((100, 100, 100), 2)) == {}


def test_noise_makes_steps_smaller_and_records_larger():
    def rate(epsilon, size):
        job = job_of(**{"privacy.epsilon": epsilon})
        found = recipe(job, (), Numbers((size,) * 8, 6))
        return found["training.learning_rate"]

    assert rate(1.0, 500) < rate(4.0, 500) <= rate(4.0, 5000)


@pytest.mark.parametrize(
    ("task", "privacy", "rounds", "wanted"),
    [
        ("image-classification", {}, None, 4),
        ("image-classification", {"privacy.unit": "none"}, None, 1),
        ("image-classification", {}, 10, 2),
        ("image-classification", {}, 4, 0),
        ("text-classification", {}, None, None),
    ],
)
def test_for_pictures_a_few_first_rounds_measure_the_centre(task, privacy, rounds, wanted):
    said = {"task": task, **privacy} | ({"training.rounds": rounds} if rounds else {})
    found = recipe(job_of(**said), said, Numbers((400,) * 10, 10))
    assert found.get("training.centre_rounds") == wanted
    assert list(centring_refusals(job_of(**{**found, **said}))) == []


def test_a_job_file_that_leaves_values_out_keeps_their_defaults(reviews_csv, tmp_path):
    (tmp_path / "job.toml").write_text(f"[data]\npath = {json.dumps(str(reviews_csv))}\n")
    job = umbel.Job.load(tmp_path / "job.toml")
    assert job.recipe is None
    assert job.training.optimizer == "adamw"
    assert "recipe" not in json.loads(job.to_json())
    assert json.loads(job.changed({"recipe": "by size"}).to_json())["recipe"] == "by size"


def test_what_is_read_for_the_recipe_is_told_as_it_is_read(reviews_csv, tiny):
    class Hearing(Silent):
        stages: ClassVar[list[str]] = []

        def started(self, what, total):
            self.stages.append(what)

    first_job({"data.path": str(reviews_csv), "model.base": str(tiny("bert"))}, listener=Hearing())
    assert Hearing.stages == ["data", "tokens", "texts"]


def test_the_job_that_a_run_writes_gives_the_same_model_again(reviews_csv, tiny, tmp_path):
    given = {"model.base": str(tiny("bert")), "simulation.clients": 3, **QUICK}
    options = {"workers": 1, "reproducible": True, "progress": False}
    first = umbel.simulate(str(reviews_csv), run_dir=tmp_path / "first", **options, **given)
    chosen = first_job({"data.path": str(reviews_csv), **given})
    assert "training.learning_rate" in chosen.recipe
    assert "training.rounds" not in chosen.recipe
    assert first.job.recipe == chosen.recipe
    assert first.job.training == chosen.training
    assert first.job.training.rounds == 2
    again = umbel.simulate(tmp_path / "first" / "job.toml", run_dir=tmp_path / "again", **options)
    assert again.result["adapter_sha256"] == first.result["adapter_sha256"]


def test_init_writes_what_is_chosen(umbel, reviews_csv, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = umbel(
        "init", "job.toml", "--data", reviews_csv, "--model", tiny("bert"), "--label-column", "site"
    )
    assert status == 0, err
    given = {"data.path": str(reviews_csv), "model.base": str(tiny("bert"))}
    chosen = first_job({**given, "data.label_column": "site"})
    written = Job.load(tmp_path / "job.toml")
    assert written.recipe == chosen.recipe
    assert "4 classes" in written.recipe
    assert written.training == chosen.training
    status, out, err = umbel("plan", "job.toml")
    assert status == 0, err
    assert " ".join(written.recipe.split()[-6:]) in " ".join(out.split())


def test_a_job_names_no_value_as_the_recipes_that_somebody_set_since(tmp_path):
    keys = {"training.rounds": 4, "training.batch_size": 64, "training.learning_rate": 0.5}
    said = source(job_of(), keys, Numbers((500, 400), 6))
    job = job_of(**keys, recipe=said)
    assert job.changed({"training.rounds": 4, "name": "again"}).recipe == said
    fewer = job.changed({"training": {"rounds": 2, "batch_size": 64, "learning_rate": 0.5}})
    assert fewer.recipe == said.replace(", training.rounds", "")
    assert fewer.changed({"training.batch_size": 8, "training.learning_rate": 0.1}).recipe is None
    assert job.changed({"training.rounds": 2, "recipe": "by hand"}).recipe == "by hand"

    (tmp_path / "job.toml").write_text(
        f"recipe = {json.dumps(said)}\n[data]\npath = 'x.csv'\n[training]\nrounds = 4\n"
        "batch_size = 64\nlearning_rate = 0.5\n"
    )
    assert umbel.Job.load(tmp_path / "job.toml").recipe == said
    assert umbel.Job.load(tmp_path / "job.toml", training={"rounds": 4}).recipe == said
    loaded = umbel.Job.load(tmp_path / "job.toml", ["training.rounds=3"])
    assert loaded.recipe == fewer.recipe
