"""A server that does not keep to the rules of asynchronous sums: owners refuse.

Each attack succeeds once the check that holds it off is taken away, so it is that check which holds it off.
"""

import pytest

from umbel.client import buffered as owners_half
from umbel.errors import RoundFailed
from umbel.planning.buffered import Flight
from umbel.privacy.ledger.ledger import Ledger
from umbel.privacy.secagg import collecting, member
from umbel.privacy.secagg.checks import Checks
from umbel.run.events import Round
from umbel.server import buffered as servers_half
from umbel.server.buffered import buffered_round
from umbel.server.rounds import prepare

GUARDED = pytest.mark.parametrize("guarded", [True, False])


@pytest.fixture
def run(start_run, job_of):
    """Before the second sum of three of four owners: press and two more were in the first."""
    job = job_of(
        strategy={"name": "fedbuff", "options": {"buffer": 3}},
        training={"batch_size": 64, "rounds": 3},
        evaluation={"counts": "off"},
        cohort={"retries": 0},
        simulation={"slow": {"shop": 2.5}},
    )
    run = start_run(job, reproducible=False)
    prepare(run)
    run.arrays = buffered_round(run, 1, False)
    run.round = 1
    assert run.folder.told(Round)[0].clients == ["film", "press", "social"]
    return run


def charged(run, name):
    with Ledger(run.folder.path / "ledgers" / f"{name}.sqlite") as ledger:
        return len(ledger.entries_of(run.id))


def outcome(run, guarded, refusal):
    """The attack's round: refused with these words, or, without the check, a sum."""
    if guarded:
        with pytest.raises(RoundFailed, match=refusal):
            buffered_round(run, 2, False)
    else:
        assert buffered_round(run, 2, False)
    return run.folder.told(Round)[-1]


@GUARDED
def test_one_update_is_in_no_two_sums(guarded, run, monkeypatch):
    run.buffer.flights["press"] = Flight(0, 0.0)  # as if it had not been summed
    before = charged(run, "press")
    if not guarded:
        monkeypatch.setattr(member, "check_repeat", lambda *_: None)
    event = outcome(
        run, guarded, "press: press keeps no update of this version that a sum may have"
    )
    assert event.aggregated != guarded
    assert charged(run, "press") == before, "nothing new was trained for it"


@GUARDED
def test_no_member_is_summed_under_a_version_that_it_did_not_train(guarded, run, monkeypatch):
    """A stale update would count as a fresh one, or the other way round."""
    true, read = servers_half.Listed, servers_half.SecureBuffer._read

    def false(members):
        return true({**members, "press": (0, members["press"][1])})

    def as_told(collection, group):
        collection.staleness["press"] = 1
        return read(collection, group)

    monkeypatch.setattr(servers_half, "Listed", false)
    monkeypatch.setattr(servers_half.SecureBuffer, "_read", as_told)
    if not guarded:
        monkeypatch.setattr(
            owners_half, "version_digest", lambda _, __, model: bytes.fromhex(model)
        )
    event = outcome(run, guarded, "press: press keeps no update of this version")
    assert ("press" in event.failed) == guarded


@GUARDED
def test_no_sum_is_of_fewer_members_than_the_roster_allows(guarded, run, monkeypatch):
    run.buffer.size = 2
    monkeypatch.setattr(collecting, "fewest", lambda *_: 2)  # of the server
    monkeypatch.setattr(type(run.plan), "minimum", 2)
    if not guarded:
        monkeypatch.setattr(Checks, "_check_size", lambda *_: None)
    event = outcome(run, guarded, "a cohort of 2 members; at least 3 are needed")
    assert len(event.staleness) == 2
