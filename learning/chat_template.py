"""A chat template: how messages become one text, as ``transformers`` renders it.

A template is a program in Jinja that lies among the files of the base model, which an owner installed, and
is rendered in a sandbox (``template_sandbox``): it can call nothing of this process, and its work is bounded
by the size of the dialogue. No server sends one: a job says "own" or "plain", and the digest of the base
model includes its template.

Guarantee: that of ``template_sandbox``. A template is told the messages, the special tokens, and the same day
every day; it reaches no file, no network and no other record.

Assumptions: those of ``template_sandbox``; who installs a base model trusts its template within the bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ..errors import ModelError
from .invented import frame
from .reading.dialogues import Message
from .template_sandbox import render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PLAIN = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}Assistant: {{ message['content'] }}{{ eos_token }}"
    "{% else %}{{ message['role'] | capitalize }}: {{ message['content'] }}\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
_DATE = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro -%}"
"""A template that asks for the day gets one day: or a dialogue would be read otherwise tomorrow."""

_LONGEST, _LONGEST_MESSAGE, _LONGEST_CHARACTER = 50_000, 1_000, 4
"""Characters of a rendered text: of any, and for each message and each character of these."""


def with_template(
    tokenizer: PreTrainedTokenizerBase, name: Literal["own", "plain"], base: str
) -> str:
    """The template that a job's ``model.template`` asks for. Raises ``ModelError`` if there is none."""
    if name == "plain":
        if tokenizer.eos_token is None:
            raise ModelError(
                f"{base} has no end-of-text token, with which an answer ends. Name one as "
                '"eos_token" in tokenizer_config.json.'
            )
        first = frame(tokenizer)[0]
        begins = first == [tokenizer.bos_token_id]
        return ("{{ bos_token }}" if begins else "") + _PLAIN
    found = tokenizer.chat_template
    if isinstance(found, dict):  # of several by name
        found = found.get("default")
    if not found:
        raise ModelError(
            f"{base} has no chat template. Take a base model that was tuned for dialogues (its name often "
            'ends in "-instruct" or "-chat"), or set model.template = "plain".'
        )
    return _DATE + found if "strftime_now" in found and _DATE not in found else str(found)


def rendered(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, answers: bool
) -> str:
    """The text of messages; `answers`: with what the template puts before the next answer.

    Raises what a template does that cannot say them, takes too much work for it, or says far too much.
    """
    given = [one._asdict() for one in messages]
    names = {**tokenizer.special_tokens_map, "add_generation_prompt": answers}
    text = render(str(tokenizer.chat_template), given, **names)
    characters = sum(len(one.content) for one in messages)
    if len(text) > _LONGEST + _LONGEST_MESSAGE * len(messages) + _LONGEST_CHARACTER * characters:
        raise ValueError("it makes far more text than the messages have.")
    return text


def check_rendering(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> None:
    """Raise ``ValueError`` if messages that are rendered here have another text in ``transformers``."""
    given = [one._asdict() for one in messages]
    for answers in (False, True):
        text = rendered(tokenizer, messages, answers=answers)
        if text != tokenizer.apply_chat_template(
            given, tokenize=False, add_generation_prompt=answers
        ):
            raise ValueError("transformers makes another text with it.")
