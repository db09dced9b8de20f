"""Several sums in progress, of which some bring nothing: spoiled ones, ones that few answer, and a kill."""

from collections import Counter

import pytest

from umbel.errors import RoundFailed
from umbel.privacy.ledger.ledger import Ledger
from umbel.privacy.secagg.participant import Participant
from umbel.run.events import Evaluation, Round, SumRefused
from umbel.run.record import RunRecord
from umbel.server.overlapping import overlapping_rounds
from umbel.server.slots import OpenSums
from umbel.wire.requests import CONFIRM, EVALUATE

from .machines import SUM, after, summed

SPOILER = SILENT = "client-0001"
LAST = "client-0006"
SLOW = pytest.mark.slow


@pytest.fixture
def job(seven_owners):
    return seven_owners(rounds=12)


@pytest.fixture
def spoils(monkeypatch):
    """One flipped word of the spoiler's in each sum; its own signature stands for the vector."""
    upload = Participant.upload

    def spoiled(self, request, context, words, *more):
        if self.member.name == SPOILER:
            words[0] += 1
        return upload(self, request, context, words, *more)

    monkeypatch.setattr(Participant, "upload", spoiled)


def charged(run):
    """What each owner was charged for, and how often."""
    found = {}
    for path in (run.folder.path / "ledgers").glob("*.sqlite"):
        with Ledger(path) as ledger:
            found[path.stem] = Counter(row.what for row in ledger.entries_of(run.id))
    return found


def test_a_member_that_spoils_sums_meets_others_each_time_and_the_run_stops(start, job, spoils):
    run, _ = start(job)
    with pytest.raises(RoundFailed, match="3 sums were opened and cannot be used") as stopped:
        overlapping_rounds(run)
    assert f"{SPOILER} was in 3 such sums" in str(stopped.value)
    refused = run.folder.told(SumRefused)
    assert len(refused) == 1 + job.cohort.retries
    others = [set(event.members) - {SPOILER} for event in refused]
    assert all(len(one) == 2 for one in others)
    assert not others[0] & others[1]
    assert others[2] not in others[:2]
    assert f"{SPOILER} was in 2 such sums" in refused[1].text
    assert not run.buffer.gone, "nobody reached its limit"
    assert not any(event.failed for event in run.folder.told(Round)), "nobody is blamed alone"
    lost = Counter(name for event in refused for name in event.members)
    in_sums = Counter(name for event in summed(run) for name in event.clients)
    assert all(
        sum(one.values()) <= in_sums[name] + lost[name] + 1 for name, one in charged(run).items()
    )
    run.folder.write_json("plan.json", run.plan.to_dict())
    warned = RunRecord.read(run.folder.path).warned
    assert {event.text for event in refused} <= set(warned)


@SLOW
def test_it_stops_a_run_also_while_another_sum_waits(start, job, spoils):
    run, machines = start(job)
    machines.before = lambda kind, name: (kind, name) == (CONFIRM, LAST) and machines.busy.add(LAST)
    with pytest.raises(RoundFailed, match=f"{SPOILER} was in 3 such sums"):
        overlapping_rounds(run)
    assert run.clock.now() < job.encryption.deadline, "the other sum still waits for its member"
    assert all(LAST not in event.members for event in run.folder.told(SumRefused))
    assert len(OpenSums(run.folder).left()) == 1, "it can be gone on with; those refused cannot"


@SLOW
def test_refused_sums_count_over_the_whole_run(start, job, spoils):
    """Also those of earlier processes: the first one that another process opens is one too many."""
    run, _ = start(job)
    with pytest.raises(RoundFailed):
        overlapping_rounds(run)
    again, _ = start(job)
    again.restore()
    with pytest.raises(RoundFailed, match="4 sums were opened and cannot be used"):
        overlapping_rounds(again)
    assert len(again.folder.told(SumRefused)) == 4


def test_a_sum_that_came_to_nothing_is_not_gone_on_with(start, job):
    short = {"cohort.deadline": 30.0, "encryption.deadline": 10.0}
    run, machines = start(job.changed({**short, "cohort.retries": 0, "training.rounds": 1}))
    everybody = set(machines.names.values())

    def silent(kind, _):
        if kind == SUM:
            machines.busy |= everybody

    machines.before = silent
    with pytest.raises(RoundFailed):
        overlapping_rounds(run)
    assert [event.aggregated for event in run.folder.told(Round)][:1] == [False]
    assert OpenSums(run.folder).left() == []


class Killed(BaseException):
    pass


@SLOW
def test_a_kill_in_a_test_loses_no_sum_that_was_opened_before_it(start, job):
    """The second sum is opened while the first test of a version waits for it."""
    tested = {"evaluation": {"counts": "private", "every": 1}, "training.rounds": 4}
    run, machines = start(job.changed(tested))

    def before(kind, name):
        if (kind, name) == (CONFIRM, SILENT) and not summed(run):
            machines.busy.add(SILENT)
        if kind == EVALUATE and run.round and name == "client-0004":
            raise Killed

    machines.before = before
    after(run, 1, machines.busy.clear)
    with pytest.raises(Killed):
        overlapping_rounds(run)
    assert run.round == 2, "the version of the second sum is made before the test"
    again, _ = start(job.changed(tested))
    again.restore()
    overlapping_rounds(again)
    assert again.round == 4
    told = [event.round for event in again.folder.told(Evaluation)]
    assert told == sorted(set(told))
    assert 2 in told
    assert 1 not in told
    assert all(count == 1 for one in charged(again).values() for count in one.values())
