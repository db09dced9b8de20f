"""What is trained of a loaded model: a head, low-rank adapters, or every weight."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import ModelError
from ..job import Job
from .hugging_face import one_sentence
from .lora_core import put_cores
from .lora_residual import put_residuals
from .network import EXPLICIT_POSITIONS, own_head
from .shaping import PLAIN, Shaping

ALL_LINEAR = "all-linear"


def add_adapter(
    job: Job, backbone: Any, mean_head: bool, missing: list[str], shaping: Shaping = PLAIN
) -> nn.Module:
    """The model with what is trained put on it, as the job and its strategy (`shaping`) say.

    mean_head: our own head goes on pooled states. missing: tensors for which the model's folder has no
    weights. Raises ``ModelError``.
    """
    if job.training.gradient_checkpointing:
        # Opacus hooks need the re-entrant form; both need a graph from the embeddings on.
        backbone.gradient_checkpointing_enable({"use_reentrant": True})
        backbone.enable_input_require_grads()
    if job.adapter == "full":
        _freeze_shared_positions(backbone, job)
        return backbone
    import peft
    from peft.utils.constants import DUMMY_TARGET_MODULES

    lora = job.model.lora
    endings = [lora.target] if isinstance(lora.target, str) else list(lora.target)
    config_of: Any = peft.LoraConfig  # says that alpha is an int, and takes any number
    config = config_of(
        # Peft's wrapper for features hands on a mask, which only models of texts know.
        task_type="FEATURE_EXTRACTION" if mean_head and job.kind.peft_type else job.kind.peft_type,
        r=lora.rank,
        lora_alpha=lora.rank if shaping.core else lora.alpha,
        lora_dropout=lora.dropout,
        # A head alone is a PEFT adapter without any low-rank module.
        # Peft takes a text for a pattern, and a list for endings.
        target_modules=_targets(endings) if job.adapter == "lora" else DUMMY_TARGET_MODULES,
        modules_to_save=_modules_to_save(job, backbone, missing) or None,
    )
    with one_sentence("model.lora.target matches no module of the base model"):
        adapted: nn.Module = peft.get_peft_model(backbone, config)
    if shaping.core:
        put_cores(adapted)
    if shaping.residual:
        put_residuals(adapted, shaping.residual)
    return adapted


def _targets(endings: list[str]) -> str | list[str]:
    return ALL_LINEAR if endings == [ALL_LINEAR] else endings


def _modules_to_save(job: Job, backbone: nn.Module, missing: list[str]) -> list[str]:
    """The architecture's own head, and modules before it that the folder has no weights for.

    These are trained and exported whole, as the head is: frozen, they would be noise that nobody
    could load again. Anywhere else, missing weights mean that this is no model for the task.
    """
    own = job.own_head
    head = own_head(backbone) if own else ""
    before_head = [name for name in missing if not (own and name.startswith(f"{head}."))]
    if before_head and not own:
        raise ModelError(
            f"{job.model.base} does not fit {job.task}: its folder has no weights for "
            f"{before_head[0]} ({len(before_head)} tensors are missing)."
        )
    # PEFT adds these two by itself, if it classifies whole sequences; of others it would adapt them.
    known = {"classifier", "score"} if job.kind.peft_type and job.kind.pools else set()
    heads = {head} - {"", *known}
    return sorted(heads | {name.rpartition(".")[0] for name in before_head})


def _freeze_shared_positions(backbone: Any, job: Job) -> None:
    """Freeze position embeddings whose gradients Opacus cannot tell apart by example."""
    if not job.noised_locally or backbone.config.model_type in EXPLICIT_POSITIONS:
        return
    for name, parameter in backbone.named_parameters():
        if "position" in name:
            parameter.requires_grad_(False)


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    # Zeros: the first predictions are uniform, and the start does not depend on a generator.
    head = nn.Linear(inputs, outputs)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head
