"""Asynchronous rounds between machines: while a sum waits for a silent owner, others make versions."""

import threading
import weakref
from collections import Counter, defaultdict

import pytest

from umbel.planning.buffered import Buffer
from umbel.privacy.secagg import member
from umbel.privacy.secagg.aggregator import Aggregator
from umbel.run.events import Evaluation, Round, Spare
from umbel.run.record import RunRecord
from umbel.server.overlapping import Overlap, overlapping_rounds
from umbel.server.slots import OpenSums
from umbel.wire.requests import CONFIRM, PREKEY, REVEAL

from .machines import SUM, after, charged, each_once, summed

SILENT, VICTIM = "client-0001", "client-0002"
SLOW = pytest.mark.slow


@pytest.fixture
def job(seven_owners):
    return seven_owners(rounds=4)


@pytest.fixture(autouse=True)
def made(monkeypatch):
    """The updates of each version that is made: owner and version that it trained."""
    found, make = [], Overlap._made

    def noted(overlap, one, round_):
        found.append({(name, one.versions[name]) for name in one.collection.answered})
        return make(overlap, one, round_)

    monkeypatch.setattr(Overlap, "_made", noted)
    yield found
    assert not [one for one in threading.enumerate() if one.name == "aside"]


def stalls(machines, kind):
    """Have an owner fall silent when it is first asked this."""

    def before(asked, client):
        if (asked, client) == (kind, SILENT):
            machines.busy.add(SILENT)
            machines.before = lambda *_: None

    machines.before = before


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=() if kind == CONFIRM else SLOW)
        for kind in (PREKEY, SUM, CONFIRM, REVEAL)
    ],
)
def test_others_make_versions_while_a_sum_waits_for_one_of_its_members(start, job, made, kind):
    run, machines = start(job)
    stalls(machines, kind)
    after(run, 2, machines.busy.clear)
    overlapping_rounds(run)
    events = summed(run)
    assert SILENT not in events[0].clients + events[1].clients
    assert SILENT in events[2].clients + events[3].clients
    assert sum(map(len, made)) == len(set().union(*made)), "no update is in two versions"
    assert run.clock.now() < job.encryption.deadline, "nobody waited for a deadline"
    assert each_once(run)


@SLOW
def test_a_sum_is_given_up_if_the_last_version_is_made_without_it(start, job):
    run, machines = start(job.changed({"training.rounds": 2}))
    stalls(machines, CONFIRM)
    renewed = []
    run.renew = lambda failed: renewed.append(run.round)
    overlapping_rounds(run)
    assert renewed[-1] == 2, "the sum is given up before a run turns to the roster of its last test"
    assert all(SILENT not in event.clients for event in summed(run))
    assert job.encryption.deadline < run.clock.now() < job.cohort.deadline
    assert each_once(run)


@SLOW
def test_if_a_member_stays_silent_the_others_of_its_sum_are_summed_without_it(start, job, made):
    run, machines = start(job.changed({"strategy.options.buffer": 4}))
    stalls(machines, SUM)
    overlapping_rounds(run)
    assert len(made) == 4
    assert all(SILENT not in event.clients for event in summed(run))
    assert sum(map(len, made)) == len(set().union(*made))
    assert each_once(run)


def test_a_sum_that_comes_to_nothing_takes_no_version_off_the_record(start, job, monkeypatch):
    """It began before others made versions, and waits in vain beyond its deadline."""
    run, machines = start(job)
    stalls(machines, CONFIRM)
    everybody = set(machines.names.values())
    after(run, 2, lambda: machines.busy.update(everybody))
    tell = run.tell

    def told(event):
        tell(event)
        if isinstance(event, Round) and not event.aggregated:
            machines.busy &= {SILENT}

    run.tell = told
    again, ask = defaultdict(list), Aggregator.upload_request

    def noted(group, name, repeat=False, others=()):
        again[name].append(repeat)
        return ask(group, name, repeat, others)

    monkeypatch.setattr(Aggregator, "upload_request", noted)
    overlapping_rounds(run)
    assert again["client-0002"][:2] == [False, True], "the next sum says that it was masked before"
    vain = [event for event in run.folder.told(Round) if not event.aggregated]
    assert vain
    assert all(event.round > 2 for event in vain), "they are of the version that was due then"
    run.folder.write_json("plan.json", run.plan.to_dict())
    record = RunRecord.read(run.folder.path)
    assert [(entry.round, entry.aggregated) for entry in record.rounds] == [
        (number, True) for number in (1, 2, 3, 4)
    ]
    again = max(sum(one.values()) - len(one) for one in charged(run).values())
    assert all(event.spares <= again for event in run.folder.told(Spare))


