"""FedBuff's buffer: who is in which sum, and what comes of it, against a loop over events in plain numpy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.errors import StrategyError
from umbel.job import StrategySpec
from umbel.planning.buffered import Buffer
from umbel.strategies import buffered, build_strategy, refusals
from umbel.strategies.fedbuff import UNIT, FedBuff, staleness_weight, weighted


@st.composite
def cases(draw):
    speeds = draw(st.lists(st.sampled_from([1.0, 1.5, 2.0, 3.25, 7.0]), min_size=3, max_size=7))
    names = [f"client-{number}" for number in range(len(speeds))]
    size = draw(st.integers(1, len(names)))
    return dict(zip(names, speeds, strict=True)), size, draw(st.integers(0, 4))


def update_of(name, version):
    seed = [int(name.split("-")[1]), version]
    return np.random.default_rng(seed).normal(size=(3, 2)).astype(np.float32)


def reference(seconds, size, farthest, sums):
    """The paper's loop: at each time that somebody is ready, sum if that may be; time, members, model."""
    ends = dict(seconds)
    began, turns = dict.fromkeys(seconds, 0), dict.fromkeys(seconds, 0)
    ready, version, model, found = {}, 0, np.zeros((3, 2)), []
    while len(found) < sums:
        now = min(end for name, end in ends.items() if name not in ready)
        for name in sorted(ends):
            if name not in ready and ends[name] == now:
                ready[name] = now
        while len(found) < sums:
            due = {name for name in began if version + 1 - began[name] > farthest}
            if len(ready) < size or not due <= ready.keys():
                break
            queue = sorted(ready, key=lambda name: (ready[name], turns[name], name))
            others = [name for name in queue if name not in due]
            chosen = sorted([*due, *others[: max(0, size - len(due))]])
            step = sum(
                update_of(name, began[name]).astype(np.float64)
                / math.sqrt(1 + version - began[name])
                for name in chosen
            )
            model = model + step / len(chosen)
            found.append((now, chosen, model))
            version += 1
            for name in chosen:
                del ready[name]
                turns[name] += 1
                began[name], ends[name] = version, now + seconds[name]
    return found


@settings(max_examples=60)
@given(cases())
def test_members_times_and_models_are_those_of_the_papers_loop(exchange, case):
    seconds, size, farthest = case
    buffer = Buffer(size, farthest, seconds, dict.fromkeys(seconds, 100))
    buffer.begin(seconds)
    rule = StrategySpec(name="fedbuff", options={"buffer": size, "max_staleness": farthest})
    strategy = build_strategy(rule, total_weight=len(seconds))
    model = {"w": np.zeros((3, 2), np.float32)}
    for number, (now, chosen, expected) in enumerate(reference(seconds, size, farthest, 12), 1):
        members = buffer.next_members()
        buffer.wait_for(members)
        assert (buffer.now, members) == (now, chosen)
        assert max(map(buffer.staleness, members)) <= farthest
        updates = []
        for name in members:
            update = {"w": update_of(name, buffer.flights[name].version)}
            updates.append((weighted(update, buffer.staleness(name)), 1))
        [model] = exchange(strategy, model, [updates], first=number)
        buffer.summed(members)
        # Weights are multiples of 1 / 1024, and what travels is float32.
        assert model["w"] == pytest.approx(expected, abs=12 * 4 / UNIT)


@given(cases(), st.integers(1, 3))
def test_nobody_is_in_more_sums_than_its_cap_and_a_stored_buffer_goes_on_alike(case, cap):
    seconds, size, farthest = case
    caps = dict.fromkeys(seconds, cap)
    buffer = Buffer(size, farthest, seconds, caps)
    buffer.begin(seconds)
    other, sums = Buffer(size, farthest, seconds, caps), dict.fromkeys(seconds, 0)
    while members := buffer.next_members():
        other.restore(buffer.state())
        assert other.next_members() == members
        buffer.wait_for(members)
        buffer.summed(members)
        for name in members:
            sums[name] += 1
    assert max(sums.values()) <= cap
    assert len(seconds) - size < sum(count == cap for count in sums.values())


def test_a_stale_update_weighs_one_over_the_root_of_its_age_in_whole_numbers():
    assert staleness_weight(0) == UNIT
    for age in range(1, 200):
        assert abs(staleness_weight(age) - UNIT / math.sqrt(1 + age)) <= 0.5
    assert staleness_weight(10**9) == 1


@pytest.mark.parametrize("options", [{"buffer": 0}, {"max_staleness": -1}, {"buffer": True}])
def test_options_that_mean_nothing_are_refused(options):
    with pytest.raises(StrategyError, match="whole number"):
        buffered(StrategySpec(name="fedbuff", options=options))


def test_a_rule_of_ones_own_that_declares_a_buffer_is_refused_and_does_not_wait(
    in_a_module, job_of
):
    own = job_of(strategy={"name": in_a_module(type("Own", (FedBuff,), {}))})
    assert any("declares `buffered`" in reason for reason in refusals(own))
    assert not list(refusals(job_of(strategy={"name": "fedbuff"})))
