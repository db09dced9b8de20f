"""Every task as one value: all that other rooms need of it, except its mathematics.

Those are in ``learning/tasks/NAME.py``. No other file names a task: it asks the job's ``TaskSpec``. Your own
task is a module with a ``TaskSpec`` in an installed package that names it as an entry point of the group
``umbel.tasks``. So a job chooses among what an owner installed, and cannot make it import anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Literal, NamedTuple

GROUP = "umbel.tasks"

Reads = Literal["texts", "spans", "pictures", "dialogues"]
"""What a record is."""


class MainMetric(NamedTuple):
    """The one number that a task is judged by."""

    key: str
    label: str
    higher_is_better: bool


class Deciding(NamedTuple):
    """The figure by which models are compared, if something is decided on tests."""

    key: str
    higher_is_better: bool
    blur: float
    """Standard deviation that noise of private counts should stay below."""
    share: bool
    """Whether it is a share, from 0 to 1."""


@dataclass(frozen=True)
class TaskSpec:
    """What a model learns to do."""

    name: str
    purpose: str
    """A sentence of the model card; {labels} stands for the classes."""
    labelled: bool
    """Whether each record has labels, such as a class: a column of the data, and names in the job."""
    adapters: tuple[Literal["lora", "head", "full"], ...]
    """Which can be trained; the first is the default."""
    model_class: str
    """Of transformers, which loads the model with the head that the architecture brings."""
    pools: bool
    """Whether a head of our own may stand on pooled states of the bare model (``model.pooling``)."""
    peft_type: str | None
    """Of peft, which wraps models that read tokens in classes of their own; None for any other."""
    pipeline: str
    """Of transformers, for the model card."""
    counts: str
    """``module:Class``, a ``learning.metrics.TaskCounts``: what is counted of held-out records, and which
    figures follow."""
    main: MainMetric
    deciding: Deciding
    learning: str
    """``module:Class``, a ``learning.tasks.Task``: its losses and counts, made with the number of classes."""
    inputs: str = "umbel.learning.inputs:Texts"
    """``module:Class``, a ``learning.inputs.Inputs``: how a record is read, and what a network takes in."""
    reads: Reads = "texts"
    """What the text column of a table holds: of "spans" texts, in which the label column marks some."""
    outputs: int = 0
    """Numbers that the head gives for a record (or for each place of a row) beside those for labels."""
    outputs_per_label: int = 1
    by_place: bool = False
    """Whether the head says something of each place of a row; else of a record as a whole."""
    adds: int = 1
    """The most that one record adds to the cells of private counts, all together (``metrics.TaskCounts``)."""
    continues: bool = False
    """Whether a prediction continues the text, token by token; else it is what one pass says of a record."""
    softmax: bool = False
    """Whether its losses and answers stay the same if one number is added to all outputs of a record."""
    ends_texts: bool = False
    """Whether the model learns where a text ends."""
    shortest: int = 1
    """Numbers that a record must have for the model to learn from it."""

    @property
    def classified(self) -> bool:
        """Whether each record as a whole has one class."""
        return self.labelled and not self.by_place

    def output_names(self, labels: Sequence[str]) -> list[str]:
        """Of the numbers that the head gives: of a task that marks spans tags, else the labels."""
        if self.outputs_per_label == 1:
            return list(labels)
        return ["O", *(f"{part}-{label}" for label in labels for part in "BI")]

    def outputs_for(self, labels: int) -> int:
        """Numbers that the head gives, for a job with so many labels."""
        return self.outputs + self.outputs_per_label * labels


BUILT_IN = {
    spec.name: spec
    for spec in (
        TaskSpec(
            name="text-classification",
            purpose="It sorts texts into {labels}.",
            labelled=True,
            adapters=("head", "lora", "full"),
            model_class="AutoModelForSequenceClassification",
            pools=True,
            peft_type="SEQ_CLS",
            pipeline="text-classification",
            counts="umbel.learning.classification_counts:ClassificationCounts",
            main=MainMetric("accuracy", "Accuracy", True),
            deciding=Deciding("accuracy", True, 0.02, share=True),
            learning="umbel.learning.tasks.text_classification:TextClassification",
            softmax=True,
        ),
        TaskSpec(
            name="image-classification",
            purpose="It sorts pictures into {labels}.",
            labelled=True,
            adapters=("head", "lora", "full"),
            model_class="AutoModelForImageClassification",
            pools=True,
            peft_type=None,
            pipeline="image-classification",
            counts="umbel.learning.classification_counts:ClassificationCounts",
            main=MainMetric("accuracy", "Accuracy", True),
            deciding=Deciding("accuracy", True, 0.02, share=True),
            learning="umbel.learning.tasks.image_classification:ImageClassification",
            softmax=True,
            inputs="umbel.learning.pictures:Pictures",
            reads="pictures",
        ),
        TaskSpec(
            name="token-classification",
            purpose="It marks {labels} in texts.",
            labelled=True,
            adapters=("lora", "full"),
            model_class="AutoModelForTokenClassification",
            pools=False,
            peft_type="TOKEN_CLS",
            pipeline="token-classification",
            counts="umbel.learning.span_counts:SpanCounts",
            main=MainMetric("f1", "Entity F1", True),
            deciding=Deciding("f1", True, 0.05, share=True),
            learning="umbel.learning.tasks.token_classification:TokenClassification",
            inputs="umbel.learning.marked_texts:MarkedTexts",
            reads="spans",
            outputs=1,  # outside of spans; for each label the first word of a span, and a further one
            outputs_per_label=2,
            by_place=True,
            adds=16,
        ),
        TaskSpec(
            name="causal-lm",
            purpose="It continues texts.",
            labelled=False,
            adapters=("lora", "full"),
            model_class="AutoModelForCausalLM",
            pools=False,
            peft_type="CAUSAL_LM",
            pipeline="text-generation",
            counts="umbel.learning.language_counts:LanguageCounts",
            main=MainMetric("perplexity", "Perplexity", False),
            deciding=Deciding("loss", False, 0.1, share=False),  # nats
            learning="umbel.learning.tasks.causal_lm:CausalLm",
            by_place=True,
            continues=True,
            ends_texts=True,
            shortest=2,
        ),
        TaskSpec(
            name="chat",
            purpose="It answers the last message of a dialogue.",
            labelled=False,
            adapters=("lora", "full"),
            model_class="AutoModelForCausalLM",
            pools=False,
            peft_type="CAUSAL_LM",
            pipeline="text-generation",
            counts="umbel.learning.answer_counts:AnswerCounts",
            main=MainMetric("perplexity", "Perplexity", False),
            deciding=Deciding("loss", False, 0.1, share=False),  # nats
            learning="umbel.learning.tasks.chat:Chat",
            by_place=True,
            inputs="umbel.learning.dialogues:Dialogues",
            reads="dialogues",
            continues=True,
            shortest=2,
        ),
    )
}


def known() -> tuple[str, ...]:
    """Names of all tasks: our own, then those of installed packages."""
    return (*BUILT_IN, *sorted(_installed().keys() - BUILT_IN.keys()))


def spec_of(name: str) -> TaskSpec:
    """The task of a name; a ``KeyError`` for one that is not installed here."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    return _loaded(_installed()[name])


