"""Who takes part: members answer when they can, and how long that takes is theirs."""

import contextlib
import dataclasses
import math

import pytest
from flwr.app import Error, Message, RecordDict

from umbel.errors import RoundFailed
from umbel.flower import UNREACHED
from umbel.planning.plan import Plan
from umbel.server.muster import Order, muster
from umbel.simulations.grid import FIRST_NODE
from umbel.wire.packing import bytes_of
from umbel.wire.requests import PREPARE, REFUSED, WAITING, Readiness


@pytest.fixture
def mustered(start_run, open_job_of):
    """Ask the clients of a run; ``late[node]`` of each one's first answers are lost.

    code: what the network says in their place; None if it says nothing.
    """

    def ask(late=None, wait=600.0, code=None):
        asked = {}

        def fault(request, reply, assignment):
            node = request.metadata.dst_node_id
            asked[node] = asked.get(node, 0) + 1
            if asked[node] > (late or {}).get(node, 0):
                return [reply]
            error = code.get(node) if isinstance(code, dict) else code
            return [] if error is None else [Message(Error(error, "Node"), reply_to=request)]

        run = start_run(open_job_of(), fault)
        names = [client.name for client in run.plan.clients]
        nodes = dict(zip(names, run.grid.get_node_ids(), strict=True))
        order = Order(run.id, run.plan.job, "", lambda: b"")
        told = []

        def tell(name, said):
            told.append(f"{name}: {said}")

        found = muster(run.grid, order, nodes, wait, tell, lambda: False, clock=run.clock)
        return found, told, run.grid

    return ask


def test_all_that_answer_take_part(mustered):
    found, told, grid = mustered()
    assert set(found.ready) == set(found.nodes) != set()
    assert sorted(told) == [f"{name}: takes part" for name in sorted(found.ready)]
    assert not found.refused


def test_an_owner_with_many_records_has_as_long_as_a_round(mustered):
    found, told, grid = mustered({FIRST_NODE: 5})
    assert set(found.ready) == set(found.nodes) != set()
    assert max(grid.asked(PREPARE).values()) == 6
    assert [line for line in told if "no answer yet" in line]


@pytest.mark.parametrize("code", sorted(UNREACHED))
def test_an_owner_that_the_network_did_not_reach_is_asked_again(mustered, code):
    found, told, _ = mustered({FIRST_NODE: 3}, code=code)
    assert set(found.ready) == set(found.nodes) != set()
    assert [line for line in told if "not connected" in line]


def test_who_refuses_is_told_while_others_are_still_waited_for(mustered):
    found, told, _ = mustered({FIRST_NODE: 9, FIRST_NODE + 1: 5}, code={FIRST_NODE: REFUSED})
    [refused] = found.refused
    first, early = told.index(f"{refused}: Node"), [t for t in told if "no answer yet" in t]
    assert first < told.index(early[0])


def test_one_that_never_answers_is_not_waited_for_without_end(mustered):
    with pytest.raises(RoundFailed, match="no answer yet"):
        mustered(dict.fromkeys(range(FIRST_NODE, FIRST_NODE + 9), 10_000))


def test_a_roster_that_is_prolonged_while_members_are_asked_reaches_them(start_run, job_of):
    """Else those whose roster ended would refuse to the end, although the operator did what they said."""
    brought = {}

    def fault(request, reply, assignment):
        had = brought.setdefault(request.metadata.dst_node_id, [])
        had.append(bytes_of(request.content, "roster"))
        return [Message(Error(WAITING, "it ended"), reply_to=request)] if len(had) == 1 else [reply]

    run = start_run(job_of(), fault)
    nodes = dict(zip((c.name for c in run.plan.clients), run.grid.get_node_ids(), strict=True))
    order = Order(run.id, run.plan.job, "", lambda: b"anew" if brought else b"first")
    with contextlib.suppress(RoundFailed):  # what is brought here is no roster
        muster(run.grid, order, nodes, 5.0, lambda *_: None, lambda: False, clock=run.clock)
    assert {node: had[-1] for node, had in brought.items()} == dict.fromkeys(
        nodes.values(), b"anew"
    )


def test_who_stops_a_run_waits_for_no_answer(start_run, open_job_of):
    asked = []
    run = start_run(open_job_of(), lambda request, *_: asked.append(request) or [])
    nodes = dict(zip((c.name for c in run.plan.clients), run.grid.get_node_ids(), strict=True))
    order, stopped = Order(run.id, run.plan.job, "", lambda: b""), lambda: bool(asked)
    found = muster(run.grid, order, nodes, 600.0, lambda *_: None, stopped, clock=run.clock)
    assert not found.ready
    assert asked
    assert run.clock.now() < 1.0


@pytest.mark.parametrize(
    "changes",
    [
        {"training_share": math.nan},
        {"training_share": math.inf},
        {"training_share": 0.0},
        {"size": -5},
        {"size": 2**62},
        {"size": 10**12},
        {"slot": -1},
        {"name": "x" * 10**6},
        {"base_model": "0" * 64},
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_what_an_owner_cannot_truly_say_of_itself_decides_about_nobody_else(
    changes, start_run, open_job_of
):
    def fault(request, reply, assignment):
        if request.metadata.dst_node_id != FIRST_NODE:
            return [reply]
        said = Readiness.from_record(reply.content.config_records["readiness"])
        said = dataclasses.replace(said, **changes)
        return [Message(RecordDict({"readiness": said.to_record()}), reply_to=request)]

    run = start_run(open_job_of(), fault)
    job = run.plan.job
    model = job.model.model_copy(update={"sha256": run.plan.model.base_digest})
    job = job.model_copy(update={"model": model})
    names = [client.name for client in run.plan.clients]
    nodes = dict(zip(names, run.grid.get_node_ids(), strict=True))
    order = Order(run.id, job, "", lambda: b"")
    found = muster(run.grid, order, nodes, 600.0, lambda *_: None, lambda: False, clock=run.clock)
    # On the code before, the plan failed, for all: some of these killed the coordinator.
    assert set(found.ready) == set(names[1:])
    assert set(found.refused) == set(names[:1])
    assert all(len(reason) < 5_000 for reason in found.refused.values())
    Plan.compile(job, found.facts, run.plan.model)
