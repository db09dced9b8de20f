"""From a job to a loaded model: base, tokenizer, adapter and head."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import ModelError
from ..job import Job
from .adapters import add_adapter, zero_linear
from .base import base_folder
from .device import choose_device
from .dropout import remove_dropout
from .hugging_face import quiet
from .model import Learner
from .network import POOLED_LAYERS, Network
from .tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_learner(job: Job, classes: int) -> Learner:
    """Load base model and tokenizer, add adapter and head as the job says, seeded by the job.

    classes: number of labels of a classifier, 0 for a language model. Raises ``ModelError``.
    """
    folder = base_folder(job.model.base)
    torch.manual_seed(job.seed)
    backbone, missing = _load_backbone(job, folder, classes)
    tokenizer = load_tokenizer(folder)
    _set_padding(backbone, tokenizer)
    device = choose_device(job.training.device)
    # Placed before the adapter is added: an optimizer must never hold tensors that stay behind.
    backbone.to(device)
    torch.manual_seed(job.seed)
    mean_head = job.task == "text-classification" and job.model.pooling != "own"
    backbone = add_adapter(job, backbone, mean_head, missing)
    inputs = backbone.config.hidden_size * (POOLED_LAYERS if job.model.pooling == "layers" else 1)
    head = zero_linear(inputs, classes) if mean_head else None
    # One mode for all modules: the trainer changes it only where the network says another.
    network = Network(backbone, head, job).to(device).eval()
    if job.per_example:
        remove_dropout(network)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            raise ModelError(
                f"Trained tensor {name} is {parameter.dtype}; Umbel trains in float32."
            )
    return Learner(job, network, tokenizer, folder, network.arrays())


def _load_backbone(job: Job, folder: Path, classes: int) -> tuple[nn.Module, list[str]]:
    """The model without adapter, and the names of its tensors that the folder lacks: random ones."""
    import transformers
    from safetensors import SafetensorError

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    arguments: dict[str, Any] = {"dtype": torch.float32}
    if job.task == "causal-lm":
        factory: Any = transformers.AutoModelForCausalLM
    elif job.model.pooling != "own":
        factory = transformers.AutoModel
    else:
        factory, arguments["num_labels"] = transformers.AutoModelForSequenceClassification, classes
    try:
        with quiet():
            model, found = factory.from_pretrained(folder, output_loading_info=True, **arguments)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, UnpicklingError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{job.model.base} does not load for {job.task}: {first}") from None
    if factory is transformers.AutoModel and getattr(model, "pooler", None) is not None:
        model.pooler = None  # unused before a mean-pool head; adapters in it would only add noise
    missing = sorted(found["missing_keys"] & {name for name, _ in model.named_parameters()})
    return model, missing


def _set_padding(backbone: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    backbone.config.pad_token_id = tokenizer.pad_token_id
