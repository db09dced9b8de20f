"""Which files of a base model decide anything: all of them are in its digest, and no other is read."""

import ast
import contextlib
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.errors import ModelError
from umbel.job import Job
from umbel.learning.base_model import base_digest, checked, named_digest, pinned
from umbel.learning.loading import load_learner
from umbel.learning.model_files import model_files, sealed
from umbel.learning.tokenizer import load_tokenizer

ROOT = Path(__file__).resolve().parent.parent.parent
BEFORE = (
    *("config.json", "tokenizer.json", "tokenizer.model", "spiece.model", "vocab.txt"),
    *("vocab.json", "merges.txt", "model.safetensors"),
)
"""What a digest was made of before."""


def job_on(folder, **model):
    return Job.build(
        {
            "model": {"base": str(folder), **model},
            "data": {"path": "-", "labels": ["bad", "good"]},
            "training": {"device": "cpu"},
        }
    )


def names_of_transformers():
    """Every name of a file that transformers can read of a model, from its own tables."""
    root = Path(transformers.__file__).parent
    found = set()
    for file in [*root.glob("models/*/tokenization_*.py"), *root.glob("tokenization_*.py")]:
        for table in re.findall(r"VOCAB_FILES_NAMES\s*=\s*\{([^}]*)\}", file.read_text()):
            found |= set(re.findall(r":\s*\"([^\"]+\.[a-z]+)\"", table))
    for module in (
        transformers.utils,
        transformers.utils.hub,
        transformers.tokenization_utils_base,
    ):
        for name, value in vars(module).items():
            if (
                name.isupper()
                and isinstance(value, str)
                and re.fullmatch(r"[\w.-]+\.[a-z]+", value)
            ):
                found.add(value)
    # Those of other software, and of training that goes on.
    other = (".h5", ".msgpack", ".onnx", ".bin", ".pt", ".py")
    return sorted(name for name in found if not name.endswith(other))


def test_transformers_tables_name_the_files_that_were_looked_for():
    found = names_of_transformers()
    assert {"vocab.txt", "spiece.model", "tokenizer_config.json", "chat_template.jinja"} <= set(
        found
    )
    assert len(found) > 25


@pytest.mark.parametrize(
    "name",
    [
        *names_of_transformers(),
        *("additional_chat_templates/tool.jinja", "modules.json", "1_Pooling/config.json"),
        *("sentence_bert_config.json", "adapter_model.safetensors", "2_Dense/model.safetensors"),
        *("tokenizer.4.0.0.json", "source.spm", "tekken.json", "model-00002-of-00002.safetensors"),
    ],
)
def test_a_file_that_may_be_read_is_in_the_digest(tmp_path, name):
    place = tmp_path / "model" / name
    place.parent.mkdir(parents=True)
    place.write_bytes(b"{}")
    before = base_digest(tmp_path / "model")
    place.write_bytes(b"[]")
    after = base_digest(tmp_path / "model")
    place.unlink()
    assert len({before, after, base_digest(tmp_path / "model")}) == 3


def test_a_file_whose_name_is_no_text_is_in_the_digest_too(tmp_path):
    found = set()
    for name in (b"\xff.json", b"\xfe.json"):
        folder = tmp_path / name.hex()
        folder.mkdir()
        (folder / os.fsdecode(name)).write_text("{}")
        found.add(base_digest(folder))
    assert len(found) == 2


def test_folders_that_differ_in_tokenizer_config_have_other_digests_and_give_other_tokens(
    folder, tmp_path
):
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    settings_ = json.loads((other / "tokenizer_config.json").read_text())
    settings_["bos_token"] = settings_["cls_token"] = "good"
    (other / "tokenizer_config.json").write_text(json.dumps(settings_))
    one, two = (load_tokenizer(place).cls_token_id for place in (folder, other))
    assert one != two
    assert base_digest(folder) != base_digest(other)
    # On the code before, the digest was made of these, and was the same.
    assert all(
        (folder / n).read_bytes() == (other / n).read_bytes()
        for n in BEFORE
        if (folder / n).exists()
    )