def usual_task(*, labelled: bool) -> TaskSpec:
    """Of our own tasks the first that learns classes, or that needs none."""
    return next(spec for spec in BUILT_IN.values() if spec.labelled == labelled)


def task_that_reads(what: str) -> str:
    """The first of our own tasks whose records are of this kind (``TaskSpec.reads``)."""
    return next(spec.name for spec in BUILT_IN.values() if spec.reads == what)


def task_names(*, labelled: bool) -> str:
    """Our own tasks of that kind, as a list in a sentence."""
    return ", ".join(spec.name for spec in BUILT_IN.values() if spec.labelled == labelled)


def tasks_that_end_texts() -> str:
    """Those of our own whose model may learn where a text ends, likewise."""
    return ", ".join(spec.name for spec in BUILT_IN.values() if spec.ends_texts)


def task_figures() -> str:
    """By which figures models of our own tasks are compared, as a list in a sentence."""
    found = _by(lambda spec: spec.deciding.key)
    return " or ".join(f"{key} ({names})" for key, names in found.items())


def default_adapters() -> str:
    """What is trained of our own tasks if a job does not say, as a list in a sentence."""
    return ", ".join(f'"{key}" for {names}' for key, names in _by(lambda s: s.adapters[0]).items())


def tasks_without_pooling() -> str:
    """Our own tasks whose head does not stand on pooled states, as a list in a sentence."""
    return _by(lambda spec: str(spec.pools))["False"]


def _by(key: Callable[[TaskSpec], str]) -> dict[str, str]:
    """Our own tasks by a key, as lists."""
    found: dict[str, list[str]] = {}
    for spec in BUILT_IN.values():
        found.setdefault(key(spec), []).append(spec.name)
    return {one: ", ".join(names) for one, names in found.items()}


def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


@cache
def _loaded(entry: EntryPoint) -> TaskSpec:
    spec = entry.load()
    if not isinstance(spec, TaskSpec) or spec.name != entry.name:
        raise TypeError(f"{entry.value} is not a TaskSpec of the name {entry.name!r}")
    return spec
