"""Several spellings of one class are counted as it, if that is clear or said, and it is said openly."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.client.settings import DataSettings, settings_text
from umbel.errors import DataError, UmbelError
from umbel.job import DataSpec
from umbel.learning.data import load_corpus
from umbel.learning.labels import class_reader
from umbel.learning.reading.names import label_name

TASK = "text-classification"


@pytest.fixture
def corpus(tmp_path):
    def load(spelled, declared=False, **keys):
        path = tmp_path / "rows.jsonl"
        rows = [{"text": f"text {n}", "label": label} for n, label in enumerate(spelled)]
        path.write_text("\n".join(map(json.dumps, rows)))
        return load_corpus(DataSpec(path=str(path), **keys), TASK, declared=declared)

    return load


def named(corpus):
    return [corpus.label_names[index] for index in corpus.labels]


def test_what_differs_in_case_width_and_blanks_is_the_class_that_is_named(corpus):
    spelled = ["good", "Good", " GOOD ", "ｇｏｏｄ", "bad", "Bad"]
    for declared in (False, True):
        found = corpus(spelled, declared, labels=["bad", "good"])
        assert named(found) == ["good"] * 4 + ["bad"] * 2
        assert found.notes[0].startswith("labels read as the class 'good': ")
        assert "'Good' (1)" in found.notes[0]
        assert found.notes[1:] == ("labels read as the class 'bad': 'Bad' (1)",)
        assert found.dropped == {}


def test_classes_that_differ_in_case_are_two_if_both_are_named(corpus):
    found = corpus(["Good", "good", "GOOD"], True, labels=["Good", "good"])
    assert named(found) == ["Good", "good"]
    assert found.dropped == {"undeclared label": 1}, "which of the two, nobody knows"
    assert found.notes == ()


def test_other_names_of_a_class_are_counted_as_it(corpus):
    spellings = {"positive": ["pos", "1"], "negative": ["neg", "no"]}
    found = corpus(["pos", 1, "1.0", "POS", "positive", "neg", "No"], spellings=spellings)
    assert named(found) == ["positive"] * 5 + ["negative"] * 2
    assert found.label_names == ("negative", "positive")
    with pytest.raises(DataError, match=r"'neg' to 'b', but it is already 'a'"):
        corpus(["neg", "b"], spellings={"a": ["neg"], "b": ["neg"]})
    with pytest.raises(DataError, match=r"'a' to 'b', but it is already 'a'"):
        corpus(["a", "b"], spellings={"a": ["neg"], "b": ["a"]})


def test_an_owner_declares_its_own_spellings_and_finds_them_again():
    values = {
        "path": "rows.csv",
        "text_column": "text",
        "label_column": "label",
        "labels": ["negative", "positive"],
        "spellings": {"negative": ["neg", 'so "so"'], "positive": []},
    }
    declared = DataSettings.build(values, "declared")
    again = settings_text("clinic", declared)
    assert declared.spellings == values["spellings"]
    assert DataSettings.build(_data_of(again), "again").spellings == declared.spellings
    without = DataSettings.build({**values, "spellings": None}, "declared")
    again = DataSettings.build(_data_of(settings_text("clinic", without)), "again")
    assert again.spellings is None
    for wrong, why in (
        ({"neutral": ["so"]}, "a class that is not in labels: 'neutral'"),
        ({"negative": ["x"], "positive": ["x"]}, "Give each spelling to one class"),
    ):
        with pytest.raises(UmbelError, match=why):
            DataSettings.build({**values, "spellings": wrong}, "declared")


def _data_of(text):
    import tomllib

    return tomllib.loads(text)["data"]


names = st.text(st.sampled_from("aAbB1０0 ａßİ"), min_size=1, max_size=4).filter(
    lambda name: label_name(name) != ""
)


@given(st.lists(names, min_size=2, max_size=5), st.lists(names, max_size=12))
def test_a_class_is_itself_and_what_is_read_depends_on_nothing_else(classes, seen):
    read = class_reader(classes, {})
    canonical = {label_name(name) for name in classes}
    for name in canonical:
        assert read(name) == name
    for name in map(label_name, seen):
        found = read(name)
        assert found in canonical or found == name
        assert read(found) == found
    assert read("") == ""
