"""From a job to a loaded model: base, tokenizer, adapter and head.

Whatever does not load, or cannot do what the job asks of it, is a ``ModelError`` of one sentence. What
can be found out by trying is tried, and not read from a configuration: every architecture has names of
its own for its sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import ModelError
from ..job import Job
from ..wire.arrays import Arrays
from .adapters import add_adapter, zero_linear
from .base_model import base_folder, checked, sealed
from .device import choose_device
from .dropout import remove_dropout
from .hugging_face import one_sentence
from .inputs import Inputs, inputs_for
from .label_order import is_classifier, order_labels
from .model import Learner, arrays_digest
from .network import Batch, Network
from .quantization import (
    check_weights,
    is_finite,
    keep_gradients,
    quantization_arguments,
    refuse_quantized,
)
from .shaping import PLAIN, Shaping

# Length of the row that is tried when a head is put on.
_LOOK = 16
_MOST_LAYERS = 10_000


def load_learner(job: Job, classes: int, shaping: Shaping = PLAIN) -> Learner:
    """Load base model and inputs, add adapter and head as the job says, seeded by the job.

    classes: number of labels, 0 for a task without any. shaping: what the job's strategy makes of the
    adapter. Raises ``ModelError``.
    """
    outputs = job.kind.outputs_for(classes)
    checked(job)  # before anything of it is parsed
    folder = base_folder(job.model.base)
    device = choose_device(job.training.device)
    torch.manual_seed(job.seed)
    found = _load_backbone(job, folder, outputs, device)
    backbone, inputs = found.model, inputs_for(job.kind, folder, job.model, job.data.labels)
    _check(job, backbone)
    inputs.fit(backbone, job.model.base)
    # Placed before the adapter is added: an optimizer must never hold tensors that stay behind. What is
    # quantised is placed while it is loaded.
    if job.model.quantization is None:
        with one_sentence(f"{job.model.base} does not fit on {device}"):
            backbone.to(device)
    torch.manual_seed(job.seed)
    mean_head = job.pooled
    backbone = add_adapter(job, backbone, mean_head, found.missing, shaping)
    # One mode for all modules: the trainer changes it only if the network says another.
    network = Network(backbone, None, job).eval()
    if job.kind.pools:
        with one_sentence(f"{job.model.base} cannot run as the job says"):
            batch = _some_row(job, network, inputs)
            if mean_head:
                network.mean_head = zero_linear(network.pooled_width(batch), outputs).to(device)
            else:
                network.look_at_head(batch)
        network.eval()
    if job.noised_locally:
        remove_dropout(network)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            raise ModelError(
                f"Trained tensor {name} is {parameter.dtype}; Umbel trains in float32."
            )
    fixed = _fixed(network, shaping)
    initial = network.arrays()
    network.personal = {n: initial.pop(n) for n in _personal(network, shaping)}
    fixed |= network.personal
    return Learner(
        job,
        network,
        inputs,
        folder,
        initial,
        loader=found.loader,
        shaping=shaping,
        fixed_digest=arrays_digest(fixed) if fixed else "",
    )


def _fixed(network: Network, shaping: Shaping) -> Arrays:
    """Tensors of the adapter that nobody ever trains, which have no gradients from now on."""
    shapes = {name: tuple(p.shape) for name, p in network.trained_parameters()}
    trained = shapes.keys() if shaping.trained is None else set(shaping.trained(shapes))
    return network.fix(shapes.keys() - trained - set(_personal(network, shaping)))


def _personal(network: Network, shaping: Shaping) -> list[str]:
    """Tensors that each owner trains for itself, in the model's order."""
    shapes = {name: tuple(p.shape) for name, p in network.trained_parameters()}
    chosen = set(shaping.personal(shapes)) if shaping.personal else set()
    return [name for name in shapes if name in chosen]


@dataclass(frozen=True)
class _Found:
    model: nn.Module
    missing: list[str]
    """Names of the model's tensors that the folder lacks: they are random."""
    loader: str
    """Python that loads the same model, with {} for the arguments."""


