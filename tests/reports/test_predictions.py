"""Texts to try: those of a table's column, or lines; each keeps its place."""

import json

import pytest

from umbel.errors import DataError
from umbel.learning.predict import Prediction
from umbel.learning.reading.layout import USUAL
from umbel.reports import predictions


def read_texts(texts, file, column="text"):
    return [one.text for one in predictions.read_texts(texts, file, column, USUAL).asked]


def test_lines_and_arguments_keep_their_places(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\ufeffone\n\n  \nfour\n", encoding="utf-8")
    assert read_texts(["zero", ""], path) == ["zero", "", "one", "", "  ", "four"]


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_of_a_table_the_column_is_tried_and_not_its_lines(tmp_path, delimiter):
    path = tmp_path / "texts.csv"
    rows = ["text,label", '"one\nand more",a', ",b", "three,"]
    path.write_text("\n".join(rows).replace(",", delimiter) + "\n", encoding="utf-8")
    assert read_texts([], path) == ["one\nand more", "", "three"]
    assert read_texts([], path, "label") == ["a", "b", ""]
    with pytest.raises(DataError, match="no column 'note'"):
        read_texts([], path, "note")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\n \n", r"texts\.txt holds no text to answer"),
        (b"gr\xc3\xbcn\ngr\xfcn", "not UTF-8"),
        (b"PK\x03\x04", "zip"),
    ],
)
def test_what_holds_no_texts_is_refused(tmp_path, content, said):
    (tmp_path / "texts.txt").write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_texts([], tmp_path / "texts.txt")


def test_an_answer_to_a_text_of_several_lines_is_one_line():
    asked = predictions.Asked("two\n\tlines\r\nor three")
    said = Prediction(asked.text, {"good": 0.75, "bad": 0.25})
    assert predictions.prediction_line(asked, said, False) == "good  0.750  two lines or three"
    assert json.loads(predictions.prediction_line(asked, said, True))["text"] == asked.text


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="no-such-file cannot be read"):
        read_texts([], tmp_path / "no-such-file")