def test_the_digest_is_blind_to_what_is_never_read(folder):
    before = base_digest(folder)
    for name in (
        "README.md",
        "modeling_own.py",
        ".hidden.json",
        ".cache/x.json",
        "onnx/model.onnx",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    (folder / "pytorch_model.bin").write_text("safetensors are taken first")
    assert base_digest(folder) == before
    seen = {str(p.relative_to(sealed(folder))) for p in sealed(folder).rglob("*") if not p.is_dir()}
    assert seen == set(model_files(folder))


names = st.from_regex(r"[a-z]{1,3}(/[a-z]{1,3})?\.(json|txt|py|bin|model|md|xyz)", fullmatch=True)


@given(st.dictionaries(names, st.binary(max_size=4), max_size=6), names, st.binary(max_size=4))
@settings(max_examples=60, deadline=None)
def test_whatever_lies_there_a_change_is_in_the_digest_or_out_of_sight(
    tmp_path_factory, held, changed, content
):
    folder = tmp_path_factory.mktemp("model")

    def seen():
        return {name: (folder / name).read_bytes() for name in model_files(folder)}

    for name, found in held.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(found)
    before = base_digest(folder), seen()
    (folder / changed).parent.mkdir(exist_ok=True)
    (folder / changed).write_bytes(content)
    after = base_digest(folder), seen()
    assert (before[0] == after[0]) == (before[1] == after[1])


@pytest.mark.parametrize(
    "kind", ["bert", *(pytest.param(k, marks=pytest.mark.slow) for k in ("llama", "gpt2"))]
)
def test_no_file_is_opened_in_loading_but_those_of_the_digest(
    tiny, tmp_path, forked, monkeypatch, kind
):
    folder = Path(shutil.copytree(tiny(kind), tmp_path / "model"))
    for name in ("pytorch_model.bin", "modeling_own.py", "vocab.odd", "README.md"):
        (folder / name).write_text("not to be opened")
    cache, told = tmp_path / "cache", tmp_path / "opened.json"
    monkeypatch.setenv("UMBEL_CACHE", str(cache))
    job, here = job_on(folder, adapter="lora"), (str(folder), f"{cache}/sealed")
    sealed(folder)

    def load():
        """In a process of its own, which the hook ends with."""
        opened = set()

        def hook(event, args):
            path = args[0] if event in ("open", "os.open") else None
            if isinstance(path, str) and path.startswith(here):
                opened.add(os.path.realpath(path))

        sys.addaudithook(hook)
        load_learner(job, 2)
        told.write_text(json.dumps(sorted(opened)))

    assert forked(load) == 0
    opened = json.loads(told.read_text())
    allowed = {str(folder / name) for name in model_files(folder)}
    allowed |= {str(path) for path in cache.glob("sealed/*/tokenizer_config.json")}
    assert not [path for path in opened if path not in allowed and Path(path).is_file()]
    assert len(opened) > 2


def test_pickled_weights_count_where_there_are_no_others(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"one")
    before = base_digest(folder)
    (folder / "pytorch_model.bin").write_bytes(b"two")
    assert base_digest(folder) != before


def test_another_model_than_the_job_names_is_refused_before_it_is_looked_into(folder, monkeypatch):
    job = pinned(job_on(folder))
    assert job.model.sha256 == checked(job) == named_digest(str(folder))
    (folder / "tokenizer_config.json").write_text("{broken")
    monkeypatch.setattr("umbel.learning.loading.sealed", None)  # nobody gets that far
    with pytest.raises(ModelError, match=r"is not the base model that the job names"):
        load_learner(job, 2)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("adapter_config.json", {"base_model_name_or_path": "elsewhere/model"}, "holds an adapter"),
        (
            "model.safetensors.index.json",
            {"metadata": {}, "weight_map": {"weight": "../other/model.safetensors"}},
            "not in this folder",
        ),
    ],
)
def test_what_leads_out_of_the_folder_is_refused(folder, tmp_path, name, content, words):
    shutil.copytree(folder, tmp_path / "other")
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=words):
        load_learner(job_on(folder), 2)


@pytest.mark.parametrize("where", [(), ("text_config",)])
def test_code_from_the_hub_is_refused_by_its_name(folder, where):
    config = json.loads((folder / "config.json").read_text())
    section = config
    for key in where:
        section = section.setdefault(key, {})
    section["attn_implementation"] = "kernels-community/anything"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="asks for code from the hub"):
        load_learner(job_on(folder), 2)


def test_a_tokenizer_is_led_to_no_file_elsewhere(folder, tmp_path):
    settings_ = json.loads((folder / "tokenizer_config.json").read_text())
    settings_ |= {"vocab_file": "/etc/hostname", "tokenizer_file": "/etc/hostname"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings_))
    kept = json.loads((sealed(folder) / "tokenizer_config.json").read_text())
    assert not [key for key in kept if key.endswith("_file")]
    assert len(load_tokenizer(folder)) > 10


def test_code_that_comes_with_a_model_never_runs_and_nobody_is_asked(folder, tmp_path, monkeypatch):
    """Before, whoever was at the terminal was asked, and a yes ran it."""
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "code")
    )
    monkeypatch.setattr(sys, "path", [*sys.path])  # it would find that folder later too
    with contextlib.suppress(Exception):  # it is no configuration, but by then it ran
        transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert (tmp_path / "ran").exists()  # the attack, on a weakened variant
    (tmp_path / "ran").unlink()
    asked = []
    monkeypatch.setattr("builtins.input", lambda *question: asked.append(question) or "y")
    with pytest.raises(ModelError):
        load_learner(job_on(folder), 2)
    assert not asked
    assert not (tmp_path / "ran").exists()


def test_every_call_that_loads_says_that_no_code_of_a_model_runs():
    calls = [
        (file, call)
        for file in ROOT.rglob("*.py")
        if "tests" not in file.parts and ".venv" not in file.parts
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "from_pretrained"
    ]
    assert len(calls) > 4
    for file, call in calls:
        said = {k.arg: k.value for k in call.keywords}.get("trust_remote_code")
        assert isinstance(said, ast.Constant), f"{file}:{call.lineno}"
        assert said.value is False, f"{file}:{call.lineno}"