def _load_backbone(job: Job, folder: Path, outputs: int, device: torch.device) -> _Found:
    """The model without adapter."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    arguments: dict[str, Any] = {"dtype": torch.float32}
    mean = job.pooled
    with one_sentence(f"{job.model.base} does not load for {job.task}"):
        alone = sealed(folder)
        config = transformers.AutoConfig.from_pretrained(alone, trust_remote_code=False)
        _check_depth(job, config.to_dict())
        refuse_quantized(job.model.base, config.to_dict())
        arguments |= quantization_arguments(job, device)
        name = _auto_class(job, config)
        if job.own_head:
            _check_labels(job, config, outputs)
            arguments["num_labels"] = outputs
        factory: Any = getattr(transformers, name)
        # Code that comes with a model would run with all that this process may do.
        model, info = factory.from_pretrained(
            alone, output_loading_info=True, trust_remote_code=False, **arguments
        )
    check_weights(job, model)
    keep_gradients(model)
    if job.own_head:
        order_labels(job, model, config)
    loader = f"{name}.from_pretrained({{}})"
    missing = set(info["missing_keys"])
    if mean and name == "AutoModel" and getattr(model.config, "is_encoder_decoder", False):
        with one_sentence(f"{job.model.base} has no encoder that can be tuned alone"):
            encoder = model.get_encoder()
            (prefix,) = [n for n, part in model.named_modules() if part is encoder]
            encoder.config  # noqa: B018  # adapters and exports need one
        if job.adapter == "full":
            raise ModelError(
                f'{job.model.base}: model.adapter = "full" would train the encoder of an encoder-decoder '
                'alone, and such a model cannot be saved. Use "lora" or "head".'
            )
        model, loader = encoder, f"{loader}.get_encoder()"
        missing = {n.removeprefix(f"{prefix}.") for n in missing if n.startswith(f"{prefix}.")}
    if mean and getattr(model, "pooler", None) is not None:
        # Unused before a pooled head, where adapters in it would only add noise; but some call it.
        model.pooler = nn.Identity()
    return _Found(model, sorted(missing & {n for n, _ in model.named_parameters()}), loader)


def _check_depth(job: Job, settings: dict[Any, Any]) -> None:
    """Layers are built one by one before any weight is looked for: millions would take all memory."""
    for name, value in settings.items():
        if isinstance(value, dict):
            _check_depth(job, value)
        elif "layer" in str(name) and isinstance(value, int) and value > _MOST_LAYERS:
            raise ModelError(
                f"{job.model.base} is damaged: its configuration says {name} = {value:,}, but no model has "
                f"more than {_MOST_LAYERS:,}. Download it again."
            )


def _check_labels(job: Job, config: Any, classes: int) -> None:
    """A folder that holds a head must hold one for the job's labels."""
    if is_classifier(config) and config.num_labels != classes:
        raise ModelError(
            f"{job.model.base} has its own head for {config.num_labels} labels, but the job names "
            f'{classes}. Set data.labels to its labels, or use model.pooling = "mean".'
        )


def _auto_class(job: Job, config: Any) -> str:
    # By name: looking classes up imports them.
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
        MODEL_MAPPING_NAMES,
    )

    if not job.pooled:
        return job.kind.model_class
    usual = MODEL_MAPPING_NAMES.get(config.model_type)
    encoder = MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(config.model_type, usual)
    return "AutoModel" if encoder == usual else "AutoModelForTextEncoding"


def _check(job: Job, backbone: nn.Module) -> None:
    """That the weights are numbers."""
    for name, parameter in backbone.named_parameters():
        if not is_finite(parameter):
            raise ModelError(
                f"{job.model.base} is damaged: its tensor {name} has entries that are NaN or infinite."
            )


def _some_row(job: Job, network: Network, inputs: Inputs) -> Batch:
    rows = inputs.invented([min(_LOOK, job.model.max_length)])
    return inputs.collate(rows, network.device, None)
