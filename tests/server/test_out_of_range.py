"""A run whose model owners take no further: it ends with what it has, and costs nobody anything more."""

import pytest

from umbel.errors import OutOfRange, RoundFailed
from umbel.learning.export import export_adapter
from umbel.learning.model import arrays_digest
from umbel.privacy.ledger.ledger import Ledger
from umbel.server.conclusion import conclude
from umbel.server.result import summarise
from umbel.server.rounds import run_rounds
from umbel.wire.requests import OUT_OF_RANGE, TRAIN


@pytest.fixture(params=["encrypted", "in the clear"])
def wild(request, job_of, open_job_of):
    """A learning rate that no honest job has: after one round rounding decides gradients."""
    build = job_of if request.param == "encrypted" else open_job_of
    model = {**job_of().model.model_dump(exclude={"lora"}), "adapter": "lora"}
    return build(model=model, training={"learning_rate": 200.0}, cohort={"minimum": 3})


def heard_by(codes):
    def listen(request, reply, assignment):
        if reply.has_error():
            codes.append((assignment.round, request.metadata.message_type, reply.error.code))
        return [reply]

    return listen


def charged(run, folder):
    spent = {}
    for name in run.plan.by_name:
        with Ledger(folder / "ledgers" / f"{name}.sqlite") as ledger:
            spent[name] = [entry.what for entry in ledger.entries_of(run.id)]
    return spent


def test_the_run_ends_with_its_last_model_and_nothing_more_is_charged(
    wild, start_run, learner_of, tmp_path
):
    codes = []
    run = start_run(wild, heard_by(codes))
    counts = run_rounds(run)
    assert run.round == 1
    assert counts == {}
    assert {code for *_, code in codes} == {OUT_OF_RANGE}
    assert {(round_, kind) for round_, kind, _ in codes} == {(2, TRAIN)}
    (ended,) = (e for e in run.folder.read_events() if e["event"] == "ended")
    assert "rounding would let a record change the contribution of others" in ended["reason"]
    # A test of the first model rode on the first round, as planned; then there is nothing.
    assert {what for spent in charged(run, tmp_path / "run").values() for what in spent} <= {
        "1",
        "test of round 0",
    }
    run.folder.write_json("plan.json", run.plan.to_dict())
    export_adapter(learner_of(wild), run.arrays, run.folder.path / "adapter")
    identity = {"reproducible": True}
    conclude(run.folder, summarise(run, counts, {}, identity), None)
    result = run.folder.read_json("result.json")
    assert result["kept"]["ended_early"]
    assert result["metrics"] == {}
    assert result["adapter_sha256"] == arrays_digest(run.arrays)


def test_it_ends_with_the_same_model_if_it_is_resumed(wild, start_run):
    first = start_run(wild)
    run_rounds(first)
    again = start_run(wild)
    again.restore()
    run_rounds(again)
    assert again.round == 1
    assert arrays_digest(again.arrays) == arrays_digest(first.arrays)
    assert sum(e["event"] == "ended" for e in again.folder.read_events()) == 1


def test_a_first_model_that_is_refused_is_no_result(wild, start_run):
    run = start_run(wild)
    name = next(iter(run.arrays))
    run.arrays[name] = run.arrays[name] + 2e4
    with pytest.raises(OutOfRange, match="none may be above"):
        run_rounds(run)


def test_owners_that_are_away_are_no_reason_to_end_with_what_there_is(wild, start_run):
    """Too few answer even without those who refuse: that is a round to be repeated, not an end."""

    def most_are_away(request, reply, assignment):
        away = assignment.round == 2 and request.metadata.dst_node_id != 2
        return [] if away else [reply]

    job = wild.model_copy(
        update={"cohort": wild.cohort.model_copy(update={"deadline": 1.0, "retries": 0})}
    )
    run = start_run(job, most_are_away)
    with pytest.raises(RoundFailed) as error:
        run_rounds(run)
    assert not isinstance(error.value, OutOfRange)
