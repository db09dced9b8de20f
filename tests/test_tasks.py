"""A task is one thing: no other file names one, and a new one is one file, as a new strategy is."""

import ast
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from umbel.errors import JobError
from umbel.job import Job
from umbel.learning.metrics import counts_of
from umbel.learning.predict import Predictor
from umbel.reports.page import write_page
from umbel.simulations.engine import Options, simulate
from umbel.tasks.spec import BUILT_IN, spec_of

ROOT = Path(__file__).resolve().parent.parent
ITS_FILES = {"tasks/spec.py", *(f"learning/tasks/{n.replace('-', '_')}.py" for n in BUILT_IN)}

TASK = '''
"""Two classes by a margin: the hinge loss in place of the cross entropy."""

import torch

from umbel.learning.classification_counts import ClassificationCounts
from umbel.learning.tasks import Answer, Task
from umbel.tasks.spec import Deciding, MainMetric, TaskSpec

SPEC = TaskSpec(
    name="margins",
    purpose="It tells {labels} apart by a margin.",
    labelled=True,
    adapters=("head",),
    model_class="AutoModelForSequenceClassification",
    pools=True,
    peft_type="SEQ_CLS",
    pipeline="text-classification",
    counts="umbel.learning.classification_counts:ClassificationCounts",
    main=MainMetric("accuracy", "Accuracy", True),
    deciding=Deciding("accuracy", True, 0.02, share=True),
    learning="my_margins:Margins",
)


class Margins(Task):
    def __init__(self, classes):
        self.classes = classes

    def losses(self, logits, batch):
        right = logits.gather(1, batch["labels"].unsqueeze(1)).squeeze(1)
        return torch.relu(1 - (2 * right - logits.sum(1)))

    def counts(self, logits, batch):
        return ClassificationCounts.from_logits(logits.numpy(), batch["labels"].numpy())

    def zero(self):
        return ClassificationCounts.zero(self.classes)

    def cells(self, logits, batch):
        return (batch["labels"] * self.classes + logits.argmax(1)).numpy()

    def answers(self, outputs, label_names):
        return [Answer(dict(zip(label_names, row))) for row in outputs.softmax(-1).tolist()]
'''

SIGNALS = '''
"""Squares of numbers, each with a class: records without a token, which no tokenizer reads."""

import json

import numpy as np
import torch

from umbel.learning.tasks.text_classification import TextClassification
from umbel.tasks.spec import Deciding, MainMetric, TaskSpec

SPEC = TaskSpec(
    name="squares",
    purpose="It sorts squares of numbers into {labels}.",
    labelled=True,
    adapters=("head", "full"),
    model_class="AutoModelForImageClassification",
    pools=True,
    peft_type=None,
    pipeline="image-classification",
    counts="umbel.learning.classification_counts:ClassificationCounts",
    main=MainMetric("accuracy", "Accuracy", True),
    deciding=Deciding("accuracy", True, 0.02, share=True),
    learning="my_squares:Classes",
    inputs="my_squares:Squares",
)

Classes = TextClassification


class Squares:
    dtype = np.float32
    varied = False

    def __init__(self, side):
        self.side = side

    @classmethod
    def load(cls, folder):
        return cls(json.loads((folder / "config.json").read_text())["image_size"])

    def encode(self, records, limit, *, ends=False):
        rows = [np.array(json.loads(record), np.float32) for record in records]
        if any(row.shape != (limit,) for row in rows):
            raise ValueError("no square")
        return rows

    def collate(self, rows, device, length):
        squares = np.stack(rows).reshape(len(rows), 1, self.side, self.side)
        return {"pixel_values": torch.from_numpy(squares).to(device)}

    def invented(self, lengths, seed=0):
        size = (len(lengths), self.side**2)
        return list(np.random.default_rng(seed).random(size, np.float32))

    def odd(self, row):
        return []

    def padded_otherwise(self, batch):
        return batch

    def fit(self, backbone, base):
        assert backbone.config.image_size == self.side

    def state(self):
        return f"squares of {self.side}"

    def save(self, folder, job):
        (folder / "squares.txt").write_text(str(self.side))

    def card(self, job):
        return {"side": self.side}
'''

