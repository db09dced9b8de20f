"""Python of a model card that reads a dialogue as ``learning.dialogues`` does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .card_python import literal

ASKED = "last message of a dialogue"


def asking(card: Mapping[str, Any]) -> list[str]:
    """The function `ask`: the tokens from which an answer follows; none if nothing can be answered."""
    limit, characters = card["model"]["max_length"], card["characters"]
    how = card["dialogue"]
    special = literal(how["special"])
    return [
        f"special = {special}",
        "",
        "",
        "def ask(dialogue):  # a text, or a list of messages that ends with the user's",
        "    if isinstance(dialogue, str):",
        '        dialogue = [{"role": "user", "content": dialogue}]',
        f"    if len(dialogue) > {how['most_messages']} or sum("
        f'len(one["content"]) for one in dialogue) > {how["most_characters"]}:',
        "        return []",
        '    said = [{"role": one["role"], "content": read(one["content"])} for one in dialogue]',
        '    if any(not one["content"] for one in said):',
        "        return []",
        '    system = said[:1] if said[0]["role"] == "system" else []',
        "    turns = said[len(system):]",
        "    for start in range(0, len(turns), 2):  # the first turns are left out until the rest fits",
        "        kept = [*system, *turns[start:]]",
        f"        if len(turns) - start > {how['most_turns']} or sum("
        f'len(one["content"]) for one in kept) > {characters}:',
        "            continue",
        "        try:",
        "            text = tokenizer.apply_chat_template(",
        "                kept, tokenize=False, add_generation_prompt=True",
        "            )",
        "        except Exception:  # the template refuses such a dialogue",
        "            return []",
        '        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]',
        f"        if len(tokens) <= {limit}:",
        '            said = any(text in one["content"] for one in kept for text in special)',
        "            return [] if said else tokens  # it would end its turn",
        "    return []",
        "",
        "",
    ]
