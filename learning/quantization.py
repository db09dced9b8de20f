"""A frozen base whose linear layers are held in four or eight bits, with adapters in float32 on top.

"nf4" is the 4-bit NormalFloat with doubly quantised block scales of QLoRA (Dettmers et al. 2023, section 3),
by bitsandbytes; "int8" holds each row of a weight as int8 with a scale, by torchao. Weights alone are
quantised: int8 activations, as in bitsandbytes' own int8, jump where a rounding does, so a text's output
would change with the shape of its batch. Embeddings, norms and the output layer stay in float32, and so does
all that is trained.

Weights are quantised while they are loaded, from the files that the base's digest is of. Which library does
it, in which version and on which device, is each machine's own: roundings may differ between owners, as those
of their passes do.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..job import Job, QuantizationName
from .device import use_bfloat16

_LIBRARIES: dict[QuantizationName, str] = {"nf4": "bitsandbytes", "int8": "torchao"}
_NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}


def quantization_arguments(job: Job, device: torch.device) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` with which the base is quantised; none if the job does not want it.

    Raises ``ModelError`` if this machine cannot.
    """
    kind = job.model.quantization
    if kind is None:
        return {}
    if importlib.util.find_spec(_LIBRARIES[kind]) is None:
        raise ModelError(
            f"model.quantization = \"{kind}\" needs the extra: pip install 'umbel[quantized]'"
        )
    if device.type == "mps":
        raise ModelError(
            f'model.quantization = "{kind}" does not run on {device}: set training.device = "cpu"'
        )
    computes = torch.bfloat16 if use_bfloat16(job.training.precision, device) else torch.float32
    return {"quantization_config": _config(kind, computes), "device_map": {"": str(device)}}


def _config(kind: QuantizationName, computes: torch.dtype) -> Any:
    if kind == "nf4":
        from transformers import BitsAndBytesConfig

        config_of: Any = BitsAndBytesConfig
        return config_of(**_NF4, bnb_4bit_compute_dtype=computes)
    from transformers import TorchAoConfig

    return TorchAoConfig(import_module("torchao.quantization").Int8WeightOnlyConfig())


def config_source(kind: QuantizationName, precision: str) -> tuple[list[str], str]:
    """Python for the same configuration: its imports, and itself. precision: "float32" or "bfloat16"."""
    if kind == "nf4":
        said = [f"{key}={value!r}" for key, value in _NF4.items()]
        options = ", ".join([*said, f"bnb_4bit_compute_dtype=torch.{precision}"]).replace("'", '"')
        return ["from transformers import BitsAndBytesConfig"], f"BitsAndBytesConfig({options})"
    imports = [
        "from torchao.quantization import Int8WeightOnlyConfig",
        "from transformers import TorchAoConfig",
    ]
    return imports, "TorchAoConfig(Int8WeightOnlyConfig())"


def quantized_by(kind: QuantizationName | None) -> str:
    """What the quantised weights depend on beside the files: kind, library and version; empty for None."""
    if kind is None:
        return ""
    return f"{kind} {_LIBRARIES[kind]} {version(_LIBRARIES[kind])}"


def refuse_quantized(base: str, settings: Mapping[Any, Any]) -> None:
    """Raise ``ModelError`` if a configuration, or a part of it, says that its weights are quantised already.

    transformers then quantises as the files say, whatever the job asks: with activations that are rounded
    over a whole batch, for instance, in which one record changes what the model says of another.
    """
    for name, value in settings.items():
        if name in ("quantization_config", "compression_config") and value:
            raise ModelError(
                f"{base} is quantised already ({name} in its config.json). Use the same model in full "
                "precision; model.quantization makes it take less memory."
            )
        if isinstance(value, Mapping):
            refuse_quantized(base, value)


def check_weights(job: Job, model: nn.Module) -> None:
    """Raise ``ModelError`` for weights that are held in another way than the job asks."""
    for name, parameter in model.named_parameters():
        plain = type(parameter) is nn.Parameter and parameter.is_floating_point()
        kind = None if plain else _kind_of(parameter)
        if not plain and (kind is None or kind != job.model.quantization):
            raise ModelError(
                f"{job.model.base} is not held as the job asks (model.quantization): its tensor {name} is a "
                f"{type(parameter).__name__} of {parameter.dtype}. Use the model in full precision."
            )


def _kind_of(parameter: Tensor) -> QuantizationName | None:
    """How a weight is quantised, if that is one of ours."""
    state: Any = getattr(parameter, "quant_state", None)
    if state is not None and state.nested and state.quant_type == "nf4":
        return "nf4"
    if _is_int8(parameter) and getattr(parameter, "act_quant_kwargs", None) is None:
        return "int8"
    return None


def keep_gradients(model: nn.Module) -> None:
    """Have 4-bit layers keep their weights as they are.

    On a processor with AVX-512 for bfloat16 they pack them at the first evaluation, after which a layer
    gives its input no gradient: whatever is trained below it would stay as it is without a word.
    """
    for part in model.modules():
        if hasattr(part, "support_avx512bf16_for_cpu"):
            part.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def parameter_count(parameter: Tensor) -> int:
    """How many weights a tensor stands for: two to a byte in a 4-bit one."""
    state: Any = getattr(parameter, "quant_state", None)
    shape = parameter.shape if state is None else state.shape
    return int(torch.Size(shape).numel())


def bytes_of(network: nn.Module) -> int:
    """Bytes that a network's tensors take in memory, the scales of quantised ones included."""
    found = dict[int, int]()
    for tensor in [*network.parameters(), *network.buffers()]:
        state: Any = getattr(tensor, "quant_state", None)
        parts = [tensor]
        if _is_int8(tensor):
            parts = [tensor.qdata, tensor.scale]  # type: ignore[attr-defined]
        elif state is not None:
            parts = [
                tensor,
                *(value for value in state.as_dict().values() if isinstance(value, Tensor)),
            ]
        found |= {
            part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in parts
        }
    return sum(found.values())


def weight_of(layer: Any) -> Tensor:
    """A linear layer's weight as it computes with it, float32."""
    if _is_int8(layer.weight):
        found: Tensor = layer.weight.dequantize()
    else:
        from peft.utils.integrations import dequantize_module_weight

        found = dequantize_module_weight(layer)
    return found.detach().float()


def is_finite(parameter: Tensor) -> bool:
    """Whether all of it is numbers: of what is packed in integers, its scales."""
    state: Any = getattr(parameter, "quant_state", None)
    if state is not None:
        parts = [state.absmax, state.offset, state.state2.absmax]
    elif _is_int8(parameter):
        parts = [parameter.scale]  # type: ignore[attr-defined]
    else:
        parts = [parameter]
    return all(bool(part.isfinite().all()) for part in parts if part.is_floating_point())


def _is_int8(weight: Tensor) -> bool:
    return type(weight).__module__.startswith(_LIBRARIES["int8"])