STRATEGIES = ROOT / "examples" / "strategies"


def install(folder, name, text, task):
    """A package with one module, which names its task as pip would write it down."""
    (folder / f"{name}.py").write_text(text)
    said = folder / f"{name}-1.0.dist-info"
    said.mkdir()
    (said / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (said / "entry_points.txt").write_text(f"[umbel.tasks]\n{task} = {name}:SPEC\n")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    install(tmp_path, "my_margins", TASK, "margins")
    install(tmp_path, "my_squares", SIGNALS, "squares")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(STRATEGIES)
    yield
    for name in ("my_margins", "my_squares", "agreement"):
        sys.modules.pop(name, None)


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
            yield from (name for name in BUILT_IN if name in node.value)
        elif isinstance(node, ast.Name | ast.alias):
            name = node.id if isinstance(node, ast.Name) else node.name
            if name in classes:
                yield name


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
    with pytest.raises(JobError, match="'text-classification' or 'causal-lm'"):
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


SIDE = 4


@pytest.fixture(scope="module")
def sighted(tmp_path_factory):
    """A model that takes in 4 by 4 numbers, without any file of a tokenizer."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    folder = tmp_path_factory.mktemp("models") / "vit"
    state = torch.random.get_rng_state()
    torch.manual_seed(7)
    config = ViTConfig(
        image_size=SIDE,
        patch_size=2,
        num_channels=1,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    ViTForImageClassification(config).eval().save_pretrained(folder)
    torch.random.set_rng_state(state)
    return str(folder)


def squares(count, seed):
    """Dark and light squares, as a column of a table says them, and one that is none."""
    generator = np.random.default_rng(seed)
    for number in range(count):
        level = 2 * (number % 2) - 1
        values = (level + generator.normal(0, 0.1, SIDE**2)).round(3).tolist()
        yield {"text": json.dumps(values), "label": ("dark", "light")[number % 2]}
    yield {"text": "[0.5, 0.5]", "label": "light"}


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("adapter", ["head", "full"])
def test_a_task_whose_records_are_arrays_is_one_file(job_of, tmp_path, sighted, adapter):
    """Read, encode, collate, losses, private counts, predict, page, model card: from a file of its own."""
    data = tmp_path / "squares.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in squares(240, 1)))
    job = job_of(
        sighted,
        task="squares",
        model={"adapter": adapter, "pooling": "own", "max_length": SIDE**2},
        data={"path": str(data), "labels": ["dark", "light"]},
        privacy={"epsilon": 200.0, "delta": 1e-3, "limit": 1000.0},
        training={"learning_rate": {"head": 2.0, "full": 0.01}[adapter], "batch_size": 40},
        simulation={"partition": "iid", "clients": 3},
    )
    run = simulate(job, Options(run_dir=tmp_path / "run", workers=1, reproducible=True)).path
    result = json.loads((run / "result.json").read_text())
    assert result["task"] == "squares"
    assert 0 <= result["metrics"]["accuracy"] <= 1
    card = (run / "adapter" / "README.md").read_text()
    assert "It sorts squares of numbers into" in card
    assert "umbel.Run.open" in card
    page = write_page(run, ()).read_text(encoding="utf-8")
    assert "squares" in page
    *rows, broken = squares(40, 2)
    predictor = Predictor.load(run)
    found = list(predictor.predict([row["text"] for row in rows]))
    likeliest = [max(one.probabilities, key=one.probabilities.get) for one in found]
    right = sum(said == row["label"] for said, row in zip(likeliest, rows, strict=True))
    assert right >= 36
    assert [one.probabilities for one in predictor.predict([""])] == [{}]
