"""Pictures of every kind that people bring: read alike wherever they lie, and left out one by one."""

import io
import json
import os
import struct
import zipfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from umbel.errors import DataError
from umbel.job import DataSpec, ModelSpec
from umbel.learning.data import load_corpus
from umbel.learning.pictures import Pictures
from umbel.learning.reading import picture_files as reading
from umbel.learning.reading import picture_sizes as sizes
from umbel.learning.reading.tables import read_table

SIDE = 16
TASK = "image-classification"


def drawn(seed, size=(20, 24), mode="RGB"):
    values = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    return Image.fromarray(values).convert(mode)


def file_of(picture, kind="PNG", **options):
    target = io.BytesIO()
    picture.save(target, kind, **options)
    return target.getvalue()


@pytest.fixture
def inputs():
    return Pictures(SIDE, 3, {})


def row_of(inputs, data):
    (row,) = inputs.encode([reading.encoded(data)], inputs.numbers)
    return row


@pytest.fixture
def folder(tmp_path):
    """Two classes, three pictures each, beside what is no picture."""
    root = tmp_path / "drawn"
    for number in range(6):
        at = root / ("cats", "dogs")[number % 2]
        at.mkdir(parents=True, exist_ok=True)
        (at / f"{number}.png").write_bytes(file_of(drawn(number)))
    (root / "cats" / "notes.txt").write_text("nothing to see")
    (root / "cats" / "._0.png").write_bytes(b"left by a Mac")
    return root


def classes(path, **columns):
    corpus = load_corpus(DataSpec(path=str(path), **columns), TASK)
    names = [corpus.label_names[label] for label in corpus.labels]
    return sorted(zip(corpus.texts, names, strict=True))


def zipped(folder, path, below=""):
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*"):
            archive.write(file, f"{below}{file.relative_to(folder).as_posix()}")
    return path


def test_a_folder_an_archive_and_tables_give_the_same_records(folder, tmp_path):
    wanted = classes(folder)
    assert len(wanted) == 6
    assert {name for _, name in wanted} == {"cats", "dogs"}
    assert classes(zipped(folder, tmp_path / "flat.zip")) == wanted
    assert classes(zipped(folder, tmp_path / "nested.zip", "a/b/")) == wanted
    files = sorted(file for file in folder.glob("*/[0-9].png"))
    labels = [file.parent.name for file in files]
    table = tmp_path / "named.csv"
    rows = [
        f"drawn/{f.parent.name}/{f.name},{label}" for f, label in zip(files, labels, strict=True)
    ]
    table.write_text("\n".join(["text,label", *rows]) + "\n")
    assert classes(table) == wanted
    data = [file.read_bytes() for file in files]
    for name, column in (
        ("bytes", pa.array(data, pa.binary())),
        ("structures", pa.array([{"bytes": one, "path": None} for one in data])),
    ):
        made = tmp_path / f"{name}.parquet"
        pyarrow.parquet.write_table(pa.table({"image": column, "label": labels}), made)
        assert classes(made, text_column="image") == wanted


def test_folders_may_say_what_is_tested(folder, tmp_path):
    root = tmp_path / "split"
    for name, split in (("cats", "train"), ("dogs", "Train"), ("cats", "val")):
        at = root / split / name
        at.mkdir(parents=True)
        for file in (folder / name).glob("[0-9].png"):
            (at / f"{split}-{file.name}").write_bytes(file.read_bytes())
    corpus = load_corpus(DataSpec(path=str(root)), TASK)
    assert len(corpus) == 9
    assert int(corpus.held_out.sum()) == 3
    assert {corpus.label_names[label] for label in corpus.labels[corpus.held_out]} == {"cats"}


