"""``umbel strategies``: rows that follow from the declarations, and what each would cost in a job."""

import io
import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
import tomli_w
from rich.console import Console

from umbel import strategies
from umbel.errors import StrategyError
from umbel.planning.suite import described, in_job
from umbel.reports.strategies_table import strategies_table
from umbel.simulations.engine import plan_job
from umbel.strategies import OURS, LocalRule

DOCUMENT = Path(__file__).parents[1] / "docs" / "strategies.md"


@pytest.mark.parametrize("name", OURS)
def test_every_strategy_says_its_rule_its_paper_and_when_to_choose_it(name):
    row = described(name)
    assert 5 < len(row.rule) < 110, row.rule
    assert "\n" not in row.rule
    assert not re.search(r"`[A-Z]\w+`", f"{row.rule} {row.local}"), "a class that no reader knows"
    assert row.paper
    assert row.when.endswith(".")


def test_what_a_strategy_refuses_whole_clients_for_is_not_said_to_go_with_them():
    refused = {"scaffold", "feddyn", "fedbuff", "flexlora", "lora-fair", "hetlora"}
    refused |= {"flora", "fedex-lora"}
    refused |= {"q-fedavg", "afl"}
    assert {name for name in OURS if described(name).client == "no"} == refused
    _, _, said = DOCUMENT.read_text(encoding="utf-8").partition(
        "They work with every unit of privacy"
    )
    assert set(re.findall(r"`([^`]+)`", said.split(".")[0])) == refused


def test_a_state_of_single_numbers_says_how_many(monkeypatch):
    class Counted(LocalRule):
        @classmethod
        def state(cls, shapes):
            return {"a": (1,), "b": (1,)}

    monkeypatch.setattr(strategies.ours("rolora"), "local", Counted)
    assert described("rolora").state == "2 numbers"
    assert described("afl").state == "2 numbers"
    assert described("scaffold").state == "1 x the update"


def test_a_new_strategy_has_its_row_by_its_line_alone(monkeypatch, umbel):
    monkeypatch.setitem(OURS, "twice", "rolora:RoLora")
    found, out, _ = umbel("strategies", "--json")
    assert found == 0
    rows = {row["name"]: row for row in json.loads(out)}
    assert list(rows) == [*strategies.OURS]
    assert {**rows["twice"], "name": "rolora"} == rows["rolora"]


def test_people_read_a_table_and_one_of_them_in_full(umbel):
    _, table, _ = umbel("strategies")
    assert all(name in table for name in OURS)
    _, facts, _ = umbel("strategies", "ffa-lora")
    for words in ("2403.12313", "learning_rate = 1.0", "lora", "Choose it for"):
        assert words in facts


def test_the_table_fits_a_narrow_terminal():
    console = Console(width=80, file=io.StringIO())
    console.print(strategies_table([asdict(described(name)) for name in OURS]))
    head = console.file.getvalue().splitlines()[1]
    assert head.split() == ["Name", "Rule", "Sees", "Keeps", "Privacy"]


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(
        StrategyError, match=r"'ffa' is not one of Umbel's strategies.*: fedavg.*fed-sb"
    ):
        described("ffa")


@pytest.mark.parametrize("mode", ["none", "secure-sum"])
def test_bytes_are_those_of_the_plan_with_that_strategy(job_of, mode):
    job = job_of(
        "bert",
        model={"adapter": "lora"},
        encryption={"mode": mode},
        simulation={"encryption_required": False},
    )
    plan, federation = plan_job(job)
    for name in ("fedavg", "ffa-lora", "rolora", "la-lora", "fed-sb"):
        found = in_job(plan, federation.facts, name)
        own, _ = plan_job(
            job.model_copy(update={"strategy": job.strategy.model_copy(update={"name": name})})
        )
        assert (found.bytes_up, found.bytes_down) == (own.bytes_up, own.bytes_down), name
        assert not found.refusal


def test_a_job_that_cannot_have_a_strategy_is_told_why(job_of, umbel, tmp_path):
    path = tmp_path / "job.toml"
    path.write_text(tomli_w.dumps(job_of("bert").model_dump(mode="json", exclude_none=True)))
    _, out, err = umbel("strategies", "--job", path, "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert 'needs model.adapter = "lora"' in rows["fed-sb"]["refusal"]
    _, out, err = umbel("strategies", "--job", path)
    table, _, below = out.partition("Not in this job: ")
    assert "fedavg" in table
    assert "fed-sb" not in table
    assert "fed-sb" in below
    assert not rows["fedavg"]["refusal"]
