"""A task is one thing: no other file names one, and a new one is one file, as a new strategy is."""

import ast
import json
from pathlib import Path

import pytest

from umbel.errors import JobError
from umbel.job import Job
from umbel.learning.metrics import counts_of
from umbel.learning.predict import Predictor
from umbel.simulations.engine import Options, simulate
from umbel.tasks.spec import BUILT_IN, spec_of

ROOT = Path(__file__).resolve().parent.parent.parent
ITS_FILES = {"tasks/spec.py", *(f"learning/tasks/{n.replace('-', '_')}.py" for n in BUILT_IN)}


def named(path):
    """Names of tasks and of their classes in a file's code; what documents it may name them."""
    classes = {spec.learning.partition(":")[2] for spec in BUILT_IN.values()}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield from (name for name in BUILT_IN if says(node.value, name))
        elif isinstance(node, ast.Name | ast.alias):
            name = node.id if isinstance(node, ast.Name) else node.name
            if name in classes:
                yield name


def says(text, name):
    """Whether a text names a task. A name of one word, as chat, is also a word of other sentences."""
    if name.isalpha():
        return text == name or any(quote + name + quote in text for quote in "\"'`")
    return name in text


def test_a_task_of_one_word_is_named_as_a_whole_text_or_in_quotes():
    for text in ("chat", 'use task = "chat"', "for 'chat' alone", "of `chat`"):
        assert says(text, "chat")
    for text in ("it has no chat template", 'a name in "-chat"'):
        assert not says(text, "chat")


def test_no_other_file_names_a_task():
    rooms = [folder for folder in ROOT.iterdir() if (folder / "__init__.py").is_file()]
    files = [*ROOT.glob("*.py"), *(path for room in rooms for path in room.rglob("*.py"))]
    found = {
        str(path.relative_to(ROOT)): sorted(set(named(path)))
        for path in files
        if str(path.relative_to(ROOT)) not in ITS_FILES
    }
    assert len(found) > 200
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_tasks_files_are_where_its_name_says(name):
    spec = spec_of(name)
    module, _, kind = spec.learning.partition(":")
    path = ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py")
    assert str(path.relative_to(ROOT)) in ITS_FILES
    assert kind in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", BUILT_IN)
def test_its_deciding_figure_is_one_that_its_counts_tell(name):
    spec = spec_of(name)
    classes = ["a", "b"] if spec.labelled else []
    figures = counts_of(spec).zero(len(classes)).metrics(classes)
    assert {spec.main.key, spec.deciding.key} <= figures.keys()


def test_a_task_that_nobody_installed_is_unknown():
    with pytest.raises(JobError, match="'token-classification', 'causal-lm' or 'chat'"):
        Job.build({"task": "margins", "data": {}})


@pytest.mark.usefixtures("installed")
def test_a_task_and_a_strategy_of_ones_own_are_one_file_each(job_of, tmp_path):
    own = {"name": "agreement:Agreement", "options": {"margin": 1e-4}}
    job = job_of(task="margins", strategy=own, evaluation={"every": 0})
    assert job.adapter == "head"
    run = simulate(job, Options(run_dir=tmp_path / "run", workers=1, reproducible=True)).path
    result = json.loads((run / "result.json").read_text())
    assert (result["task"], result["rounds"]) == ("margins", 3)
    plan = json.loads((run / "plan.json").read_text())
    assert plan["bytes_up_per_client_round"] > 2 * plan["bytes_down_per_client_round"]
    assert "only sums of updates, votes, counts and losses" in plan["guarantee"]
    assert "apart by a margin" in (run / "adapter" / "README.md").read_text()
    [found] = Predictor.load(run).predict(["good"])
    assert found.probabilities.keys() == {"negative", "positive"}


@pytest.mark.usefixtures("installed")
def test_a_task_says_which_adapters_it_has():
    with pytest.raises(JobError, match='"lora": margins has no such part to train; use "head"'):
        Job.build({"task": "margins", "data": {}, "model": {"adapter": "lora"}})
