"""What a model can learn to do: how a batch is made, what its loss is, what is counted."""

from ...job import Job
from .causal_lm import CausalLm
from .task import Task
from .text_classification import TextClassification

__all__ = ["CausalLm", "Task", "TextClassification", "task_for"]


def task_for(job: Job, classes: int) -> Task:
    """The task of a job; `classes` is the number of labels, 0 for a language model."""
    return CausalLm() if job.task == "causal-lm" else TextClassification(classes)
