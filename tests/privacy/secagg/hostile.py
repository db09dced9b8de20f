"""Everyone whom hostile messages are sent to, each with the honest message, and what must not come of it."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from umbel.errors import ProtocolError
from umbel.privacy.secagg import journal, messages
from umbel.privacy.secagg.encoding import Encoded
from umbel.privacy.secagg.messages import (
    OF_SEED,
    CommitRequest,
    NonceRequest,
    PrekeyReply,
    Reveal,
    RevealReply,
    RevealRequest,
    Signed,
)
from umbel.privacy.secagg.roster import Limits, SignedRoster, open_roster

from .mutations import Values

CONTEXT = b"c" * 32
ME, COLLUDER = "m0001", "m0002"


@dataclass
class Target:
    name: str
    honest: Encoded
    feed: Callable[[bytes], str]
    """Gives "refused" or "accepted", and asserts what has to hold."""


class World:
    """A cohort at every stage of a slot, and the messages of two slots of it."""

    def __init__(self, build: Callable[..., object], confirm: bool = True) -> None:
        limits = Limits(colluders=0.2 if confirm else 0.0, confirm=confirm)
        self.members = with_known_keys(build(size=5, limits=limits))
        self.pool: list[Encoded] = []
        self.targets: list[Target] = []
        self.folder = self.members.folder / ME
        self.play(1, targets=False)
        self.play(2, targets=True)
        if confirm:
            self.circle()
            self.parsers()
        colluder = self.members.identities[COLLUDER]
        self.signers = [colluder, self.members.identities["m0004"]]
        self.values = Values(self.pool)
        self.bytes = [message.to_bytes() for message in self.pool]

    def play(self, number: int, targets: bool) -> None:
        """A whole slot, in which one member uploads nothing."""
        members = self.members
        server = members.open_slot(number)
        asked = server.prekey_request
        self.pool.append(asked)
        if targets:
            self.member_target("prekey", asked)
        replies = {}
        for name in members.names:
            reply = members.ask(name, "prekey", asked.to_bytes())
            replies[name] = PrekeyReply.from_bytes(reply)
        self.pool += list(replies.values())
        if targets:
            for who in (ME, COLLUDER):
                self.server_target("add_prekey", server, who, replies[who])
        for name, reply in replies.items():
            server.add_prekey(name, reply)
        members.close_prekeys(server)
        for name in members.names:
            self.pool.append(messages.UploadRequest.from_bytes(server.upload_request(name)))
        if targets:
            request = messages.UploadRequest.from_bytes(server.upload_request(ME))
            self.member_target("upload", request)
        before = copy.deepcopy(server)
        members.upload_all(server, ["m0003"])
        self.pool += list(server._uploads.values())
        if targets:
            self.upload_target(before)
        if server.confirms:
            self.play_confirmations(server, targets)
        following = members.open_slot(number + 5).prekey_request if targets else None
        for name in server.revealers:
            self.pool.append(RevealRequest.from_bytes(server.reveal_request(name)))
        asked = RevealRequest.from_bytes(server.reveal_request(ME, following))
        self.pool.append(asked)
        if targets:
            self.member_target("reveal", asked)
        before = copy.deepcopy(server)
        reveals = {}
        for name in server.revealers:
            reply = members.ask(name, "reveal", server.reveal_request(name))
            reveals[name] = RevealReply.from_bytes(reply)
            server.add_reveal(name, reply)
        self.pool += list(reveals.values())
        if targets:
            for who in (ME, COLLUDER):
                self.server_target("add_reveal", before, who, reveals[who])
        server.open()

    def play_confirmations(self, server, targets: bool) -> None:
        members = self.members
        asked = messages.ConfirmRequest.from_bytes(server.confirm_request())
        self.pool.append(asked)
        if targets:
            self.member_target("confirm", asked)
        before = copy.deepcopy(server)
        members.confirm_all(server)
        self.pool += list(server._confirmations.values())
        if targets:
            for who in (ME, COLLUDER):
                self.server_target("add_confirmation", before, who, server._confirmations[who])

    def stored(self) -> dict[str, bytes]:
        if not self.folder.exists():
            return {}
        return {p.name: p.read_bytes() for p in self.folder.iterdir() if p.name != "lock"}

    def put_back(self, stored: dict[str, bytes]) -> None:
        for path in self.folder.iterdir():
            if path.name != "lock" and path.name not in stored:
                path.unlink()
        for name, data in stored.items():
            (self.folder / name).write_bytes(data)

    def member_target(self, trip: str, honest: Encoded) -> None:
        """The watched member in the state in which it awaits this request: without a disk, and with."""
        member = self.members.participants[ME].member
        with self.members.participants[ME]._journal.turn() as turn:
            state = turn.state
        length = honest.manifest.layout.length if trip == "upload" else 0
        fixed = state.to_bytes()

        def ask(request: bytes):
            if trip == "upload":
                member.check_upload(state, request, CONTEXT)
                return member.upload(state, request, CONTEXT, np.zeros(length, "<u4"))
            return getattr(member, trip)(state, request)

        expected, reply = ask(honest.to_bytes())
        shares = shares_of(reply) if trip == "reveal" else {}
        own = state.secrets[0] if state.secrets else None

        def feed(request: bytes) -> str:
            try:
                after, said = ask(request)
            except ProtocolError:
                assert state.to_bytes() == fixed
                return "refused"
            assert after.run == state.run
            assert after.number >= state.number
            assert after.phase == expected.phase or trip == "reveal"
            if own is not None and trip != "reveal":
                assert not any(getattr(own, f.name) in said for f in fields(own))
            if trip == "reveal":
                told = shares_of(said)
                assert told.items() <= shares.items()  # no share but those of an honest slot
                assert own.key not in said
                assert own.seed not in said
                assert own.key_share not in said
            return "accepted"

        self.targets.append(Target(f"member.{trip}", honest, feed))
        before = self.stored()

        def feed_disk(request: bytes) -> str:
            stored = self.stored()
            if stored != before:
                self.put_back(before)
            participant = self.members.participants[ME]
            try:
                if trip == "upload":
                    participant.check_upload(request, CONTEXT)
                    participant.upload(request, CONTEXT, np.zeros(length, "<u4"))
                elif before and state.reply_to(request) == participant.answer(trip, request):
                    assert self.stored() == before
                    return "replayed"
                else:
                    participant.answer(trip, request)
            except ProtocolError:
                assert self.stored() == before
                return "refused"
            return "accepted"

        self.targets.append(Target(f"participant.{trip}", honest, feed_disk))

    def server_target(self, entry: str, server, who: str, honest: Encoded) -> None:
        pristine = copy.deepcopy(server)
        current = [copy.deepcopy(pristine)]
        before = snapshot(pristine)

        def feed(reply: bytes) -> str:
            try:
                message = PrekeyReply.from_bytes(reply, who) if entry == "add_prekey" else reply
                getattr(current[0], entry)(who, message)
            except ProtocolError:
                assert snapshot(current[0]) == before
                return "refused"
            assert snapshot(current[0]) != before
            current[0] = copy.deepcopy(pristine)
            return "accepted"

        self.targets.append(Target(f"aggregator.{entry} of {who}", honest, feed))

    def upload_target(self, server) -> None:
        """Signed uploads, with the vector that belongs to them or an odd one."""
        reply, masked = self.members.participants[ME].check_upload(
            server.upload_request(ME), CONTEXT
        )
        self.odd_vectors = odd = [
            masked[:-1],
            np.append(masked, masked[:1]),
            masked.astype("<u8"),
            masked.astype(">u4"),
            masked.view("<i4"),
            masked.reshape(1, -1),
            masked ^ np.uint32(1),
            masked.astype(np.float32),
            np.zeros(0, "<u4"),
        ]
        pristine = copy.deepcopy(server)
        current = [copy.deepcopy(pristine)]
        before = snapshot(pristine)

        def feed(data: bytes) -> str:
            vector = masked if data == reply or len(data) % 2 else odd[len(data) % len(odd)]
            try:
                current[0].add_upload(ME, data, vector)
            except ProtocolError:
                assert snapshot(current[0]) == before
                return "refused"
            assert data == reply
            current[0] = copy.deepcopy(pristine)
            return "accepted"

        self.before_upload = pristine
        self.targets.append(Target("aggregator.add_upload", Signed.from_bytes(reply), feed))

    def circle(self) -> None:
        """The trips for nonces, which only large cohorts have: a member of 104 and its server."""
        members = with_known_keys(type(self.members)(self.folder.parent.parent / "large", size=104))
        server = members.open_slot(1)
        member = members.participants[ME].member
        with members.participants[ME]._journal.turn() as turn:
            fresh = turn.state
        request = CommitRequest.from_bytes(server.commit_request())
        committed, own = member.commit(fresh, request.to_bytes())
        self.server_target("add_commit", server, ME, Signed.from_bytes(own))
        for name in members.names:
            answer = own if name == ME else members.ask(name, "commit", request.to_bytes())
            server.add_commit(name, answer)
        asked = NonceRequest.from_bytes(server.nonce_request())
        given, nonce = member.nonce(committed, asked.to_bytes())
        self.server_target("add_nonce", server, ME, Signed.from_bytes(nonce))
        for name in members.names:
            answer = nonce if name == ME else members.ask(name, "nonce", asked.to_bytes())
            server.add_nonce(name, answer)
        opening = server.prekey_request
        self.pool += [request, *asked.commits[:4], *opening.nonces[:4]]

        def pure(trip: str, state, honest: Encoded) -> None:
            def feed(data: bytes) -> str:
                try:
                    after, said = getattr(member, trip)(state, data)
                except ProtocolError:
                    return "refused"
                assert after.number >= state.number
                if trip == "commit":
                    assert after.nonce not in said
                return "accepted"

            self.targets.append(Target(f"member.{trip} of a circle", honest, feed))

        pure("commit", fresh, request)
        pure("nonce", committed, asked)
        pure("prekey", given, opening)

    def parsers(self) -> None:
        """The roster, and the journal's files."""
        members = self.members
        roster = SignedRoster.sign(members.roster, members.consortium)
        self.pool += [roster, members.roster]

        def open_(data: bytes) -> str:
            try:
                found = open_roster(data, members.consortium.public.signing, members.roster)
            except ProtocolError:
                return "refused"
            assert found == members.roster
            return "accepted"

        self.targets.append(Target("open_roster", roster, open_))
        stored = self.stored()
        newest = max(
            (name for name in stored if name.startswith("journal-")),
            key=lambda name: journal._Sealed.from_bytes(stored[name]).sequence,
        )
        for name, kind in ((newest, journal._Sealed), ("witness", journal._Witness)):
            honest = kind.from_bytes(stored[name])
            self.pool.append(honest)

            def load(data: bytes, name: str = name) -> str:
                self.put_back({**stored, name: data})
                with self.members.participants[ME]._journal.turn() as turn:
                    assert turn.state.secrets == ()
                return "accepted" if turn.state.phase else "refused"

            self.targets.append(Target(f"journal's {name}", honest, load))


def with_known_keys(members):
    """Slots' keys from a fixed seed as well, so that a case that fails can be had again."""
    for number, participant in enumerate(members.participants.values()):
        participant.member._entropy = random.Random(number).randbytes
    return members


def shares_of(reply: bytes) -> dict[tuple[str, int], bytes]:
    body = Reveal.from_bytes(RevealReply.from_bytes(reply).reveal.body)
    assert len({share.owner for share in body.shares}) == len(body.shares)
    own = next(share for share in body.shares if share.owner == body.sender)
    assert own.kind == OF_SEED
    return {(share.owner, share.kind): share.share for share in body.shares}


def snapshot(server) -> tuple[object, ...]:
    """Everything that a reply could have changed."""
    return (
        dict(server.faults),
        dict(server._commits),
        dict(server._nonces),
        dict(server._prekeys),
        {name: dict(sealed) for name, sealed in server._sealed.items()},
        dict(server._uploads),
        dict(server._confirmations),
        {key: dict(shares) for key, shares in server._shares.items()},
        set(server._revealed),
        server._sum.tobytes() if hasattr(server, "_sum") else b"",
    )
