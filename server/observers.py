"""Observers: who may read how runs stand, and change nothing.

An observer has a key of its own. The operator grants it, for some time, by a statement that is in
``observers``; a request is a statement too, by the observer, for one thing to read and for some minutes.

Guarantee: what is answered is read from the folder, and nothing is written; no path starts, stops, finishes
or changes anything. An observer's key signs no order, roster or delegation that anybody takes.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from ..consortium.authority import Consortium
from ..consortium.card import check_name
from ..errors import ConsortiumError, ProtocolError, RunFolderError
from ..privacy.secagg.encoding import Encoded, Point, Size
from ..privacy.secagg.keys import Identity
from ..privacy.secagg.signed import DAY, Signed, Statement, check_time
from ..run.store import Store
from ..storage.files import write_durably

GRANT, READING = "observer", "reading"
DAYS = 365
_ASKED_SECONDS = 300
_REPORTS = ("result.json", "certificate.json", "plan.json")


@dataclass(frozen=True)
class Grant(Encoded):
    """Whose key may read, in one consortium."""

    consortium: Annotated[str, Size(32, 32)]
    name: Annotated[str, Size(1, 64)]
    key: Point


class NotAllowed(ConsortiumError):
    """A request that is not by an observer."""


def grant(consortium: Consortium, name: str, key: str, days: int = DAYS) -> Path:
    """Let a key (hexadecimal) read for so many days; where the operator's statement lies.

    In a server's folder without the operator's key the file can be copied to the same place.
    """
    if not re.fullmatch(r"[0-9a-fA-F]{64}", key):
        raise ConsortiumError(
            f"{name} cannot be an observer with the key {key!r:.80}: it is 64 hexadecimal digits, as umbel "
            "observer init printed them."
        )
    try:
        body = Grant(consortium.card.id, check_name(name), bytes.fromhex(key)).to_bytes()
    except ValueError as error:
        raise ConsortiumError(f"{name!r} cannot be an observer: {error}") from None
    now = int(time.time())
    statement = Statement(GRANT, consortium.next_counter(), now, now + days * DAY, body)
    path = _folder(consortium) / f"{name}.grant"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    write_durably(path, Signed.sign(statement, consortium.operator).to_hex().encode())
    return path


def withdraw(consortium: Consortium, name: str) -> Path:
    """Let an observer read no more; which file is gone."""
    try:
        path = _folder(consortium) / f"{check_name(name)}.grant"
        path.unlink()
    except (OSError, ValueError):
        known = ", ".join(sorted(p.stem for p in _folder(consortium).glob("*.grant"))) or "none"
        raise ConsortiumError(
            f"{name!r} is not an observer of {consortium.card.name!r}. Its observers: {known}."
        ) from None
    return path


def asking(observer: Identity, consortium: str, path: str, now: float | None = None) -> str:
    """An observer's request to read `path` at the consortium of this id, in hexadecimal."""
    issued, body = int(time.time() if now is None else now), _wanted(consortium, path)
    said = Statement(READING, issued, issued, issued + _ASKED_SECONDS, body)
    return Signed.sign(said, observer).to_hex()


def observer_of(consortium: Consortium, path: str, asked: str, now: float) -> str:
    """Who asks to read `path`; ``NotAllowed`` unless the operator granted that, and it holds now."""
    try:
        request = Signed.from_hex(asked)
        for grant_ in _granted(consortium, now):
            if request.is_by(grant_.key):
                said = request.opened(READING, grant_.key)
                wanted = _wanted(consortium.card.id, path)
                if said.body == wanted and not check_time(said, now):
                    return grant_.name
    except (ValueError, ProtocolError):
        pass
    raise NotAllowed("This key may not read this, or the request is too old: compare the clocks.")


def read(consortium: Consortium, path: str) -> Any:
    """What an observer reads at `path`: /runs, /runs/NAME or /runs/NAME/report."""
    store, parts = Store(consortium.database), path.strip("/").split("/")
    if parts == ["runs"]:
        return [asdict(run) for run in store.runs()]
    run = next((run for run in store.runs() if parts[:2] == ["runs", run.name]), None)
    if run is None or parts[2:] not in ([], ["report"]):
        raise RunFolderError(f"There is no {path!r:.120}: /runs, /runs/NAME or /runs/NAME/report")
    if not parts[2:]:
        return {**asdict(run), "events": [event for _, _, event in store.events(run.name)]}
    files = [consortium.runs / run.name / name for name in _REPORTS]
    return {file.name: json.loads(file.read_bytes()) for file in files if file.is_file()}


def _wanted(consortium: str, path: str) -> bytes:
    """What a request says. With the consortium in it, who gets one can use it nowhere else."""
    return f"{consortium} {path}".encode()


def key_of(consortium: Consortium, name: str) -> str | None:
    """The key (hexadecimal) with which an observer of this name may read now; None if there is none."""
    held = [one for one in _granted(consortium, time.time()) if one.name == name]
    return held[0].key.hex() if held else None


def _granted(consortium: Consortium, now: float) -> list[Grant]:
    """What the operator's key of today granted, and holds."""
    found, key = [], consortium.card.operator_key_bytes
    for path in sorted(_folder(consortium).glob("*.grant")):
        try:
            said = Signed.from_hex(path.read_text(encoding="ascii")).opened(GRANT, key)
            grant_ = Grant.from_bytes(said.body)
        except (OSError, ValueError, ProtocolError):
            continue
        if not check_time(said, now) and grant_.consortium == consortium.card.id:
            found.append(grant_)
    return found


def _folder(consortium: Consortium) -> Path:
    return consortium.path / "observers"
