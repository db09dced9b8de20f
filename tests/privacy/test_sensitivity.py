"""No example moves the clipped sum by more than the clipping norm: every task, adapter, precision."""

import numpy as np
import pytest
import torch

from umbel.learning.batches import make_batch
from umbel.learning.tasks import task_for
from umbel.privacy.dpsgd.bookkeeping import BookKeeping
from umbel.privacy.dpsgd.hooked import HookedGradients

COUNT = 4
CLASSIFICATION, LANGUAGE = "text-classification", "causal-lm"


@pytest.fixture
def clipped_sum(released, job_of, learner_of, examples_of):
    """A function of the chosen examples and the clipping norm, by the trainer's own parts."""

    def build(task, adapter, base, precision, pooling="mean", how=None, checkpointing=False):
        sections = {
            "task": task,
            "model": {"adapter": adapter, "pooling": pooling},
            "training": {"precision": precision, "gradient_checkpointing": checkpointing},
        }
        if task == LANGUAGE:
            sections["data"] = {"labels": None, "label_column": None}
        job = job_of(base, **sections)
        learner = learner_of(job)
        assert learner.network.autocast == (precision == "bfloat16")
        examples = examples_of(learner, COUNT)
        rule = task_for(job, 0 if task == LANGUAGE else len(job.data.labels))
        module = learner.network.train()
        tensors = [p for _, p in learner.network.trained_parameters()]
        torch.manual_seed(0)
        for tensor in tensors:
            # Away from the start, where adapters and heads are zero and most gradients vanish.
            if adapter != "full" or not tensor.any():
                torch.nn.init.normal_(tensor, std=0.2)
        # Padded alike, whoever is there: in bfloat16 another shape is another rounding.
        batch = make_batch(examples, np.arange(COUNT), learner.inputs, learner.network.device)

        def summed(chosen, clip):
            part = {name: values[chosen] for name, values in batch.items()}
            return released(module, lambda m: rule.losses(m(part), part), clip, how).double()

        return summed

    return build


MEAN = [
    *((CLASSIFICATION, a, b) for a in ("head", "lora", "full") for b in ("bert", "roberta")),
    *((CLASSIFICATION, a, b) for a in ("head", "lora", "full") for b in ("llama", "gpt2")),
    *((LANGUAGE, a, b) for a in ("lora", "full") for b in ("llama", "gpt2")),
]
LAYERS = [(CLASSIFICATION, a, b) for a in ("head", "lora", "full") for b in ("bert", "llama")]


@pytest.mark.parametrize("how", [BookKeeping, HookedGradients])
@pytest.mark.parametrize(
    ("task", "adapter", "base", "pooling"),
    [*((*case, "mean") for case in MEAN), *((*case, "layers") for case in LAYERS)],
)
def test_adding_or_removing_one_example_moves_the_clipped_sum_by_at_most_the_clipping_norm(
    clipped_sum, task, adapter, base, pooling, how
):
    check(clipped_sum(task, adapter, base, "float32", pooling, how), tolerance=1e-4)


@pytest.mark.pairs
@pytest.mark.parametrize("how", [BookKeeping, HookedGradients])
@pytest.mark.parametrize(("task", "adapter", "base"), MEAN)
def test_and_in_bfloat16(clipped_sum, task, adapter, base, how):
    check(clipped_sum(task, adapter, base, "bfloat16", how=how), tolerance=2e-2)


def check(summed, tolerance):
    everybody = list(range(COUNT))
    norms = [summed([n], 1e9).norm().item() for n in everybody]
    # All are clipped; then half of them are.
    for clip in (0.5 * min(norms), float(np.median(norms))):
        total = summed(everybody, clip)
        moved = [
            (total - summed([m for m in everybody if m != n], clip)).norm().item()
            for n in everybody
        ]
        assert max(moved) <= clip * (1 + 1e-5)
        expected = [min(norm, clip) for norm in norms]
        assert moved == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("adapter", ["lora", "full"])
@pytest.mark.parametrize(("task", "base"), [(CLASSIFICATION, "bert"), (LANGUAGE, "llama")])
def test_gradient_checkpointing_changes_no_sum(clipped_sum, task, adapter, base):
    everybody = list(range(COUNT))
    plain = clipped_sum(task, adapter, base, "float32")(everybody, 0.1)
    found = clipped_sum(task, adapter, base, "float32", checkpointing=True)(everybody, 0.1)
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-7)
