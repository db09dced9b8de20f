"""Whole rounds of strategies with two sums: what they come to, and who answers the second one."""

import numpy as np
import pytest

from umbel.server.rounds import run_rounds
from umbel.strategies.products import pairs_of
from umbel.wire.requests import SECOND, TRAIN

LORA = {"adapter": "lora"}
QUICK = {
    "training": {"rounds": 1, "local_steps": 1, "batch_size": 64},
    "model": LORA,
    "evaluation": {"counts": "off"},
    "strategy": {"name": "flexlora"},
}


def products(model):
    """B A of each adapted layer, float64."""
    shapes = {name: array.shape for name, array in model.items()}
    return {
        pair.b: np.matmul(*(factor.astype(np.float64) for factor in pair.factors(model)))
        for pair in pairs_of(shapes)
    }


def test_sums_and_single_updates_come_to_the_best_cut_of_the_mean_product(
    start_run, job_of, open_job_of
):
    sent = []

    def listen(request, reply, assignment):
        if request.metadata.message_type == TRAIN:
            record = reply.content["arrays"]
            sent.append({name: array.numpy() for name, array in record.items()})
        return [reply]

    clear = start_run(open_job_of("bert", **QUICK), listen, name="clear")
    before = dict(clear.arrays)
    run_rounds(clear)
    owners = [{n: before[n] + update[n] for n in before} for update in sent]
    each = [products(owner) for owner in owners]
    for name, found in products(clear.arrays).items():
        mean = np.mean([one[name] for one in each], axis=0)
        rank = clear.arrays[name].shape[1]
        u, s, v = np.linalg.svd(mean)
        assert found == pytest.approx(u[:, :rank] * s[:rank] @ v[:rank], abs=1e-6 * s[0])
    masked = start_run(job_of("bert", **QUICK), name="masked")
    run_rounds(masked)
    for name, found in products(masked.arrays).items():
        wanted = products(clear.arrays)[name]
        assert np.linalg.norm(found - wanted) <= 1e-5 * np.linalg.norm(wanted)
    for run in (clear, masked):
        assert set(run.grid.asked(SECOND).values()) == {1}
