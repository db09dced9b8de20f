"""The base with everything merged into it: a model that plain ``transformers`` loads, without ``peft``.

W <- W + alpha / rank B A, where B and A hold what a strategy put into the base, too (``lora_residual``). A
head that is part of the architecture takes its trained values; one on pooled states is a file beside the
model, as it is beside an adapter. The folder reads and answers as that of a run that trained every weight.

Guarantee: what is written was loaded again, and answers a text as base and adapter do, up to rounding. Its
``rebase.json`` names the base and the files of the adapter by their SHA-256.
"""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..errors import ModelError
from ..storage.cache import write_once
from ..storage.files import sha256_of
from .export import read_card, write_folder
from .hugging_face import one_sentence
from .model import Learner
from .predict import adapter_folder, load_exported

RECORD = "rebase.json"
_FORMAT = 1
_LOOK = 16
"""Tokens of the text that is compared."""
_APART = {"float32": 1e-4, "bfloat16": 5e-2}
"""By how much outputs may differ, of their largest, by the precision of the run."""


def merge(run: Path, folder: Path) -> dict[str, Any]:
    """Write the merged model of a run's folder, or of an adapter's, whole or not at all; its record.

    Other users can read it only if they can read the adapter, where it lies.
    Raises ``ModelError`` for what cannot be merged, and for a `folder` that is there.
    """
    source = adapter_folder(run)
    card = read_card(source)
    if card["adapter"] == "full":
        raise ModelError(
            f"{source} is a whole model: its run trained every weight, so there is nothing to merge. "
            "Copy the folder."
        )
    if card["loader"].endswith(".get_encoder()"):
        raise ModelError(
            f"{source} tunes the encoder of an encoder-decoder alone, and such a model cannot be saved. "
            "Use base and adapter together, as its README.md shows."
        )
    if kind := card["model"].get("quantization"):
        raise ModelError(
            f"{source} was tuned on a base model that is held as {kind}, and would answer "
            "otherwise on one in float32. Use base and adapter together, as its README.md shows."
        )
    if folder.exists() or folder.is_symlink():
        raise ModelError(f"{folder} exists already. Name a folder that does not.")
    if not folder.absolute().parent.is_dir():
        raise ModelError(
            f"{folder.absolute().parent} does not exist. Make it, or name another folder."
        )
    learner = load_exported(source, "cpu")
    record = {
        "format": _FORMAT,
        "umbel_version": __version__,
        "base": card["base"],
        "base_sha256": card["base_sha256"],
        "adapter": {
            path.name: sha256_of(path).hex() for path in sorted(source.glob("*.safetensors"))
        },
    }
    write_once(folder, lambda made: _write(learner, record, made), private=not open_to_all(source))
    return record


def open_to_all(folder: Path) -> bool:
    """Whether every user of the machine can come to a folder, list it, and read its tensors.

    An owner's own adapter may lie open in a home that is closed.
    """
    there = folder.resolve()
    everyone = stat.S_IROTH | stat.S_IXOTH
    return (
        there.stat().st_mode & everyone == everyone
        and all(parent.stat().st_mode & stat.S_IXOTH for parent in there.parents)
        and all(file.stat().st_mode & stat.S_IROTH for file in there.glob("*.safetensors"))
    )


def _write(learner: Learner, record: dict[str, Any], folder: Path) -> None:
    expected = _outputs(learner)
    base, backbone = learner.job.model.base, learner.network.backbone
    with one_sentence(f"the adapter cannot be merged into {base}"):
        merged = backbone.merge_and_unload(safe_merge=True)  # type: ignore[operator]
    learner.network.backbone = merged
    model = learner.job.model.model_copy(update={"adapter": "full"})
    write_folder(replace(learner, job=learner.job.model_copy(update={"model": model})), folder)
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    again = load_exported(folder, "cpu")
    far = float((_outputs(again) - expected).abs().max() / expected.abs().max().clamp(min=1.0))
    if not far <= _APART[read_card(folder)["precision"]]:
        raise ModelError(
            f"the merged model answers otherwise than {base} with the adapter (by {far:.2g}): its layers "
            "share weights that the adapter changes in one place alone. Use base and adapter together."
        )


@torch.inference_mode()
def _outputs(learner: Learner) -> Tensor:
    """What the model says of a text that is nobody's."""
    rows = learner.inputs.invented([min(_LOOK, learner.longest)])
    learner.network.eval()
    return learner.network(learner.inputs.collate(rows, learner.network.device, None)).float()
