"""Hostile messages by the thousand: every parser and every entry point refuses them, or keeps its word.

Each case is drawn from a fixed seed, so what fails fails again. A case fails on anything but a
``ProtocolError``, on a change of state that a refusal left behind, and on an accepted message after
which something is known that the honest message would not have told.
"""

from __future__ import annotations

import contextlib
import copy
import os
import random
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace

import numpy as np
import pytest

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

CONTEXT = b"c" * 32
ME, COLLUDER = "m0001", "m0002"
DEFAULT, FULL = 20_000, 100_000
SLOWEST = 5.0
"""Seconds that one message may take on the slowest machine; a parser takes microseconds."""


# Mutations of bytes.


def flip(data, chance, pool):
    for _ in range(chance.choice([1, 1, 1, 2, 8])):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return data


def cut(data, chance, pool):
    return data[: chance.randrange(len(data))]


def extend(data, chance, pool):
    return data + chance.randbytes(chance.choice([1, 4, 100]))


def drop(data, chance, pool):
    start = chance.randrange(len(data))
    return data[:start] + data[start + chance.choice([1, 4, 8, 32, 64]) :]


def repeat(data, chance, pool):
    start = chance.randrange(len(data))
    part = data[start : start + chance.choice([4, 32, 100])]
    return data[:start] + part * chance.choice([2, 3, 20]) + data[start:]


def huge_length(data, chance, pool):
    start = chance.randrange(len(data))
    value = chance.choice([2**32 - 1, 2**31, 2**24, 10_000, 10_001, 0])
    data[start : start + 4] = value.to_bytes(4, "big")
    return data


def odd_number(data, chance, pool):
    start = chance.randrange(len(data))
    value = chance.choice([0, 1, 2**53, 2**63, 2**64 - 1, 0x7FF0000000000000, 0x7FF8000000000000])
    data[start : start + 8] = value.to_bytes(8, "big")
    return data


def overwrite(data, chance, pool):
    """The same place of another message, often one of the same form."""
    other = chance.choice(pool)
    start = chance.randrange(len(data))
    length = chance.choice([4, 32, 64, 200])
    data[start : start + length] = other[start : start + length]
    return data


def splice(data, chance, pool):
    other = chance.choice(pool)
    return data[: chance.randrange(len(data))] + other[chance.randrange(len(other)) :]


def exchange(data, chance, pool):
    return bytearray(chance.choice(pool))


def noise(data, chance, pool):
    return bytearray(chance.randbytes(chance.choice([0, 1, 40, 300])))


def noise_after_tag(data, chance, pool):
    tag = 4 + int.from_bytes(data[:4], "big")
    return data[:tag] + chance.randbytes(chance.choice([0, 8, 200]))


BYTES = [
    flip,
    cut,
    extend,
    drop,
    repeat,
    huge_length,
    odd_number,
    overwrite,
    splice,
    exchange,
    noise,
    noise_after_tag,
]


def mutated(data: bytes, chance: random.Random, pool: list[bytes]) -> bytes:
    return bytes(chance.choice(BYTES)(bytearray(data or b"\0"), chance, pool))


# Mutations of fields: what still parses, and so gets further than the encoding.


class Values:
    """Values of every field type that occur in a set of messages."""

    def __init__(self, all_messages: list[Encoded]) -> None:
        self.by_type: dict[object, list[object]] = {}
        for message in all_messages:
            self._collect(message)

    def _collect(self, value: object) -> None:
        self.by_type.setdefault(shape(value), []).append(value)
        kind = kind_of(value.body) if isinstance(value, Signed) else None
        if kind is not None:
            self._collect(kind.from_bytes(value.body))
        if is_dataclass(value):
            for field in fields(value):
                self._collect(getattr(value, field.name))
        elif isinstance(value, tuple):
            for each in value:
                self._collect(each)

    def other(self, value: object, chance: random.Random) -> object:
        """Another value where this one was."""
        if isinstance(value, bool):
            return not value
        if isinstance(value, int):
            return chance.choice([0, 1, 2, value + 1, max(0, value - 1), 2**53, 2**64 - 1])
        if isinstance(value, float):
            return chance.choice([0.0, -1.0, value * 2, value / 2, 1e300, 5e-324, -0.0])
        known = self.by_type.get(shape(value), [value])
        if isinstance(value, bytes) and chance.random() < 0.4:
            return chance.choice([bytes(len(value)), b"\xff" * len(value), flipped(value, chance)])
        if isinstance(value, tuple) and value and chance.random() < 0.7:
            return some_other_tuple(value, chance, self)
        return chance.choice(known)