def test_which_side_a_picture_is_on_follows_from_its_own_path(folder, tmp_path):
    """One more picture, wherever it lies, moves no other to the other side."""
    root = tmp_path / "split"
    for split in ("train", "test"):
        (root / split / "cats").mkdir(parents=True)
        (root / split / "cats" / f"{split}.png").write_bytes(file_of(drawn(len(split))))
    before = read_table(root, "text", ["label"], lenient=True, pictures=True)
    (root / "stray.png").write_bytes(file_of(drawn(77)))
    (root / "a" / "b" / "dogs").mkdir(parents=True)
    (root / "a" / "b" / "dogs" / "deep.png").write_bytes(file_of(drawn(78)))
    after = read_table(root, "text", ["label"], lenient=True, pictures=True)
    assert before.columns["text"] == [
        t for t in after.columns["text"] if t in before.columns["text"]
    ]
    tested = root / "test"
    (tested / "val" / "cats").mkdir(parents=True)
    (tested / "cats" / "test.png").rename(tested / "val" / "cats" / "test.png")
    assert not len(read_table(tested, "text", ["label"], lenient=True, pictures=True))
    (tested / "dogs").mkdir()
    (tested / "dogs" / "new.png").write_bytes(file_of(drawn(79)))
    assert len(read_table(tested, "text", ["label"], lenient=True, pictures=True)) == 1
    assert len(after) == len(before) + 2


@pytest.mark.parametrize(
    "name", ["a\0.png", "loop.png", "\ud83d.png", f"{'x' * 300}.png", "pipe.png"]
)
def test_a_name_of_no_file_is_that_records_fault_alone(folder, name):
    (folder / "loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "pipe.png")
    table = folder / "named.jsonl"
    rows = [{"text": "cats/0.png", "label": "cats"}, {"text": name, "label": "dogs"}]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_table(table, "text", ["label"], lenient=True, pictures=True)
    assert found.columns["text"][0]
    assert found.columns["text"][1] is None
    whole = read_table(folder, "text", ["label"], lenient=True, pictures=True)
    assert sum(value is not None for value in whole.columns["text"]) == 6


def test_a_folder_has_no_other_columns(folder):
    with pytest.raises(DataError, match="columns are image, label .* and file: it has no 'site'"):
        load_corpus(DataSpec(path=str(folder)), TASK, "site")


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "link.png"])
def test_a_table_names_files_beside_it_alone(folder, tmp_path, name):
    (tmp_path / "secret.png").write_bytes(file_of(drawn(9)))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    table = folder / "named.csv"
    table.write_text(f"text,label\ncats/0.png,cats\n{name},dogs\n")
    found = read_table(table, "text", ["label"], every=True, pictures=True)
    assert found.columns["text"][0]
    assert found.columns["text"][1] is None
    assert "outside the folder" in found.faults[1] or "is not there" in found.faults[1]


def test_what_cannot_be_had_is_left_out_alone(folder, tmp_path, monkeypatch):
    (folder / "dogs" / "empty.png").write_bytes(b"")
    (folder / "dogs" / "huge.png").write_bytes(bytes(5000))
    monkeypatch.setattr(sizes, "MOST_BYTES", 4000)
    archive = zipped(folder, tmp_path / "all.zip")
    for path in (folder, archive):
        found = read_table(path, "text", ["label"], every=True, pictures=True)
        assert sorted(found.faults.values()) == [
            "dogs/empty.png is empty",
            *[one for one in found.faults.values() if "huge.png has " in one],
        ]
        assert sum(value is not None for value in found.columns["text"]) == 6


def written():
    """A picture in every mode and format in which Pillow writes one."""
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB"):
        picture = Image.new(mode, (20, 24)) if mode in ("LAB", "LA") else drawn(3).convert(mode)
        for kind in sizes.FORMATS:
            try:
                yield pytest.param(file_of(picture, kind), id=f"{mode} {kind}")
            except (OSError, ValueError, KeyError):
                continue


@pytest.mark.parametrize("data", written())
def test_every_way_to_write_a_picture_is_read(inputs, data):
    row = row_of(inputs, data)
    assert (row.shape, row.dtype) == ((SIDE * SIDE * 3,), np.uint8)


