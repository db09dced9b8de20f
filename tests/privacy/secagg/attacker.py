"""A server without scruples, and what it reads of a member whose secrets it has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from umbel.errors import ProtocolError
from umbel.privacy.secagg import shamir
from umbel.privacy.secagg.aggregator import Aggregator
from umbel.privacy.secagg.masks import Words, add_masks
from umbel.privacy.secagg.member import Member
from umbel.privacy.secagg.messages import (
    OF_KEY,
    OF_SEED,
    ConfirmRequest,
    Prekey,
    PrekeyReply,
    Reveal,
    RevealedShare,
    RevealReply,
    RevealRequest,
    Signed,
    Slot,
    Survivors,
)
from umbel.privacy.secagg.roster import Roster
from umbel.privacy.secagg.state import Secrets, State


class Attacker(Aggregator):
    """A server without scruples: checks nothing, keeps everything, opens what it can."""

    vectors: dict[str, Words]

    def __init__(self, roster: Roster, slot: Slot, *, minimum: int = 0, threads: int = 1) -> None:
        with contextlib.suppress(ProtocolError):  # of too small a cohort: checked last of all
            super().__init__(roster, slot, minimum=minimum, threads=threads)
        most = len(slot.cohort)
        quorum, shares = min(self._numbers.quorum, most), min(self._numbers.shares, most)
        self._numbers = replace(self._numbers, quorum=quorum, shares=shares)
        self.vectors = {}
        self.kept: dict[str, PrekeyReply] = {}

    def add_prekey(self, name: str, reply: PrekeyReply) -> None:
        self.kept[name] = reply
        self._prekeys[name] = (reply.prekey, Prekey.from_bytes(reply.prekey.body))
        pairs = zip(reply.sealed.recipients, reply.sealed.shares, strict=True)
        self._sealed[name] = dict(pairs)

    def add_upload(self, name: str, reply: bytes, words: Words) -> None:
        self.vectors[name] = words.copy()
        self._uploads[name] = Signed.from_bytes(reply)
        np.add(self._sum, words, out=self._sum)

    def _enough(self, found: Iterable[str], did: str) -> None:
        pass

    def close_confirmations(self) -> None:
        pass

    def _require(self, holds: bool, rule: str, peer: str, text: str) -> None:
        pass

    def confirm_request_for(self, names: Iterable[str]) -> bytes:
        """Tells a member of survivors of the server's choice."""
        return ConfirmRequest(self._hash, tuple(self._uploads[n] for n in names)).to_bytes()

    def reveal_request_for(
        self, name: str, survivors: Iterable[str], evidence: Iterable[Signed] = ()
    ) -> RevealRequest:
        """Asks a member for the shares that survivors of the server's choice call for."""
        asked = RevealRequest.from_bytes(self.reveal_request(name))
        named = Survivors(self._hash, tuple(survivors))
        return replace(asked, survivors=named, evidence=tuple(evidence))

    def keys(self, name: str) -> dict[str, bytes]:
        """Public keys of all others with a prekey."""
        return {n: prekey.key for n, (_, prekey) in self._prekeys.items() if n != name}

    def take(self, name: str, reply: bytes) -> None:
        """Keep the shares that a member revealed, whatever for."""
        reveal = Reveal.from_bytes(RevealReply.from_bytes(reply).reveal.body)
        self.keep(name, reveal.shares)

    def keep(self, name: str, shares: Iterable[RevealedShare]) -> None:
        for share in shares:
            of = self._shares.setdefault((share.owner, share.kind), {})
            of[self._points[name]] = int.from_bytes(share.share, "big")

    def secret(self, owner: str, kind: int, threshold: int) -> bytes:
        """A member's seed or key, from the shares that were kept."""
        shares = dict(list(self._shares[owner, kind].items())[:threshold])
        secret = shamir.combine(shares)
        assert self._fits(owner, kind, secret)
        return secret.to_bytes(32, "big")


def unmask(
    member: Member,
    server: Attacker,
    seed: bytes,
    key: bytes | None = None,
    others: Mapping[Member, bytes] | None = None,
) -> Words:
    """A member's vector without its masks: from its seed, and its own key or the keys of all others.

    The masks are those that the protocol itself derives from secrets.
    """
    words, manifest = server.vectors[member.name].copy(), server._hash
    own = key if key is not None else bytes(31) + b"\x40"
    keys = server.keys(member.name) if key is not None else {}
    masks = member._masks(_holding(own, seed), manifest, keys)
    add_masks(words, [(mask, -sign) for mask, sign in masks])
    for other, known in (others or {}).items():
        public = {member.name: server._prekeys[member.name][1].key}
        _, pair = other._masks(_holding(known, bytes(32)), manifest, public)
        add_masks(words, [pair])
    return words


def _holding(key: bytes, seed: bytes) -> State:
    return State("run", secrets=(Secrets(key, seed, bytes(32), bytes(32)),))


def both_secrets(server: Attacker, victim: Member, threshold: int) -> Words:
    """The victim's vector in the clear, from shares of both its secrets."""
    seed = server.secret(victim.name, OF_SEED, threshold)
    return unmask(victim, server, seed, server.secret(victim.name, OF_KEY, threshold))
