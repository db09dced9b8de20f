"""Whether the files of a model folder are whole: said before a library fails on them in words of its own."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import ModelError
from .model_files import model_files

_POINTER = b"version https://git-lfs"
_WEIGHTS = (".safetensors", ".bin")
_LARGEST_HEADER = 100_000_000
"""Bytes; what the library itself allows."""


def check_whole(folder: Path) -> None:
    """Raise ``ModelError`` for a configuration that is no JSON, and weights that are cut or not fetched."""
    config = folder / "config.json"
    try:
        json.loads(config.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{config} cannot be read: {error}. Download the model again.") from None
    weights = [folder / name for name in model_files(folder) if name.endswith(_WEIGHTS)]
    for file in weights:
        with file.open("rb") as stream:
            start = stream.read(len(_POINTER))
        if start.startswith(_POINTER):
            raise ModelError(
                f"{file} is a pointer of Git LFS, not the weights. Fetch them in that folder with: git "
                "lfs pull"
            )
    for file in weights:
        if file.suffix == ".safetensors":
            _check_length(file)


def _check_length(file: Path) -> None:
    """A safetensors file says in its header how long it is."""
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 0 < length <= _LARGEST_HEADER:
                raise ValueError("its header has an impossible length")
            header = json.loads(stream.read(length))
            ends = [e["data_offsets"][1] for name, e in header.items() if name != "__metadata__"]
            whole = 8 + length + max(ends, default=0)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise ModelError(
            f"{file} is not a safetensors file, or is damaged. Download it again."
        ) from None
    if size < whole:
        raise ModelError(
            f"{file} is cut off: {size:,} of {whole:,} bytes are there. Download it again."
        )
