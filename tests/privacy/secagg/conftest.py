"""A whole cohort without a network: real keys, real journals, every trip a function call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from umbel.errors import ProtocolError
from umbel.privacy.noise.scale import Scale
from umbel.privacy.randomness import SecretStream
from umbel.privacy.secagg.aggregator import Aggregator
from umbel.privacy.secagg.collecting import Purpose
from umbel.privacy.secagg.fixed_point import Contribution, Layout, Total, encode
from umbel.privacy.secagg.keys import Identity
from umbel.privacy.secagg.masks import Words
from umbel.privacy.secagg.member import Member
from umbel.privacy.secagg.messages import PrekeyReply, PrekeyRequest, Slot
from umbel.privacy.secagg.participant import Participant
from umbel.privacy.secagg.roster import Entry, Limits, Roster, SignedRoster, open_roster

CONTEXT = b"c" * 32


@dataclass
class Cohort:
    """Members with everything they own, and the server's side of their slots.

    `member` and `aggregator` are the classes to use, so that a test can put a weakened one there.
    """

    folder: Path
    size: int = 5
    limits: Limits = field(default_factory=lambda: Limits(clip=8.0))
    member: type[Member] = Member
    aggregator: type[Aggregator] = Aggregator
    clip: float = 8.0
    run: str = "run"

    def __post_init__(self) -> None:
        self.names = [f"m{i:04d}" for i in range(self.size)]
        self.identities = {name: Identity(os.urandom(64)) for name in self.names}
        self.consortium = Identity(os.urandom(64))
        entries = tuple(Entry(name, self.identities[name].public) for name in self.names)
        roster = Roster(1, entries, self.limits, bytes(32))
        signed = SignedRoster.sign(roster, self.consortium).to_bytes()
        self.roster = open_roster(signed, self.consortium.public.signing)
        self.participants = {name: self.participant(name) for name in self.names}
        self.plain: dict[str, Words] = {}
        """What each member masked in the slot in progress."""

    def participant(self, name: str) -> Participant:
        """A member, as after a restart of its process."""
        member = self.member(name, self.identities[name], self.roster)
        return Participant(member, self.folder / name, self.run)

    def slot(self, number: int = 1, cohort: Sequence[str] | None = None) -> Slot:
        return Slot(self.run, number, self.roster.hash, tuple(cohort or self.names))

    def open_slot(self, number: int = 1, cohort: Sequence[str] | None = None) -> Aggregator:
        """A server at the beginning of a slot."""
        return self.aggregator(self.roster, self.slot(number, cohort))

    def send_prekeys(self, server: Aggregator, missing: Sequence[str] = ()) -> None:
        """The prekey trip, with the trips for nonces before it where the cohort is large."""
        cohort = server.slot.cohort
        if server.needs_nonces:
            for name in cohort:
                server.add_commit(name, self.ask(name, "commit", server.commit_request()))
            for name in cohort:
                server.add_nonce(name, self.ask(name, "nonce", server.nonce_request()))
        request = server.prekey_request.to_bytes()
        for name in cohort:
            if name not in missing:
                reply = PrekeyReply.from_bytes(self.ask(name, "prekey", request), name)
                server.add_prekey(name, reply)

    def close_prekeys(self, server: Aggregator, parameters: int = 7) -> None:
        server.close_prekeys(
            Purpose(CONTEXT, Layout(parameters, 2, 1), weight_cap=5, clip=self.clip)
        )

    def vector(self, server: Aggregator, seed: int) -> Words:
        """What a member would send in the clear: a seeded update, two counts, a loss, a weight."""
        layout = server._manifest.layout
        random = np.random.default_rng(seed)
        update = random.normal(0, 0.5, layout.parameters).astype(np.float32)
        part = Contribution([update], [seed, 1], [1.5 * seed], 1 + seed % 5)
        scale = Scale(len(server.slot.cohort), self.clip)
        return encode(part, layout, scale, 5, SecretStream.from_os().words)

    def upload(self, server: Aggregator, name: str, words: Words | None = None) -> None:
        """One member's upload trip."""
        request = server.upload_request(name)
        self.participants[name].check_upload(request, CONTEXT)
        words = self.vector(server, self.names.index(name)) if words is None else words
        self.plain[name] = words.copy()
        reply, masked = self.participants[name].upload(request, CONTEXT, words)
        server.add_upload(name, reply, masked)

    def upload_all(self, server: Aggregator, missing: Sequence[str] = ()) -> None:
        for name in server.members:
            if name not in missing:
                self.upload(server, name)
        server.close_uploads()

    def confirm_all(self, server: Aggregator, missing: Sequence[str] = ()) -> None:
        request = server.confirm_request()
        for name in server.survivors:
            if name not in missing:
                server.add_confirmation(name, self.ask(name, "confirm", request))
        server.close_confirmations()

    def reveal_all(
        self,
        server: Aggregator,
        missing: Sequence[str] = (),
        following: PrekeyRequest | None = None,
    ) -> dict[str, PrekeyReply]:
        """The reveal trip; the prekeys for the `following` slot that came with it."""
        prekeys = {}
        for name in server.revealers:
            if name not in missing:
                request = server.reveal_request(name, following)
                prekey = server.add_reveal(name, self.ask(name, "reveal", request))
                if prekey is not None:
                    prekeys[name] = prekey
        return prekeys

    def ask(self, name: str, trip: str, request: bytes) -> bytes:
        return self.participants[name].answer(trip, request)  # type: ignore[arg-type]

    def expected(self, server: Aggregator) -> Words:
        """The sum of what the survivors masked, modulo 2^32."""
        total = np.zeros(server._manifest.layout.length, dtype="<u4")
        for name in server.survivors:
            total += self.plain[name]
        return total

    def sum(self, number: int = 1, missing: Sequence[str] = (), parameters: int = 7) -> Total:
        """A whole slot, with members that drop out before their upload."""
        server = self.open_slot(number)
        self.send_prekeys(server)
        self.close_prekeys(server, parameters)
        self.upload_all(server, missing)
        if server.confirms:
            self.confirm_all(server)
        self.reveal_all(server)
        total = server.open()
        assert np.array_equal(server._sum, self.expected(server))
        return total


