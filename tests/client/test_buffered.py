"""An owner in an asynchronous job: what it trains ahead waits, and leaves for the right list alone."""

import numpy as np
import pytest

from umbel.client.buffered import BufferedRounds
from umbel.client.kept import KeptUpdates
from umbel.learning.model import arrays_digest
from umbel.strategies.fedbuff import UNIT, staleness_weight
from umbel.wire.arrays import to_arrays
from umbel.wire.buffered import BUFFER, Listed
from umbel.wire.requests import EVALUATE, REFUSED, TRAIN


@pytest.fixture
def mary(owner, open_job_of, tmp_path):
    """Her records are charged for; her update is readable, so that it can be looked at."""
    options = {"max_staleness": 2}
    job = open_job_of(
        strategy={"name": "fedbuff", "options": options},
        training={"batch_size": 64, "rounds": 6},
        privacy={"epsilon": 50.0, "spare_rounds": 3},
    )
    return owner(job, kept=KeptUpdates(tmp_path / "kept"))


def listed(version, model, name="mary", **others):
    return {BUFFER: dict(Listed({name: (version, model), **others}).to_record())}


def first(mary):
    return arrays_digest(mary.learner.initial)


def test_what_is_trained_ahead_is_charged_once_and_does_not_leave(mary):
    replies = [mary.ask(TRAIN, 1) for _ in range(3)]
    assert all(not reply.has_error() for reply in replies)
    assert all(not reply.content.array_records for reply in replies)
    assert len(mary.entries()) == 1
    sent = mary.ask(TRAIN, 3, records=listed(0, first(mary)))
    update = to_arrays(sent.content["arrays"])
    assert any(np.abs(array).max() > 0 for array in update.values())
    assert update.keys() == mary.learner.initial.keys()
    assert len(mary.entries()) == 1, "a sum costs nothing more"


@pytest.mark.parametrize(
    ("round_", "list_", "why"),
    [
        (3, lambda m: listed(0, first(m), name="john"), "without mary"),
        (3, lambda m: listed(1, first(m)), "keeps no update"),
        (3, lambda m: listed(0, "0" * 64), "keeps no update"),
        (1, lambda m: listed(1, first(m)), "do not exist yet"),
        (3, lambda m: listed(0, first(m), john=(7, "0" * 64)), "do not exist yet"),
        (4, lambda m: listed(0, first(m)), "3 versions old"),
        (4, lambda m: listed(1, first(m), john=(0, "0" * 64)), "3 versions old"),
        (3, lambda m: {BUFFER: {"names": ["mary"], "versions": [0]}}, "malformed"),
        (3, lambda m: {BUFFER: {"names": ["mary"], "versions": [0], "models": ["x"]}}, "malformed"),
        (3, lambda m: listed(-1, first(m)), "malformed"),
    ],
)
def test_no_update_leaves_for_a_list_that_cannot_be(round_, list_, why, mary):
    mary.ask(TRAIN, 1)
    reply = mary.ask(TRAIN, round_, records=list_(mary))
    assert reply.has_error()
    assert why in reply.error.reason
    assert len(mary.entries()) == 1


def test_a_false_version_costs_nothing_and_takes_no_update_away(mary):
    mary.ask(TRAIN, 1)
    assert mary.ask(TRAIN, 3, records=listed(1, first(mary))).has_error()
    assert not mary.ask(TRAIN, 1).has_error()
    assert not mary.ask(TRAIN, 3, records=listed(0, first(mary))).has_error()
    assert len(mary.entries()) == 1


def test_a_test_between_sums_leaves_a_waiting_update_where_it_is(mary):
    mary.ask(TRAIN, 1)
    assert not mary.ask(EVALUATE, 1).has_error()
    assert not mary.ask(TRAIN, 2, records=listed(0, first(mary))).has_error()
    assert len([row for row in mary.entries() if not row.is_test]) == 1


@pytest.mark.parametrize("guarded", [True, False])
def test_no_older_version_than_the_newest_that_was_trained_is_trained(guarded, mary, monkeypatch):
    """A server that replays old models would have an owner spend what no sum has use for."""
    if not guarded:
        monkeypatch.setattr(BufferedRounds, "_check_newest", lambda *_: None)
    mary.ask(TRAIN, 3)
    before = len(mary.entries())
    replayed = mary.ask(TRAIN, 2)
    assert replayed.has_error() == guarded
    assert len(mary.entries()) == before + (not guarded)
    if guarded:
        assert replayed.error.code == REFUSED
        assert "version 1, which is older" in replayed.error.reason
        assert not mary.ask(TRAIN, 3, records=listed(2, first(mary))).has_error()


@pytest.mark.parametrize("planned", [2, 5])
def test_no_owner_trains_more_versions_than_its_noise_is_made_for(planned, owner, mary, tmp_path):
    job = mary.job.changed({"privacy.spare_rounds": 0})
    some = owner(job, kept=KeptUpdates(tmp_path / "some"))
    replies = [some.ask(TRAIN, round_, participations=planned) for round_ in range(1, 7)]
    assert [reply.has_error() for reply in replies] == [round_ >= planned for round_ in range(6)]
    assert replies[-1].error.code == REFUSED
    assert len(some.entries()) == planned


def test_no_server_has_one_version_trained_as_often_as_it_likes(mary):
    for number in range(6):
        moved = {
            n: a + np.linspace(0.1, 0.5 + number / 64, a.size, dtype=np.float32).reshape(a.shape)
            for n, a in mary.learner.initial.items()
        }
        last = mary.ask(TRAIN, 1, arrays=moved)
    assert last.error.code == REFUSED
    assert "too often" in last.error.reason
    assert len(mary.entries()) <= 1 + max(mary.job.cohort.retries, mary.job.spare_rounds)


def test_a_test_does_not_ride_on_an_asynchronous_round(mary):
    reply = mary.ask(TRAIN, 1, test=True)
    assert "tests in sums of their own" in reply.error.reason
    assert not mary.entries()


def test_an_agent_without_a_place_for_updates_takes_no_part(owner, mary):
    reply = owner(mary.job).ask(TRAIN, 1)
    assert reply.error.code == REFUSED
    assert "no place for updates" in reply.error.reason


def test_everybody_computes_the_same_weight_of_a_list():
    assert [staleness_weight(age) for age in range(4)] == [1024, 724, 591, 512]
    assert UNIT == 1024
    record = Listed({"b": (3, "1" * 64), "a": (0, "0" * 64)}).to_record()
    assert list(record["names"]) == ["a", "b"], "one list has one form, whoever made it"
