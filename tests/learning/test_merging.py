"""A merged base: it loads without peft and without Umbel, and answers as base and adapter do."""

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from umbel.errors import ModelError
from umbel.learning import merging
from umbel.learning.export import export_adapter
from umbel.learning.merging import merge
from umbel.learning.predict import Predictor

KINDS = [
    ("bert", "mean", "lora", "fedavg"),
    ("bert", "layers", "head", "fedavg"),
    ("bert", "own", "lora", "flora"),
    ("roberta", "own", "head", "fedavg"),
    ("bert", "mean", "lora", "fed-sb"),
    ("gpt2", None, "lora", "fedex-lora"),
    ("llama", None, "lora", "fedavg"),
]


@pytest.fixture
def tuned(job_of, learner_of, tmp_path):
    """The folder of an adapter whose arrays all moved."""

    def export(base, pooling, adapter, strategy):
        model = {
            **job_of(base).model.model_dump(exclude={"lora"}),
            "lora": {"rank": 2},
            "adapter": adapter,
            "max_length": 64,
            **({"pooling": pooling} if pooling else {}),
        }
        task = "text-classification" if pooling else "causal-lm"
        learner = learner_of(job_of(base, task=task, model=model, strategy={"name": strategy}))
        draw = np.random.default_rng(0)
        moved = {
            name: array + draw.normal(scale=0.2, size=array.shape).astype(np.float32)
            for name, array in {**learner.initial, **learner.personal}.items()
        }
        export_adapter(learner, moved, tmp_path / "run" / "adapter")
        return tmp_path / "run"

    (tmp_path / "run").mkdir()
    return export


def answers(folder, texts):
    found = Predictor.load(folder, "cpu").predict(texts, new_tokens=8)
    return [each.continuation or list(each.probabilities.values()) for each in found]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_merged_base_answers_as_base_and_adapter_do(kind, tuned, texts, tmp_path):
    run, merged = tuned(*kind), tmp_path / "merged"
    merge(run, merged)
    for one, other in zip(answers(run, texts[:3]), answers(merged, texts[:3]), strict=True):
        assert one == (other if isinstance(one, str) else pytest.approx(other, abs=1e-5))


WITHOUT = """
import sys

for name in ("peft", "umbel"):
    sys.modules[name] = None  # importing it fails
texts = {texts!r}
{code}
print([list(one.values()) for one in answer(texts)])
"""


def test_it_loads_with_transformers_alone(tuned, texts, tmp_path):
    run, merged = tuned("bert", "own", "lora", "flora"), tmp_path / "its own name"
    merge(run, merged)
    readme = (merged / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1].rpartition("print(")[0]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(texts=texts[:2], code=code)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for one, other in zip(found, answers(run, texts[:2]), strict=True):
        assert sorted(one) == pytest.approx(sorted(other), abs=1e-5)


def test_its_record_names_base_and_adapter(tuned, tmp_path, job_of):
    run, merged = tuned("bert", "mean", "lora", "fedavg"), tmp_path / "merged"
    record = merge(run, merged)
    assert record == json.loads((merged / "rebase.json").read_text())
    card = json.loads((run / "adapter" / "umbel.json").read_text())
    assert (record["base"], record["base_sha256"]) == (card["base"], card["base_sha256"])
    assert record["adapter"] == {
        name: hashlib.sha256((run / "adapter" / name).read_bytes()).hexdigest()
        for name in ("adapter_model.safetensors", "head.safetensors")
    }


def test_what_only_its_owner_can_read_stays_so(tuned, tmp_path):
    run, merged = tuned("bert", "mean", "lora", "fedavg"), tmp_path / "merged"
    (run / "adapter").chmod(0o700)
    merge(run, merged)
    assert {path.stat().st_mode & 0o077 for path in [merged, *merged.iterdir()]} == {0}


@pytest.mark.parametrize("closed", ["home", "home/adapter", "home/adapter/a.safetensors"])
def test_whom_an_adapter_is_closed_to_follows_from_all_that_it_lies_in(closed):
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        adapter = Path(name) / "home" / "adapter"
        adapter.mkdir(parents=True)
        (adapter / "a.safetensors").write_bytes(b"")
        for path in (Path(name), adapter.parent, adapter):
            path.chmod(0o755)
        (adapter / "a.safetensors").chmod(0o644)
        assert merging.open_to_all(adapter)
        path = Path(name) / closed
        path.chmod(path.stat().st_mode & 0o770)
        assert not merging.open_to_all(adapter)


def test_what_cannot_be_merged_is_refused_and_nothing_is_written(tuned, tmp_path):
    run, there = tuned("bert", "mean", "full", "fedavg"), tmp_path / "there"
    with pytest.raises(ModelError, match="There is no folder"):
        merge(tmp_path / "nowhere", there)
    with pytest.raises(ModelError, match="has no adapter"):
        merge(tmp_path, there)
    with pytest.raises(ModelError, match="nothing to merge"):
        merge(run, there)
    assert not there.exists()


def test_where_a_merged_base_cannot_be_written_is_refused(tuned, tmp_path):
    run = tuned("bert", "mean", "lora", "fedavg")
    (tmp_path / "there").mkdir()
    with pytest.raises(ModelError, match="exists already"):
        merge(run, tmp_path / "there")
    with pytest.raises(ModelError, match="does not exist. Make it"):
        merge(run, tmp_path / "no" / "there")


def test_another_base_than_the_tuned_one_is_refused(tuned, tmp_path):
    run = tuned("bert", "mean", "lora", "fedavg")
    path = run / "adapter" / "umbel.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_sha256": "0" * 64}))
    with pytest.raises(ModelError, match="is not the base model that was tuned"):
        merge(run, tmp_path / "there")


def test_a_merged_base_that_answers_otherwise_is_not_kept(tuned, tmp_path, monkeypatch):
    run = tuned("bert", "mean", "lora", "fedavg")
    outputs, seen = merging._outputs, []

    def drifting(learner):
        seen.append(learner)
        return outputs(learner) + 0.01 * len(seen)

    monkeypatch.setattr(merging, "_outputs", drifting)
    with pytest.raises(ModelError, match="answers otherwise"):
        merge(run, tmp_path / "there")
    assert len(seen) == 2
    assert not (tmp_path / "there").exists()
