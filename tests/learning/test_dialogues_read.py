"""Dialogues: read in every form, one that is none left out alone."""

import csv
import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from umbel.client.propose import propose
from umbel.errors import DataError
from umbel.job import Job
from umbel.learning.data import load_corpus
from umbel.learning.reading.dialogues import (
    MOST_CHARACTERS,
    dialogue,
    exchange,
    messages_of,
    opening,
    record_of,
)

from ..talk import turns


def corpus(path, **data):
    job = Job.build({"task": "chat", "data": {"path": str(path), **data}})
    return load_corpus(job.data, "chat")


def test_a_dialogue_is_the_same_record_in_every_form(tmp_path):
    said = [turns("a\r\nb", " c "), turns("d", "e", "f", "g", system="h")]
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    other = [[{"from": names[m["role"]], "value": m["content"]} for m in one] for one in said]
    for name, rows in (("messages", said), ("conversations", other)):
        lines = "".join(json.dumps({name: one}) + "\n" for one in rows)
        (tmp_path / f"{name}.jsonl").write_text(lines)
        parquet.write_table(pa.table({name: rows}), tmp_path / f"{name}.parquet")
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([[name], *([json.dumps(one)] for one in rows)])
    found = {path: corpus(path, text_column=path.stem).texts for path in tmp_path.iterdir()}
    assert len(found) == 6
    expected = [record_of(messages_of(json.dumps(turns("a\nb", "c"))))]
    for texts in found.values():
        assert texts[:1] == expected
        assert [m.role for m in messages_of(texts[1])] == ["system", *["user", "assistant"] * 2]


def test_a_question_and_its_answer_may_stand_in_two_columns(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,completion\nwhat?,that\n[1],2\n")
    found = corpus(path, text_column="prompt", answer_column="completion").texts
    assert found == [
        dialogue(json.dumps(one)) for one in (turns("what?", "that"), turns("[1]", "2"))
    ]
    with pytest.raises(DataError, match="at most 262,144 are read"):
        exchange("a", "b" * MOST_CHARACTERS)


BAD = {
    "ends with the user": (turns("a", "b", "c"), "ends with the user's message"),
    "an empty answer": (turns("a", " \n"), r"Message 2 \(assistant\) is empty"),
    "a role of its own": ([{"role": "tool", "content": "a"}], "has the role 'tool'"),
    "a role that is a list": ([{"role": ["user"], "content": "a"}], "has the role"),
    "a system in the middle": ([*turns("a", "b"), *turns("c", "d", system="e")], 'role "system", but "user"'),
    "two of the user": ([*turns("a"), *turns("b", "c")], 'role "user", but "assistant" has the turn'),
    "begins with the assistant": (turns("a", "b")[::-1], 'role "assistant", but "user" has the turn'),
    "nobody but the system": (turns(system="a"), "no message of the user"),
    "parts": ([{"role": "user", "content": [{"type": "text"}]}, *turns("a", "b")[1:]], "a list of parts"),
    "a call of a tool": ([{"role": "user", "content": "", "tool_calls": [1]}], "'tool_calls'"),
    "weights": ([turns("a")[0], {"role": "assistant", "content": "b", "weight": 0}], "'weight'"),
    "too many messages": (turns(*["a"] * 1026), "1,026 messages, but at most 1,024 are read"),
    "too many characters": (turns("a", "b" * 2**18), "262,145 characters, but at most 262,144 are read"),
    "texts": (["a", "b"], "is not a list of messages"),
    "one text": ("a", "is not a list of messages"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_dialogue_is_said_in_one_sentence_with_its_place_and_left_out_at_an_owner(
    name, tmp_path
):
    given, why = BAD[name]
    path = tmp_path / "a.jsonl"
    rows = [turns("a", "b"), given]
    path.write_text("".join(json.dumps({"messages": one}) + "\n" for one in rows))
    with pytest.raises(DataError, match=f"line 2: .*{why}"):
        corpus(path, text_column="messages")
    spec = Job.build({"task": "chat", "data": {"path": str(path), "text_column": "messages"}}).data
    found = load_corpus(spec, "chat", declared=True)
    assert (len(found), found.dropped) == (1, {"unreadable": 1})


def test_a_prompt_is_plain_text_or_messages_that_end_with_the_users():
    assert opening("  what?\r\n") == opening(json.dumps(turns("what?")))
    assert opening(" ") == ""
    assert opening("[1]") == opening(json.dumps(turns("[1]")))
    for given, why in (
        (turns("a", "b"), "ends with an answer"),
        (turns(system="c"), "no message of the user"),
        ("a" * (MOST_CHARACTERS + 1), "at most 262,144 are read"),
    ):
        with pytest.raises(DataError, match=why):
            opening(given if isinstance(given, str) else json.dumps(given))


def test_half_a_surrogate_pair_spoils_its_own_dialogue_alone(tmp_path):
    """Within JSON in a cell it is there only once that is read."""
    path = tmp_path / "a.csv"
    said = [turns("a", "b"), turns("a\ud800", "b"), turns("c", "\udfff")]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["messages"], *([json.dumps(one)] for one in said)])
    spec = Job.build({"task": "chat", "data": {"path": str(path), "text_column": "messages"}}).data
    found = load_corpus(spec, "chat", declared=True)
    assert (len(found), found.dropped) == (1, {"unreadable": 2})
    assert 2 in propose(path, reads="dialogues").left_out.values()
    for asked in (json.dumps(turns("a\ud800")), "a\ud800"):
        with pytest.raises(DataError, match="half of a surrogate pair"):
            opening(asked)


def test_the_records_text_cannot_be_taken_for_another():
    said = turns('a", "role": "assistant', "b\\n")
    assert [tuple(m) for m in messages_of(dialogue(json.dumps(said)))] == [
        (one["role"], one["content"]) for one in said
    ]
