"""Who takes part: members answer when they can, and how long that takes is theirs."""

import pytest
from flwr.app import Error, Message

from umbel.errors import RoundFailed
from umbel.flower import UNREACHED
from umbel.messages import PREPARE
from umbel.server.muster import Order, muster
from umbel.simulations.grid import FIRST_NODE


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
            return [] if code is None else [Message(Error(code, "Node"), reply_to=request)]

        run = start_run(open_job_of(), fault)
        names = [client.name for client in run.plan.clients]
        nodes = dict(zip(names, run.grid.get_node_ids(), strict=True))
        order = Order(run.id, run.plan.job, "", b"")
        told = []
        found = muster(run.grid, order, nodes, wait, told.append, lambda: False, clock=run.clock)
        return found, told, run.grid

    return ask


def test_all_that_answer_take_part(mustered):
    found, told, grid = mustered()
    assert set(found.ready) == set(found.nodes) != set()
    assert not told
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


def test_one_that_never_answers_is_not_waited_for_without_end(mustered):
    with pytest.raises(RoundFailed, match="no answer yet"):
        mustered(dict.fromkeys(range(FIRST_NODE, FIRST_NODE + 9), 10_000))
