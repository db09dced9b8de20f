"""The protocol with one defence taken out at a time, and what an attacker does with the rest.

An attack that our members refuse must succeed against the variant that lacks the defence in
question; otherwise the test would not show what the defence is for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from umbel.errors import ProtocolError
from umbel.privacy.noise.scale import Scale
from umbel.privacy.secagg.aggregator import Aggregator
from umbel.privacy.secagg.encoding import Encoded, Names, Size
from umbel.privacy.secagg.journal import Journal, Turn, _file_key, _header, _Sealed, _Witness
from umbel.privacy.secagg.keys import agree, derive, unseal
from umbel.privacy.secagg.masks import KEY_BYTES, Mask, Words
from umbel.privacy.secagg.member import Member
from umbel.privacy.secagg.messages import (
    Manifest,
    Prekey,
    RevealedShare,
    RevealRequest,
    Signed,
    Slot,
    Survivors,
    UploadRequest,
)
from umbel.privacy.secagg.parameters import Thresholds, thresholds
from umbel.privacy.secagg.participant import Participant
from umbel.privacy.secagg.roster import Roster, SignedRoster
from umbel.privacy.secagg.state import CONFIRMED, State

from .attacker import Attacker, both_secrets, unmask  # noqa: F401 - the tools of each attack

FEW_BITS = 12
"""28 bits take a core some seconds to minutes to search; 12 show the same in no time."""


# Members without one of their defences.


def few_bits_key(bits: int, manifest: bytes) -> bytes:
    return derive(bits.to_bytes(4, "big"), KEY_BYTES, "few bits", manifest)


class FewBits(Member):
    """Its pair masks come from seeds of few bits, as where they are folded into an int32."""

    def _masks(self, state: State, manifest: bytes, keys: dict[str, bytes]) -> list[Mask]:
        own, *_ = super()._masks(state, manifest, {})
        pairs = []
        for name, key in keys.items():
            shared = int.from_bytes(agree(state.secrets[0].key, key, name), "big")
            seed = few_bits_key(shared % 2**FEW_BITS, manifest)
            pairs.append((seed, 1 if self.name < name else -1))
        return [own, *pairs]


class NoSignatures(Member):
    """Takes prekeys from the server's word, unsigned."""

    def _open_prekey(self, signed: Signed, name: str) -> Prekey:
        return Prekey.from_bytes(signed.body, name)


class NoOwnPrekey(Member):
    """Does not look for its own prekey in the manifest."""

    def _check_upload(self, state: State, asked: UploadRequest, context: bytes) -> dict[str, bytes]:
        of = dict(zip(asked.manifest.members, asked.manifest.prekeys, strict=True))
        return super()._check_upload(replace(state, prekey=of.get(self.name, b"")), asked, context)


class NoSignaturesAtAll(NoSignatures, NoOwnPrekey):
    """Takes any prekey for anybody's, its own included."""


class StalePrekeys(NoOwnPrekey):
    """Takes prekeys that were signed for an earlier slot, its own included."""

    def _open_prekey(self, signed: Signed, name: str) -> Prekey:
        prekey = super()._open_prekey(signed, name)
        slot, request = self.expected
        return replace(prekey, slot=slot, request=request)

    def _check_prekeys(self, state: State, asked: UploadRequest) -> dict[str, bytes]:
        self.expected = (asked.manifest.slot.digest(), asked.manifest.request)
        return super()._check_prekeys(state, asked)


class RepeatedKeys(Member):
    """Lets two members have one public key, and does not bind a pair's mask to its names."""

    def _check_prekeys(self, state: State, asked: UploadRequest) -> dict[str, bytes]:
        names = [name for name in self._near(state) if name in asked.manifest.members]
        signed = zip(names, asked.prekeys, strict=True)
        return {name: self._open_prekey(prekey, name).key for name, prekey in signed}

    def _masks(self, state: State, manifest: bytes, keys: dict[str, bytes]) -> list[Mask]:
        own, *_ = super()._masks(state, manifest, {})
        pairs = []
        for name, key in keys.items():
            shared = agree(state.secrets[0].key, key, name)
            sign = 1 if self.name < name else -1
            pairs.append((derive(shared, KEY_BYTES, "pair", manifest), sign))
        return [own, *pairs]


class HandsOver(Member):
    """Masks what it keeps in any slot, whatever became of those before."""

    def check_repeat(
        self, state: State, request: bytes, what: bytes, groups: Sequence[Sequence[str]] = ()
    ) -> None:
        pass


class BelievesStatements(Member):
    """Takes statements of earlier slots for true, as if nobody colluded."""

    def check_repeat(
        self, state: State, request: bytes, what: bytes, groups: Sequence[Sequence[str]] = ()
    ) -> None:
        asked = UploadRequest.from_bytes(request)
        prekeys = [Prekey.from_bytes(signed.body) for signed in asked.prekeys]
        stated = {p.sender: p.unrevealed for p in prekeys} | {self.name: state.unrevealed}
        for slot in state.kept[0].slots:
            numbers = self._thresholds(slot)
            silent = sum(stated.get(name, slot.number + 1) <= slot.number for name in slot.cohort)
            if silent < numbers.members - numbers.quorum + 1:
                raise ProtocolError("repeat", "the server", "too few statements")


class AnyPart(HandsOver):
    """Confirms any part of a group that is to be named, not only the whole."""

    def upload(
        self,
        state: State,
        request: bytes,
        context: bytes,
        words: Words,
        what: bytes = b"",
        groups: Sequence[Sequence[str]] = (),
        second: bytes = b"",
    ) -> tuple[State, bytes]:
        return super().upload(state, request, context, words, what)


