"""What an owner says of itself is held against the plan; the run goes on, and says who said what."""

import pytest
from flwr.app import Message, MetricRecord, RecordDict

from umbel.server.result import summarise
from umbel.server.rounds import run_rounds
from umbel.wire.requests import TRAIN


def telling(epsilon):
    """A fault: one owner reports another epsilon than its ledger has."""

    def fault(request, reply, assignment):
        if request.metadata.message_type != TRAIN or request.metadata.dst_node_id != 3:
            return [reply]
        content = dict(reply.content)
        (name,) = reply.content.metric_records
        content[name] = MetricRecord({**content[name], "epsilon": epsilon})
        return [Message(RecordDict(content), reply_to=request)]

    return fault


@pytest.mark.parametrize("epsilon", [1e6, 8.1, -1.0, 1e308])
def test_an_epsilon_that_contradicts_the_plan_is_named_and_the_run_goes_on(
    start_run, open_job_of, epsilon
):
    job = open_job_of(training={"rounds": 2, "local_steps": 1}, evaluation={"counts": "off"})
    run = start_run(job, telling(epsilon))
    counts = run_rounds(run)
    rounds = [e for e in run.folder.read_events() if e["event"] == "round"]
    assert [len(e["clients"]) for e in rounds] == [4, 4]
    doubts = [text for e in rounds for text in e["doubted"].values()]
    assert len(doubts) == 2
    (name,) = rounds[0]["doubted"]
    assert all(text.startswith(f"{name} reports an epsilon of") for text in doubts)
    found = summarise(run, counts, {}, {"reproducible": True})["privacy"]
    # On the code before, the statement for all was of what one said.
    assert found["epsilon"] == job.privacy.owner_limit
    honest = {n: spent for n, spent in found["clients"].items() if n != name}
    assert all(spent <= run.plan.by_name[n].epsilon * (1 + 1e-6) for n, spent in honest.items())


def test_figures_that_fit_the_plan_are_taken_as_they_are(start_run, open_job_of):
    job = open_job_of(training={"rounds": 1, "local_steps": 1}, evaluation={"counts": "off"})
    run = start_run(job, telling(0.5))
    run_rounds(run)
    (event,) = [e for e in run.folder.read_events() if e["event"] == "round"]
    assert "doubted" not in event
    assert 0.5 in event["epsilon"].values()