def flipped(value: bytes, chance: random.Random) -> bytes:
    return bytes(flip(bytearray(value), chance, [])) if value else value


def some_other_tuple(value, chance, values):
    entries = list(value)
    place = chance.randrange(len(entries))
    kind = chance.randrange(4)
    if kind == 0:
        del entries[place]
    elif kind == 1:
        entries.insert(place, entries[chance.randrange(len(entries))])
    elif kind == 2:
        chance.shuffle(entries)
    else:
        entries[place] = values.other(entries[place], chance)
    return tuple(entries)


def shape(value: object) -> object:
    if isinstance(value, tuple):
        return (tuple, shape(value[0]) if value else None)
    return (bytes, len(value)) if isinstance(value, bytes) else type(value)


def reshaped(message, chance, values, signers):
    """A copy with one field, at any depth, taken from elsewhere.

    A signed body may be changed and signed again by a member that colludes.
    """
    if isinstance(message, Signed) and chance.random() < 0.8:
        kind = kind_of(message.body)
        if kind is None:
            return message
        body = reshaped(kind.from_bytes(message.body), chance, values, signers)
        signer = chance.choice(signers)
        return Signed.by(signer, body)
    field = chance.choice(fields(message))
    value = getattr(message, field.name)
    deeper = [value] if isinstance(value, Encoded) else []
    if isinstance(value, tuple):
        deeper = [each for each in value if isinstance(each, Encoded)]
    if deeper and chance.random() < 0.75:
        old = chance.choice(deeper)
        new = reshaped(old, chance, values, signers)
        if isinstance(value, tuple):
            new = tuple(new if each is old else each for each in value)
    else:
        new = values.other(value, chance)
    return replace(message, **{field.name: new})


def kind_of(body: bytes) -> type[Encoded] | None:
    name = body[4 : 4 + int.from_bytes(body[:4], "big")].decode(errors="replace").rpartition(" ")[2]
    kind = getattr(messages, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, Encoded) else None


# Targets: an entry point with its honest message, and what must hold after a hostile one.


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


_worlds: dict[bool, World] = {}


@pytest.fixture
def world_of(cohort, monkeypatch) -> Callable[[bool], World]:
    """One for all tests here, for each of them leaves it as it was. Its keys are always the same."""

    def build(confirm: bool) -> World:
        if confirm not in _worlds:
            with monkeypatch.context() as patch:
                patch.setattr(os, "urandom", random.Random(0).randbytes)
                _worlds[confirm] = World(cohort, confirm)
        return _worlds[confirm]

    return build