@pytest.fixture
def cohort(tmp_path) -> Callable[..., Cohort]:
    """Builds cohorts: ``cohort(size=5, limits=..., member=...)``; each in a folder of its own."""
    built: list[Cohort] = []

    def build(**named: object) -> Cohort:
        built.append(Cohort(tmp_path / f"cohort-{len(built)}", **named))  # type: ignore[arg-type]
        return built[-1]

    return build


@pytest.fixture(scope="session")
def weakened() -> ModuleType:
    """Variants of the protocol, each without one of its defences, and an attacker's tools."""
    from . import weakened as variants

    return variants


@pytest.fixture(scope="session")
def refused() -> Callable[..., AbstractContextManager[None]]:
    """``with refused(cohort, name, rule, peer)``: refused so, and the member remembers nothing new."""

    def memory(cohort: Cohort, name: str) -> bytes:
        with cohort.participants[name]._journal.turn() as turn:
            return turn.state.to_bytes()

    @contextmanager
    def expect(cohort: Cohort, name: str, rule: str, peer: str = "the server") -> Iterator[None]:
        before = memory(cohort, name)
        with pytest.raises(ProtocolError) as caught:
            yield
        assert (caught.value.rule, caught.value.peer) == (rule, peer)
        assert memory(cohort, name) == before

    return expect


def _all_kinds(base: type) -> set[type]:
    found = {kind for each in base.__subclasses__() for kind in _all_kinds(each)}
    return found | set(base.__subclasses__())


@pytest.fixture(scope="session")
def message_kinds() -> list[type]:
    """Every class that has a canonical encoding, by name."""
    from umbel.privacy.secagg import participant  # noqa: F401 - defines the journal's as well
    from umbel.privacy.secagg.encoding import Encoded

    found = {k for k in _all_kinds(Encoded) if k.__module__.startswith("umbel.privacy.secagg")}
    return sorted(found, key=lambda kind: kind.__name__)


@pytest.fixture(scope="session")
def message_of() -> Callable[..., object]:
    """Draws a valid message of a class: ``message_of(kind, random.Random(seed))``."""
    import typing
    from dataclasses import fields

    def value(hint: object, chance: object) -> object:
        least, most = 0, 4
        if typing.get_origin(hint) is typing.Annotated:
            hint, size = typing.get_args(hint)
            least, most = size.least, min(size.most, size.least + 4)
        if typing.get_origin(hint) is tuple:
            entry = typing.get_args(hint)[0]
            drawn = [value(entry, chance) for _ in range(chance.randint(least, most))]
            is_names = drawn and isinstance(drawn[0], str)
            return tuple(sorted(set(drawn)) if is_names else drawn)
        if hint is int:
            return chance.choice([1, 2, 3, chance.randrange(1, 2**53)])
        if hint is float:
            return chance.uniform(0.01, 0.49)
        if hint is bool:
            return chance.random() < 0.5
        if hint is bytes:
            return chance.randbytes(chance.randint(max(least, 1), max(most, 1)))
        if hint is str:
            return "".join(chance.choices("abcz019-äß文😀 ", k=chance.randint(1, 8)))
        return build(hint, chance)

    def build(kind: type, chance: object) -> object:
        hints = typing.get_type_hints(kind, include_extras=True)
        for _ in range(200):
            values = {each.name: value(hints[each.name], chance) for each in fields(kind)}
            for many, names in [
                ("shares", "recipients"),
                ("prekeys", "members"),
                ("sealed", "senders"),
            ]:
                if names in values and many in values:
                    cohort = values["slot"].cohort if "slot" in values else values[names]
                    size = min(len(cohort), len(values[many]))
                    values[names], values[many] = cohort[:size], values[many][:size]
            if kind.__name__ in ("Reveal", "Roster"):
                many, key = (
                    ("shares", "owner") if kind.__name__ == "Reveal" else ("members", "name")
                )
                once = {getattr(each, key): each for each in values[many]}
                values[many] = tuple(once[name] for name in sorted(once))
            if "minimum" in values:
                values["minimum"] += 2
            try:
                return kind(**values)
            except ValueError:
                continue
        raise AssertionError(f"no valid {kind.__name__} was drawn")

    return build


@pytest.fixture
def slots(cohort):
    """Slots of a small cohort with a watched member (``watched.Slots``)."""
    from .watched import Slots

    return lambda number=1, **named: Slots(cohort(size=4, **named), number)
