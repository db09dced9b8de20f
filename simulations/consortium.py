"""The consortium of a simulation: every virtual owner's keys, and the roster that they agree on.

They lie in the run's folder, each owner's in its own, as they would at the owners' machines.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..client.secure import Membership
from ..encryption import secure_limits
from ..job import EncryptionSpec
from ..privacy.secagg.keys import Identity
from ..privacy.secagg.roster import Entry, Roster, SignedRoster, open_roster


def found(folder: Path, names: Sequence[str], spec: EncryptionSpec) -> Roster:
    """Make the owners' keys and sign their roster, or read what an earlier sitting made."""
    if not _roster(folder).exists():
        identities = {name: Identity(os.urandom(64)) for name in names}
        for name, identity in identities.items():
            _write(membership(folder, name).identity, identity.to_secret_bytes())
        members = tuple(Entry(name, identities[name].public) for name in sorted(names))
        consortium = Identity(os.urandom(64))
        roster = Roster(1, members, secure_limits(spec), bytes(32))
        _write(folder / "consortium", consortium.public.signing)
        _write(_roster(folder), SignedRoster.sign(roster, consortium).to_bytes())
    return open_roster(_roster(folder).read_bytes(), (folder / "consortium").read_bytes())


def membership(folder: Path, name: str) -> Membership:
    """Where one virtual owner keeps its keys and journals."""
    own = folder / name
    return Membership(
        name, own / "identity", folder / "consortium", _roster(folder), own / "journals"
    )


def _roster(folder: Path) -> Path:
    return folder / "roster"


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
