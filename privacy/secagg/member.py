"""A member's side of a slot: pure functions from a state and a request to a state and a reply.

Nothing here reads a clock, a file or the network. A refused request raises ``ProtocolError`` and
changes nothing, because the state is a value and the new one is only returned with the reply. The
caller must store the new state durably *before* the reply leaves (``participant.Participant``).

What a member holds on to, whatever the server says: its roster and limits, thresholds that it
computes itself, one prekey, one vector, one set of survivors and one kind of share per slot, and
slots that only count upwards.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ...errors import ProtocolError
from . import shamir
from .checks import Checks, circle_seed, sha
from .keys import Identity, agree, derive, new_private_key, public_key, seal, unseal
from .masks import KEY_BYTES, Mask, Words, add_masks, digest_of
from .messages import (
    OF_KEY,
    OF_SEED,
    Commit,
    CommitRequest,
    Confirmation,
    ConfirmRequest,
    Manifest,
    Nonce,
    NonceRequest,
    Prekey,
    PrekeyReply,
    PrekeyRequest,
    Reveal,
    RevealedShare,
    RevealReply,
    RevealRequest,
    SealedShares,
    Signed,
    Slot,
    Survivors,
    Upload,
    UploadRequest,
)
from .parameters import neighbours
from .repeats import check_naming, check_repeat, masked_in, with_naming
from .roster import Roster
from .second import bound
from .state import (
    COMMITTED,
    CONFIRMED,
    NONCE,
    PREKEY,
    REVEALED,
    UPLOADED,
    Secrets,
    State,
)


def pair_key(shared: bytes, manifest: bytes, one: str, other: str) -> bytes:
    """Key of the mask between two members.

    Their names are in it: a member that publishes another's public key in other bytes, or its inverse
    on the curve, agrees on the same secret with everybody, but not on the same mask.
    """
    names = (name.encode() for name in sorted((one, other)))
    return derive(shared, KEY_BYTES, "pair", manifest, *names)


class Member(Checks):
    """One data owner in a run. Methods are the transitions; the object holds no state of a slot.

    It only remembers what it has just found, so that the same is not verified or agreed on twice.
    """

    def __init__(
        self,
        name: str,
        identity: Identity,
        roster: Roster,
        *,
        entropy: Callable[[int], bytes] = os.urandom,
        threads: int = 1,
    ) -> None:
        super().__init__(name, identity, roster)
        self._entropy = entropy
        self._threads = threads
        self._checked: tuple[tuple[bytes, ...], dict[str, bytes]] = ((), {})

    def commit(self, state: State, request: bytes) -> tuple[State, bytes]:
        """Enter a slot of a large cohort: a commitment to a nonce."""
        slot = CommitRequest.from_bytes(request).slot
        entered = self._enter(state, slot)
        if not self._needs_circle(slot):
            raise self._refuse("phase", "a cohort of this size has no circle to order")
        nonce = self._entropy(32)
        body = Commit(self.name, slot.digest(), hashlib.sha256(nonce).digest())
        reply = Signed.by(self.identity, body).to_bytes()
        return _with_reply(replace(entered, phase=COMMITTED, nonce=nonce), request, reply)

    def nonce(self, state: State, request: bytes) -> tuple[State, bytes]:
        """Show the nonce, once every member's commitment is fixed."""
        asked = NonceRequest.from_bytes(request)
        slot = self._in_phase(state, COMMITTED)
        if asked.slot != slot.digest():
            raise self._refuse("slot", "the commitments are for another slot")
        commits = self._from_all(asked.commits, Commit, slot.cohort)
        if any(commit.slot != asked.slot for commit in commits):
            raise self._refuse("slot", "a commitment is for another slot")
        if dict(zip(slot.cohort, commits, strict=True))[self.name].nonce != sha(state.nonce):
            raise self._refuse("nonce", "this member's own commitment was replaced")
        reply = Signed.by(self.identity, Nonce(self.name, asked.digest(), state.nonce)).to_bytes()
        return _with_reply(replace(state, phase=NONCE, commits=(asked,)), request, reply)

    def prekey(self, state: State, request: bytes) -> tuple[State, bytes]:
        """Make this slot's keys, and share both secrets out among the neighbours."""
        asked = PrekeyRequest.from_bytes(request)
        slot = asked.slot
        if self._needs_circle(slot):
            if self._in_phase(state, NONCE) != slot:
                raise self._refuse("slot", "the nonces are for another slot")
            self._check_nonces(state, asked)
        else:
            state = self._enter(state, slot)
            if asked.nonces:
                raise self._refuse("nonce", "a cohort of this size has no circle to order")
        state = with_naming(state, asked)
        numbers = self._thresholds(slot)
        near = neighbours(slot.cohort, numbers.degree, circle_seed(asked, numbers))[self.name]
        key = new_private_key(self._entropy(32))
        sealing = new_private_key(self._entropy(32))
        seed = shamir.random_element(self._entropy).to_bytes(32, "big")
        holders = [self.name, *near]
        points = [slot.cohort.index(name) + 1 for name in holders]
        seed_shares, key_shares = (
            dict(zip(holders, self._share(secret, numbers.shares, points), strict=True))
            for secret in (seed, key)
        )
        public, beside = public_key(key), public_key(sealing)
        boxes = []
        opener = X25519PrivateKey.from_private_bytes(sealing)
        for name in near:
            # Forgotten at once: who gets hold of an identity later cannot read what it sealed.
            fresh = agree(opener, self.roster.identity(name).agreement, name)
            box_key = self._sealing_key(slot, self.name, name, public, fresh)
            boxes.append(beside + seal(box_key, seed_shares[name] + key_shares[name], beside))
        sealed = SealedShares(tuple(near), tuple(boxes))
        body = Prekey(
            self.name,
            slot.digest(),
            asked.digest(),
            public,
            sha(seed),
            sealed.digest(),
            state.unrevealed,
            state.unconfirmed,
            asked.naming,
        )
        signed = Signed.by(self.identity, body)
        secrets = Secrets(key, seed, key_shares[self.name], seed_shares[self.name])
        following = replace(
            state, phase=PREKEY, request=(asked,), prekey=sha(signed.body), secrets=(secrets,)
        )
        return _with_reply(following, request, PrekeyReply(signed, sealed).to_bytes())

    def check_upload(self, state: State, request: bytes, context: bytes) -> Manifest:
        """Everything that must hold before data is touched. Gives the manifest.

        `context` is the member's own hash of what it was asked to compute; a manifest of another one
        is refused.
        """
        asked = UploadRequest.from_bytes(request)
        keys = self._check_upload(state, asked, context)
        self._checked = (self._question(state, request, context), keys)
        return asked.manifest

    def check_repeat(
        self, state: State, request: bytes, what: bytes, groups: Sequence[Sequence[str]] = ()
    ) -> None:
        """Whether the kept content of `what` may be masked in this slot; refuses if not.

        Its request passed ``check_upload`` before. `groups` are those in which its sum is opened once
        more to name one of them, if the owner allows that.
        """
        asked = UploadRequest.from_bytes(request)
        if groups:
            check_naming(self.name, self.roster, state, asked, what, groups)
        else:
            check_repeat(self.name, self.roster, state, asked, what)

    def bind_second(self, state: State, request: bytes, what: bytes, question: bytes) -> State:
        """Hold on to the `question` of a second sum of what the kept content of `what` comes to, before
        that is computed; refuses if there may be none."""
        return bound(self.roster, state, UploadRequest.from_bytes(request), what, question)

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
        """Mask `words`, uint32[layout.length], in place, and sign for the masked vector.

        `what` says that the kept content is among them, which is refused if it must not be, and
        `groups` that it is to name one of them (``check_repeat``). `second`: they are what that content
        comes to under this question, in a second sum (``second.bound``).
        """
        asked = UploadRequest.from_bytes(request)
        question, keys = self._checked
        if question != self._question(state, request, context):
            keys = self._check_upload(state, asked, context)
        manifest = asked.manifest
        kept = state.kept
        if second:
            kept = bound(self.roster, state, asked, what, second).kept
        elif what:
            self.check_repeat(state, request, what, groups)
            kept = (masked_in(kept[0], manifest, named=bool(groups)),)
        if words.shape != (manifest.layout.length,):
            raise self._refuse("vector", f"it should have {manifest.layout.length} words")
        hash_ = manifest.digest()
        add_masks(words, self._masks(state, hash_, keys), self._threads)
        vector = digest_of(words)
        reply = Signed.by(self.identity, Upload(self.name, hash_, vector)).to_bytes()
        following = replace(
            state,
            phase=UPLOADED,
            manifest=(manifest,),
            keys=tuple(keys.values()),
            vector=vector,
            whole=bool(second or groups),
            kept=kept,
            before=(),
            revealed=b"",
        )
        return _with_reply(following, request, reply)

    def confirm(self, state: State, request: bytes) -> tuple[State, bytes]:
        """Fix the survivors of this slot, and say so to all others."""
        asked = ConfirmRequest.from_bytes(request)
        self._in_phase(state, UPLOADED)
        manifest = state.manifest[0]
        if asked.manifest != manifest.digest():
            raise self._refuse("manifest", "the uploads are for another manifest")
        names = self._survivors(state, asked.uploads)
        survivors = Survivors(asked.manifest, names)
        kept = tuple(
            replace(each, summed=names) if manifest.slot in each.slots else each
            for each in state.kept
        )
        body = Confirmation(self.name, asked.manifest, survivors.digest())
        reply = Signed.by(self.identity, body).to_bytes()
        following = replace(
            state,
            phase=CONFIRMED,
            survivors=(survivors,),
            unconfirmed=state.number + 1,
            kept=kept,
        )
        return _with_reply(following, request, reply)

    def reveal(self, state: State, request: bytes) -> tuple[State, bytes]:
        """One share of each neighbour's secrets: the seed of a survivor, the key of a dropout.

        The slot's secrets are forgotten. With the request may come the next slot's.
        """
        asked = RevealRequest.from_bytes(request)
        survivors = self._agreed_survivors(state, asked)
        shares, unreadable = self._open_shares(state, asked, set(survivors.names))
        body = Reveal(self.name, survivors.manifest, survivors.digest(), shares, unreadable)
        signed = Signed.by(self.identity, body)
        after = state.number + 1
        following = replace(
            state,
            phase=REVEALED,
            secrets=(),
            survivors=(survivors,),
            unrevealed=after,
            unconfirmed=after,
        )
        self._forget()
        replies: tuple[PrekeyReply, ...] = ()
        if asked.following:
            following, prekey = self.prekey(following, asked.following[0].to_bytes())
            following = replace(following, before=state.replies, revealed=state.vector)
            replies = (PrekeyReply.from_bytes(prekey),)
        return _with_reply(following, request, RevealReply(signed, replies).to_bytes())

    def _enter(self, state: State, slot: Slot) -> State:
        """Leave the slot before for good, secrets and all."""
        if slot.run != state.run:
            raise self._refuse(
                "run", f"the slot is for run {slot.run!r}, but this is run {state.run!r}"
            )
        if slot.number <= state.number:
            raise self._refuse(
                "slot",
                f"slot {slot.number} is not after slot {state.number}, which this member "
                "has already entered",
            )
        if slot.roster != self.roster.hash:
            raise self._refuse(
                "roster", "the slot is for another roster than the one that this member has"
            )
        if self.name not in slot.cohort:
            raise self._refuse("cohort", "this member is not in it")
        for name in slot.cohort:
            self.roster.identity(name)
        self._check_size(len(slot.cohort), slot, "cohort")
        self._forget()
        return State(
            state.run,
            slot=(slot,),
            unrevealed=state.unrevealed or slot.number,
            unconfirmed=state.unconfirmed or slot.number,
            kept=state.kept,
        )

    def _share(self, secret: bytes, threshold: int, points: list[int]) -> list[bytes]:
        shares = shamir.share(int.from_bytes(secret, "big"), threshold, points, self._entropy)
        return [value.to_bytes(shamir.SHARE_BYTES, "big") for value in shares]

    def _sealing_key(
        self, slot: Slot, dealer: str, recipient: str, prekey: bytes, fresh: bytes
    ) -> bytes:
        """Known to dealer and recipient, and of this slot only.

        The secret of the two identities says who sealed, the `fresh` one keeps it from being found
        again when the dealer has forgotten it.
        """
        other = recipient if dealer == self.name else dealer
        shared = self.identity.agree(self.roster.identity(other).agreement, other)
        names = (dealer.encode(), recipient.encode())
        return derive(shared + fresh, 32, "share", slot.digest(), *names, prekey)

    def _unsealed(self, slot: Slot, dealer: str, prekey: bytes, sealed: bytes) -> bytes | None:
        """A share of the dealer's seed and one of its key; None if it is not what a dealer seals."""
        beside, box = sealed[:32], sealed[32:]
        try:
            fresh = self.identity.agree_once(beside, dealer)
        except ProtocolError:
            return None
        key = self._sealing_key(slot, dealer, self.name, prekey, fresh)
        plain = unseal(key, box, beside)
        if plain is None or len(plain) != 2 * shamir.SHARE_BYTES:
            return None
        halves = plain[: shamir.SHARE_BYTES], plain[shamir.SHARE_BYTES :]
        return plain if all(int.from_bytes(half, "big") < shamir.P for half in halves) else None

    def _masks(self, state: State, manifest: bytes, keys: dict[str, bytes]) -> list[Mask]:
        """The self mask, and one for each neighbour, whose sign is the other way round there."""
        secrets = state.secrets[0]
        masks = [(derive(secrets.seed, KEY_BYTES, "self", manifest), 1)]
        for name, key in keys.items():
            sign = 1 if self.name < name else -1
            shared = self._agree(secrets.key, key, name)
            masks.append((pair_key(shared, manifest, self.name, name), sign))
        return masks

    def _open_shares(
        self, state: State, asked: RevealRequest, survivors: set[str]
    ) -> tuple[tuple[RevealedShare, ...], tuple[str, ...]]:
        manifest, slot = state.manifest[0], state.slot[0]
        dealers = [name for name in self._near(state) if name in manifest.members]
        if list(asked.senders) != dealers:
            raise self._refuse("share", "not one sealed share of each neighbour")
        secrets = state.secrets[0]
        shares = {self.name: RevealedShare(self.name, OF_SEED, secrets.seed_share)}
        unreadable = []
        for dealer, prekey, sealed in zip(dealers, state.keys, asked.sealed, strict=True):
            plain = self._unsealed(slot, dealer, prekey, sealed)
            if plain is None:
                unreadable.append(dealer)
                continue
            kind = OF_SEED if dealer in survivors else OF_KEY
            part = plain[: shamir.SHARE_BYTES] if kind == OF_SEED else plain[shamir.SHARE_BYTES :]
            shares[dealer] = RevealedShare(dealer, kind, part)
        return tuple(shares[name] for name in sorted(shares)), tuple(unreadable)

    def _question(self, state: State, request: bytes, context: bytes) -> tuple[bytes, ...]:
        """All that the outcome of ``_check_upload`` depends on."""
        return (bytes([state.phase]), state.prekey, sha(request), context)


def _with_reply(state: State, request: bytes, reply: bytes) -> tuple[State, bytes]:
    return state.recorded(request, reply), reply
