"""Checkpoints: the state after a round, so that a run goes on as if it had never stopped.

A checkpoint is one safetensors file: the model's arrays and the strategy's, with round and numbers
in its metadata, and a SHA-256 over its content in its name. One that was cut in half does not match
its name and is passed over for the one before.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError
from ..wire.arrays import Arrays
from .files import write_whole

_KEEP = 3
_NAME = re.compile(r"round-(\d{5})-([0-9a-f]{16})\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """State after `round` rounds."""

    round: int
    arrays: Arrays
    strategy: dict[str, Any]
    clipping_norm: float | None = None
    """Clipping norm of the next round's updates, if each client's whole update is clipped."""
    counted: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """As ``server.run.Run`` has it."""
    buffer: dict[str, Any] | None = None
    """Who trains which version of an asynchronous job, as JSON values (``planning.buffered``)."""
    versions: dict[int, Arrays] = field(default_factory=dict)
    """Models before this one that somebody still trains."""


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint, flushed to disk, and drop all but the newest three."""
    from safetensors.numpy import save as to_bytes

    tensors = {f"model/{name}": array for name, array in checkpoint.arrays.items()}
    for version, arrays in checkpoint.versions.items():
        tensors |= {f"version/{version}/{name}": array for name, array in arrays.items()}
    numbers: dict[str, Any] = {}
    lists = [key for key, value in checkpoint.strategy.items() if isinstance(value, list)]
    for key, value in checkpoint.strategy.items():
        if isinstance(value, list):
            value = dict(enumerate(value))
        if isinstance(value, dict):
            tensors |= {f"strategy/{key}/{name}": np.asarray(a) for name, a in value.items()}
        else:
            numbers[key] = value
    metadata = {
        "round": str(checkpoint.round),
        "order": json.dumps(list(checkpoint.arrays)),
        "strategy": json.dumps(numbers),
        "lists": json.dumps(lists),
        "clipping_norm": json.dumps(checkpoint.clipping_norm),
        **_of_counted(checkpoint.counted),
        **({} if checkpoint.buffer is None else {"buffer": json.dumps(checkpoint.buffer)}),
    }
    content = to_bytes(tensors, metadata)
    name = f"round-{checkpoint.round:05d}-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    write_whole(folder / name, content)
    for old in _newest_first(folder)[_KEEP:]:
        old.unlink(missing_ok=True)
    return folder / name


def load_latest(folder: Path, shapes: dict[str, tuple[int, ...]]) -> Checkpoint:
    """The newest whole checkpoint that fits the model; ``CheckpointError`` when there is none."""
    passed_over = []
    for path in _newest_first(folder):
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest()[:16] != _NAME.fullmatch(path.name)[2]:  # type: ignore[index]
            passed_over.append(path.name)
            continue
        checkpoint = _parse(content)
        found = {name: array.shape for name, array in checkpoint.arrays.items()}
        if found != shapes:
            raise CheckpointError(f"{path} holds another model than this job trains.")
        return checkpoint
    damaged = f" ({', '.join(passed_over)} damaged)" if passed_over else ""
    raise CheckpointError(f"There is no whole checkpoint in {folder}{damaged}. Start a new run.")


def latest_counted(folder: Path) -> dict[str, tuple[int, bytes]]:
    """What the newest whole checkpoint says of whose updates were counted, whatever its model; nothing
    without one."""
    for path in _newest_first(folder):
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest()[:16] == _NAME.fullmatch(path.name)[2]:  # type: ignore[index]
            return _parse(content).counted
    return {}


def _newest_first(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if _NAME.fullmatch(p.name)), reverse=True)


def _parse(content: bytes) -> Checkpoint:
    from safetensors.numpy import load as from_bytes

    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata = header["__metadata__"]
    tensors = from_bytes(content)
    strategy: dict[str, Any] = json.loads(metadata["strategy"])
    for name, array in tensors.items():
        kind, _, rest = name.partition("/")
        if kind == "strategy":
            key, _, inner = rest.partition("/")
            strategy.setdefault(key, {})[inner] = array
    for key in json.loads(metadata["lists"]):
        strategy[key] = [strategy[key][str(place)] for place in range(len(strategy[key]))]
    arrays = {name: tensors[f"model/{name}"] for name in json.loads(metadata["order"])}
    norm = json.loads(metadata.get("clipping_norm", "null"))
    counted = _counted(json.loads(metadata.get("counted", "{}")))
    buffer = json.loads(metadata.get("buffer", "null"))
    versions = _versions(tensors, list(arrays))
    return Checkpoint(int(metadata["round"]), arrays, strategy, norm, counted, buffer, versions)


def _versions(tensors: Arrays, order: list[str]) -> dict[int, Arrays]:
    """Earlier models, each in the model's order."""
    kept = {name.split("/")[1] for name in tensors if name.startswith("version/")}
    return {int(v): {name: tensors[f"version/{v}/{name}"] for name in order} for v in kept}


def _of_counted(counted: dict[str, tuple[int, bytes]]) -> dict[str, str]:
    """As metadata: what shows it is the same for a whole sum, and written once."""
    if not counted:
        return {}
    shown = sorted({proof for _, proof in counted.values()})
    clients = {name: [round_, shown.index(proof)] for name, (round_, proof) in counted.items()}
    return {"counted": json.dumps({"clients": clients, "shown": [proof.hex() for proof in shown]})}


def _counted(found: dict[str, Any]) -> dict[str, tuple[int, bytes]]:
    shown = [bytes.fromhex(proof) for proof in found.get("shown", [])]
    clients = found.get("clients", {})
    return {name: (round_, shown[place]) for name, (round_, place) in clients.items()}


def strategy_state(strategy: Any) -> dict[str, Any]:
    """What a strategy carries from round to round: its numbers, and dictionaries and lists of arrays."""
    held = vars(_inner(strategy)).items()
    # Who may take part can change between rounds, and with it what a round weighs and bounds.
    planned = ("_total_weight", "clients", "clip")
    return {name: value for name, value in held if _is_state(value) and name not in planned}


def restore_strategy(strategy: Any, state: dict[str, Any]) -> None:
    vars(_inner(strategy)).update(state)


def _inner(strategy: Any) -> Any:
    return getattr(strategy, "inner", strategy)


def _is_state(value: Any) -> bool:
    if isinstance(value, dict | list):
        arrays = value.values() if isinstance(value, dict) else value
        # Arithmetic on an array without dimensions gives a numpy number.
        return bool(value) and all(isinstance(array, np.ndarray | np.generic) for array in arrays)
    return isinstance(value, bool | int | float)
