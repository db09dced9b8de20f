"""The audit of noise that hides whole clients: right code passes, thin noise is caught."""

import dataclasses

import pytest

from umbel.errors import ProtocolError
from umbel.job import Job
from umbel.planning.noise import private_recipe
from umbel.planning.terms import Terms
from umbel.privacy.noise.client_noise import UpdateNoise
from umbel.redteam.client_canaries import audit_clients

MEMBERS, CANARIES = 20, 40_000


def job_of(**privacy):
    return Job.build(
        {
            "data": {},
            "training": {"rounds": 4},
            "privacy": {
                "unit": "client",
                "epsilon": 3.0,
                "delta": 1e-6,
                "clipping_norm": 0.02,
                **privacy,
            },
            "encryption": {"minimum": 8},
        }
    )


@pytest.fixture
def audited(streams):
    def audit(job):
        recipe = private_recipe(job, 1, job.training.rounds)
        found, measured = audit_clients(
            job,
            MEMBERS,
            MEMBERS,
            rounds=4,
            claim=recipe.epsilon,
            canaries=CANARIES,
            secrets=streams("clients"),
        )
        return found.lower_bound, recipe.epsilon, measured, recipe.noise_multiplier

    return audit


@pytest.mark.parametrize("mechanism", ["distributed", "central"])
def test_the_right_noise_passes_and_is_measured(mechanism, audited):
    bound, claim, measured, planned = audited(job_of(mechanism=mechanism))
    assert 0.2 * claim < bound <= claim
    # Ten times the standard error of so many releases.
    assert measured.noise_multiplier == pytest.approx(planned, rel=0.02)
    assert measured.noise_low < measured.noise_multiplier < measured.noise_high


@pytest.mark.parametrize("mechanism", ["distributed", "central"])
def test_a_third_of_the_noise_is_caught(mechanism, audited, monkeypatch):
    def thirds(terms):
        update, count = planned_noise(terms)
        return update / 3, count

    planned_noise = Terms.client_noise.func
    monkeypatch.setattr(Terms, "client_noise", property(thirds))
    bound, claim, measured, planned = audited(job_of(mechanism=mechanism))
    assert bound > claim
    assert measured.noise_high < planned


def test_shares_for_a_cohort_in_which_everybody_is_honest_are_caught(audited, monkeypatch):
    """The weakened variant: noise divided among all members, though some may drop out or collude."""

    def thin(terms, norm, stream):
        part = client_part(terms, norm, stream)
        return dataclasses.replace(part, noise=dataclasses.replace(part.noise, shares=MEMBERS))

    client_part = Terms.client_part
    monkeypatch.setattr(Terms, "client_part", thin)
    _, _, measured, planned = audited(job_of())
    assert measured.noise_high < 0.6 * planned


def test_an_update_that_was_not_clipped_never_leaves(audited, monkeypatch):
    monkeypatch.setattr(UpdateNoise, "factor", lambda self, norm, *_: 2.0 / max(norm, 1e-9))
    with pytest.raises(ProtocolError, match="not clipped to its norm"):
        audited(job_of())
