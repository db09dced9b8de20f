"""A folder of text files, a folder for each class, is data like a table."""

import pytest

from umbel.client.propose import propose
from umbel.errors import DataError
from umbel.job import DataSpec
from umbel.learning.data import load_corpus
from umbel.learning.reading.layout import Layout
from umbel.learning.reading.tables import read_table


@pytest.fixture
def folder(tmp_path):
    """Writes files, by their place in a new folder, and gives the folder."""

    def write(files):
        for name, content in files.items():
            path = tmp_path / "texts" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / "texts"

    return write


def many(part, count=12):
    return {f"{part}{kind}/{n}.txt": f"{kind} text {n}" for kind in "ab" for n in range(count)}


def corpus_of(path, **spec):
    return load_corpus(DataSpec(path=str(path), **spec), "text-classification")


def test_each_file_is_a_record_and_its_folder_the_class(folder):
    path = folder({**many(""), "a/.hidden.txt": "no", "b/notes.md": "no", "alone.TXT": "no class"})
    corpus = corpus_of(path)
    assert corpus.label_names == ("a", "b")
    assert sorted(corpus.texts) == sorted(many("").values())
    assert all(
        text[0] == corpus.label_names[n]
        for text, n in zip(corpus.texts, corpus.labels, strict=True)
    )
    assert sum(corpus.dropped.values()) == 1  # the one that lies in no folder of a class
    assert any("each .txt file is a record" in note for note in corpus.notes)


def test_folders_around_say_what_is_tested_on(folder):
    corpus = corpus_of(folder(many("train/") | many("test/", 3)))
    assert corpus.held_out.sum() == 6
    assert {t for t, held in zip(corpus.texts, corpus.held_out, strict=True) if held} == set(
        many("test/", 3).values()
    )


def test_a_text_is_read_whole_in_the_encoding_that_is_named(folder):
    path = folder({"a/1.txt": "Gr\u00fc\u00dfe\r\nzwei", "a/2.txt": b"\xef\xbb\xbfmark"})
    table = read_table(path, "text", ["label"])
    assert table.columns == {"text": ["Gr\u00fc\u00dfe\r\nzwei", "mark"], "label": ["a", "a"]}
    path = folder({"a/1.txt": b"\x93quoted\x94", "a/2.txt": b"caf\xe9"})
    assert read_table(path, "words", layout=Layout("cp1252")).columns["words"] == [
        "\u201cquoted\u201d",
        "caf\u00e9",
    ]
    with pytest.raises(
        DataError, match=r"file 1: a/1.txt is not UTF-8 \(byte 1\).*--encoding.* 2 of 2"
    ):
        read_table(path, "text")
    with pytest.raises(DataError, match=r"its columns are text, label .* it has no 'stars'"):
        read_table(path, "text", ["stars"])


def test_a_file_that_cannot_be_read_leaves_out_itself_alone(folder, tmp_path):
    path = folder(many("", 60) | {"a/bad.txt": b"\xff"})
    corpus = corpus_of(path)
    assert len(corpus.texts) == 120
    assert any("a/bad.txt is not UTF-8" in note for note in corpus.notes)
    (tmp_path / "secret.txt").write_text("elsewhere")
    (path / "b" / "link.txt").symlink_to(tmp_path / "secret.txt")
    table = read_table(path, "text", every=True)
    assert "elsewhere" not in table.columns["text"]
    assert any("lies outside the folder" in fault for fault in table.faults.values())


def test_an_owner_declares_a_folder_and_reads_nothing_from_an_empty_one(folder):
    path = folder(many(""))
    found = propose(path)
    declared = (found.declared.text_column, found.declared.label_column, found.declared.labels)
    assert declared == ("text", "label", ["a", "b"])
    for file in path.rglob("*.txt"):
        file.unlink()
    assert len(read_table(path, "text", ["label"], lenient=True)) == 0
    with pytest.raises(DataError, match="folder with .txt files in a folder for each class"):
        read_table(path, "text")


def owners(path, **spec):
    """What an owner's agent trains and tests on."""
    given = DataSpec(path=str(path), labels=["a", "b"], **spec)
    corpus = load_corpus(given, "text-classification", declared=True)
    held = corpus.held_out if corpus.held_out is not None else [False] * len(corpus)
    sides = {True: set(), False: set()}
    for text, side in zip(corpus.texts, held, strict=True):
        sides[bool(side)].add(text)
    return sides[False], sides[True]


@pytest.mark.parametrize("more", ["train/a/new.txt", "test/a/new.txt", "a/new.txt"])
def test_what_an_owner_trains_on_follows_from_each_files_own_path(folder, more):
    path = folder(many("val/"))
    assert owners(path) == (set(), set())
    with pytest.raises(DataError, match="no rows to train on.* called test or val are for tests"):
        propose(path)
    whole, apart = str(path), str(path / "val")
    alone = (owners(path, test_path=whole)[1], owners(path, test_path=apart)[1])
    assert alone == (set(many("val/").values()),) * 2
    folder({more: "one more"})
    tested = more.startswith("test")
    assert owners(path) == (set() if tested else {"one more"}, set())
    trained, held = owners(path, test_path=whole)
    assert trained == (set() if tested else {"one more"})
    assert held == set(many("val/").values()) | ({"one more"} if tested else set())


def test_of_a_folder_for_tests_one_files_place_settles_no_other(folder, tmp_path):
    path = folder(many(""))
    elsewhere = tmp_path / "elsewhere" / "a"
    elsewhere.mkdir(parents=True)
    (elsewhere / "1.txt").write_text("tested")
    for part, expected in (("test", {"tested", "more"}), ("train", {"tested", "more"})):
        at = tmp_path / "elsewhere" / part / "a"
        at.mkdir(parents=True)
        (at / "2.txt").write_text("more" if part == "test" else "trained on elsewhere")
        assert owners(path, test_path=str(tmp_path / "elsewhere"))[1] == expected