@pytest.fixture
def world(world_of) -> World:
    return world_of(True)


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    """Nothing here cuts the power: what the disk keeps is the matter of the journal's own tests."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


def attack(world: World, count: int, seed: int) -> Counter[str]:
    """Feed hostile messages to every target in turn; how many were refused and accepted."""
    chance = random.Random(seed)
    found: Counter[str] = Counter()
    slow = [t for t in world.targets if "circle" in t.name or "participant" in t.name]
    # A message of a large cohort or a disk costs a hundred times as much as another.
    targets = [t for t in world.targets if t not in slow] * 10 + slow
    for number in range(count):
        target = targets[number % len(targets)]
        honest = target.honest.to_bytes()
        try:
            if chance.random() < 0.5:
                data = mutated(honest, chance, world.bytes)
            else:
                data = reshaped(target.honest, chance, world.values, world.signers).to_bytes()
        except ValueError:  # no message of ours: its bytes cannot be written
            data = mutated(honest, chance, world.bytes)
        if data == honest:
            data = data[:-1]
        begin = time.thread_time()
        try:
            outcome = target.feed(data)
        except Exception as error:
            if known_bug(error):
                outcome = "known bug"
            else:
                where = f"message {number} of seed {seed} to {target.name}: {data.hex()[:4000]}"
                raise AssertionError(where) from error
        assert time.thread_time() - begin < SLOWEST
        found[f"{target.name}: {outcome}"] += 1
        found[outcome] += 1
        found["total"] += 1
    return found


def known_bug(error: BaseException) -> bool:
    """A clip next to nothing; it has a test of its own beside the fixed point's."""
    return isinstance(error, OverflowError) and "infinity to integer" in str(error)


def attack_parsers(kinds, message_of, count: int, seed: int) -> Counter[str]:
    """Feed hostile bytes to ``from_bytes`` of every class."""
    chance = random.Random(seed)
    honest = [(kind, message_of(kind, chance).to_bytes()) for kind in kinds for _ in range(4)]
    pool = [data for _, data in honest]
    found: Counter[str] = Counter()
    for number in range(count):
        kind, data = honest[number % len(honest)]
        data = mutated(data, chance, pool)
        try:
            parsed = kind.from_bytes(data, "a peer")
        except ProtocolError as error:
            found["refused" if (error.rule, error.peer) == ("encoding", "a peer") else "odd"] += 1
        else:
            assert parsed.to_bytes() == data
            found["accepted"] += 1
        found["total"] += 1
    return found


