"""The files of a base model that can decide what it does: which they are, their digest, and nothing else.

Guarantee: of a model folder a loader sees the files that ``base_digest`` is made of, and no other. They
are linked into a folder of their own, and the model is loaded from there (``sealed``). So with the same
digest the same model, tokenizer and settings are loaded, whatever a library may look for, and whatever
else lies beside. What could lead it out of there is refused or left out: shards elsewhere, another base
model named by an adapter, tokenizer files elsewhere, code on the hub.

Assumptions: nobody changes the folder between the digest and the load, which is the owner's own disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import ModelError
from ..storage.cache import cache_folder, write_once
from ..storage.files import sha256_of

SUFFIXES = (
    *(".json", ".jsonl", ".jinja", ".safetensors", ".txt", ".model", ".spm", ".codes", ".vocab"),
    *(".bpe", ".tiktoken", ".tokenizer"),
)
"""Names of configurations, weights, vocabularies and templates. Code, pictures, texts about the model and
weights for other software are not among them, and are not loaded."""

_PICKLED = "pytorch_model*.bin"
"""Weights, if there are no safetensors, which are taken first."""
_ADAPTER = "adapter_config.json"
_SETTLED = 2 * 10**9
"""Nanoseconds after which a written file has a new time on any file system."""

_Stamp = tuple[str, int, int, int, int]
"""Of a file: name, inode, size, and when its content and anything of it changed, in nanoseconds."""


def base_digest(path: Path) -> str:
    """SHA-256 over everything that a load of this folder, or of this GGUF file, can depend on.

    Of a folder: relative path, length and content of each of its ``model_files``. Nothing is parsed.
    Remembered for this process while no file changes, as far as its size, times and inode tell;
    ``forget_digests`` has it read again whatever they tell.
    """
    place, stamps = path.resolve(), _stamps(path)
    # A file that was written just now may be written again within one tick of the file system's clock.
    if max((stamp[-1] for stamp in stamps), default=0) > time.time_ns() - _SETTLED:
        return _digest(place)
    return _remembered(place, stamps)


@lru_cache(maxsize=8)
def _remembered(path: Path, stamps: tuple[_Stamp, ...]) -> str:
    return _digest(path)


forget_digests = _remembered.cache_clear


def _stamps(path: Path) -> tuple[_Stamp, ...]:
    names = [""] if path.is_file() else model_files(path)
    found = [(name, (path / name).stat()) for name in names]
    return tuple((name, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in found)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    if path.is_file():
        digest.update(b"file\0" + sha256_of(path))
        return digest.hexdigest()
    for name in model_files(path):
        file = path / name
        digest.update(os.fsencode(name) + b"\0" + file.stat().st_size.to_bytes(8, "little"))
        digest.update(sha256_of(file))
    return digest.hexdigest()


def model_files(folder: Path) -> list[str]:
    """Relative paths, in order, of all files that may decide anything; hidden ones are not among them."""
    names = list(_walk(folder, ""))
    found = [name for name in names if name.lower().endswith(SUFFIXES)]
    if not any(PurePosixPath(name).match("*.safetensors") for name in found if "/" not in name):
        found += [name for name in names if PurePosixPath(name).match(_PICKLED)]
    return sorted(found)


def _walk(folder: Path, within: str) -> Iterator[str]:
    # Links to files are followed, as the hub's cache is made of them; those to folders are not.
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path), f"{within}{entry.name}/")
            elif entry.is_file():
                yield within + entry.name


def sealed(folder: Path) -> Path:
    """A folder with links to the ``model_files`` of `folder`, and nothing else: what is loaded from.

    Raises ``ModelError`` for a model that asks for anything outside of its own folder.
    """
    names = model_files(folder)
    _check(folder, names)
    place = f"{folder.resolve()}\n{base_digest(folder)}"
    key = hashlib.sha256(place.encode()).hexdigest()[:40]
    return write_once(cache_folder("sealed") / key, lambda made: _link(folder, names, made))


def _link(folder: Path, names: list[str], made: Path) -> None:
    made.mkdir()
    for name in names:
        target = made / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name == "tokenizer_config.json":
            settings = _json(folder / name)
            # Places on the machine where it was saved: of no use here, or a way to a file elsewhere.
            kept = {k: v for k, v in settings.items() if not k.endswith("_file")}
            target.write_text(json.dumps(kept), encoding="utf-8")
        else:
            target.symlink_to((folder / name).resolve())


def _check(folder: Path, names: list[str]) -> None:
    if _ADAPTER in names:
        raise ModelError(
            f"{folder} holds an adapter ({_ADAPTER}), which would be loaded on top of the model that it "
            "names. Give the folder of a whole model, or merge the adapter into its model first."
        )
    for name in names:
        if name.endswith(".index.json"):
            shards = _json(folder / name).get("weight_map")
            beside = {str(PurePosixPath(name).parent / str(shard)) for shard in _values(shards)}
            if outside := sorted(beside - set(names)):
                raise ModelError(
                    f"{folder / name} names weights that are not in this folder: {outside[0]!r}. "
                    "The download may be incomplete: download it again."
                )
    if "config.json" in names:
        for key, value in _settings(_json(folder / "config.json")):
            if key.endswith("implementation") and isinstance(value, str) and "/" in value:
                raise ModelError(
                    f"{folder / 'config.json'} asks for code from the hub ({key} = {value!r}), but Umbel "
                    "never runs code that comes with a model. Remove this key, or use another model."
                )


def _settings(values: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, in nested sections too."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield str(key), value
            yield from _settings(value)


def _values(mapping: Any) -> list[Any]:
    return list(mapping.values()) if isinstance(mapping, dict) else []


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ModelError(f"{file.parent} does not load: {file.name} is not a JSON object.")
    return found
