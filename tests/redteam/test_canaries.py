"""The canary audit catches training that is broken on purpose, and passes the one that is not.

Everything wrong lives here. Settings are such that theory lets the audit see the fault: it proves
about half of the epsilon that a Gaussian mechanism has at a small delta, so a fault must double the
leak at least, the noise must be moderate, and canaries many.
"""

import hashlib
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from umbel.job import Job
from umbel.learning.trainer import train
from umbel.privacy.accounting.accountant import MechanismEvent, epsilon
from umbel.privacy.dpsgd.optimizer import PrivateOptimizer
from umbel.privacy.randomness import SecretStream
from umbel.redteam.canaries import Mechanism, Records, audit_mechanism, judge, replay

JOB = Job.build({"data": {"path": "-", "labels": ["no", "yes"]}, "training": {"device": "cpu"}})


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def secrets():
    """Streams that are the same in every run of the tests, so that none fails once in twenty."""

    def of(name):
        numbers = itertools.count()
        return lambda: SecretStream.from_key(
            hashlib.sha256(f"{name} {next(numbers)}".encode()).digest()
        )

    return of


@pytest.fixture(scope="module")
def records():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(40, 16)).astype(np.float32)
    return Records(features, generator.integers(0, 2, 40), 2)


def claimed(mechanism, delta):
    steps = mechanism.rounds * mechanism.local_steps
    event = MechanismEvent(mechanism.noise_multiplier, mechanism.sampling_rate, steps)
    return epsilon([event], delta)


def with_half_the_noise(*arguments, private, **named):
    weak = replace(private, noise_multiplier=private.noise_multiplier / 2)
    return train(*arguments, private=weak, **named)


def forgetful_epsilon(mechanism, delta):
    """An accountant that starts anew in every round."""
    return claimed(replace(mechanism, rounds=1), delta)


def test_a_canary_is_released_as_often_as_it_was_drawn(records, secrets):
    mechanism = Mechanism(0.0, 0.3, 0.7, rounds=3, local_steps=4)
    seen = replay(JOB, mechanism, records, 101, secrets=secrets("drawn"))
    assert seen.releases.shape == (3, 101)
    assert 30 < seen.coins.sum() < 70
    assert np.abs(seen.releases[:, ~seen.coins]).max() < 1e-3
    drawn = seen.releases[:, seen.coins]
    assert np.abs(drawn - drawn.round()).max() < 1e-3
    # Binomial(4, 0.3): mean 1.2, standard deviation 0.92 over 3 x 50 counts.
    assert drawn.mean() == pytest.approx(1.2, abs=4 * 0.92 / math.sqrt(drawn.size))


def test_what_is_released_carries_the_noise_that_the_plan_states(records, secrets):
    mechanism = Mechanism(1.5, 1.0, 0.2, rounds=2, local_steps=3)
    seen = replay(JOB, mechanism, records, 1000, secrets=secrets("noise"))
    noise = seen.releases[:, ~seen.coins]
    assert noise.std() == pytest.approx(1.5 * math.sqrt(3), rel=0.06)
    assert seen.releases[:, seen.coins].mean() == pytest.approx(3.0, abs=0.25)


# Whole batches (q = 1) leave nothing to chance but noise. Four steps of sigma 3.33 are one of 1.67:
# epsilon 2.8 at delta 1e-6, and with half the noise 5.9, of which 40,000 canaries prove 3.1.
HALVED = Mechanism(2 / 0.6, 1.0, 1.0, rounds=4, local_steps=1)


def test_half_the_noise_is_caught(records, secrets):
    claim = claimed(HALVED, 1e-6)
    seen, measured = audit_mechanism(
        JOB,
        HALVED,
        records,
        claim=claim,
        delta=1e-6,
        canaries=40_000,
        secrets=secrets("half"),
        train=with_half_the_noise,
    )
    assert seen.lower_bound > claim
    assert measured.noise_high < 0.51 * HALVED.noise_multiplier


def test_the_right_noise_passes_at_the_same_settings(records, secrets):
    claim = claimed(HALVED, 1e-6)
    seen, measured = audit_mechanism(
        JOB, HALVED, records, claim=claim, delta=1e-6, canaries=40_000, secrets=secrets("whole")
    )
    # Not idle either: about half of the claim is proved.
    assert 0.3 * claim < seen.lower_bound < claim
    assert measured.noise_low < HALVED.noise_multiplier < measured.noise_high
    assert measured.noise_high < 1.02 * measured.noise_low