def test_hostile_messages_crash_nothing_and_release_nothing(world, message_kinds, message_of):
    parsed = attack_parsers(message_kinds, message_of, DEFAULT // 2, seed=1)
    entered = attack(world, DEFAULT // 2, seed=2)
    print(parsed, entered)
    assert parsed["total"] + entered["total"] == DEFAULT
    assert parsed["refused"] > parsed["total"] // 2
    assert parsed["odd"] == 0
    assert entered["refused"] > 0.9 * (entered["total"] - entered["known bug"])
    names = {target.name for target in world.targets}
    assert all(entered[f"{name}: refused"] > 0 for name in names)


def test_hostile_messages_release_nothing_where_there_is_no_confirmation_trip(world_of):
    found = attack(world_of(False), 3000, seed=4)
    assert found["total"] == 3000
    assert found["member.reveal: refused"] > 100
    assert found["refused"] > 0.9 * (found["total"] - found["known bug"])


@pytest.mark.slow
def test_a_hundred_thousand_hostile_messages_crash_nothing_and_release_nothing(
    world, message_kinds, message_of
):
    total = Counter[str]()
    for seed in range(10, 14):
        total += attack_parsers(message_kinds, message_of, FULL // 8, seed)
        total += attack(world, FULL // 8 + 1, seed)
    print(total)
    assert total["total"] >= FULL
    assert total["refused"] > 0.7 * FULL
    assert total["odd"] == 0


def test_an_honest_message_is_accepted_by_every_target(world):
    """What is fuzzed is close enough to the real thing to be accepted when it is left alone."""
    for target in world.targets:
        assert target.feed(target.honest.to_bytes()) == "accepted", target.name


def test_a_vector_of_another_form_is_refused_even_with_its_honest_signature(world):
    server, before = world.before_upload, snapshot(world.before_upload)
    (target,) = [t for t in world.targets if t.name == "aggregator.add_upload"]
    for vector in world.odd_vectors:
        with pytest.raises(ProtocolError) as refused:
            server.add_upload(ME, target.honest.to_bytes(), vector)
        assert (refused.value.rule, refused.value.peer) == ("vector", ME)
        assert snapshot(server) == before


def test_messages_of_a_wrong_kind_are_refused_by_every_target(world):
    for target in world.targets:
        for message in world.pool:
            if type(message) is not type(target.honest):
                assert target.feed(message.to_bytes()) != "accepted", target.name


def test_no_length_makes_a_parser_reserve_memory(message_kinds, message_of):
    """The largest length at every place of a message; the peak stays near the message's own size."""
    chance = random.Random(3)
    cases = []
    for kind in message_kinds:
        data = message_of(kind, chance).to_bytes()
        for place in range(0, len(data) - 3, max(1, len(data) // 40)):
            for length in (2**32 - 1, 2**24, 10_000):
                forged = data[:place] + length.to_bytes(4, "big") + data[place + 4 :]
                cases.append((kind, forged))
    tracemalloc.start()
    try:
        for kind, forged in cases:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            with contextlib.suppress(ProtocolError):
                kind.from_bytes(forged)
            peak = tracemalloc.get_traced_memory()[1] - before
            assert peak < 200_000 + 20 * len(forged)
    finally:
        tracemalloc.stop()
    assert len(cases) > 2000


def test_a_long_message_of_nothing_is_refused_before_it_is_taken_apart(message_kinds):
    """A megabyte behind each tag: as many entries as it claims are never made."""
    for kind in message_kinds:
        tag = f"umbel secure aggregation 1 {kind.__name__}".encode()
        head = len(tag).to_bytes(4, "big") + tag
        for filler in (bytes(1 << 20), b"\xff" * (1 << 20)):
            with pytest.raises(ProtocolError):
                kind.from_bytes(head + filler)


def test_a_prekey_of_a_roster_member_outside_the_cohort_is_refused(cohort):
    members = cohort(size=5, limits=Limits(colluders=0.0))
    server = members.open_slot(1, members.names[:4])
    members.send_prekeys(server)
    stranger = members.names[4]
    reply = PrekeyReply.from_bytes(
        members.ask(ME, "prekey", server.prekey_request.to_bytes()), stranger
    )
    body = replace(messages.Prekey.from_bytes(reply.prekey.body), sender=stranger)
    forged = PrekeyReply(Signed.by(members.identities[stranger], body), reply.sealed)
    with pytest.raises(ProtocolError):
        server.add_prekey(stranger, forged)
    assert stranger not in server.members


def test_a_commitment_of_a_roster_member_outside_the_cohort_is_refused(cohort):
    members = cohort(size=105)
    server = members.open_slot(1, members.names[:104])
    stranger = members.names[104]
    body = messages.Commit(stranger, server.slot.digest(), bytes(32))
    reply = Signed.by(members.identities[stranger], body).to_bytes()
    with pytest.raises(ProtocolError):
        server.add_commit(stranger, reply)


def test_an_upload_after_the_survivors_are_fixed_is_refused(cohort):
    members = cohort(size=5, limits=Limits(colluders=0.0))
    server = members.open_slot()
    members.send_prekeys(server)
    members.close_prekeys(server)
    late = "m0003"
    request = server.upload_request(late)
    words = members.vector(server, 3)
    reply, masked = members.participants[late].upload(request, CONTEXT, words)
    members.upload_all(server, [late])
    with pytest.raises(ProtocolError):
        server.add_upload(late, reply, masked)


def test_a_prekey_after_the_manifest_is_fixed_is_refused(cohort):
    members = cohort(size=5, limits=Limits(colluders=0.0))
    server = members.open_slot()
    late = "m0003"
    members.send_prekeys(server, [late])
    members.close_prekeys(server)
    reply = members.ask(late, "prekey", server.prekey_request.to_bytes())
    with pytest.raises(ProtocolError):
        server.add_prekey(late, PrekeyReply.from_bytes(reply, late))
