"""The network that is tuned: a frozen or trainable base model, an adapter, and a task's head.

One process loads a base model once and serves many virtual clients with it: only the trained
tensors change hands (``arrays`` and ``load``). Where nothing but a head is trained, the base model
runs once over an owner's data and its features stand in for the tokens from then on.
"""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..job import Job
from ..messages import Arrays
from .base import base_digest, base_folder
from .device import choose_device, use_bfloat16
from .dropout import remove_dropout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Batch = dict[str, Tensor]

# These architectures add position embeddings of shape (1, T), which hides the batch from
# per-example gradients; with explicit (B, T) positions every example has its own.
_EXPLICIT_POSITIONS = {"albert", "bert", "electra", "gpt2"}

# At a third, two thirds and the end of the depth, where model.pooling is "layers".
POOLED_LAYERS = 3


@dataclass(frozen=True)
class ModelShape:
    """What the plan needs to know of a model: shapes of the trained tensors, and sizes."""

    trained: dict[str, tuple[int, ...]]
    total_parameters: int
    base_digest: str
    base_folder: str

    @property
    def trained_parameters(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.trained.values())


class Network(nn.Module):
    """Base model, adapter and head. ``forward`` takes a batch and returns logits in float32.

    batch: input_ids and attention_mask, int64[B, T]; or features, float32[B, inputs of the head],
    when only the head is trained. logits: float32[B, classes], or float32[B, T, vocabulary] for a
    language model.
    """

    def __init__(self, backbone: nn.Module, mean_head: nn.Linear | None, job: Job) -> None:
        super().__init__()
        self.backbone = backbone
        self.mean_head = mean_head
        self.feature_scale = job.model.feature_scale
        self.pools_layers = job.model.pooling == "layers"
        device = next(backbone.parameters()).device
        self.autocast = use_bfloat16(job.training.precision, device)
        self.head_alone = job.adapter == "head" and self._trains_head_alone()
        model_type = getattr(backbone.config, "model_type", "")
        self.explicit_positions = job.adapter == "full" and model_type in _EXPLICIT_POSITIONS

    def _trains_head_alone(self) -> bool:
        head = {id(parameter) for parameter in self.head.parameters()}
        return all(id(parameter) in head for _, parameter in self.trained_parameters())

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @cached_property
    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        # Found once: walking a whole base model takes longer than a training step of a head.
        return [(name, p) for name, p in self.named_parameters() if p.requires_grad]

    @property
    def head(self) -> nn.Module:
        """The module behind the features: ours, or the one that the architecture brings."""
        if self.mean_head is not None:
            return self.mean_head
        named = dict(self.backbone.named_modules())
        return next(m for n, m in named.items() if n.endswith((".classifier", ".score")))

    def trained_part(self, on_features: bool) -> nn.Module:
        """The smallest module with all trained tensors; it takes the same batch."""
        return HeadOnly(self.head) if on_features else self

    def forward(self, batch: Batch) -> Tensor:
        if "features" in batch:
            return apply_head(self.head, batch["features"])
        if self.mean_head is not None:
            return apply_head(self.mean_head, self.features(batch))
        return self._backbone_output(batch).logits.float()

    def features(self, batch: Batch) -> Tensor:
        """What the head sees of each example, float32[B, inputs of the head].

        Before our head: the mean over real tokens of the last hidden states, scaled to one length;
        or three such means, each of the same length, side by side.
        Before the architecture's own head: its input, at the last token for a `score` layer of a
        decoder and at the first token for a head that reads a sequence.
        """
        mask = batch["attention_mask"]
        if self.mean_head is not None:
            weights = mask.unsqueeze(-1).float()
            states = [states.float() for states in self._pooled_states(batch)]
            means = [(s * weights).sum(1) / weights.sum(1) for s in states]
            # Each as long as the others: the last layer's means are shorter, and would count for less.
            directions = [nn.functional.normalize(mean, dim=-1) for mean in means]
            return torch.cat(directions, dim=-1) * (self.feature_scale / len(means) ** 0.5)
        seen: list[Tensor] = []
        hook = self.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self._backbone_output(batch)
        finally:
            hook.remove()
        inputs = seen[0].float()
        if inputs.dim() == 2:
            return inputs
        rows = torch.arange(len(inputs), device=inputs.device)
        return inputs[rows, mask.sum(1) - 1] if _is_linear(self.head) else inputs[:, 0]

    def _pooled_states(self, batch: Batch) -> list[Tensor]:
        """Hidden states of the layers that our head reads, each [B, T, hidden]."""
        if not self.pools_layers:
            return [self._backbone_output(batch).last_hidden_state]
        states = self._backbone_output(batch, output_hidden_states=True).hidden_states
        if not states:
            raise ModelError('model.pooling = "layers": the base model shows no layers; use "mean"')
        depth = len(states) - 1  # the first are the embeddings
        return [states[depth * part // POOLED_LAYERS] for part in range(1, POOLED_LAYERS + 1)]

    def _backbone_output(self, batch: Batch, **options: bool) -> Any:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        if self.explicit_positions:
            count, length = inputs["input_ids"].shape
            positions = torch.arange(length, device=inputs["input_ids"].device)
            inputs["position_ids"] = positions.repeat(count, 1)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            return self.backbone(**inputs, **options)

    def trained_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Names and tensors that travel, in the model's own order."""
        return list(self._trained)

    def arrays(self) -> Arrays:
        """A float32 copy of every trained tensor."""
        return {n: p.detach().float().cpu().numpy().copy() for n, p in self.trained_parameters()}

    @torch.no_grad()
    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Set every trained tensor; names and shapes have been checked on arrival."""
        for name, parameter in self.trained_parameters():
            parameter.copy_(torch.from_numpy(np.array(arrays[name], dtype=np.float32)))


class HeadOnly(nn.Module):
    """A head that reads features from the batch."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, batch: Batch) -> Tensor:
        return apply_head(self.head, batch["features"])


def apply_head(head: nn.Module, features: Tensor) -> Tensor:
    """Logits from features; a head that reads a sequence gets a sequence of one."""
    return head(features if _is_linear(head) else features.unsqueeze(1))


def _is_linear(head: nn.Module) -> bool:
    return isinstance(getattr(head, "original_module", head), nn.Linear)


@dataclass(frozen=True)
class Learner:
    """One loaded model with its tokenizer: what a process needs to train, test and predict."""

    job: Job
    network: Network
    tokenizer: PreTrainedTokenizerBase
    folder: Path
    initial: Arrays

    def shape(self) -> ModelShape:
        return ModelShape(
            trained={name: tuple(a.shape) for name, a in self.initial.items()},
            total_parameters=sum(p.numel() for p in self.network.parameters()),
            base_digest=base_digest(self.folder),
            base_folder=str(self.folder),
        )


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
    backbone = _add_adapter(job, backbone, mean_head, missing)
    inputs = backbone.config.hidden_size * (POOLED_LAYERS if job.model.pooling == "layers" else 1)
    head = _zero_linear(inputs, classes) if mean_head else None
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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide warnings of transformers and peft that are about their own internals."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(f"{folder} has no usable tokenizer: {first}") from None
    # Without its files, some kinds of tokenizer load with special tokens and nothing else.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise ModelError(f"{folder} has no usable tokenizer: it has no vocabulary.")
    return tokenizer


def _set_padding(backbone: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    backbone.config.pad_token_id = tokenizer.pad_token_id


def _add_adapter(job: Job, backbone: nn.Module, mean_head: bool, missing: list[str]) -> nn.Module:
    if job.training.gradient_checkpointing:
        # Opacus hooks need the re-entrant form; both need a graph from the embeddings on.
        backbone.gradient_checkpointing_enable({"use_reentrant": True})
        backbone.enable_input_require_grads()
    if job.adapter == "full":
        _freeze_shared_positions(backbone, job)
        return backbone
    import peft
    from peft.utils.constants import DUMMY_TARGET_MODULES

    kind = "CAUSAL_LM" if job.task == "causal-lm" else "SEQ_CLS"
    lora = job.model.lora
    config = peft.LoraConfig(
        task_type="FEATURE_EXTRACTION" if mean_head else kind,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        # A head alone is a PEFT adapter without any low-rank module.
        target_modules=lora.target if job.adapter == "lora" else DUMMY_TARGET_MODULES,
        modules_to_save=_random_modules(job, missing) or None,
    )
    try:
        with quiet():
            return peft.get_peft_model(backbone, config)
    except ValueError as error:
        raise ModelError(
            f"model.lora.target fits no module: {str(error).splitlines()[0]}"
        ) from None


def _random_modules(job: Job, missing: list[str]) -> list[str]:
    """Modules before an architecture's own head that the folder has no weights for.

    They are trained and exported whole, as the head is: frozen, they would be noise that nobody
    could load again. Anywhere else, missing weights mean that this is no model for the task.
    """
    before_head = [name for name in missing if not name.startswith(("classifier.", "score."))]
    if before_head and (job.task == "causal-lm" or job.model.pooling != "own"):
        raise ModelError(
            f"{job.model.base} does not fit {job.task}: its folder has no weights for "
            f"{before_head[0]} ({len(before_head)} tensors are missing)."
        )
    return sorted({name.rpartition(".")[0] for name in before_head})


def _freeze_shared_positions(backbone: nn.Module, job: Job) -> None:
    """Freeze position embeddings whose gradients Opacus cannot tell apart by example."""
    if not job.per_example or backbone.config.model_type in _EXPLICIT_POSITIONS:
        return
    for name, parameter in backbone.named_parameters():
        if "position" in name:
            parameter.requires_grad_(False)


def _zero_linear(inputs: int, outputs: int) -> nn.Linear:
    # Zeros: the first predictions are uniform, and the start does not depend on a generator.
    head = nn.Linear(inputs, outputs)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def arrays_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, shapes and float32 bytes in order: `adapter_sha256` of a result."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
    return digest.hexdigest()
