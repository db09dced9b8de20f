"""Sums of groups: one that cannot be summed is left out, if the strategy can do with the others."""

import pytest

from umbel.flower import refuse
from umbel.planning.cohorts import groups_of
from umbel.privacy.ledger.ledger import Ledger
from umbel.run.events import GroupLeftOut, Round
from umbel.run.record import RunRecord
from umbel.server.rounds import run_rounds
from umbel.wire.requests import CONFIRM, FAILED, PREKEY, REVEAL, TRAIN

FIRST_NODE = 2


class Killed(BaseException):
    pass


@pytest.fixture
def job(job_of):
    """Nine owners in two groups, of five and of four."""

    def build(name="median", clients=9, rounds=1, **sections):
        options = {"attackers": 0.0} if name in ("median", "krum") else {}
        return job_of(
            "bert",
            privacy={"unit": "example", "delta": 1e-3},
            evaluation={"counts": "off"},
            strategy={"name": name, "weighting": "equal", "options": options},
            simulation={"partition": "iid", "clients": clients},
            encryption={"group_size": 4, "colluders": 0.0},
            training={"rounds": rounds, "local_steps": 1, "batch_size": 64},
            **sections,
        )

    return build


def groups(run):
    return groups_of(sorted(run.plan.by_name), run.plan.job)


def without(run, names, trip, dies_in="", always=False):
    """These answer no trip of this kind in the first attempt (`always`: in any); the coordinator dies in
    another one."""
    nodes = {FIRST_NODE + sorted(run.plan.by_name).index(name) for name in names}

    def fault(request, reply, assignment):
        kind, node = request.metadata.message_type, request.metadata.dst_node_id
        if kind == dies_in:
            raise Killed
        first = (assignment.round, assignment.attempt) == (1, 0)
        if kind == trip and node in nodes and (first or always):
            return [refuse(request, FAILED, "it was killed")]
        return [reply]

    return fault


def charged(run):
    found = {}
    for name in run.plan.by_name:
        path = run.folder.path / "ledgers" / f"{name}.sqlite"
        if path.exists():
            with Ledger(path) as ledger:
                found[name] = len(ledger.entries_of(run.id))
    return found


@pytest.mark.parametrize("trip", [PREKEY, TRAIN, CONFIRM, REVEAL])
def test_a_group_that_cannot_be_summed_is_left_out_and_the_others_make_the_round(
    trip, start_run, job
):
    run = start_run(job(), reproducible=False)
    before = {name: array.copy() for name, array in run.arrays.items()}
    gone, left = groups(run)
    run.grid.fault = without(run, gone, trip)
    run_rounds(run)
    [told] = run.folder.told(Round)
    assert told.aggregated
    assert told.clients == left
    assert set(gone) <= told.failed.keys()
    assert any((run.arrays[name] != before[name]).any() for name in before)
    trains = set() if trip == PREKEY else set(gone)
    assert {name for name, count in charged(run).items() if count} == {*left, *trains}
    assert set(charged(run).values()) <= {0, 1}


def test_a_group_that_is_left_out_again_and_again_is_warned_of_once(start_run, job):
    run = start_run(job(rounds=4), reproducible=False)
    gone = groups(run)[0]
    run.grid.fault = without(run, gone, TRAIN, always=True)
    run_rounds(run)
    assert [told.left_out for told in run.folder.told(Round)] == [[gone]] * 4
    [warning] = run.folder.told(GroupLeftOut)
    assert (warning.round, warning.members) == (3, gone)
    assert all(name in warning.text for name in gone)
    assert "one of them spoils its sums" in warning.text
    run.folder.write_json("plan.json", run.plan.to_dict())
    assert RunRecord.read(run.folder.path).warned == [warning.text]


def test_a_rule_that_needs_more_groups_has_the_round_begin_again_and_says_so(start_run, job):
    """Krum needs three vectors, if none is Byzantine."""
    run = start_run(job("krum", 12), reproducible=False)
    gone = groups(run)[0]
    run.grid.fault = without(run, gone, TRAIN)
    run_rounds(run)
    first, second = run.folder.told(Round)
    assert (first.aggregated, second.aggregated) == (False, True)
    assert "n >= 2 f + 3" in first.lacks
    assert not second.lacks
    assert first.failed.keys() <= run.plan.by_name.keys(), "only clients fail"
    assert second.clients == sorted(run.plan.by_name)
    assert set(charged(run).values()) == {1}, "updates that were in no sum are sent again"


def test_the_job_may_ask_for_more_clients_than_the_other_groups_have(start_run, job):
    run = start_run(job(cohort={"minimum": 8}), reproducible=False)
    run.grid.fault = without(run, groups(run)[0], TRAIN)
    run_rounds(run)
    first, second = run.folder.told(Round)
    assert (first.aggregated, second.aggregated) == (False, True)
    assert first.clients == groups(run)[1]


def test_a_resumed_run_leaves_out_whom_the_process_before_it_left_out(start_run, job):
    adapters, asked = {}, {}
    for name, dies_in in (("whole", ""), ("cut", REVEAL)):
        run = start_run(job(), name=name)
        run.grid.fault = without(run, groups(run)[0], CONFIRM, dies_in)
        if dies_in:
            with pytest.raises(Killed):
                run_rounds(run)
            run = start_run(job(), name=name)
            run.restore()
            # Who is left out would answer now.
        run_rounds(run)
        [told] = run.folder.told(Round)
        assert told.clients == groups(run)[1]
        adapters[name] = {tensor: array.tobytes() for tensor, array in run.arrays.items()}
        asked[name] = told.attempt
    assert adapters["whole"] == adapters["cut"]
    assert asked["whole"] == asked["cut"] == 1


def test_sums_of_a_mean_are_folded_without_a_group(start_run, job):
    run = start_run(job("fedavg"), reproducible=False)
    run.grid.fault = without(run, groups(run)[0], TRAIN)
    run_rounds(run)
    assert [told.clients for told in run.folder.told(Round)] == [groups(run)[1]]
