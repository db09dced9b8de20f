"""Model folders that came only in part are called so, and what the machine lacks is said as what it is."""

import errno
import os

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from umbel.errors import ModelError, of_the_machine
from umbel.learning.whole import check_whole


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    tensors = {"a": np.ones((40, 9), np.float32), "b": np.zeros(7, np.int8)}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    return tmp_path


def test_a_whole_folder_passes(folder):
    check_whole(folder)
    save_file({}, folder / "empty.safetensors")
    check_whole(folder)


def test_weights_that_are_cut_anywhere_are_refused(folder):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for length in [*range(0, 200, 7), len(whole) // 2, len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(ModelError, match="Download it again") as refused:
            check_whole(folder)
        assert str(file) in str(refused.value)
    assert f"{len(whole) - 1:,} of {len(whole):,} bytes" in str(refused.value)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_pointer_is_not_the_weights(folder, name):
    (folder / "model.safetensors").unlink()
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
    with pytest.raises(ModelError, match="git lfs pull"):
        check_whole(folder)


def test_a_pointer_that_nothing_reads_is_let_be(folder):
    """Where both formats lie in a folder, only the safetensors are read."""
    (folder / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    check_whole(folder)


@pytest.mark.parametrize("content", [b"", b'{"model_type": ', b"\xff\xfe", b"[" * 100_000])
def test_a_configuration_that_is_no_json_is_named(folder, content):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match="config.json cannot be read"):
        check_whole(folder)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux")
def test_a_full_disk_is_said_whichever_library_meets_it(tmp_path):
    full = tmp_path / "full"
    full.symlink_to("/dev/full")  # whoever renames a file into place replaces the link alone

    def by_python():
        with open(full, "wb", buffering=0) as file:
            file.write(b"x")

    def by_tokenizers():
        Tokenizer(WordLevel({"a": 0}, "a")).save(str(full))

    for write in (by_python, by_tokenizers):
        with pytest.raises(Exception, match="No space left") as failed:
            write()
        assert "Free some space" in of_the_machine(failed.value)
    assert of_the_machine(ValueError("No space left")) is None
    assert of_the_machine(FileNotFoundError(errno.ENOENT, "gone", "x")) is None
    said = of_the_machine(PermissionError(errno.EACCES, "Permission denied", "/srv/x.csv"))
    assert said.startswith("/srv/x.csv: Permission denied. Give this user access")
