"""Pictures at a data owner: declared, read as a simulation reads them, and in a time that is public."""

import io
import tomllib

import numpy as np
import pytest
from PIL import Image

from umbel.client.data import DataSource
from umbel.client.left_out import LeftOut
from umbel.client.marks import Marks
from umbel.client.propose import propose
from umbel.client.settings import DataSettings, Settings, settings_text
from umbel.client.timing import Numbers, Timing
from umbel.errors import ConsortiumError, PlanRefused
from umbel.job import DataSpec
from umbel.learning.data import load_corpus
from umbel.learning.pace import Pace, _read
from umbel.learning.pictures import Pictures
from umbel.learning.reading import picture_sizes as sizes
from umbel.learning.reading.jpeg_scans import scans_of
from umbel.learning.reading.picture_files import encoded

TASK = "image-classification"
SIDE = 16


def noise(side, mode="RGB", seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (side, side, 4), np.uint8)
    return Image.fromarray(values).convert(mode)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    for number in range(12):
        at = root / ("cats", "dogs")[number % 2]
        at.mkdir(parents=True, exist_ok=True)
        noise(20, seed=number).save(at / f"{number}.png")
    (root / "dogs" / "broken.png").write_bytes(b"no picture")
    return root


@pytest.fixture
def source_of(tmp_path):
    def build(declared):
        return DataSource(
            tmp_path / declared.path,
            None,
            declared,
            "account",
            bytes(32),
            Marks(tmp_path / "marks"),
            LeftOut(tmp_path / "left-out.npy"),
        )

    return build


def test_a_folder_of_pictures_is_declared_as_one(folder):
    proposal = propose(folder)
    declared = proposal.declared
    assert (declared.reads, declared.text_column, declared.label_column) == (
        "pictures",
        "image",
        "label",
    )
    assert declared.labels == ["cats", "dogs"]
    text = settings_text("mary", declared)
    read = Settings.build(tomllib.loads(text), "client.toml").data
    assert read == declared.model_copy(update={"training_share": 0.8})
    assert "largest_picture = 1000000" in text
    assert "# largest_picture" in settings_text("mary", DataSettings(path="a", text_column="t"))


def test_pictures_without_classes_are_not_declared(folder):
    with pytest.raises(ConsortiumError, match="pictures.*label_column"):
        DataSettings.build(
            {"path": str(folder), "text_column": "image", "reads": "pictures"}, "What is declared"
        )


def test_what_a_job_learns_from_is_what_its_owner_declares(folder, open_job_of):
    declared = propose(folder).declared
    job = open_job_of(data={"labels": ["cats", "dogs"]})
    pictures = job.model_copy(update={"task": TASK})
    declared.check("mary", pictures)
    with pytest.raises(PlanRefused, match=r"declares pictures \(reads\).*from texts"):
        declared.check("mary", job)
    with pytest.raises(PlanRefused, match="declares texts"):
        declared.model_copy(update={"reads": "texts"}).check("mary", pictures)


def test_an_owner_reads_pictures_as_a_simulation_does(folder, source_of):
    source = source_of(propose(folder).declared)
    source.check()
    here = source.corpus()
    there = load_corpus(DataSpec(path=str(folder)), TASK)
    assert here.texts == there.texts
    assert here.labels.tolist() == there.labels.tolist()


def test_larger_pictures_than_declared_are_left_out_alone(folder, source_of):
    before = source_of(propose(folder).declared).corpus().texts
    noise(40).save(folder / "cats" / "large.png")
    (folder / "cats" / "padded.png").write_bytes(
        (folder / "cats" / "0.png").read_bytes() + bytes(1 << 20)
    )
    declared = propose(folder, largest_picture=400).declared
    assert source_of(declared).corpus().texts == before
    assert "no picture of at most 400 pixels" in propose(folder, largest_picture=400).left_out


def test_a_folder_that_has_lost_its_pictures_is_checked_like_any(folder, source_of):
    source = source_of(propose(folder).declared)
    for file in folder.rglob("*.png"):
        file.unlink()
    source.check()


