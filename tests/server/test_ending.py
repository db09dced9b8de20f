"""Runs that end before their last round: when, by whose word, and with which model."""

import pytest

from umbel.consortium.authority import Consortium
from umbel.errors import CannotGoOn, RoundFailed, RunFolderError
from umbel.flower import refuse
from umbel.learning.model import arrays_digest
from umbel.privacy.secagg.roster import Limits
from umbel.run.events import from_json
from umbel.run.run_folder import RunFolder
from umbel.run.store import Store
from umbel.server.orders import finish, stop
from umbel.server.result import summarise
from umbel.server.rounds import run_rounds
from umbel.wire.requests import EVALUATE, FAILED, REFUSED, TRAIN

PRESS = 3


@pytest.fixture
def quick(open_job_of):
    """Four natural clients that train a head on features, all of whom are needed."""

    def build(**cohort):
        cohort = {"minimum": 4, "retries": 0, **cohort}
        plain = {"privacy": {"unit": "none"}, "strategy": {"weighting": "equal"}}
        return open_job_of("bert", cohort=cohort, **plain)

    return build


def failing(code, *rounds):
    """One client answers these rounds with an error."""

    def fault(request, reply, assignment):
        hit = request.metadata.dst_node_id == PRESS and assignment.round in rounds
        if hit and request.metadata.message_type == TRAIN:
            return [refuse(request, code, "it says no")]
        return [reply]

    return fault


def ended(run):
    return [event for event in run.folder.read_events() if event["event"] == "ended"]


def result(run, counts):
    return summarise(run, counts, {}, {"reproducible": True})


@pytest.mark.parametrize(
    ("code", "when_stuck", "ends"),
    [
        (REFUSED, None, True),
        (FAILED, None, False),
        (FAILED, "finish", True),
        (REFUSED, "stop", False),
    ],
)
def test_a_run_that_cannot_go_on_ends_with_its_last_model_and_one_that_may_is_resumed(
    code, when_stuck, ends, start_run, quick
):
    run = start_run(quick(when_stuck=when_stuck), failing(code, 3))
    if not ends:
        kind = CannotGoOn if code == REFUSED else RoundFailed
        with pytest.raises(kind, match=r"Round 2 is saved; fix the cause, then resume"):
            run_rounds(run)
        assert ended(run) == []
        return
    counts = run_rounds(run)
    assert counts == {}
    assert EVALUATE not in {request.metadata.message_type for request, _ in run.grid.requests}
    found = result(run, counts)
    assert (found["rounds"], found["kept"]["round"]) == (2, 2)
    assert found["ended"]["cause"] == "owners"
    assert "press: it says no" in found["ended"]["reason"]
    assert found["adapter_sha256"] == arrays_digest(run.arrays)


def test_before_the_first_round_was_summed_there_is_nothing_to_end_with(start_run, quick):
    run = start_run(quick(when_stuck="finish"), failing(REFUSED, 1))
    with pytest.raises(CannotGoOn):
        run_rounds(run)


def test_an_operator_ends_a_run_and_its_last_model_is_tested(start_run, quick):
    run = start_run(quick())
    run.should_finish = lambda: run.round == 2
    counts = run_rounds(run)
    found = result(run, counts)
    assert (found["rounds"], found["ended"]["cause"]) == (2, "operator")
    assert found["metrics"]["examples"] > 0
    again = start_run(quick())  # another process, which is told nothing any more
    again.restore()
    assert result(again, run_rounds(again))["adapter_sha256"] == found["adapter_sha256"]
    assert again.grid.asked(TRAIN) == {}
    assert len(ended(again)) == 1


def test_a_run_that_failed_and_is_to_be_finished_needs_no_owner(start_run, quick):
    run = start_run(quick(), failing(FAILED, 2, 3))
    with pytest.raises(RoundFailed):
        run_rounds(run)

    def nobody(request, reply, assignment):
        return [refuse(request, FAILED, "gone")]

    again = start_run(quick(), nobody)
    again.restore()
    again.should_finish = lambda: True
    found = result(again, run_rounds(again))
    assert (found["rounds"], found["ended"]["cause"]) == (1, "operator")


def test_finish_is_for_runs_with_a_model_that_are_not_finished(tmp_path, quick):
    consortium = Consortium.create(tmp_path / "hospitals", "127.0.0.1", 9443, Limits())
    store = Store(consortium.database)
    folder = RunFolder.create(consortium.runs / "one", quick())
    folder.write_json("run.json", {"umbel_version": "0.1.0"})
    store.add("one", "0" * 32, 3)
    with pytest.raises(RunFolderError, match="no round was summed. End it with: umbel stop one"):
        finish(consortium, "one")
    store.tell("one", from_json({"event": "round", "round": 2, "aggregated": True}))
    stop(consortium, "one")
    assert finish(consortium, "one").status == "finishing"
    store.set_status("one", "finished", "because")
    assert store.run("one").standing == "finished early"
    with pytest.raises(RunFolderError, match="is finished"):
        finish(consortium, "one")