# One of 16 rounds at sigma 4 costs 0.9, all of them 4.4, of which 10,000 canaries prove 2.4.
MANY_ROUNDS = Mechanism(4.0, 1.0, 1.0, rounds=16, local_steps=1)


def test_an_accountant_that_is_reset_each_round_is_caught(records, secrets):
    claim = forgetful_epsilon(MANY_ROUNDS, 1e-5)
    seen, _ = audit_mechanism(
        JOB, MANY_ROUNDS, records, claim=claim, delta=1e-5, secrets=secrets("reset")
    )
    assert claim < seen.lower_bound < claimed(MANY_ROUNDS, 1e-5)


# The order of shuffled batches is public: it follows from the job's seed. Who knows all records but
# one (and differential privacy grants him that) knows in which step that one is used, so nothing is
# amplified: 50 steps at q = 1/50 and sigma 1 are claimed to cost 1.1, while one whole step of sigma 1
# costs 4.4, of which 10,000 canaries prove 2. A secret order could not be caught like this.
BATCHES = 50
SAMPLED = Mechanism(1.0, 1 / BATCHES, 1.0, rounds=BATCHES, local_steps=1)


def batch_of(columns, classes):
    """The batch of each canary, by a public order."""
    return (np.asarray(columns) * 7 + np.asarray(classes) * 3) % BATCHES


def shuffled(learner, task, arrays, examples, steps, *, private, **named):
    """One epoch over fixed batches, which an accountant then takes for Poisson samples."""
    place = batch_of(np.argmax(examples.features, axis=1), examples.labels)
    batch = examples.take(np.flatnonzero(place == steps.first))
    whole = replace(private, sampling_rate=1.0)
    return train(learner, task, arrays, batch, steps, private=whole, **named)