def test_sixteen_bits_of_grey_are_the_same_shades_as_eight(inputs):
    shades = np.arange(0, 256, dtype=np.uint16).reshape(16, 16)
    eight = row_of(inputs, file_of(Image.fromarray(shades.astype(np.uint8))))
    sixteen = row_of(inputs, file_of(Image.fromarray(shades * 257)))
    assert np.array_equal(eight, sixteen)


def test_a_picture_is_turned_upright(inputs):
    upright = drawn(5, (16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    found = row_of(inputs, file_of(turned, exif=exif))
    assert np.array_equal(found, row_of(inputs, file_of(upright)))


def test_what_shines_through_is_white(inputs):
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert set(row_of(inputs, file_of(clear))) == {255}


def test_the_middle_is_seen_of_a_long_picture_at_the_cost_of_a_square(inputs):
    wide = Image.new("RGB", (40_000, 20), "red")
    wide.paste((0, 0, 255), (19_990, 0, 20_010, 20))
    red, _, blue = row_of(inputs, file_of(wide)).reshape(SIDE, SIDE, 3)[:, 1:-1].reshape(-1, 3).T
    assert (set(red), set(blue)) == ({0}, {255})


@pytest.mark.parametrize(
    "data",
    [
        b"GIF89a and then nothing",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        file_of(Image.new("RGB", (1, 1))),
        file_of(Image.new("RGB", (1, 400))),
        file_of(drawn(1))[:-400],
        file_of(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"),
    ],
    ids=["cut", "drawing", "a point", "a line", "cut png", "fractions"],
)
def test_what_is_no_picture_fails_alone(inputs, data):
    with pytest.raises((OSError, ValueError)):
        row_of(inputs, data)


def test_a_small_file_that_unpacks_to_too_much_is_never_unpacked(inputs, monkeypatch):
    data = file_of(drawn(1))
    monkeypatch.setattr(sizes.open_picture, "__defaults__", (100,))
    monkeypatch.setattr(
        "PIL.PngImagePlugin.PngImageFile.load", lambda self: pytest.fail("unpacked")
    )
    with pytest.raises(ValueError, match="20 x 24 pixels"):
        row_of(inputs, data)


def tiff_of(*tags, order="<", twice=()):
    """16 x 16 shades of grey; `tags` as (number, value) beside what every TIFF needs."""
    pixels = zlib.compress(bytes(256))
    usual = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1}
    where, lengths = (324, 325) if 322 in dict(tags) else (273, 279)
    usual |= {where: None, lengths: len(pixels)}
    entries = sorted([*(usual | dict(tags)).items(), *twice])
    start = 8 + 2 + 12 * len(entries) + 4
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}LH", 8, len(entries))
    body = b"".join(
        struct.pack(f"{order}HHLL", tag, 4, 1, start if value is None else value)
        for tag, value in entries
    )
    return head + body + bytes(4) + pixels


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiles_count_whole_however_little_of_them_lies_in_the_picture(inputs, monkeypatch, order):
    assert not row_of(inputs, tiff_of(order=order)).any()
    assert row_of(inputs, tiff_of((278, 2**32 - 1), order=order)).shape == (inputs.numbers,)
    assert row_of(inputs, tiff_of((322, 16), (323, 16), order=order)).shape
    monkeypatch.setattr(
        "PIL.TiffImagePlugin.TiffImageFile.load", lambda self: pytest.fail("unpacked")
    )
    with pytest.raises(ValueError, match="256,000,000 pixels in its tiles of 16000 x 16000"):
        row_of(inputs, tiff_of((322, 16000), (323, 16000), order=order))
    with pytest.raises(ValueError, match="names a tag twice"):
        row_of(inputs, tiff_of((322, 16), (323, 16), order=order, twice=[(322, 16000)]))
    with pytest.raises(ValueError, match="no plain size"):
        row_of(inputs, tiff_of((322, 16), order=order))


def test_tags_that_all_name_the_same_bytes_are_refused(inputs):
    many = [struct.pack("<HHLL", 40_000 + one, 7, 5000, 8) for one in range(100)]
    data = tiff_of()
    at = data.index(struct.pack("<HHLL", 279, 4, 1, len(zlib.compress(bytes(256))))) + 12
    (entries,) = struct.unpack_from("<H", data, 8)
    data = data[:8] + struct.pack("<H", entries + 100) + data[10:at] + b"".join(many) + bytes(5000)
    with pytest.raises(ValueError, match="tags of more bytes than the file"):
        row_of(inputs, data)


def test_the_scans_of_a_jpeg_within_a_tiff_count(inputs):
    data = file_of(drawn(1), "TIFF", compression="jpeg")
    assert row_of(inputs, data).any()
    with pytest.raises(ValueError, match="more than 24 JPEG scans"):
        row_of(inputs, data + b"\xff\xda" * 24)


def test_run_lengths_are_refused_before_they_are_decoded(inputs):
    head = struct.pack("<LllHHLLllLL", 40, 8, 8, 1, 8, 1, 32, 0, 0, 256, 0)
    runs = (b"\x08\x05" + b"\0\0") * 8 + b"\0\1"
    start = 14 + len(head) + 1024
    data = b"BM" + struct.pack("<LHHL", start + len(runs), 0, 0, start) + head + bytes(1024) + runs
    with pytest.raises(ValueError, match="run lengths: save it as PNG"):
        row_of(inputs, data)


def test_a_file_of_very_many_parts_is_not_read_to_its_end(inputs):
    data = file_of(drawn(1))
    nothing = struct.pack(">L4sL", 0, b"noTe", zlib.crc32(b"noTe"))
    assert np.array_equal(
        row_of(inputs, data[:33] + nothing * 100 + data[33:]), row_of(inputs, data)
    )
    with pytest.raises(ValueError, match="too many parts"):
        row_of(inputs, data[:33] + nothing * 20_000 + data[33:])
    profile = b"iCCP" + b"a\0\0" + zlib.compress(bytes(1000))
    one = struct.pack(">L", len(profile) - 4) + profile + struct.pack(">L", zlib.crc32(profile))
    assert row_of(inputs, data[:33] + one + data[33:]).shape
    with pytest.raises(ValueError, match="profiles of colours"):
        row_of(inputs, data[:33] + one * 9 + data[33:])


def test_pictures_of_a_declared_size_are_seen_file_by_file(folder, tmp_path, monkeypatch):
    """No file that is left out is held, in whatever way pictures are given."""
    large = file_of(drawn(9, (100, 100)))
    (folder / "dogs" / "large.png").write_bytes(large)
    archive = zipped(folder, tmp_path / "all.zip")
    table = folder / "table.csv"
    table.write_text("image,label\ndogs/large.png,dogs\n" + f"{reading.encoded(large)},dogs\n")
    held, encode = [], reading.encoded
    monkeypatch.setattr(reading, "encoded", lambda data: held.append(data) or encode(data))
    for path in (folder, archive, table):
        found = read_table(path, "image", ["label"], every=True, pictures=True, largest=1000)
        assert sum("100 x 100 pixels" in fault for fault in found.faults.values()) == 1 + (
            path == table
        )
    assert held
    assert large not in held


def test_the_base_model_says_how_pictures_are_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"image_size": 224, "num_channels": 3}))
    settings = {
        "crop_size": {"height": 32, "width": 32},
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.2, 0.2],
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": 40},
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    found = Pictures.load(tmp_path)
    assert (found.side, found.numbers) == (32, 3072)
    assert found.as_asked(ModelSpec(image_size=48)).numbers == 48 * 48 * 3
    white = np.full(3072, 255, np.uint8)
    (values,) = found.collate([white], "cpu", None)["pixel_values"]
    assert values.shape == (3, 32, 32)
    assert values[:, 0, 0].tolist() == pytest.approx([3.0, 2.5, 2.0])
