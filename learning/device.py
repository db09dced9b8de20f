"""Where the model runs, and what that hardware does well."""

from __future__ import annotations

import warnings
from typing import Literal

import torch

from ..errors import ModelError


def choose_device(wanted: str) -> torch.device:
    """ "auto" takes CUDA, then MPS, then the CPU."""
    if wanted == "auto":
        if torch.cuda.is_available():
            wanted = "cuda"
        else:
            wanted = "mps" if torch.backends.mps.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            "training.device is cuda, but PyTorch finds no CUDA device. Use "
            'training.device = "auto", or install a PyTorch that fits the GPU\'s driver.'
        )
    return torch.device(wanted)


def flush_denormals() -> None:
    """Take numbers below 2^-126 for zero in this process, in every thread: before the first pass of any.

    Processors compute with such numbers many times slower (ten, measured here for a product), so weights
    could be made with which a text takes far longer than another of its length, and an answer tells by its
    time that it was there. On an accelerator, and if a processor cannot, nothing changes.
    """
    # Threads take it over from the one that starts them, so that those that are there already do not.
    warnings.filterwarnings("ignore", message="The value of the smallest subnormal")
    torch.set_flush_denormal(True)


def use_bfloat16(wanted: Literal["float32", "bfloat16", "auto"], device: torch.device) -> bool:
    """Whether the base model runs under bfloat16 autocast; "auto" says yes if it is faster."""
    if wanted != "auto":
        return wanted == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
