"""An owner's part in secure sums: which keys, which roster, and one slot's upload."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import PlanRefused
from ..job import EncryptionSpec, Job
from ..planning.encryption import grid_refusals
from ..planning.limits import keeps_to
from ..planning.vector import Content
from ..privacy.noise.scale import Scale
from ..privacy.randomness import SecretStream
from ..privacy.secagg.counted import Place, check_counted
from ..privacy.secagg.fixed_point import Contribution, encode, largest_magnitude
from ..privacy.secagg.keys import Identity
from ..privacy.secagg.member import Member
from ..privacy.secagg.messages import Manifest
from ..privacy.secagg.participant import Participant, Trip
from ..privacy.secagg.roster import SignedRoster, open_kept, open_roster
from ..privacy.secagg.signed import check_time
from ..storage.files import write_durably
from ..wire.arrays import Arrays
from ..wire.packing import SECAGG, bytes_of, to_bytes_record
from ..wire.requests import COMMIT, CONFIRM, NONCE, PREKEY, REVEAL, Assignment
from .answers import job_of
from .policy import NotYet
from .run_files import of_run

if TYPE_CHECKING:
    from flwr.app import Message, RecordDict

TRIPS: dict[str, Trip] = {
    COMMIT: "commit",
    NONCE: "nonce",
    PREKEY: "prekey",
    CONFIRM: "confirm",
    REVEAL: "reveal",
}


@dataclass(frozen=True)
class Membership:
    """Where an owner keeps what secure sums need. Its files are the owner's alone.

    `identity` holds 64 secret bytes, `consortium` the 32 bytes of the pinned public key that signs
    rosters, and after it those of former ones, `roster` the newest roster. `journals` is a folder for one
    journal per run, `witness` one that a backup never holds (default: the same).
    """

    name: str
    identity: Path
    consortium: Path
    roster: Path
    journals: Path
    witness: Path | None = None

    def participant(self, run: str) -> Participant:
        return _participant(self, _member(self), run)

    def learn(self, signed: bytes, now: float | None = None) -> None:
        """Keep a newer roster of the same consortium; ``ProtocolError`` for any other bytes.

        The one that is known is kept until the newer one is here, or has been prolonged.
        """
        keys = self.keys
        known = self.roster.read_bytes() if self.roster.exists() else None
        if signed == known:
            return
        current = open_kept(known, keys) if known else None
        newer = open_roster(signed, keys[0], current)
        newer.identity(self.name)
        found = SignedRoster.from_bytes(signed)
        found.check_time(time.time() if now is None else now)
        if known and current and newer.hash == current.hash:
            counter = SignedRoster.from_bytes(known).roster.said.counter
            if found.roster.said.counter <= counter:
                return
        write_durably(self.roster, signed)

    @property
    def keys(self) -> list[bytes]:
        """The consortium's key that is pinned now, then former ones."""
        data = self.consortium.read_bytes()
        return [data[at : at + 32] for at in range(0, len(data), 32)]

    def check_lifetime(self, now: float) -> None:
        """Refuse (``NotYet``) to go by a roster that has ended.

        Guarantee: a member that was removed is in no sum with this owner after the end of the last roster
        that names it, whatever the server withholds. Assumes that this machine's clock is right.
        """
        if not self.roster.exists():
            return
        why = check_time(SignedRoster.from_bytes(self.roster.read_bytes()).roster.said, now)
        if why:
            raise NotYet(
                f"the roster that {self.name} has is not valid: {why}. The operator has to sign a new one: "
                "umbel sign roster"
            )

    def check(self, spec: EncryptionSpec) -> None:
        """Refuse (``PlanRefused``) a job whose encryption is not what the roster's members agreed on."""
        if not keeps_to(spec, _member(self).roster.limits):
            raise PlanRefused(
                f"{self.name}: the job's [encryption] differs from the consortium's roster"
            )


def participant_of(membership: Membership | None, name: str, job: Job, run: str) -> Participant:
    """A client's part in the secure sums of a run; ``PlanRefused`` if it can have none."""
    if membership is None:
        raise PlanRefused(f"{name} has no keys for secure aggregation")
    membership.check(job.encryption)
    return membership.participant(run)


