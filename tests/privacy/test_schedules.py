"""Ledgers under random schedules: jobs and data sets in turn, crashes, repetitions, several kinds."""

import functools
import os
import random
import sqlite3
from collections import defaultdict

import dp_accounting
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.rdp import RdpAccountant

from umbel.privacy.accounting.accountant import MechanismEvent
from umbel.privacy.ledger.ledger import Ledger

DELTA = 1e-5
EVENTS = (
    MechanismEvent(0.8, 0.02, 10),
    MechanismEvent(1.0, 0.1, 10),
    MechanismEvent(1.0, 0.1, 3),
    MechanismEvent(2.0, 0.1, 20),
    MechanismEvent(6.0, 1.0, 2),
)
COUNTS = MechanismEvent(20.0, 1.0, 1, "concentrated")


@functools.cache
def steps_of(sigma, rate, steps):
    one = pld.from_gaussian_mechanism(sigma, sampling_prob=rate, value_discretization_interval=1e-4)
    return one.self_compose(steps)


@functools.cache
def by_dp_accounting(events):
    """Losses on dp-accounting's default grid; with concentrated releases its Renyi accountant."""
    if any(event.kind == "concentrated" for event in events):
        accountant = RdpAccountant([*range(2, 65), 128, 256, 512])
        for event in events:
            gaussian = dp_accounting.GaussianDpEvent(event.noise_multiplier)
            sampled = dp_accounting.PoissonSampledDpEvent(event.sampling_rate, gaussian)
            zcdp = dp_accounting.ZCDpEvent(1 / (2 * event.noise_multiplier**2))
            accountant.compose(sampled if event.kind == "gaussian" else zcdp, event.steps)
        return accountant.get_epsilon(DELTA)
    found = None
    for event in events:
        some = steps_of(event.noise_multiplier, event.sampling_rate, event.steps)
        found = some if found is None else found.compose(some)
    return found.get_epsilon_for_delta(DELTA)


def merged(events):
    """Equal mechanisms as one, with the steps of both."""
    steps = defaultdict(int)
    for event in events:
        steps[event.kind, event.noise_multiplier, event.sampling_rate] += event.steps
    return tuple(
        MechanismEvent(sigma, rate, n, kind) for (kind, sigma, rate), n in sorted(steps.items())
    )


def crash(path, draw):
    """A process that dies in its turn: its row is not committed, or its witness not yet told."""
    if draw.random() < 0.5:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE entries SET steps = 0")
        connection.close()
        return
    witness = path.with_suffix(".witness")
    lines = witness.read_bytes().splitlines(keepends=True)
    if len(lines) > 1:
        kept = draw.randrange(len(lines[-1]))
        os.truncate(witness, witness.stat().st_size - len(lines[-1]) + kept)


def run(path, draw):
    """Charge at random; what was charged, by data set."""
    charged = defaultdict(list)
    keys = []
    ledger = Ledger(path)
    for n in range(draw.randint(1, 7)):
        dataset, event = draw.choice("ab"), draw.choice((*EVENTS, COUNTS))
        replay, key = draw.random() < 0.3, f"job{draw.randrange(3)}/{n}/0"
        if replay and keys and draw.random() < 0.5:
            dataset, event, key = draw.choice(keys)
        else:
            charged[dataset].append(event)
            if replay:
                keys.append((dataset, event, key))
        ledger.reserve(dataset, event, job=key[:4], key=key, delta=DELTA, limit=1e3, replay=replay)
        if draw.random() < 0.3:
            ledger.close()
            crash(path, draw)
            ledger = Ledger(path)
    ledger.close()
    return charged


def check(path, seed):
    charged = run(path, random.Random(seed))
    with Ledger(path) as ledger:
        assert ledger.verify() == sum(map(len, charged.values()))
        for dataset, events in charged.items():
            found, expected = ledger.spent(dataset, DELTA), by_dp_accounting(merged(events))
            if any(event.kind == "concentrated" for event in events):
                # Renyi accounting is looser; normal noise of the same size costs less.
                least = by_dp_accounting(
                    merged([MechanismEvent(e.noise_multiplier, e.sampling_rate, e.steps)
                            for e in events])
                )  # fmt: skip
                assert least <= found <= 1.01 * expected
            else:
                assert expected <= found <= 1.01 * expected


@pytest.mark.parametrize(
    "seed", [*range(10), *(pytest.param(n, marks=pytest.mark.slow) for n in range(10, 25))]
)
def test_a_ledger_says_what_dp_accounting_says_and_never_less(tmp_path, seed):
    check(tmp_path / "ledger.sqlite", seed)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_a_thousand_ledgers_say_what_dp_accounting_says_and_never_less(tmp_path, block):
    for seed in range(100 * block + 1000, 100 * block + 1100):
        check(tmp_path / f"{seed}.sqlite", seed)
