"""A folder of pictures, before it is trained on: what is wrong with it is said, file by file."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from umbel.errors import DataError
from umbel.learning.reading.picture_files import PictureFolder
from umbel.survey.picture_advice import picture_advice, picture_warnings
from umbel.survey.pictures import survey_pictures


def noise(seed, side=20):
    values = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    return Image.fromarray(values)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    for number in range(48):
        part, label = ("test" if number < 24 else "train"), ("cats", "dogs")[number % 2]
        place = root / part / label
        place.mkdir(parents=True, exist_ok=True)
        noise(number).save(place / f"{number}.png")
    return root


def test_a_folder_without_faults_has_no_warnings(folder):
    found = survey_pictures(folder)
    assert (found.files, found.used, found.tested) == (48, 48, 24)
    assert found.classes == {"cats": 24, "dogs": 24}
    assert (found.formats, found.modes) == ({"PNG": 48}, {"RGB": 48})
    assert found.sides == (20, 20, 20)
    assert picture_warnings(found) == []


def test_what_cannot_be_read_is_named_with_the_reason(folder):
    cats = folder / "train" / "cats"
    (cats / "empty.png").write_bytes(b"")
    (cats / "text.jpg").write_text("a cat")
    (cats / "cut.png").write_bytes((cats / "24.png").read_bytes()[:-200])
    Image.new("RGB", (1, 30)).save(cats / "line.png")
    found = survey_pictures(folder)
    assert found.used == 48
    assert {
        name.rpartition("/")[2]: why.split(":")[0] for name, why in found.unreadable.items()
    } == {
        "empty.png": "is empty",
        "text.jpg": "is no picture of a format that is read",
        "cut.png": "cannot be decoded",
        "line.png": "a picture of 1 x 30 pixels, in which nothing is seen",
    }
    said = " ".join(picture_warnings(found))
    assert all(name in said for name in found.unreadable)


def test_equal_pictures_are_found_whatever_their_files_are(folder):
    test, train = folder / "test" / "cats", folder / "train"
    Image.open(test / "0.png").save(train / "cats" / "again.bmp")
    Image.open(train / "cats" / "24.png").save(train / "dogs" / "cat.webp", lossless=True)
    found = survey_pictures(folder)
    assert (found.copies.equal, found.copies.across, found.copies.contradicting) == (2, 1, 2)
    said = " ".join(picture_warnings(found))
    assert "1 picture for the test is equal" in said
    assert "2 pictures are equal to one of another class" in said
    twice = noise(90)
    for name in ("a.png", "b.png"):
        twice.save(test / name)
    assert survey_pictures(folder).copies.across == 1, "copies within the test are on one side"


def test_pictures_without_a_class_and_small_classes_are_said(tmp_path):
    for number in range(30):
        (tmp_path / "cats").mkdir(exist_ok=True)
        noise(number).save(tmp_path / "cats" / f"{number}.png")
    noise(40).save(tmp_path / "cats.png")
    found = survey_pictures(tmp_path)
    assert (found.used, found.unlabelled, found.files, found.tested) == (30, 1, 31, None)
    assert any("at least two classes" in line for line in picture_warnings(found))


def test_large_pictures_are_what_an_owner_would_leave_out(folder):
    Image.new("RGB", (1200, 1000), "red").save(folder / "train" / "dogs" / "large.png")
    found = survey_pictures(folder)
    assert found.pixels == (400, 1_200_000)
    assert any("--largest-picture 1200000" in str(one) for one in picture_advice(found))


def test_an_archive_is_looked_at_as_its_folder_is(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name in PictureFolder(folder).names:
            archive.write(folder / name, name)
    here, there = survey_pictures(folder).to_dict(), survey_pictures(tmp_path / "all.zip").to_dict()
    assert here | {"path": ""} == there | {"path": ""}


def test_the_command_shows_a_folder_of_pictures(folder, umbel):
    code, out, _ = umbel("data", folder, "--json")
    said = json.loads(out)
    assert (code, said["used"], said["warnings"]) == (0, 48, [])
    assert "image-classification" in said["advice"][0]["why"]


def test_the_command_refuses_options_that_say_nothing_of_pictures(folder, umbel):
    code, _, err = umbel("data", folder, "--label-column", "class", "--max-length", "32")
    assert code == 2
    assert "--label-column and --max-length say nothing" in " ".join(err.split())
    assert umbel("data", folder, "--task", "text-classification")[0] == 2
    assert umbel("data", folder, "--task", "image-classification")[0] == 0


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no picture"):
        survey_pictures(tmp_path)
