"""Asynchronous rounds when clients refuse, fall silent, or cannot finish a sum."""

import pytest

from umbel.errors import RoundFailed
from umbel.flower import refuse
from umbel.privacy.ledger.ledger import Ledger
from umbel.run.events import Round
from umbel.server.buffered import buffered_round
from umbel.server.rounds import run_rounds
from umbel.wire.buffered import BUFFER
from umbel.wire.requests import CONFIRM, REFUSED, REVEAL, TRAIN

PRESS = 3


@pytest.fixture
def job(job_of):
    """Three of four owners, of whom one is slow, in each of three sums."""
    return job_of(
        strategy={"name": "fedbuff", "options": {"buffer": 3}},
        training={"batch_size": 64, "rounds": 3},
        privacy={"epsilon": 8.0, "spare_rounds": 1},
        evaluation={"counts": "off"},
        simulation={"slow": {"shop": 2.5}},
    )


def at(kind, times, answer=lambda request: []):
    """A fault: so many replies of press to a kind of request are others."""
    left = [times]

    def fault(request, reply, assignment):
        ahead = request.metadata.message_type == TRAIN and BUFFER not in request.content
        here = "ahead" if ahead else request.metadata.message_type
        if here != kind or request.metadata.dst_node_id != PRESS or not left[0]:
            return [reply]
        left[0] -= 1
        return answer(request)

    return fault


def charged(run):
    found = {}
    for path in (run.folder.path / "ledgers").glob("*.sqlite"):
        with Ledger(path) as ledger:
            found[path.stem] = [row.what for row in ledger.entries_of(run.id)]
    return found


def summed(run):
    return [event.clients for event in run.folder.told(Round) if event.aggregated]


def test_who_refuses_is_left_out_and_the_others_go_on(start_run, job):
    refused = at("ahead", 1, lambda request: [refuse(request, REFUSED, "no more")])
    # The others' own noise must be enough for the sums that press was planned in.
    run = start_run(job.changed({"privacy.spare_rounds": 2}), refused)
    run_rounds(run, buffered_round)
    assert summed(run) == [["film", "shop", "social"]] * 3
    first = run.folder.told(Round)[0]
    assert (first.aggregated, first.failed) == (False, {"press": "no more"})


def test_a_lost_reply_and_a_sum_that_nobody_opened_cost_no_second_training(start_run, job):
    for kind, times in ((TRAIN, 1), (CONFIRM, 2)):
        run = start_run(job, at(kind, times), name=kind, reproducible=False)
        run_rounds(run, buffered_round)
        assert summed(run)[0] == ["film", "press", "social"]
        assert all(len(rows) == len(set(rows)) for rows in charged(run).values()), kind
        again = [event for event in run.folder.told(Round) if not event.aggregated]
        assert len(again) == (kind == CONFIRM)


def test_who_may_not_mask_again_what_was_revealed_trains_again_and_is_charged(start_run, job):
    run = start_run(job, at(REVEAL, 2), reproducible=False)
    run_rounds(run, buffered_round)
    assert len(summed(run)) == 3
    twice = {name for name, rows in charged(run).items() if len(rows) > len(set(rows))}
    assert twice
    assert twice <= set(summed(run)[0])


def test_with_too_few_left_a_run_says_so(start_run, job):
    refused = at("ahead", 1, lambda request: [refuse(request, REFUSED, "no more")])
    changed = job.changed({"strategy.options.buffer": 4, "cohort.when_stuck": "stop"})
    run = start_run(changed, refused)
    with pytest.raises(RoundFailed, match=r"3 clients are left, and a sum needs 4.*no more"):
        run_rounds(run, buffered_round)