class AnyCohort(Member):
    """Takes part in sums of any number of members."""

    def _thresholds(self, slot: Slot) -> Thresholds:
        found = super()._thresholds(slot)
        most = len(slot.cohort)
        return replace(found, quorum=min(found.quorum, most), shares=min(found.shares, most))

    def _check_size(self, size: int, slot: Slot, what: str) -> None:
        pass


class CountsTheCohort(Member):
    """Takes the tolerated share of colluders for one of each cohort, whoever picked it."""

    def _thresholds(self, slot: Slot) -> Thresholds:
        limits = self.roster.limits
        return thresholds(len(slot.cohort), limits.colluders, limits.confirm)


class GivenThreshold(Member):
    """Takes the threshold that the server would like: one."""

    def _thresholds(self, slot: Slot) -> Thresholds:
        return replace(super()._thresholds(slot), quorum=1, shares=1)


class AnyCohortAnyThreshold(AnyCohort, GivenThreshold):
    """Is told with how many others it takes part, and of how many shares a secret is made."""


class NoConfirmation(Member):
    """Reveals for the survivors that it is told of, whoever else was told so."""

    def _agreed_survivors(self, state: State, asked: RevealRequest) -> Survivors:
        return asked.survivors


class SecondThoughts(Member):
    """Confirms and reveals again where it is asked again, for other survivors."""

    def _in_phase(self, state: State, phase: int) -> Slot:
        return super()._in_phase(replace(state, phase=min(state.phase, phase)), phase)

    def reveal(self, state: State, request: bytes) -> tuple[State, bytes]:
        following, reply = super().reveal(state, request)
        return replace(following, secrets=state.secrets, phase=CONFIRMED), reply


@dataclass(frozen=True)
class TwoListsRequest(Encoded):
    """Survivors and dropouts as two lists, each of the server's choice."""

    survivors: Names
    dropouts: Names
    reveal: RevealRequest


@dataclass(frozen=True)
class TwoListsReply(Encoded):
    shares: Annotated[tuple[RevealedShare, ...], Size(0, 1000)]


class TwoLists(Member):
    """Gives a share of the seed for one list and of the key for another, and compares them not."""

    def reveal(self, state: State, request: bytes) -> tuple[State, bytes]:
        asked = TwoListsRequest.from_bytes(request)
        alive, _ = self._open_shares(state, asked.reveal, set(asked.survivors))
        gone, _ = self._open_shares(state, asked.reveal, set())
        shares = [share for share in alive if share.owner in asked.survivors]
        shares += [share for share in gone if share.owner in asked.dropouts]
        return state, TwoListsReply(tuple(shares)).to_bytes()


class NoOrder(Member):
    """Enters slots in any order, and the same one again."""

    def _enter(self, state: State, slot: Slot) -> State:
        return super()._enter(State(state.run), slot)


class MasksAgain(Member):
    """Masks another vector under the same keys where it is asked again."""

    def _in_phase(self, state: State, phase: int) -> Slot:
        return state.slot[0]


class OneSealingKey(Member):
    """Seals for a recipient under the key of their identities alone, the same in every slot."""

    def _sealing_key(
        self, slot: Slot, dealer: str, recipient: str, prekey: bytes, fresh: bytes
    ) -> bytes:
        other = recipient if dealer == self.name else dealer
        shared = self.identity.agree(self.roster.identity(other).agreement, other)
        return derive(shared, 32, "share", dealer.encode(), recipient.encode())


class StaticSealing(Member):
    """Seals shares under the secret of the two identities alone."""

    def _sealing_key(
        self, slot: Slot, dealer: str, recipient: str, prekey: bytes, fresh: bytes
    ) -> bytes:
        return super()._sealing_key(slot, dealer, recipient, prekey, bytes(32))


# Other parts without their defence.


def unbound_digest(manifest: Manifest) -> bytes:
    """A manifest's hash that leaves out what the members compute, and how they clip it."""
    bound = replace(manifest, context=bytes(32), clip=1.0)
    return hashlib.sha256(bound.to_bytes()).digest()


class RolledBack(Journal):
    """Takes a journal for the newest one because it can be opened."""

    def _matched(self, stored: Sequence[tuple[_Sealed, bytes]], known: bytes) -> Turn:
        witness, (sealed, digest) = _Witness.from_bytes(known), stored[0]
        plain = unseal(_file_key(witness.keys[0], sealed.salt), sealed.state, _header(sealed))
        assert plain is not None
        return Turn(self, State.from_bytes(plain), sealed.sequence, digest, witness.keys[0])


class RepliesFirst(Participant):
    """Lets the reply leave, and writes the journal when there is time: here never."""

    def upload(self, request: bytes, context: bytes, words: Words) -> tuple[bytes, Words]:
        with self._journal.turn() as turn:
            _, reply = self.member.upload(turn.state, request, context, words)
            return reply, words


class TrustsShares(Aggregator):
    """Takes what the shares give back for the secret, unchecked."""

    def _fits(self, owner: str, kind: int, secret: int) -> bool:
        return True


class Overflowing(Scale):
    """Fixed point with two bits more than the sum of all members has room for."""

    @property
    def bits(self) -> int:
        return super().bits + 2

    def __post_init__(self) -> None:
        pass


def any_epoch(data: bytes) -> Roster:
    """A roster by its signature alone, however old."""
    return SignedRoster.from_bytes(data).whole
