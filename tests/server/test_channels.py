"""A strategy's channels in whole rounds: what travels, what is clipped, and what the server can read."""

import sys
from pathlib import Path

import numpy as np
import pytest

from umbel.planning.terms import Terms
from umbel.planning.vector import Content
from umbel.privacy.noise.client_noise import l2_norm
from umbel.privacy.noise.scale import Scale
from umbel.privacy.randomness import reproducible_stream
from umbel.privacy.secagg.fixed_point import decode, encode
from umbel.server.rounds import run_rounds
from umbel.strategies import Channel, Channels
from umbel.wire.requests import TRAIN

EXAMPLES = Path(__file__).parents[2] / "examples" / "strategies"
OWN = {"name": "agreement:Agreement", "options": {"margin": 1e-4}}


@pytest.fixture(autouse=True)
def _agreement(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    yield
    sys.modules.pop("agreement", None)


def test_a_sum_and_single_updates_say_the_same_of_all_channels(start_run, open_job_of, job_of):
    sections = {
        "strategy": OWN,
        "privacy": {"unit": "none"},
        "training": {"rounds": 1},
        "evaluation": {"counts": "off"},
    }
    sent = []

    def listen(request, reply, assignment):
        if request.metadata.message_type == TRAIN:
            sent.append({name: a.numpy() for name, a in reply.content["arrays"].items()})
        return [reply]

    clear, masked = open_job_of("bert", **sections), job_of("bert", **sections)
    runs = [start_run(clear, listen, name="clear"), start_run(masked, name="masked")]
    before = {name: array.copy() for name, array in runs[0].arrays.items()}
    for run in runs:
        run_rounds(run)
    assert {len(arrays) for arrays in sent} == {2 * len(before)}
    for name, array in before.items():
        votes = np.stack([64 * arrays[f"votes/{name}"] for arrays in sent])
        assert set(np.unique(votes)) <= {-1, 0, 1}
        mean = np.mean([arrays[name].astype(np.float64) for arrays in sent], axis=0)
        expected = array + np.abs(votes.mean(0)) * mean
        assert runs[0].arrays[name] == pytest.approx(expected, abs=1e-6)
        assert runs[1].arrays[name] == pytest.approx(expected, abs=1e-4)


def test_under_client_level_privacy_all_channels_are_clipped_together(start_run, job_of):
    """However large what the local half adds, one client moves the sum by no more than the norm."""
    job = job_of(privacy={"unit": "client", "mechanism": "central", "clipping_norm": 0.5})
    channels = Channels((Channel("update", {"w": (30,)}), Channel("more", {"w": (30,)}, 4.0)))
    terms, draw = Terms(job, 3), np.random.default_rng(7)
    content = Content(terms, channels, True, False)
    update = {"w": draw.normal(size=30).astype("f4")}
    further = {"more": {"w": 1e3 * draw.normal(size=30).astype("f4")}}
    vector = channels.vector(update, further)
    scale = Scale(3, content.clip)
    words = 0
    for client in range(3):
        part = terms.client_part(0.5, reproducible_stream(0, f"{client}"))
        share = content.contribution(vector, 0.0, None, 1, part=part)
        stream = reproducible_stream(1, f"{client}")
        words = words + encode(share, content.layout, scale, 1, stream.words)
    mean = content.read(decode(words, content.layout, scale, 1, 3)).mean
    assert l2_norm(list(mean.values())) <= 0.5
    assert l2_norm(list(mean.values())) == pytest.approx(0.5, rel=0.05)
    assert np.linalg.norm(mean["w"]) < 0.01 < np.linalg.norm(mean["more/w"])


def test_the_guarantee_names_what_is_added_up_beside_the_update(start_run, job_of):
    plan = start_run(job_of("bert", strategy=OWN, privacy={"unit": "client", "delta": 1e-3})).plan
    assert "of updates and votes together clipped to L2 norm" in plan.guarantee
    assert "only sums of updates, votes, counts and losses" in plan.guarantee
    numbers = plan.model.trained_parameters
    assert [(c.numbers, rounds) for c, rounds in plan.channels] == [
        (2 * numbers, plan.job.training.rounds)
    ]
    assert plan.to_dict()["bytes_up_per_client_round"] >= 8 * numbers
    assert plan.to_dict()["bytes_down_per_client_round"] == 4 * numbers
