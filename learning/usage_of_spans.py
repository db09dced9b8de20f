"""The Python by which a model card shows how to find spans in texts (``usage``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .card_python import indented


def marking(card: Mapping[str, Any], run: list[str]) -> list[str]:
    """Python for `answer`. run: Python that makes `output` of `rows` of tokens."""
    limit = card["model"]["max_length"]
    units = [
        '"""For each word, or words of one token: its first token, and where it stands in the text."""',
        "seen, found = {}, []",
        "for place, (start, end) in enumerate(offsets):",
        "    for character in range(start, end):",
        "        seen.setdefault(character, place)",
        f"for word in re.finditer({card['word']!r}, text):",
        "    place = seen.get(word.start())",
        "    if place is not None and found and found[-1][0] == place:",
        "        found[-1][2] = word.end()",
        "    elif place is not None:",
        "        found.append([place, word.start(), word.end()])",
        "return found",
    ]
    one = [
        '"""The spans that the model marks in a text: where they are, what they are, and how probable."""',
        "text = read(text)",
        f"read_as = tokenizer(text, truncation=True, max_length={limit}, return_offsets_mapping=True)",
        'rows, words = [read_as["input_ids"]], units(text, read_as["offset_mapping"])',
        "if not words:",
        "    return []",
        *run,
        "chances = output.logits[0].float().softmax(-1)[[place for place, _, _ in words]]",
        "found, last = [], None",
        "for (_, start, end), row in zip(words, chances):",
        "    tag, chance = tags[int(row.argmax())], float(row.max())",
        "    part, label = tag[0], tag[2:]",
        '    if part == "B":',
        '        last = {"start": start, "end": end, "label": label, "probability": chance}',
        "        found.append(last)",
        '    elif part == "I" and last and last["label"] == label:',
        '        last.update(end=end, probability=min(chance, last["probability"]))',
        "    else:",
        "        last = None",
        'return [{"text": text[one["start"] : one["end"]], **one} for one in found]',
    ]
    return [
        "def units(text, offsets):",
        *indented(units),
        "",
        "",
        "@torch.inference_mode()",
        "def mark(text):",
        *indented(one),
        "",
        "",
        "def answer(texts):",
        "    return [mark(text) for text in texts]",
        "",
        "",
        'print(answer(["a text", "another text"]))',
    ]
