"""Every task as one value: all that other rooms need of it, except its mathematics.

Those are in ``learning/tasks/NAME.py``. No other file names a task: it asks the job's ``TaskSpec``. Your own
task is a module with a ``TaskSpec`` in an installed package that names it as an entry point of the group
``umbel.tasks``. So a job chooses among what an owner installed, and cannot make it import anything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Literal, NamedTuple

GROUP = "umbel.tasks"

Reads = Literal["texts", "pictures", "dialogues"]
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
    """Whether each text has a class: a column of the data, and names in the job."""
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
    """What the text column of a table holds."""
    outputs: int = 0
    """Numbers that the head of a task without labels gives for a record; with labels it is one per class."""
    continues: bool = False
    """Whether a prediction continues the text, token by token; else it is what one pass says of a record."""
    softmax: bool = False
    """Whether its losses and answers stay the same if one number is added to all outputs of a record."""
    ends_texts: bool = False
    """Whether the model learns where a text ends."""
    shortest: int = 1
    """Numbers that a record must have for the model to learn from it."""


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


def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


@cache
def _loaded(entry: EntryPoint) -> TaskSpec:
    spec = entry.load()
    if not isinstance(spec, TaskSpec) or spec.name != entry.name:
        raise TypeError(f"{entry.value} is not a TaskSpec of the name {entry.name!r}")
    return spec
