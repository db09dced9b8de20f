"""What the plan says, and refuses, of strategies that compare updates or means of groups."""

import math
import re

import pytest

from umbel.errors import PlanRefused
from umbel.job import Job
from umbel.learning.model import ModelShape
from umbel.learning.probing.verdict import INDEPENDENT
from umbel.planning.facts import ClientFacts
from umbel.planning.plan import Plan

MODEL = ModelShape(
    {"head.weight": (2, 16), "head.bias": (2,)}, 1000, "ab" * 32, "/model", INDEPENDENT
)
OPEN = {"encryption": {"mode": "none"}}


def groups_of(size, colluders=0.05):
    return {"encryption": {"group_size": size, "colluders": colluders}}


def plan(clients, name, attackers=0.1, **sections):
    strategy = {"name": name, "options": {"attackers": attackers}, "weighting": "equal"}
    values = {
        "data": {"path": "a.csv"},
        "evaluation": {"counts": "off"},
        "strategy": strategy,
        **sections,
    }
    facts = [ClientFacts(f"client-{n}", 500, 1.0, False) for n in range(clients)]
    return Plan.compile(Job.build(values), facts, MODEL)


REFUSED = {
    "groups too few for Krum": (
        (16, "krum", 0.1, groups_of(4)),
        "2 of 16 clients may be Byzantine.* of 4 vectors this rule holds against none .n >= 2 f . 3",
    ),
    "groups too few for Bulyan": (
        (24, "bulyan", 0.05, groups_of(4)),
        "2 of 24 clients may be Byzantine.* of 6 vectors this rule holds against none .n >= 4 f . 3",
    ),
    "a fifth of clients in groups of 4": (
        (40, "median", 0.2, groups_of(4)),
        "8 of 40 clients may be Byzantine.* of 10 vectors this rule holds against 4 at most",
    ),
    "single updates under encryption": (
        (40, "median", 0.1, {}),
        "compares single updates, which nobody can see.*encryption.group_size",
    ),
    "single updates too few for Krum": (
        (6, "krum", 0.3, OPEN),
        "2 of 6 clients may be Byzantine.* of 6 vectors this rule holds against 1 at most",
    ),
    "single updates too few for Bulyan": (
        (10, "bulyan", 0.2, OPEN),
        "2 of 10 clients may be Byzantine.* of 10 vectors this rule holds against 1 at most",
    ),
    "few answers to a round, all Byzantine ones among them": (
        (20, "krum", 0.1, {**OPEN, "cohort": {"minimum": 6}}),
        "2 of 20 clients may be Byzantine.* of 6 vectors this rule holds against 1 at most",
    ),
    "weights": (
        (12, "median", 0.1, {"privacy": {"unit": "none"}, "strategy": {"name": "median"}, **OPEN}),
        'counts every client once: set strategy.weighting = "equal"',
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_rule_cannot_hold_against_is_refused_before_anything_runs(case):
    (clients, name, attackers, sections), words = REFUSED[case]
    with pytest.raises(PlanRefused) as caught:
        plan(clients, name, attackers, **sections)
    assert re.search(words, str(caught.value)), str(caught.value)


@pytest.mark.parametrize(
    ("clients", "name", "attackers", "sections", "vectors"),
    [
        (7, "krum", 0.28, OPEN, 7),
        (11, "bulyan", 0.18, OPEN, 11),
        (20, "multi-krum", 0.1, {**OPEN, "cohort": {"minimum": 7}}, 20),
        (40, "median", 0.1, groups_of(4), 10),
        (40, "krum", 0.05, groups_of(4), 10),
    ],
)
def test_as_many_as_a_rule_holds_against_are_taken(clients, name, attackers, sections, vectors):
    assert plan(clients, name, attackers, **sections).to_dict()["compares"]["vectors"] == vectors


def test_the_plan_says_how_many_groups_bad_clients_spoil():
    """Of 40 clients in groups of 4: 2, 4 and 8 Byzantine ones; by lot C(40 - b, 4) / C(40, 4) stay clean."""
    found = plan(40, "median", 0.1, **groups_of(4)).to_dict()["compares"]
    clean = {b: math.prod((40 - b - i) / (40 - i) for i in range(4)) for b in (2, 4, 8)}
    assert (found["what"], found["vectors"], found["size"]) == ("groups", 10, 4)
    assert found["spoiled"] == pytest.approx(
        {"0.05": 1 - clean[2], "0.1": 1 - clean[4], "0.2": 1 - clean[8]}, abs=1e-4
    )


def test_a_strategy_of_a_sum_compares_nothing():
    strategy = {"name": "fedavg"}
    assert plan(5, "fedavg", strategy=strategy).to_dict()["compares"] is None
