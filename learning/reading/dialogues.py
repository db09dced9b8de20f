"""Dialogues: lists of messages, or a question and its answer in two columns, each as one text.

That text is JSON: ``[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]``, with
contents as ``clean_text`` leaves them. A dialogue may begin with one system message; then user and assistant
take turns. The form with ``from`` and ``value`` (ShareGPT) is read as well.

Guarantee: whether a dialogue can be read, and as what, follows from itself alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ...errors import DataError
from ...quantities import quoted
from .cells import reason, whole
from .names import clean_text
from .table import Table

MOST_MESSAGES = 1024
"""Of one dialogue: by so many an owner's agent plans how long dialogues take to be rendered."""
MOST_CHARACTERS = 2**18
"""Of the messages of one dialogue, together, as they were given."""
COLUMNS = ("messages", "conversations")
"""What a column of dialogues is usually called."""

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
_ROLES = {
    SYSTEM: SYSTEM,
    USER: USER,
    "human": USER,
    ASSISTANT: ASSISTANT,
    "gpt": ASSISTANT,
}
_WHAT_ELSE = ("tool_calls", "function_call", "tool_call_id", "weight")
"""Keys of a message that change what it means, and that no template here is told."""
_EXAMPLE = '[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]'


class Message(NamedTuple):
    """What one side says; `role` is "system", "user" or "assistant"."""

    role: str
    content: str


def with_dialogues(table: Table, text: str, answers: str | None) -> Table:
    """The same rows, with a dialogue in column `text`; one that cannot be read is a fault of its row.

    The column holds JSON; with `answers`, what the user says, and that column what the assistant answers.
    """
    found: list[str | None] = []
    faults = dict(table.faults)
    replies = table.columns[answers] if answers else [None] * len(table)
    for row, (value, reply) in enumerate(zip(table.columns[text], replies, strict=True)):
        record = None
        if row not in faults and (value is not None or reply is not None):
            try:
                record = exchange(value, reply) if answers else dialogue(value or "")
            except Exception as error:  # deep nests fail in ways of their own
                faults[row] = reason(error)
        found.append(record)
    columns = {**table.columns, text: found}
    if faults.keys() - table.faults.keys():
        columns = {
            name: [None if row in faults else value for row, value in enumerate(values)]
            for name, values in columns.items()
        }
    return replace(table, columns=columns, faults=faults)


def exchange(question: str | None, answer: str | None) -> str:
    """The record of a question and its answer. Raises ``DataError`` if one of them is empty."""
    _check_size([question or "", answer or ""])
    messages = [Message(USER, clean_text(question)), Message(ASSISTANT, clean_text(answer))]
    _check_turns(messages)
    return record_of(messages)


def dialogue(value: str) -> str:
    """The record of a dialogue in JSON, which ends with an answer. Raises ``DataError``."""
    if not value.strip():
        return ""
    messages = _messages(value)
    _check_turns(messages)
    if messages[-1].role != ASSISTANT:
        raise DataError(
            "The dialogue ends with the user's message, so there is no answer to learn. Add the answer, or "
            "leave out that message."
        )
    return record_of(messages)


def opening(value: str) -> str:
    """The record of a dialogue that waits for an answer: messages in JSON, or a single one as plain text.

    Raises ``DataError`` for messages that cannot be answered.
    """
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        found = value
    if not isinstance(found, list) or not any(isinstance(one, dict) for one in found):
        _check_size([value])
        content = clean_text(value)
        return record_of([Message(USER, content)]) if content else ""
    messages = _messages(value)
    _check_turns(messages)
    if messages[-1].role != USER:
        raise DataError(
            "The dialogue ends with an answer, so there is nothing to answer. Leave out its last message."
        )
    return record_of(messages)


def messages_of(record: str) -> list[Message]:
    """The messages of a record that functions above have made."""
    return [Message(one["role"], one["content"]) for one in json.loads(record)]


def record_of(messages: Sequence[Message]) -> str:
    """The text that stands for messages. Raises ``DataError`` for one that has no bytes in UTF-8."""
    return whole(json.dumps([one._asdict() for one in messages], ensure_ascii=False))


def _messages(value: str) -> list[Message]:
    try:
        found = json.loads(value)
    except ValueError:
        found = value
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise DataError(
            f"{quoted(value)} is not a list of messages. Write one such as {_EXAMPLE}, or name the column of "
            "the answers (answer_column)."
        )
    contents = [_content(one) for one in found]
    _check_size([content for content in contents if isinstance(content, str)])
    return [
        _message(number, one, content)
        for number, (one, content) in enumerate(zip(found, contents, strict=True), start=1)
    ]


def _check_size(contents: Sequence[str]) -> None:
    """Raise ``DataError`` for more than is read of one dialogue, before any of it is looked at."""
    if len(contents) > MOST_MESSAGES:
        raise DataError(
            f"The dialogue has {len(contents):,} messages, but at most {MOST_MESSAGES:,} are read. Cut it "
            "into parts."
        )
    if (size := sum(map(len, contents))) > MOST_CHARACTERS:
        raise DataError(
            f"The dialogue has {size:,} characters, but at most {MOST_CHARACTERS:,} are read. Cut it into "
            "parts."
        )


def _content(given: dict[str, Any]) -> Any:
    return given.get("content", given.get("value"))


def _message(number: int, given: dict[str, Any], content: Any) -> Message:
    role = given.get("role", given.get("from"))
    if not isinstance(role, str) or role not in _ROLES:
        raise DataError(
            f'Message {number} has the role {quoted(role)}. The roles are "system", "user" and "assistant".'
        )
    if extra := next((key for key in _WHAT_ELSE if given.get(key) is not None), None):
        raise DataError(
            f"Message {number} has {extra!r}, which is not read. Leave out dialogues with calls of tools or "
            "weights."
        )
    if not isinstance(content, str):
        what = "a list of parts" if isinstance(content, list) else quoted(content)
        raise DataError(
            f"The content of message {number} is {what}, not a text. Write its text as one string."
        )
    return Message(_ROLES[role], clean_text(content))


def _check_turns(messages: Sequence[Message]) -> None:
    """Raise ``DataError`` unless user and assistant take turns, with something to say."""
    for number, one in enumerate(messages, start=1):
        if not one.content:
            raise DataError(f"Message {number} ({one.role}) is empty. Leave out this dialogue.")
    turns = list(messages[1:] if messages and messages[0].role == SYSTEM else messages)
    if not turns:
        raise DataError("The dialogue has no message of the user. Leave it out.")
    first = 1 + len(messages) - len(turns)
    for place, one in enumerate(turns):
        expected = (USER, ASSISTANT)[place % 2]
        if one.role != expected:
            raise DataError(
                f'Message {first + place} is of the role "{one.role}", but "{expected}" has the turn: after '
                "one system message, if any, user and assistant take turns. Join messages of one side, or "
                "leave out the dialogue."
            )
