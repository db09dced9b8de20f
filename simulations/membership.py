"""The consortium of a simulation: every virtual owner's keys, and the roster that they agree on.

They are in the run's folder, each owner's in a folder of its own below `owners`, as they would at the
owners' machines; what all of them hold lies beside it, in `consortium`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..client.secure import Membership
from ..job import EncryptionSpec
from ..planning.limits import secure_limits
from ..privacy.secagg.keys import Identity
from ..privacy.secagg.roster import Entry, Roster, SignedRoster, open_roster
from ..storage.files import write_unflushed


def found(owners: Path, names: Sequence[str], spec: EncryptionSpec) -> Roster:
    """Make the owners' keys and sign their roster, or read what an earlier process made."""
    shared = membership(owners, "")
    if not shared.roster.exists():
        identities = {name: Identity(os.urandom(64)) for name in names}
        for name, identity in identities.items():
            write_unflushed(
                membership(owners, name).identity, identity.to_secret_bytes(), secret=True
            )
        members = tuple(Entry(name, identities[name].public) for name in sorted(names))
        consortium = Identity(os.urandom(64))
        roster = Roster(1, members, secure_limits(spec), bytes(32))
        write_unflushed(shared.consortium, consortium.public.signing, secret=True)
        write_unflushed(
            shared.roster, SignedRoster.sign(roster, consortium).to_bytes(), secret=True
        )
    return open_roster(shared.roster.read_bytes(), shared.consortium.read_bytes())


def membership(owners: Path, name: str) -> Membership:
    """Where one virtual owner keeps its keys and journals."""
    own, shared = owners / name, owners.parent / "consortium"
    return Membership(
        name, own / "identity", shared / "public-key", shared / "roster", own / "journals"
    )
