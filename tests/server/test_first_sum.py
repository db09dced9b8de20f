"""The first of two sums is kept on disk: whoever dies in the second one asks the same owners for it again."""

from collections import Counter
from dataclasses import replace

import pytest

from umbel.privacy.ledger.ledger import Ledger
from umbel.run.events import Evaluation, Round
from umbel.server.first_sum import kept_first
from umbel.server.rounds import run_rounds
from umbel.wire.requests import CONFIRM, PREKEY, REVEAL, SECOND, TRAIN

QUICK = {
    "training": {"rounds": 1, "local_steps": 1, "batch_size": 64},
    "model": {"adapter": "lora"},
    "evaluation": {"counts": "off"},
    "strategy": {"name": "flexlora"},
}


class Killed(BaseException):
    pass


def dies_at(trip, number):
    """Kills the coordinator when so many answers of a trip have come: four are those of the first sum."""
    seen = Counter()

    def fault(request, reply, assignment):
        seen[request.metadata.message_type] += 1
        if seen[trip] == number:
            raise Killed
        return [reply]

    return fault


def charges(run):
    """How often each owner was charged."""
    found = {}
    for ledger in (run.folder.path / "ledgers").glob("*.sqlite"):
        with Ledger(ledger) as rows:
            found[ledger.stem] = len(rows.entries_of(run.id))
    return found


@pytest.mark.parametrize(("name", "trip", "number"), [
    ("flexlora", REVEAL, 4), ("flexlora", PREKEY, 5), ("flexlora", SECOND, 1), ("lora-fair", SECOND, 4),
    ("flexlora", CONFIRM, 6), ("lora-fair", REVEAL, 5), ("flexlora", REVEAL, 8),
])  # fmt: skip
def test_a_coordinator_that_dies_in_the_second_sum_asks_the_same_owners_for_it_again(
    start_run, job_of, name, trip, number
):
    job = job_of("bert", **{**QUICK, "strategy": {"name": name}, "evaluation": {"every": 1}})
    whole = start_run(job, name="whole")
    run_rounds(whole)
    with pytest.raises(Killed):
        run_rounds(start_run(job, dies_at(trip, number)))
    run = start_run(job)
    run.restore()
    run_rounds(run)
    assert {n: a.tobytes() for n, a in run.arrays.items()} == {
        n: a.tobytes() for n, a in whole.arrays.items()
    }
    if (trip, number) != (REVEAL, 4):  # after the first sum was opened, nobody is asked to train
        assert run.grid.asked(TRAIN) == {}
    assert charges(run) == charges(whole)
    [told], [expected] = (each.folder.told(Round) for each in (run, whole))
    assert (told.clients, told.attempt, told.epsilon) == (expected.clients, 1, expected.epsilon)
    figures = [[line.metrics for line in each.folder.told(Evaluation)] for each in (run, whole)]
    assert figures[0] == figures[1] != []
    assert not list(run.folder.path.glob("first-sum*")), "it goes with its round"


def test_a_run_that_is_ended_between_two_sums_keeps_no_first_one(start_run, job_of):
    job = job_of("bert", **{**QUICK, "training": {**QUICK["training"], "rounds": 2}})
    with pytest.raises(Killed):
        run_rounds(start_run(job, dies_at(SECOND, 5)))  # in the second round's second sum
    run = start_run(job)
    run.restore()
    assert list(run.folder.path.glob("first-sum*"))
    run.should_finish = lambda: True
    run_rounds(run)
    assert run.round == 1
    assert not list(run.folder.path.glob("first-sum*"))


def test_a_first_sum_that_was_kept_is_used_only_where_a_second_one_can_follow(start_run, job_of):
    job = job_of("bert", **QUICK)
    with pytest.raises(Killed):
        run_rounds(start_run(job, dies_at(SECOND, 1)))
    run = start_run(job)
    run.restore()
    run.nodes = {name: 2 + place for place, name in enumerate(sorted(run.plan.by_name))}
    found = kept_first(run, 1)
    assert found.answered == sorted(run.nodes)
    assert kept_first(run, 2) is None
    stopped, nodes, arrays = run.sums.stopped, run.nodes, run.arrays
    run.sums.stopped = replace(stopped, attempt=1)
    assert kept_first(run, 1) is None, "another attempt was begun"
    run.sums.stopped, run.nodes = stopped, dict(list(nodes.items())[1:])
    assert kept_first(run, 1) is None, "one of its owners is away"
    run.nodes, run.arrays = nodes, {name: array + 1 for name, array in arrays.items()}
    assert kept_first(run, 1) is None, "the round begins with another model"
    run.arrays = arrays
    path = run.folder.path / "first-sum.safetensors"
    for damaged in (b"", path.read_bytes()[:-1]):
        path.write_bytes(damaged)
        assert kept_first(run, 1) is None
