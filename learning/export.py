"""The result as other tools know it: a PEFT adapter (or a whole model) and a small head file.

The folder loads with plain ``peft`` and ``transformers``; its README says how (``usage``). What decides how
a text is read is saved as it was in training: the tokenizer pads on the same side, with the same token,
and cuts at the same length, and a whole classifier names its labels.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..storage.cache import write_once
from ..wire.arrays import Arrays
from .base_model import gguf_of, sealed
from .continuation import ends
from .hugging_face import quiet
from .lora_core import as_plain
from .lora_residual import as_one_adapter, residual_rank
from .model import Learner
from .usage import usage

CARD = "umbel.json"


def export_adapter(
    learner: Learner, arrays: Arrays, folder: Path, *, private: bool = False
) -> None:
    """Write `arrays` as an adapter folder, whole or not at all; a `private` one for this user alone."""
    learner.network.load(arrays)
    write_once(folder, lambda made: write_folder(learner, made), private=private)


def read_card(folder: Path) -> dict[str, Any]:
    """What an adapter folder says of itself. Raises ``ModelError``."""
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        if card["format"] == _FORMAT:
            return dict(card)
    except (OSError, ValueError, LookupError, TypeError):
        raise ModelError(
            f"{folder} has no adapter ({CARD} is missing or damaged). Name the folder of a "
            "finished run, such as runs/latest."
        ) from None
    raise ModelError(f"{folder / CARD} was written by another version of Umbel. Use that version.")


_FORMAT = 1


def write_folder(learner: Learner, folder: Path) -> None:
    """A new folder of a tuned model: its weights, what reads a record, ``umbel.json`` and README.md."""
    from safetensors.torch import save_file

    job, network = learner.job, learner.network
    backbone: Any = network.backbone
    if job.adapter != "full":
        backbone.peft_config["default"].base_model_name_or_path = job.model.base
    folder.mkdir()
    plain = as_plain(backbone, learner.shaping.core)
    with quiet(), _configuration(learner), plain, as_one_adapter(backbone):
        backbone.save_pretrained(folder)
    learner.inputs.save(folder, job)
    if network.mean_head is not None:
        tensors = {
            n: p.detach().cpu().contiguous() for n, p in network.mean_head.named_parameters()
        }
        save_file(tensors, folder / "head.safetensors")
    card = _card(learner)
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    readme = f"# {job.name}: tuned with Umbel\n\n{usage(card, folder.name)}"
    (folder / "README.md").write_text(readme, encoding="utf-8")


@contextlib.contextmanager
def _configuration(learner: Learner) -> Iterator[None]:
    """The configuration of a whole model as it is saved: with the job's labels, and with the padding token
    that the base model was built with, from which some count their positions."""
    import transformers

    if learner.job.adapter != "full":
        yield
        return
    backbone: Any = learner.network.backbone
    if learner.job.data.labels:
        names = learner.job.kind.output_names(learner.job.data.labels)
        backbone.config.id2label = dict(enumerate(names))
        backbone.config.label2id = {name: i for i, name in enumerate(names)}
    built = transformers.AutoConfig.from_pretrained(sealed(learner.folder), trust_remote_code=False)
    pairs = [
        (config, source)
        for config, source in (
            (backbone.config, built),
            (backbone.config.get_text_config(), built.get_text_config()),
        )
        if getattr(source, "pad_token_id", None) is not None
    ]
    before = [config.pad_token_id for config, _ in pairs]
    try:
        for config, source in pairs:
            config.pad_token_id = source.pad_token_id
        yield
    finally:
        for (config, _), pad in zip(pairs, before, strict=True):
            config.pad_token_id = pad


def _as_exported(learner: Learner) -> dict[str, Any]:
    """What the job says of the model, with the rank and the scaling that the exported adapter has."""
    model = learner.job.model.model_dump(mode="json")
    if learner.shaping.core:
        model["lora"]["alpha"] = model["lora"]["rank"]
    if more := residual_rank(learner.network.backbone):
        rank = model["lora"]["rank"]
        model["lora"] |= {
            "rank": rank + more,
            "alpha": model["lora"]["alpha"] * (rank + more) / rank,
        }
    return model


def _card(learner: Learner) -> dict[str, Any]:
    """What it takes to build the same network again, and to read a text as it does."""
    job, language = learner.job, learner.job.kind.continues
    return {
        "format": _FORMAT,
        "task": job.task,
        "labelled": job.kind.labelled,
        "continues": language,
        "pooled": job.pooled,
        "own_head": job.own_head,
        "adapter": job.adapter,
        "base": job.model.base,
        "base_sha256": learner.base_digest,
        "gguf": gguf_of(job.model.base),
        "loader": learner.loader,
        "labels": list(job.data.labels or ()),
        "model": _as_exported(learner),
        "precision": "bfloat16" if learner.network.autocast else "float32",
        **learner.inputs.card(job),
        "ends": ends(learner) if language else [],
    }
