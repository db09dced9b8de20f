"""What a member insists on before it answers, whatever the server says.

Every check raises ``ProtocolError``, which names the rule, and changes nothing. What it rests on is the
member's own: its roster and limits, thresholds that it computes itself, and the state of its slot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ...errors import ProtocolError
from ..noise.scale import Scale
from .keys import Identity, agree, hash_of, public_key
from .messages import (
    Body,
    Commit,
    Confirmation,
    Manifest,
    Nonce,
    Prekey,
    PrekeyRequest,
    RevealRequest,
    Signed,
    Slot,
    Survivors,
    Upload,
    UploadRequest,
)
from .parameters import Thresholds, fewest, fewest_in_a_row, neighbours, thresholds
from .roster import Roster
from .state import CONFIRMED, PHASES, PREKEY, UPLOADED, State

SERVER = "the server"


def circle_seed(request: PrekeyRequest, numbers: Thresholds) -> bytes:
    """What orders the circle of a large cohort: all nonces together. A complete graph has none."""
    return hash_of(*(signed.body for signed in request.nonces)) if numbers.circle else b""


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


class Checks:
    """The rules by which one member takes requests."""

    def __init__(self, name: str, identity: Identity, roster: Roster) -> None:
        if roster.identity(name) != identity.public:
            raise ProtocolError("roster", name, "the roster has different keys for this member")
        self.name = name
        self.identity = identity
        self.roster = roster
        self._agreed: dict[tuple[bytes, bytes], bytes] = {}
        self._own: tuple[bytes, X25519PrivateKey] | None = None

    def _check_upload(self, state: State, asked: UploadRequest, context: bytes) -> dict[str, bytes]:
        """Check an upload request whole; the public keys of the neighbours to mask with, by name."""
        manifest = asked.manifest
        slot = self._in_phase(state, PREKEY)
        if manifest.slot != slot or manifest.request != state.request[0].digest():
            raise self._refuse("slot", "the manifest is not for the slot in progress")
        self._check_limits(manifest)
        if manifest.context != context:
            raise self._refuse(
                "context", "the manifest is for another model, round or job than this request"
            )
        if (
            dict(zip(manifest.members, manifest.prekeys, strict=True)).get(self.name)
            != state.prekey
        ):
            raise self._refuse("prekey", "this member's own prekey is missing or was replaced")
        self._check_size(len(manifest.members), slot, "set of members with prekeys")
        keys = self._check_prekeys(state, asked)
        if len(keys) + 1 < self._thresholds(slot).shares:
            raise self._refuse("threshold", f"only {len(keys)} neighbours have a prekey")
        return keys

    def _check_limits(self, manifest: Manifest) -> None:
        limits, layout = self.roster.limits, manifest.layout
        members = len(manifest.slot.cohort)
        if manifest.clip > limits.clip:
            raise self._refuse("limits", f"a clip of {manifest.clip:g} is above {limits.clip:g}")
        if layout.length > limits.longest:
            raise self._refuse("limits", f"{layout.length} words are more than {limits.longest}")
        if not 0 < manifest.weight_cap * members < 2**32:
            raise self._refuse("limits", f"weights of {manifest.weight_cap} can overflow the sum")
        if manifest.confirm != limits.confirm:
            raise self._refuse(
                "limits", "the roster has a different rule for the confirmation trip"
            )
        try:
            Scale(members, manifest.clip)
        except ValueError as error:
            raise self._refuse("limits", str(error)) from None

    def _check_prekeys(self, state: State, asked: UploadRequest) -> dict[str, bytes]:
        """The neighbours' public keys, each one signed, of this slot, and unlike all others."""
        manifest = asked.manifest
        digests = dict(zip(manifest.members, manifest.prekeys, strict=True))
        wanted = [name for name in self._near(state) if name in digests]
        if len(asked.prekeys) != len(wanted):
            raise self._refuse(
                "prekey", f"{len(asked.prekeys)} prekeys for {len(wanted)} neighbours"
            )
        slot, request = manifest.slot.digest(), manifest.request
        seen = {public_key(state.secrets[0].key)}
        keys: dict[str, bytes] = {}
        for name, signed in zip(wanted, asked.prekeys, strict=True):
            prekey = self._open_prekey(signed, name)
            if prekey.slot != slot or prekey.request != request:
                raise ProtocolError("prekey", name, "its prekey is for another slot")
            if sha(signed.body) != digests[name]:
                raise ProtocolError(
                    "prekey", name, "its prekey differs from the one in the manifest"
                )
            if prekey.key in seen:
                raise ProtocolError("prekey", name, "another member has the same public key")
            self._agree(state.secrets[0].key, prekey.key, name)  # refuses points of low order
            seen.add(prekey.key)
            keys[name] = prekey.key
        return keys

    def _open_prekey(self, signed: Signed, name: str) -> Prekey:
        return signed.open(Prekey, self.roster, name)

    def _check_nonces(self, state: State, asked: PrekeyRequest) -> None:
        commits = state.commits[0]
        expected = commits.digest()
        nonces = self._from_all(asked.nonces, Nonce, asked.slot.cohort)
        for nonce, signed in zip(nonces, commits.commits, strict=True):
            commit = Commit.from_bytes(signed.body)
            if nonce.commits != expected or sha(nonce.nonce) != commit.nonce:
                raise ProtocolError(
                    "nonce", nonce.sender, "its nonce differs from the committed one"
                )

    def _from_all(
        self, signed: Sequence[Signed], kind: type[Body], names: Sequence[str]
    ) -> list[Body]:
        if len(signed) != len(names):
            raise self._refuse("cohort", f"not one {kind.__name__} of each member")
        return [one.open(kind, self.roster, name) for one, name in zip(signed, names, strict=True)]

    def _survivors(self, state: State, uploads: Sequence[Signed]) -> tuple[str, ...]:
        """The names of U2, from the signed uploads; a ``ProtocolError`` if it may not be opened."""
        manifest = state.manifest[0]
        hash_ = manifest.digest()
        names: list[str] = []
        for signed in uploads:
            upload = self._opened(state, signed, Upload)
            if upload.manifest != hash_:
                raise ProtocolError("upload", upload.sender, "its upload is for another manifest")
            if upload.sender not in manifest.members:
                raise ProtocolError("upload", upload.sender, "it uploaded without a prekey")
            if upload.sender == self.name and upload.vector != state.vector:
                raise self._refuse("upload", "this member's own upload was replaced")
            if names and upload.sender <= names[-1]:
                raise ProtocolError("upload", upload.sender, "it is out of order, or listed twice")
            names.append(upload.sender)
        self._check_survivors(state, names)
        return tuple(names)

    def _check_survivors(self, state: State, names: Sequence[str]) -> None:
        slot, request = state.slot[0], state.request[0]
        if self.name not in names:
            raise self._refuse("survivors", "this member uploaded and is left out")
        if state.whole and list(names) != list(slot.cohort):
            raise self._refuse("survivors", "it is summed whole, or not at all")
        self._check_size(len(names), slot, "set of survivors")
        numbers = self._thresholds(slot)
        if self._needs_circle(slot):
            seed = circle_seed(request, numbers)
            in_a_row = fewest_in_a_row(slot.cohort, names, numbers.degree, seed)
            if in_a_row < numbers.stretch:
                raise self._refuse(
                    "survivors",
                    f"only {in_a_row} of {numbers.degree // 2} members in a row survive; "
                    f"{numbers.stretch} are needed",
                )

    def _agreed_survivors(self, state: State, asked: RevealRequest) -> Survivors:
        """The survivors that a quorum has signed for."""
        slot = self._in_phase(state, CONFIRMED if self.roster.limits.confirm else UPLOADED)
        if not self.roster.limits.confirm:
            names = self._survivors(state, asked.evidence)
            if asked.survivors != Survivors(state.manifest[0].digest(), names):
                raise self._refuse("survivors", "they differ from those in the signed uploads")
            return asked.survivors
        survivors = state.survivors[0]
        if asked.survivors != survivors:
            raise self._refuse("survivors", "they differ from those that this member confirmed")
        expected = survivors.digest()
        signers: set[str] = set()
        for signed in asked.evidence:
            confirmation = self._opened(state, signed, Confirmation)
            sender = confirmation.sender
            if confirmation.manifest != survivors.manifest or confirmation.survivors != expected:
                raise ProtocolError("confirm", sender, "it confirmed another set")
            if sender not in survivors.names:
                raise ProtocolError("confirm", sender, "it is not a survivor itself")
            if sender in signers:
                raise ProtocolError("confirm", sender, "its confirmation occurs twice")
            signers.add(sender)
        quorum = self._thresholds(slot).quorum
        if len(signers) < quorum:
            raise self._refuse("threshold", f"{len(signers)} confirmations; {quorum} are needed")
        return survivors

    def _opened(self, state: State, signed: Signed, kind: type[Body]) -> Body:
        """A signed body. What this member signed itself in this slot needs no verifying."""
        data = signed.to_bytes()
        if any(record.reply == data for record in state.replies):
            return kind.from_bytes(signed.body, self.name)
        return signed.open(kind, self.roster)

    def _thresholds(self, slot: Slot) -> Thresholds:
        limits = self.roster.limits
        consortium = len(self.roster.members)
        return thresholds(len(slot.cohort), limits.colluders, limits.confirm, consortium)

    def _needs_circle(self, slot: Slot) -> bool:
        return self._thresholds(slot).circle

    def _check_size(self, size: int, slot: Slot, what: str) -> None:
        least = fewest(self._thresholds(slot), self.roster.limits)
        if size < least:
            raise ProtocolError(
                "threshold", SERVER, f"a {what} of {size} members; at least {least} are needed"
            )

    def _near(self, state: State) -> list[str]:
        """Neighbours, ascending, whether they sent a prekey or not."""
        slot, request = state.slot[0], state.request[0]
        numbers = self._thresholds(slot)
        return neighbours(slot.cohort, numbers.degree, circle_seed(request, numbers))[self.name]

    def _in_phase(self, state: State, phase: int) -> Slot:
        if state.phase != phase:
            raise self._refuse(
                "phase",
                f"this request comes after {PHASES[phase]!r}, but slot {state.number} is at "
                f"{PHASES[state.phase]!r}",
            )
        return state.slot[0]

    def _agree(self, private: bytes, public: bytes, name: str) -> bytes:
        """X25519 with a neighbour, computed once a slot."""
        pair = (private, public)
        if pair not in self._agreed:
            if self._own is None or self._own[0] != private:
                self._own = (private, X25519PrivateKey.from_private_bytes(private))
            self._agreed[pair] = agree(self._own[1], public, name)
        return self._agreed[pair]

    def _forget(self) -> None:
        """Let go of the secrets of a slot that is over."""
        self._agreed.clear()
        self._own = None

    def _refuse(self, rule: str, text: str) -> ProtocolError:
        return ProtocolError(rule, SERVER, text)