def test_while_a_sum_waits_owners_that_train_are_asked_once_a_deadline(start, job):
    """Four owners are in no sum, and two of them train for longer than the deadline."""
    run, machines = start(job.changed({"cohort.deadline": 300.0, "training.rounds": 2}))
    stalls(machines, SUM)
    slow = {"client-0006", "client-0007"}
    machines.busy |= slow
    wait, freed = run.clock.wait_until, 800

    def wait_until(moment):
        if moment > freed:
            machines.busy.clear()
        wait(moment)

    run.clock.wait_until = wait_until
    overlapping_rounds(run)
    asked = Counter(name for name, version in machines.trained if version == 0)
    assert all(1 <= asked[name] <= 1 + freed // 300 for name in slow)
    vain = run.folder.told(Round)[0]
    assert not vain.aggregated
    assert vain.heads.keys() >= {"client-0004", "client-0005"}, "they have trained, and wait"


class Killed(BaseException):
    pass


def dies_asking(machines, kind):
    """The process dies as a member of the second sum takes this trip."""
    stalls(machines, CONFIRM)
    silent = machines.before

    def before(asked, client):
        if SILENT not in machines.busy:
            silent(asked, client)
            machines.before = before
        if (asked, client) == (kind, "client-0006"):
            raise Killed

    machines.before = before


def dies_saving(run, machines, *, saved):
    stalls(machines, CONFIRM)
    save = run.save

    def die():
        if run.round != 1 or saved:
            save()
        if run.round == 1:
            raise Killed

    run.save = die


MOMENTS = {
    "uploading": lambda _, machines: dies_asking(machines, SUM),
    "confirming": lambda _, machines: dies_asking(machines, CONFIRM),
    "revealing": lambda _, machines: dies_asking(machines, REVEAL),
    "before a version is saved": lambda *of: dies_saving(*of, saved=False),
    "after a version is saved": lambda *of: dies_saving(*of, saved=True),
}


def dies_going_on(machines):
    """The process dies as soon as one of the sums that it found has gone one trip further."""
    machines.before = lambda kind, _: dies_asking_anything(kind)


def dies_asking_anything(kind):
    if kind in (CONFIRM, REVEAL):
        raise Killed


@pytest.mark.parametrize(
    ("moment", "twice"),
    [
        pytest.param(one, twice, marks=() if one.startswith("before") else SLOW)
        for one in MOMENTS
        for twice in (False, True)
    ],
)
def test_another_process_goes_on_with_every_sum_in_progress(start, job, made, moment, twice):
    run, machines = start(job)
    MOMENTS[moment](run, machines)
    with pytest.raises(Killed):
        overlapping_rounds(run)
    left = OpenSums(run.folder).left()
    assert len(left) == 2
    if twice:
        again, machines = start(job)
        again.restore()
        dies_going_on(machines)
        with pytest.raises(Killed):
            overlapping_rounds(again)
    again, machines = start(job)
    again.restore()
    whole = made[: again.round]
    del made[again.round :]
    overlapping_rounds(again)
    assert len(made) == 4
    assert sum(map(len, made)) == len(set().union(*made)), "no update is in two versions"
    waiting = {(name, v) for one in left for name, v in one.versions.items()} - set().union(*whole)
    assert waiting <= set().union(*made)
    assert not waiting & set(machines.trained), "they were gone on with in the same slots"
    assert each_once(again)


@SLOW
@pytest.mark.parametrize("guarded", [True, False])
def test_no_update_is_in_two_sums_in_progress(start, job, made, monkeypatch, guarded):
    """The server has an owner upload to a sum, holds that sum open, and asks the owner into another one."""
    run, machines = start(job.changed({"strategy.options.buffer": 4, "training.rounds": 2}))
    stalls(machines, CONFIRM)
    after(run, 1, machines.busy.clear)
    honest = Buffer.next_members

    def twice(buffer, without=()):
        if buffer.opened:
            return sorted([VICTIM, "client-0005", "client-0006", "client-0007"])
        return honest(buffer, without)

    monkeypatch.setattr(Buffer, "next_members", twice)
    if not guarded:
        monkeypatch.setattr(member, "check_repeat", lambda *_: None)
    overlapping_rounds(run)
    held, other = made[1], made[0]
    assert (SILENT, 0) in held
    assert (VICTIM, 0) in held
    assert ((VICTIM, 0) in other) != guarded
    if guarded:
        refusal = summed(run)[0].failed[VICTIM]
        assert refusal == f"{VICTIM} keeps no update of this version that a sum may have"


@SLOW
def test_a_run_turns_to_another_roster_only_between_sums(start, job):
    run, machines = start(job)
    stalls(machines, CONFIRM)
    asked = []

    class Turned(Exception):
        pass

    def renew(failed):
        if summed(run):
            asked.append({client for event in summed(run) for client in event.clients})
            raise Turned

    wait = run.clock.wait_until

    def freed(moment):
        if moment > 30:
            machines.busy.clear()
        wait(moment)

    run.renew, run.roster_waits, run.clock.wait_until = renew, lambda: bool(summed(run)), freed
    with pytest.raises(Turned):
        overlapping_rounds(run)
    assert SILENT in asked[0], "the sum that was in progress was finished under its roster"
    assert len(summed(run)) == 2


@SLOW
def test_a_test_of_the_model_waits_for_the_sums_in_progress(start, job, made):
    tested = job.changed({"evaluation": {"counts": "private", "every": 1}, "training.rounds": 2})
    run, machines = start(tested)
    stalls(machines, CONFIRM)
    overlapping_rounds(run)
    told = [event.round for event in run.folder.told(Evaluation)]
    assert told == [0, 2], "the version of the sum that it waited for is made before the test"
    assert len(made) == 2
    assert sum(map(len, made)) == len(set().union(*made))


def test_updates_in_the_clear_are_added_up_as_they_come(start, job):
    """So a sum takes no more memory the more members it has, however many are in progress."""
    clear = {"encryption.mode": "none", "simulation.encryption_required": False}
    run, machines = start(job.changed({**clear, "training.rounds": 2}))
    pull, came, most = machines.pull_messages, [], []

    def one_by_one(ids):
        for asked in list(ids):
            for reply in pull([asked]):
                if "arrays" in reply.content:
                    most.append(sum(one() is not None for one in came))
                    came.append(weakref.ref(reply))
                yield reply
                del reply

    machines.pull_messages = one_by_one
    overlapping_rounds(run)
    assert len(summed(run)) == 2
    assert len(came) >= 6, "two sums of three"
    assert max(most) == 0, "an update is let go of before the next one is taken"
