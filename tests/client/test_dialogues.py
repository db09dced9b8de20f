"""Dialogues at a data owner: declared, read as a simulation reads them, in a time that is public."""

import json
import tomllib

import pytest

from umbel.client.data import DataSource
from umbel.client.left_out import LeftOut
from umbel.client.marks import Marks
from umbel.client.propose import propose
from umbel.client.settings import DataSettings, Settings, settings_text
from umbel.errors import ConsortiumError, DataError, PlanRefused
from umbel.job import DataSpec, Job
from umbel.learning.data import load_corpus


def dialogue(number, last="assistant"):
    said = [{"role": "user", "content": f"question {number}"}]
    return [*said, {"role": last, "content": f"answer {number}"}]


@pytest.fixture
def file(tmp_path):
    rows = [{"who": f"p{n % 3}", "messages": dialogue(n)} for n in range(12)]
    rows += [{"who": "p0", "messages": dialogue(12, last="user")}, {"who": "p1", "messages": "no"}]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def corpus_of(tmp_path):
    def build(declared):
        marks, left_out = Marks(tmp_path / "marks"), LeftOut(tmp_path / "left-out.npy")
        return DataSource(
            tmp_path / declared.path, None, declared, "account", bytes(32), marks, left_out
        ).corpus()

    return build


def test_dialogues_are_declared_and_read_as_in_a_simulation(file, corpus_of):
    proposal = propose(file, reads="dialogues", group_column="who")
    declared = proposal.declared
    assert (declared.text_column, declared.labels) == ("messages", None)
    assert (proposal.records, proposal.left_out["no dialogue that ends with an answer"]) == (14, 2)
    text = settings_text("mary", declared)
    assert Settings.build(tomllib.loads(text), "client.toml").data.reads == "dialogues"
    spec = DataSpec(path=str(file), text_column="messages", group_column="who")
    simulated = load_corpus(spec, "chat", declared=True)
    assert corpus_of(declared).texts == simulated.texts
    assert (len(simulated), simulated.dropped) == (12, {"unreadable": 2})


def test_questions_and_answers_are_declared_by_their_columns(tmp_path, corpus_of):
    path = tmp_path / "a.csv"
    path.write_text("ask,say\nwhat?,that\nwhy?,\n")
    declared = propose(path, reads="dialogues", text_column="ask", answer_column="say").declared
    text = settings_text("mary", declared)
    assert Settings.build(tomllib.loads(text), "client.toml").data.answer_column == "say"
    assert len(corpus_of(declared)) == 1
    with pytest.raises(DataError, match="no column 'messages'"):
        propose(path, reads="dialogues")
    with pytest.raises(ConsortiumError, match="an answer_column needs reads"):
        DataSettings.build(declared.model_dump() | {"reads": "texts"}, "What is declared")


def test_a_job_gets_dialogues_if_they_are_declared_and_nothing_else():
    declared = DataSettings(path="a", text_column="messages", reads="dialogues")
    values = {"data": {"path": "a", "label_column": None}, "privacy": {"epsilon": 1.0}}
    declared.check("mary", Job.build(values | {"task": "chat"}))
    with pytest.raises(PlanRefused, match=r"declares dialogues \(reads\).*learns from texts"):
        declared.check("mary", Job.build(values | {"task": "causal-lm"}))
    assert declared.largest > 0  # so what the slowest dialogue takes is measured, and waited for
