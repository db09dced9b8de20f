"""How far an entry of an update may go: from the job's own numbers, and far enough."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.errors import PlanRefused
from umbel.job import EncryptionSpec, Job
from umbel.planning.limits import expected_update, keeps_to, secure_limits
from umbel.planning.terms import Terms
from umbel.privacy.noise.scale import Scale
from umbel.privacy.secagg.roster import MOST_CLIP, Limits
from umbel.server.rounds import run_rounds


def job_of(**sections):
    return Job.build({"data": {"path": "x.csv"}, **sections})


gradients = st.lists(
    st.one_of(st.floats(-1e3, 1e3), st.just(0.0), st.sampled_from([1e-6, 1e6, -1e6])),
    min_size=1,
    max_size=40,
)


@settings(deadline=None)
@given(found=gradients, rate=st.sampled_from([1e-5, 1e-3, 0.5]))
def test_no_gradients_move_adamw_beyond_what_is_expected(found, rate):
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.AdamW([weight], rate, weight_decay=0.0)
    for gradient in found:
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
    job = job_of(training={"local_steps": len(found), "learning_rate": rate})
    assert abs(float(weight.detach())) <= expected_update(job, 1) * (1 + 1e-9)


@pytest.mark.parametrize("spike", [1, 8, 40, 300])
def test_the_bound_of_adamw_is_nearly_reached(spike):
    """By gradients that grow so that every step is as long as a step can be."""
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.AdamW([weight], 1.0, weight_decay=0.0)
    for step in range(spike):
        weight.grad = torch.tensor([(0.999 / 0.9) ** step], dtype=torch.float64)
        optimizer.step()
    job = job_of(training={"local_steps": spike, "learning_rate": 1.0})
    assert abs(float(weight.detach())) > 0.5 * expected_update(job, 1)


@settings(deadline=None, max_examples=40)
@given(
    schedule=st.sampled_from(["constant", "linear", "cosine"]),
    warmup=st.sampled_from([0.0, 0.1, 0.5]),
    rounds=st.integers(1, 30),
    optimizer=st.sampled_from(["sgd", "adamw"]),
)
def test_no_schedule_goes_farther_than_a_constant_rate(schedule, warmup, rounds, optimizer):
    common = {"rounds": rounds, "optimizer": optimizer, "learning_rate": 0.1}
    planned = job_of(training={**common, "schedule": schedule, "warmup": warmup})
    constant = job_of(training=common)
    assert 0 < Terms(planned, 4).clip(1000) <= Terms(constant, 4).clip(1000)


def test_the_default_job_keeps_far_more_digits_than_a_clip_of_eight():
    finer = Scale(4, Terms(job_of(), 4).clip(770)).bits - Scale(4, 8.0).bits
    assert finer >= 6


def test_a_clip_that_a_job_names_is_taken():
    assert Terms(job_of(encryption={"clip": 0.25}), 4).clip(770) == 0.25


@pytest.mark.parametrize("mechanism", ["distributed", "central"])
@pytest.mark.parametrize("norm", [1e-3, 0.05, 0.5])
@pytest.mark.parametrize(("members", "epsilon"), [(8, 8.0), (30, 2.0), (100, 1.0)])
def test_under_client_level_privacy_the_norm_and_its_noise_have_room(
    mechanism, norm, members, epsilon
):
    privacy = {
        "unit": "client",
        "mechanism": mechanism,
        "clipping_norm": norm,
        "epsilon": epsilon,
        "delta": 1e-3,
    }
    for clipping in ("fixed", "adaptive"):
        job = job_of(privacy={**privacy, "clipping": clipping})
        low, high = Terms(job, members).clipping_room(770, members)
        assert low <= norm <= high
        assert clipping == "fixed" or high >= 10 * norm


def test_a_rosters_clip_bounds_that_of_every_job():
    roster = Limits(clip=2.0)
    assert keeps_to(EncryptionSpec(clip=2.0), roster)
    assert keeps_to(EncryptionSpec(clip=1e-3), roster)
    assert keeps_to(EncryptionSpec(), roster)  # and is held against it where shapes are known
    assert not keeps_to(EncryptionSpec(clip=2.1), roster)
    assert not keeps_to(EncryptionSpec(clip=1.0, minimum=4), roster)
    assert secure_limits(EncryptionSpec()).clip == MOST_CLIP


@pytest.mark.parametrize("training", [
    {"optimizer": "adamw"},
    {"optimizer": "sgd", "learning_rate": 4.0},
    {"optimizer": "sgd", "learning_rate": 0.5, "momentum": 0.9},
])  # fmt: skip
def test_no_update_of_a_run_is_scaled_down(training, start_run, job_of):
    job = job_of("bert", training={"rounds": 2, "batch_size": 64, **training})
    run = start_run(job)
    run_rounds(run)
    rounds = [event for event in run.folder.read_events() if event["event"] == "round"]
    assert [event["clipped"] for event in rounds] == [0, 0]
    assert np.isfinite(run.plan.clip)
    assert run.plan.to_dict()["encryption"]["clip"] == run.plan.clip


def test_a_job_beyond_the_rosters_clip_is_refused_before_anything_is_charged(start_run, job_of):
    from umbel.errors import RoundFailed
    from umbel.server.rounds import prepare

    run = start_run(job_of("bert", training={"optimizer": "sgd", "learning_rate": 1e3}))
    assert run.plan.clip == MOST_CLIP
    tight = start_run(
        job_of("bert", encryption={"clip": 1e-3}, training={"learning_rate": 1e-4}), name="tight"
    )
    job = tight.plan.job
    wide = job.encryption.model_copy(update={"clip": None})
    tight.plan = _with(tight.plan, job.model_copy(update={"encryption": wide}))
    with pytest.raises((RoundFailed, PlanRefused), match=r"roster allows 0.001"):
        prepare(tight)


def _with(plan, job):
    from dataclasses import replace

    training = job.training.model_copy(update={"learning_rate": 1.0})
    return replace(
        plan, terms=Terms(job.model_copy(update={"training": training}), plan.consortium)
    )


def test_a_figure_is_rounded_up_to_what_people_read():
    found = [Terms(job_of(training={"learning_rate": r}), 4).clip(770) for r in (1e-4, 3e-3, 0.07)]
    assert all(float(f"{value:.2g}") == value for value in found)
    assert all(math.isfinite(value) for value in found)
