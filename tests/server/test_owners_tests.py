"""What a server learns by asking owners to test models: noise of each, or planned exact counts."""

import math
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict

from umbel.client.budget import Budget, RunSpent
from umbel.client.policy import Policy
from umbel.errors import PlanRefused, RoundFailed
from umbel.planning.noise import event_of_test
from umbel.planning.schedule import most_tests, rounds_tested
from umbel.privacy.accounting.accountant import epsilon
from umbel.privacy.ledger.ledger import Ledger
from umbel.privacy.noise.counts_noise import LOSS_STEPS
from umbel.server.rounds import evaluate, prepare, run_rounds
from umbel.wire.arrays import to_array_record, to_arrays
from umbel.wire.packing import SECAGG
from umbel.wire.requests import EVALUATE, Assignment, only_arrays

SITES = 4


@pytest.fixture
def job(job_of):
    def build(**evaluation):
        return job_of(
            "bert",
            training={"rounds": 3, "local_steps": 1, "batch_size": 64},
            privacy={"delta": 1e-3, "epsilon": 40.0},
            evaluation={"every": 1, "epsilon": 1.0, **evaluation},
        )

    return build


def asked(start_run, job, **options):
    run = start_run(job, **options)
    prepare(run)
    return run


def opened(run, round_):
    """The counts of one test of all owners, as they were opened; None where nobody answered."""
    run.round = round_
    return evaluate(run).get("")


def test_every_owner_adds_the_whole_noise_so_that_made_up_members_leave_none_bare(start_run, job):
    """What the others add can be taken out of a sum by a server that made them up."""
    asking = job().model_copy(update={"training": job().training.model_copy(update={"rounds": 40})})
    run = asked(start_run, asking)
    drawn = np.array([opened(run, n).to_list() for n in range(10)], float)
    drawn[:, -1] /= LOSS_STEPS
    one = math.sqrt(2) * event_of_test(asking, run.plan.tests).noise_multiplier
    measured = (drawn - drawn.mean(axis=0)).std(ddof=1) / math.sqrt(SITES)
    assert 0.8 * one < measured < 1.25 * one  # a share for two honest owners would be 0.71 of it


def test_exact_counts_are_those_of_the_records_and_hold_no_scores(start_run, job, federation_of):
    run = asked(start_run, job(counts="exact"))
    counts = opened(run, 3)
    assert counts.to_list() == [*counts.cells.ravel(), counts.loss]
    federation = federation_of(run.plan.job)
    assert counts.examples == sum(len(share.test) for share in federation.shares)
    assert "exact counts are summed" in run.plan.guarantee


def test_exactly_an_owner_tests_only_what_is_planned_and_one_model_a_round(start_run, job):
    run = asked(start_run, job(counts="exact", every=2))
    assert rounds_tested(run.plan.job, run.plan.tests) == (0, 2, 3)
    assert opened(run, 0) is not None
    assert opened(run, 1) is None
    assert opened(run, 2) is not None
    trained = run.arrays
    run.arrays = {
        n: a + np.linspace(0.1, 0.5, a.size, dtype=a.dtype).reshape(a.shape)
        for n, a in trained.items()
    }
    assert opened(run, 2) is None
    assert opened(run, 3) is not None
    failed = [event["failed"] for event in run.folder.read_events() if event.get("failed")]
    assert "no test is planned after round 1" in str(failed)
    assert "exact counts of round 2 in answer to another request" in str(failed)


def test_an_owner_who_is_shown_another_model_than_the_rest_takes_no_part(start_run, job):
    """The request's digest, the model's included, is in every mask: all members test the same."""
    run = asked(start_run, job(counts="exact"))
    shapes = {name: array.shape for name, array in run.arrays.items()}
    push, shown = run.grid.push_messages, []

    def another_for_one(messages):
        messages = list(messages)
        for message in [m for m in messages if m.metadata.message_type == EVALUATE][:1]:
            shown.append(run.names[message.metadata.dst_node_id])
            arrays = to_arrays(only_arrays(message.content), like=shapes)
            key = next(k for k in message.content.array_records if k != SECAGG)
            bent = to_array_record({name: array + 1 for name, array in arrays.items()})
            message.content = RecordDict({**message.content, key: bent})
        return push(messages)

    run.grid.push_messages = another_for_one
    run.round = 3
    evaluate(run)
    told = [e["failed"] for e in run.folder.read_events() if e["event"] == "evaluation"]
    assert set(shown) == {shown[0]}
    assert all("for another model, round or job" in failed[shown[0]] for failed in told)


def test_an_exact_count_is_told_once(start_run, job):
    run = asked(start_run, job(counts="exact"), reproducible=False)
    assert opened(run, 3) is not None
    assert opened(run, 3) is None


