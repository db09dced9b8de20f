"""The order of an answer: paid for before records are read, on the disk before anything leaves."""

import ast
from pathlib import Path

import pytest

from umbel.client.agent import Agent
from umbel.client.kept import KeptUpdates
from umbel.client.policy import Policy
from umbel.client.work import WorkHere, Workplace
from umbel.learning.tasks import task_for
from umbel.wire.requests import TRAIN

ROOT = Path(__file__).parents[2]
THE_STEPS = ("round.py", "buffered.py")
MADE_BY = {
    "Asked": {"_asked", "_asked_ahead"},
    "Reserved": {"_reserved"},
    "Answerable": {"_computed"},
    "Durable": {"_durable"},
}


class Killed(BaseException):
    """As if the process had died here."""


class DiesAtWork(WorkHere):
    def trained(self, *arguments, **named):
        super().trained(*arguments, **named)
        raise Killed


class DiesKeeping(KeptUpdates):
    def keep(self, *arguments):
        raise Killed


def agent_of(mary, work=WorkHere, kept=None):
    workplace = Workplace(mary.learner, task_for(mary.job, 2))
    policy = Policy.simulated(mary.job)
    here = work("mary", workplace, mary.data)
    return Agent("mary", here, mary.account, mary.ledger, policy=policy, kept=kept)


@pytest.mark.parametrize("where", ["at work", "keeping"])
def test_who_dies_before_an_update_is_kept_has_paid_and_sends_nothing_of_it(
    where, owner, open_job_of, tmp_path
):
    folder = tmp_path / "kept"
    mary = owner(open_job_of(), kept=KeptUpdates(folder))
    if where == "at work":
        mary.agent = agent_of(mary, DiesAtWork, KeptUpdates(folder))
    else:
        mary.agent = agent_of(mary, kept=DiesKeeping(folder))
    with pytest.raises(Killed):
        mary.ask(TRAIN)
    assert len(mary.entries()) == 1
    assert not [path for path in folder.glob("**/*") if path.is_file()]
    # What is trained after that is another release, and charged as one.
    mary.agent = agent_of(mary, kept=KeptUpdates(folder))
    assert not mary.ask(TRAIN, 1, 1).has_error()
    assert len(mary.entries()) == 2


def test_each_value_of_the_order_is_made_by_its_own_step_and_nowhere_else():
    made = {name: set() for name in MADE_BY}
    for path in [*ROOT.glob("client/*.py"), *ROOT.glob("simulations/*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        steps = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        for step in steps:
            for call in (node for node in ast.walk(step) if isinstance(node, ast.Call)):
                name = getattr(call.func, "id", "")
                if name in made:
                    made[name].add(step.name if path.name in THE_STEPS else str(path))
    assert made == MADE_BY
