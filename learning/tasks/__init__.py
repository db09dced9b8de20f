"""What a model can learn to do: how a batch is made, what its loss is, what is counted."""

from importlib import import_module

from ...job import Job
from .task import Answer, Objective, Task

__all__ = ["Answer", "Objective", "Task", "task_for"]


def task_for(job: Job, classes: int) -> Task:
    """The task of a job; `classes` is the number of labels, 0 for a language model."""
    module, _, name = job.kind.learning.partition(":")
    made: Task = getattr(import_module(module), name)(classes)
    return made
