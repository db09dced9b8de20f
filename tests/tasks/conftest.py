"""Tasks of one's own, each the text of one file, and how ``pip`` would have installed it."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

MARGINS = '''
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

SQUARES = '''
"""Squares of numbers, each with a class: records without a token, which no tokenizer reads."""

import json

import numpy as np
import torch

from umbel.learning.inputs import Inputs
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


class Squares(Inputs):
    dtype = np.float32

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

    def fit(self, backbone, base):
        assert backbone.config.image_size == self.side

    def state(self):
        return f"squares of {self.side}"

    def save(self, folder, job):
        (folder / "squares.txt").write_text(str(self.side))

    def card(self, job):
        return {"side": self.side}
'''

SLOPES = '''
"""A number for each row of numbers: the last one of a record is what the others should say."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from umbel.learning.inputs import Inputs
from umbel.learning.metrics import finite, whole
from umbel.learning.tasks import Answer, Task
from umbel.tasks.spec import Deciding, MainMetric, TaskSpec

SIDE = 4

SPEC = TaskSpec(
    name="slopes",
    purpose="It estimates a number from others.",
    labelled=False,
    adapters=("head", "full"),
    model_class="AutoModelForImageClassification",
    pools=True,
    peft_type=None,
    pipeline="image-feature-extraction",
    counts="my_slopes:Moments",
    main=MainMetric("r2", "R\u00b2", True),
    deciding=Deciding("loss", False, 0.1, share=False),
    learning="my_slopes:Slopes",
    inputs="my_slopes:Rows",
    outputs=1,
)


@dataclass(frozen=True)
class Moments:
    """Records, and the sums of their squared errors, targets and squared targets (targets from 0 to 1)."""

    count: int
    sums: np.ndarray
    reals: ClassVar[int] = 3

    @classmethod
    def zero(cls, classes):
        return cls(0, np.zeros(3))

    def __add__(self, other):
        return Moments(self.count + other.count, self.sums + other.sums)

    def to_list(self):
        return [self.count, *self.sums.tolist()]

    @classmethod
    def from_list(cls, numbers):
        return cls(int(whole(numbers[:1])[0]), np.array([finite(n) for n in numbers[1:]]))

    @classmethod
    def most(cls, max_length):
        return 1

    @classmethod
    def cells(cls, classes):
        return (1,)

    @classmethod
    def caps(cls, classes):
        return 4.0, 1.0, 1.0

    @classmethod
    def of_noised(cls, cells, sums, each, label_names):
        return cls(max(0, round(int(cells[0]) / each)), np.array(sums)).metrics()

    @classmethod
    def blur(cls, cell, total, classes):
        return 4.0 * float(np.hypot(cell, total))

    def metrics(self, label_names=()):
        errors, first, second = self.sums
        spread = second - first**2 / self.count if self.count else 0.0
        return {
            "r2": float(1 - errors / spread) if spread > 0 else None,
            "loss": float(errors / self.count) if self.count else None,
            "examples": self.count,
        }


class Slopes(Task):
    def __init__(self, classes):
        pass

    def losses(self, logits, batch):
        return (logits[:, 0] - batch["targets"]) ** 2

    def sums(self, logits, batch):
        targets = batch["targets"]
        return torch.stack([self.losses(logits, batch), targets, targets**2], dim=1)

    def counts(self, logits, batch):
        sums = self.sums(logits, batch).double().sum(0).cpu().numpy()
        return Moments(len(logits), sums)

    def zero(self):
        return Moments.zero(0)

    def cells(self, logits, batch):
        return np.zeros(len(logits), np.int64)

    def answers(self, outputs, label_names):
        return [Answer(values={"slope": float(row[0])}) for row in outputs]


class Rows(Inputs):
    dtype = np.float32
    targets = True

    @classmethod
    def load(cls, folder):
        return cls()

    def encode(self, records, limit, *, ends=False):
        rows = [np.array(record.split(","), np.float32) for record in records]
        if any(row.shape != (limit,) for row in rows):
            raise ValueError("too few numbers, or too many")
        return rows

    def collate(self, rows, device, length):
        values = torch.from_numpy(np.stack(rows)).to(device)
        squares = values[:, :-1].reshape(len(rows), 1, SIDE, SIDE)
        return {"pixel_values": squares, "targets": values[:, -1]}

    def invented(self, lengths, seed=0):
        size = (len(lengths), SIDE**2 + 1)
        return list(np.random.default_rng(seed).random(size, np.float32))

    def fit(self, backbone, base):
        assert backbone.config.image_size == SIDE

    def state(self):
        return "slopes"
'''


def install(folder, name, text, task):
    """A package with one module, which names its task as pip would write it down."""
    (folder / f"{name}.py").write_text(text)
    said = folder / f"{name}-1.0.dist-info"
    said.mkdir()
    (said / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (said / "entry_points.txt").write_text(f"[umbel.tasks]\n{task} = {name}:SPEC\n")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    for name, text in (("margins", MARGINS), ("squares", SQUARES), ("slopes", SLOPES)):
        install(tmp_path, f"my_{name}", text, name)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "examples" / "strategies")
    yield
    for name in ("my_margins", "my_squares", "my_slopes", "agreement"):
        sys.modules.pop(name, None)