@pytest.fixture
def progressive():
    """A JPEG up to its last scan, that scan, and what comes after it."""
    file = io.BytesIO()
    noise(16).save(file, "JPEG", progressive=True, exif=_with_a_preview())
    data = file.getvalue()
    at = data.rindex(b"\xff\xda")
    return data[:at], data[at:-2], data[-2:]


def _in_front(segment):
    """It as the first segment of a JPEG."""
    return lambda start: start[:2] + segment + start[2:]


_HIDDEN_END = b"\xff\xfe" + (4).to_bytes(2, "big") + b"\xff\xd9"
_TWO_PICTURES = (
    b"\xff\xe2"
    + (90).to_bytes(2, "big")
    + b"MPF\0II*\0"
    + (8).to_bytes(4, "little")
    + (3).to_bytes(2, "little")
    + b"\0\xb0\7\0\4\0\0\0"
    + b"0100"
    + b"\1\xb0\4\0\1\0\0\0\2\0\0\0"
    + b"\2\xb0\7\0\x20\0\0\0\x32\0\0\0"
    + bytes(4 + 32)
)


@pytest.mark.parametrize(
    ("front", "between"),
    [
        (bytes, b""),
        (bytes, b"\xff\x01"),  # a marker without a length
        (bytes, b"\xff\xff"),  # fill bytes
        (bytes, _HIDDEN_END),
        (_in_front(_TWO_PICTURES), b""),
        (_in_front(_HIDDEN_END), b""),
    ],
    ids=["plain", "no length", "fill", "hidden end", "MPO", "hidden end in front"],
)
def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(
    progressive, monkeypatch, front, between
):
    start, scan, end = progressive
    once, many = (front(start) + (between + scan) * times + end for times in (1, sizes.MOST_SCANS))
    inputs = Pictures(SIDE, 3, {})
    assert 1 < scans_of(once) <= sizes.MOST_SCANS
    assert len(inputs.encode([encoded(once)], 0)) == 1
    monkeypatch.setattr(
        "PIL.JpegImagePlugin.JpegImageFile.load", lambda self: pytest.fail("decoded")
    )
    with pytest.raises(ValueError, match="scans, more than"):
        inputs.encode([encoded(many)], 0)


def test_what_comes_after_a_jpeg_has_no_scans_of_it(progressive):
    """A film, or a second picture, as telephones add them."""
    data = b"".join(progressive)
    assert scans_of(data + b"\xff\xda" * 100) == scans_of(data)
    file = io.BytesIO()
    noise(16).save(file, "MPO", save_all=True, append_images=[noise(16, seed=1)])
    assert Image.open(io.BytesIO(file.getvalue())).format == "MPO"
    assert len(Pictures(SIDE, 3, {}).encode([encoded(file.getvalue())], 0)) == 1
    assert scans_of(b"\xff\xd8" + b"\xff\xfe\x00\x02" * 20_000) > sizes.MOST_SCANS


def _with_a_preview():
    """What a camera puts in front: another JPEG, whose scans are not the picture's."""
    preview = io.BytesIO()
    noise(8).save(preview, "JPEG", progressive=True)
    return b"Exif\0\0" + preview.getvalue() * 4


class Seen:
    """What `pace` needs of a learner."""

    longest = 0

    def __init__(self, inputs):
        self.inputs = inputs


def test_the_first_answer_has_time_for_the_largest_pictures():
    numbers = Numbers(training_size=1000, test_size=200, sampling_rate=0.1, records_per_unit=1)
    plain = Pace(start=0.5, step=0.1, record=0.01, alone=0.02, tested=0.003, prepared=0.004)
    least = Timing(None, plain, "mary").preparing(numbers)
    with_pictures = Pace(**{**vars(plain), "read": 0.5})
    more = Timing(None, with_pictures, "mary").preparing(numbers) - least
    assert more >= 0.5 * 1200
    learner = Seen(Pictures(SIDE, 3, {}))
    clock = iter(range(1000)).__next__
    assert _read(learner, 4_000_000, clock) > 10 * _read(learner, 1000, clock)
    assert _read(learner, 0, clock) == 0.0