def test_an_exact_count_is_not_told_again_for_a_request_that_differs(start_run, job):
    """The model is the same; what else the server sends with it is its own choice."""
    run = asked(start_run, job(counts="exact"), reproducible=False)
    assert opened(run, 3) is not None
    configure = run.strategy.configure_evaluate

    def with_more(*arguments):
        messages = list(configure(*arguments))
        for message in messages:
            message.content = RecordDict({**message.content, "more": ConfigRecord({"number": 1})})
        return messages

    run.strategy.configure_evaluate = with_more
    assert opened(run, 3) is None
    failed = [event["failed"] for event in run.folder.read_events() if event.get("failed")]
    assert "exact counts of round 3 in answer to another request" in str(failed)


def test_an_exact_count_is_not_told_again_after_a_test_of_another_round(start_run, job):
    """The journal has let go of it by then. Without one owner, the difference would be that owner's own."""
    gone = set()

    def silent(request, reply, asked):
        return [] if run.names.get(request.metadata.dst_node_id) in gone else [reply]

    run = start_run(job(counts="exact"), silent, reproducible=False)
    prepare(run)
    assert opened(run, 3) is not None
    assert opened(run, 2) is not None
    gone.add("film")
    assert opened(run, 3) is None
    failed = [event["failed"] for event in run.folder.read_events() if event.get("failed")]
    assert "exact counts of round 3; they are sent once" in str(failed)


def test_an_exact_count_is_not_told_again_by_an_owner_that_lost_its_journal(tmp_path, job):
    asking = job(counts="exact")
    budget = Budget("mary", tmp_path / "ledger.sqlite", "account", Policy.simulated(asking), False)
    first = Assignment("0", "run", asking.to_json(), round=3, attempt=0, participations=3, tests=4)
    budget.note_exact(asking, first, "ab" * 32, last=True, again=False)
    with pytest.raises(PlanRefused, match="exact counts of round 3; they are sent once"):
        budget.note_exact(asking, replace(first, attempt=1), "ab" * 32, last=True, again=False)


def test_exact_tests_end_where_the_plan_and_spare_rounds_do(job, tmp_path):
    asking = job(counts="exact", every=2)
    budget = Budget("mary", tmp_path / "ledger.sqlite", "account", Policy.simulated(asking), False)

    def note(round_, attempt):
        asked = Assignment(
            "0.1.0",
            "run",
            asking.to_json(),
            round=round_,
            attempt=attempt,
            participations=3,
            tests=3,
        )
        budget.note_exact(asking, asked, f"{round_:064x}", last=True, again=attempt > 0)

    for round_, attempt in ((0, 0), (2, 0), (2, 1), (3, 0)):
        note(round_, attempt)
    with pytest.raises(RunSpent, match="all 3 planned tests and 1 spare ones"):
        note(3, 1)
    with Ledger(budget.ledger) as ledger:
        assert ledger.spent("account", asking.privacy.delta) == 0.0
        assert len(ledger.entries()) == 4


@pytest.mark.parametrize("counts", ["exact", "private"])
def test_a_server_that_plans_other_tests_in_mid_run_is_refused(counts, start_run, job):
    asking = job(counts=counts).model_dump(mode="json")
    asking["evaluation"]["every"] = None
    run = asked(start_run, type(job()).build(asking))
    planned = run.plan.tests
    assert opened(run, 3) is not None
    run.plan = replace(run.plan, tests=1 if planned > 1 else 4)
    assert opened(run, 3 if counts == "exact" else 2) is None


def test_however_many_tests_a_server_names_they_cost_what_the_job_gives_them(start_run, job):
    """It lies from the first request on, and asks for as many as it can get."""
    asking = type(job()).build({**job().model_dump(mode="json"), "evaluation": {"epsilon": 1.0}})
    for tests in range(1, most_tests(asking) + 1):
        run = start_run(asking, name=f"run-{tests}", reproducible=False)
        run.plan = replace(run.plan, tests=tests)
        prepare(run)
        answers = sum(opened(run, number % 4) is not None for number in range(8))
        assert answers == tests + asking.spare_rounds
        for path in (run.folder.path / "ledgers").glob("*.sqlite"):
            with Ledger(path) as ledger:
                spent = [entry.event for entry in ledger.entries() if entry.is_test]
            assert epsilon(spent, asking.privacy.delta) <= asking.tests_epsilon


def test_nonsense_of_a_number_of_tests_is_refused(start_run, job):
    run = start_run(job())
    run.plan = replace(
        run.plan, tests=3
    )  # the job says: before training and after each of 3 rounds
    with pytest.raises(RoundFailed, match="3 tests are planned, but the job has at most 4"):
        prepare(run)


def test_a_run_tests_as_often_as_the_plan_chose(start_run, job):
    asking = type(job()).build({**job().model_dump(mode="json"), "evaluation": {"epsilon": 1.0}})
    run = start_run(asking)
    run.plan = replace(run.plan, tests=2)
    run_rounds(run)
    found = [e["round"] for e in run.folder.read_events() if e["event"] == "evaluation"]
    assert found == [0, 3]
