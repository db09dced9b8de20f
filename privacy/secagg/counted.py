"""Whether a member's update is in a sum: shown afterwards, by what the members of its slot signed.

A strategy can give an owner a state of its own, which goes on only with the updates that were counted. In
the slot itself a member learns who survived, but not if its connection was lost after the upload. So the
next request brings the confirmations of a quorum.

Guarantee: at most one set of survivors of a slot has a quorum of confirmations (``parameters``: two quorums
share an honest member, which confirms once). A set that is shown is so the only one whose sum can be opened.
It is not shown that the server did open it, nor that it took the model from it: a server that lies about
that spoils what is learned, as it could with any model that it sends. It learns nothing from it.

Assumptions: those of the package. Only with the confirmation trip; without it nothing fixes the survivors.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import ProtocolError
from .checks import SERVER
from .encoding import Digest, Encoded
from .messages import Confirmation, Manifest, Signed, SignedList, Survivors
from .parameters import thresholds
from .roster import Roster


@dataclass(frozen=True)
class Counted(Encoded):
    """The survivors of a slot, and who signed for them."""

    survivors: Survivors
    evidence: SignedList


@dataclass(frozen=True)
class Place(Encoded):
    """What a member keeps of a slot that it uploaded in, to check ``Counted`` by."""

    manifest: Digest
    roster: Digest
    quorum: int

    @classmethod
    def of(cls, manifest: Manifest, roster: Roster) -> Place:
        limits, cohort = roster.limits, len(manifest.slot.cohort)
        numbers = thresholds(cohort, limits.colluders, limits.confirm, len(roster.members))
        return cls(manifest.digest(), roster.hash, numbers.quorum)


def check_counted(name: str, roster: Roster, shown: bytes, places: tuple[Place, ...]) -> bool:
    """Whether `shown` shows that `name` is in one of the sums, as far as this `roster` can tell.

    places: of the slots that this very update was masked in. Raises ``ProtocolError`` (rule "counted") for
    what is not true. What members signed that have left the roster since, or have other keys, shows nothing:
    if too few others remain, it is False.
    """
    if not shown:
        raise _refuse("no confirmation came with the request")
    asked = Counted.from_bytes(shown)
    survivors = asked.survivors
    place = next((p for p in places if p.manifest == survivors.manifest), None)
    if place is None:
        raise _refuse("the update was in no such slot")
    if name not in survivors.names:
        raise _refuse("this member is not among the survivors")
    signers = {sender for one in asked.evidence if (sender := _signer(one, survivors, roster))}
    if len(signers & set(survivors.names)) >= place.quorum:
        return True
    if place.roster == roster.hash:
        raise _refuse(f"{len(signers)} confirmations; {place.quorum} are needed")
    return False


def _signer(signed: Signed, survivors: Survivors, roster: Roster) -> str | None:
    """Who confirmed the survivors with this signature; None if nobody of the roster."""
    try:
        said = signed.open(Confirmation, roster)
    except ProtocolError:
        return None
    same = said.manifest == survivors.manifest and said.survivors == survivors.digest()
    return said.sender if same else None


def _refuse(text: str) -> ProtocolError:
    return ProtocolError("counted", SERVER, f"it is not shown that the update was counted: {text}")
