"""Learners that tests share: each is loaded once in a process, and is as it was loaded for every test."""

import json

import torch

from umbel.job import Job
from umbel.learning.loading import load_learner
from umbel.learning.probing.probe import probed
from umbel.planning.shaping import shaping_of

MOST_NUMBERS = 4_000_000
"""Of a model that is kept a second time; of a larger one the trained part is, which tests change."""


class Learners:
    def __init__(self):
        self._kept = {}

    def for_a_test(self):
        """A function from a job to its learner."""
        seen = set()

        def learner_of(job):
            key = job.to_json()
            if key not in self._kept:
                self._kept[key] = _Kept(job)
            elif key not in seen:
                self._kept[key].put_back()
            seen.add(key)
            return self._kept[key].learner

        return learner_of


class _Kept:
    def __init__(self, job):
        torch.set_num_threads(1)
        classes = 0 if job.task == "causal-lm" else len(job.data.labels)
        job = Job.build(json.loads(job.to_json()))
        self.learner = probed(load_learner(job, classes, shaping_of(job)))
        network = self.learner.network
        tensors = [*network.parameters(), *network.buffers()]
        if sum(tensor.numel() for tensor in tensors) > MOST_NUMBERS:
            tensors = [tensor for _, tensor in network.trained_parameters()]
        # Every change in place counts up a tensor's version.
        self._as_loaded = [(t, t.detach().clone(), t.requires_grad) for t in tensors]
        self._versions = [tensor._version for tensor in tensors]
        self._training = [(module, module.training) for module in network.modules()]

    def put_back(self):
        for module, training in self._training:
            module.training = training
        with torch.no_grad():
            for place, (tensor, loaded, wanted) in enumerate(self._as_loaded):
                tensor.grad = None
                tensor.requires_grad_(wanted)
                if tensor._version != self._versions[place]:
                    tensor.copy_(loaded)
                    self._versions[place] = tensor._version