def short_trip(
    membership: Membership | None, name: str, assignment: Assignment, message: Message
) -> RecordDict:
    """The answer to a trip of secure aggregation that needs no data: neither model nor records."""
    from flwr.app import RecordDict

    participant = participant_of(membership, name, job_of(assignment), assignment.run)
    reply = participant.answer(
        TRIPS[message.metadata.message_type], bytes_of(message.content, "request")
    )
    return RecordDict({SECAGG: to_bytes_record(reply=reply)})


def _member(membership: Membership) -> Member:
    """Read again whenever the roster is another one."""
    try:
        return _member_of(membership, membership.roster.read_bytes())
    except FileNotFoundError:
        raise PlanRefused(f"{membership.name} has no roster yet") from None


@lru_cache(maxsize=256)
def _member_of(membership: Membership, signed: bytes) -> Member:
    roster = open_kept(signed, membership.keys)
    return Member(membership.name, Identity(membership.identity.read_bytes()), roster)


@lru_cache(maxsize=256)
def _participant(membership: Membership, member: Member, run: str) -> Participant:
    journal = of_run(membership.journals, run)
    # Under the journal's name: the two belong together, whichever version made them.
    witness = membership.witness / journal.name if membership.witness else None
    return Participant(member, journal, run, witness)


class SecureUpload:
    """One request to train or test under secure aggregation, from its check to its masked vector."""

    def __init__(
        self,
        participant: Participant,
        request: bytes,
        context: bytes,
        content: Content,
        weight: int,
    ) -> None:
        """Check the request before any data is touched; ``ProtocolError`` if a rule is broken."""
        self.participant, self.request, self._context = participant, request, context
        found = participant.check_upload(request, context)
        self.known: tuple[bytes, bytes] | None = None
        """The answer that this same request got before."""
        if isinstance(found, Manifest):
            self._manifest = found
            if found.layout != content.layout or found.clip != content.clip:
                raise PlanRefused(
                    f"{participant.member.name}: the server asks for a different vector than the "
                    "job defines"
                )
            if weight > found.weight_cap:
                raise PlanRefused(
                    f"{participant.member.name} has weight {weight}, but the manifest allows "
                    f"{found.weight_cap}"
                )
            job, members = content.job, len(found.slot.cohort)
            if reasons := grid_refusals(job, found.clip, members, found.weight_cap):
                raise PlanRefused(f"{participant.member.name}: {reasons[0]}")
        else:
            self.known = found[0], found[1].tobytes()

    @property
    def place(self) -> Place:
        """By what it is shown later that this upload was counted."""
        return Place.of(self._manifest, self.participant.member.roster)

    def counts(self, shown: bytes, places: tuple[Place, ...]) -> bool:
        """Whether an earlier upload was counted (``privacy.secagg.counted``)."""
        member = self.participant.member
        return check_counted(member.name, member.roster, shown, places)

    def as_summed(self, update: Arrays) -> Arrays:
        """An update as the sum gets it: scaled down as a whole where it is beyond the clip."""
        peak = largest_magnitude(list(update.values()))
        if not peak > self._manifest.clip:
            return update
        factor = np.float32(self._manifest.clip / peak)
        return {name: array * factor for name, array in update.items()}

    @property
    def cohort(self) -> tuple[str, ...]:
        """Who is asked into the sum, ascending."""
        return self._manifest.slot.cohort

    @property
    def members(self) -> int:
        """How many are asked into the sum."""
        return len(self._manifest.slot.cohort)

    def send(
        self,
        part: Contribution,
        dither: SecretStream,
        what: bytes = b"",
        groups: Sequence[Sequence[str]] = (),
        question: bytes = b"",
    ) -> tuple[bytes, bytes]:
        """Mask the owner's part; the signed upload and the vector's bytes, journalled.

        `what` names the kept update that is in it, if any, and `groups` those of which it is to name
        one. `question`: the digest of what a second sum asks of that update.
        """
        manifest = self._manifest
        scale = Scale(len(manifest.slot.cohort), manifest.clip)
        words = encode(part, manifest.layout, scale, manifest.weight_cap, dither.words)
        reply, _ = self.participant.upload(
            self.request, self._context, words, what, groups, question
        )
        del words, _  # a vector can be as large as a model: hold it once
        return reply, self.participant.sent()