def audit_of_batches(records, secrets, train):
    """The attacker looks at each canary in the one round whose batch it belongs to."""
    coins, scores = [], []
    hidden = records.features.shape[1]
    numbers = np.arange(1000)
    place = batch_of(hidden + numbers // 2, 2 + numbers % 2)
    for _ in range(10):
        seen = replay(JOB, SAMPLED, records, 1000, secrets=secrets, train=train)
        coins.append(seen.coins)
        scores.append(seen.releases[place, numbers])
    claim = claimed(SAMPLED, 1e-5)
    return judge(np.concatenate(coins), np.concatenate(scores), claim, 1e-5)


def test_shuffled_batches_accounted_as_poisson_samples_are_caught(records, secrets):
    seen = audit_of_batches(records, secrets("shuffled"), shuffled)
    assert seen.lower_bound > claimed(SAMPLED, 1e-5)


def test_poisson_batches_pass_at_the_same_settings(records, secrets):
    in_one_round = audit_of_batches(records, secrets("poisson"), train)
    claim = claimed(SAMPLED, 1e-5)
    summed, measured = audit_mechanism(
        JOB, SAMPLED, records, claim=claim, delta=1e-5, secrets=secrets("poisson sum")
    )
    assert in_one_round.lower_bound < claim
    assert summed.lower_bound < claim
    assert measured.rate_low < 1 / BATCHES < measured.rate_high


# A fake record shows where there is nothing else, so every owner here has one canary or no record,
# and the canary's gradient is the fake one's opposite: the distance is then twice the clipping norm,
# as with half the noise. Owners are coordinates of one sum, which makes many of them cheap: each
# contribution is clipped on its own, and noise is independent. 2.3 is claimed, 2.6 proved.
OWNERS, FAKED_STEPS, FAKED_SIGMA, FAKED_DELTA = 1_000, 40, 2.0, 1e-6


def releases_with_and_without(secrets, fake):
    """Of each owner in each step: whether it had a canary, and what was released."""
    layer = nn.Linear(OWNERS, 1, bias=False)
    nn.init.zeros_(layer.weight)
    coins, released = [], []
    with PrivateOptimizer(
        layer,
        torch.optim.SGD(layer.parameters(), lr=1.0),
        noise_multiplier=FAKED_SIGMA,
        clipping_norm=1.0,
        expected_batch_size=1.0,
        stream=secrets(),
    ) as private:
        for _ in range(FAKED_STEPS):
            before = layer.weight.detach().clone()
            has_canary = torch.from_numpy((secrets().words(OWNERS) & 1).astype(bool))
            sign = has_canary.float() - (~has_canary).float() * fake
            rows = torch.diag(3.0 * sign)[sign != 0]
            private.accumulate(private.module(rows).squeeze(1))
            private.step()
            coins.append(has_canary.numpy())
            released.append((before - layer.weight.detach()).numpy()[0])
    return np.concatenate(coins), np.concatenate(released)


@pytest.mark.parametrize("fake", [True, False])
def test_a_fake_record_in_an_empty_batch_is_caught(secrets, fake):
    coins, released = releases_with_and_without(secrets(f"fake {fake}"), fake)
    claim = epsilon([MechanismEvent(FAKED_SIGMA, 1.0, 1)], FAKED_DELTA)
    seen = judge(coins, released, claim, FAKED_DELTA)
    assert (seen.lower_bound > claim) == fake
    assert seen.lower_bound > 0.5


def test_missing_noise_is_caught_with_the_first_canaries(records, secrets):
    bare = replace(HALVED, noise_multiplier=0.0)
    seen = replay(JOB, bare, records, 1000, secrets=secrets("bare"))
    claim = claimed(HALVED, 1e-6)
    found = judge(seen.coins, seen.releases.sum(axis=0), claim, 1e-6)
    assert found.correct == found.guesses
    assert found.lower_bound > claim


def test_under_a_large_delta_fewer_canaries_are_guessed(records, secrets):
    quick = Mechanism(1.0, 1.0, 1.0, rounds=1, local_steps=1)
    seen, _ = audit_mechanism(JOB, quick, records, claim=1.0, delta=1e-3, secrets=secrets("delta"))
    assert seen.canaries == 100


GROUPED = Mechanism(4.0, 0.1, 1.0, rounds=10, local_steps=4, records_per_group=6)


def records_one_by_one(learner, task, model, examples, steps, *, private, **named):
    """The fault: single records are drawn, and the step is charged as if groups were."""
    private = replace(private, records_per_group=None)
    return train(learner, task, model, examples, steps, private=private, **named)


def test_records_drawn_one_by_one_and_charged_as_groups_are_caught(records, secrets):
    claim = claimed(GROUPED, 1e-6)
    seen, _ = audit_mechanism(
        JOB, GROUPED, records, claim=claim, delta=1e-6, canaries=2_000,
        secrets=secrets("one by one"), train=records_one_by_one,
    )  # fmt: skip
    assert seen.lower_bound > claim


def test_groups_that_are_drawn_whole_pass_at_the_same_settings(records, secrets):
    claim = claimed(GROUPED, 1e-6)
    seen, measured = audit_mechanism(
        JOB,
        GROUPED,
        records,
        claim=claim,
        delta=1e-6,
        canaries=2_000,
        secrets=secrets("whole groups"),
    )
    assert seen.lower_bound < claim
    assert measured.noise_low < GROUPED.noise_multiplier < measured.noise_high
    assert measured.rate_low < GROUPED.sampling_rate < measured.rate_high


@pytest.mark.slow
def test_faults_are_caught_and_right_code_passes_under_nearly_all_coins(records, secrets):
    """The tests above hold the coins fixed; here they are thrown 20 times."""

    def share(claim, bound):
        return np.mean([bound(secrets(f"turn {turn}")) > claim for turn in range(20)])

    def audited(mechanism, claim, delta, canaries=10_000, train=train):
        return lambda streams: (
            audit_mechanism(
                JOB,
                mechanism,
                records,
                claim=claim,
                delta=delta,
                canaries=canaries,
                secrets=streams,
                train=train,
            )[0].lower_bound
        )

    def faked(streams):
        coins, released = releases_with_and_without(streams, True)
        return judge(coins, released, of_one_step, FAKED_DELTA).lower_bound

    whole, reset = claimed(HALVED, 1e-6), forgetful_epsilon(MANY_ROUNDS, 1e-5)
    of_one_step = epsilon([MechanismEvent(FAKED_SIGMA, 1.0, 1)], FAKED_DELTA)
    caught = [
        share(whole, audited(HALVED, whole, 1e-6, 40_000, with_half_the_noise)),
        share(reset, audited(MANY_ROUNDS, reset, 1e-5)),
        share(
            claimed(SAMPLED, 1e-5),
            lambda streams: audit_of_batches(records, streams, shuffled).lower_bound,
        ),
        share(of_one_step, faked),
    ]
    assert min(caught) >= 0.95
    assert share(whole, audited(HALVED, whole, 1e-6, 40_000)) == 0
