"""What an operator may ask of a run, and when: what cannot be is refused, and changes nothing."""

import json

import pytest

from umbel.errors import PlanRefused, RunFolderError
from umbel.run.events import from_json
from umbel.run.run_folder import as_kept
from umbel.server import orders
from umbel.server.signing import signed_order
from umbel.simulations.rehearsal import set_up


@pytest.fixture
def stage(open_job_of, tmp_path):
    return set_up(open_job_of(), tmp_path)


@pytest.fixture
def consortium(stage):
    return stage.consortium


@pytest.fixture
def order_of(stage):
    """The operator's order for a run of the job, or of one like it."""

    def sign(run, **training):
        job = stage.job
        if training:
            job = job.model_copy(update={"training": job.training.model_copy(update=training)})
        return signed_order(stage.consortium, as_kept(job), run)

    return sign


@pytest.fixture
def run(consortium, order_of):
    """The name of a run that waits for its turn."""
    return orders.begin(consortium, order_of("reviews-0001")).path.name


def summed(store, name, round_=1):
    said = {
        "round": round_, "attempt": 0, "seconds": 1.0, "clients": ["st-mary"], "failed": {},
        "heard": [], "aggregated": True,
    }  # fmt: skip
    store.tell(name, from_json({"event": "round", **said}))


def test_an_order_that_comes_twice_is_one_run_and_goes_by_the_later_signature(
    consortium, order_of, store, run
):
    folder = consortium.runs / run
    before, later = order_of("reviews-0001"), order_of("reviews-0001")
    assert orders.begin(consortium, later).path == folder
    assert [row.name for row in store.runs()] == [run]
    said = json.loads((folder / "run.json").read_text())["signature"]
    with pytest.raises(PlanRefused, match="signed later than this one"):
        orders.begin(consortium, before)
    assert json.loads((folder / "run.json").read_text())["signature"] == said


def test_one_run_has_one_job(consortium, order_of, store, run):
    other = order_of("reviews-0001", rounds=2)
    with pytest.raises(PlanRefused, match=f"{run} is a run of another job"):
        orders.begin(consortium, other)
    assert len(store.runs()) == 1


def test_an_order_whose_job_was_changed_on_its_way_begins_nothing(consortium, order_of, store):
    signed, other = order_of("night-0001"), order_of("night-0002", rounds=2)
    for change in ({"job": other.job}, {"run": other.run}, {"order": other.order}):
        with pytest.raises(PlanRefused, match="is not signed by the operator"):
            orders.begin(consortium, signed.model_copy(update=change))
    assert not store.runs()
    assert not list(consortium.runs.iterdir())


def test_runs_whose_names_begin_alike_lie_apart(consortium, order_of, store):
    first = orders.begin(consortium, order_of("night-20260101-0001"))
    second = orders.begin(consortium, order_of("night-20260101-0002"))
    assert first.path != second.path
    assert {row.id for row in store.runs()} == {"night-20260101-0001", "night-20260101-0002"}


@pytest.mark.parametrize("status", ["finished", "failed", "stopped", "delivering", "finishing"])
def test_what_does_not_run_is_not_stopped(status, consortium, store, run):
    store.set_status(run, status)
    with pytest.raises(RunFolderError, match=f"is not running: it is {status}"):
        orders.stop(consortium, run)
    assert store.run(run).status == status


def test_a_result_is_made_of_a_model_that_was_summed_and_of_no_other(consortium, store, run):
    with pytest.raises(RunFolderError, match="has no model yet: no round was summed"):
        orders.finish(consortium, run)
    assert store.run(run).status == "queued"
    summed(store, run)
    assert orders.finish(consortium, run).status == "finishing"
    store.set_status(run, "finished")
    with pytest.raises(RunFolderError, match="is finished: see"):
        orders.finish(consortium, run)


def test_only_a_certified_result_is_sent(consortium, store, run):
    with pytest.raises(RunFolderError, match="has no result to send: it is queued"):
        orders.deliver(consortium, run)
    store.set_status(run, "finished", "It ended early.")
    with pytest.raises(RunFolderError, match="has no certificate yet: umbel certify"):
        orders.deliver(consortium, run)
    (consortium.runs / run / "certificate.json").write_text("{}")
    row = orders.deliver(consortium, run)
    assert (row.status, row.reason) == ("delivering", "It ended early.")


@pytest.mark.parametrize("status", ["queued", "running", "stopping", "finished", "delivering"])
def test_only_what_was_stopped_or_failed_goes_on(status, consortium, store, run):
    store.set_status(run, status)
    with pytest.raises(RunFolderError, match=f"cannot be resumed: it is {status}"):
        orders.resume(consortium, run)
    store.set_status(run, "failed", "Too few took part.")
    assert orders.resume(consortium, run).status == "queued"


def test_a_run_of_another_version_is_neither_resumed_nor_finished(consortium, store, run):
    path = consortium.runs / run / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "umbel_version": "0.0.1"}))
    summed(store, run)
    store.set_status(run, "stopped")
    for ask in (orders.resume, orders.finish):
        with pytest.raises(RunFolderError, match=r"was started with Umbel 0\.0\.1"):
            ask(consortium, run)
    assert store.run(run).status == "stopped"


def test_removing_a_member_says_what_becomes_of_each_run(stage, consortium, store, order_of, run):
    [said] = orders.consequences(consortium, stage.owners[0].name)
    assert said.startswith(f"{run} (round 0 of 3) ")
    assert "a round needs" in said
    store.set_status(run, "finished")
    assert orders.consequences(consortium, stage.owners[0].name) == []
