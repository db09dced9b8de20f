"""Slots of Umbel's secure aggregation in one process: real keys and journals, no network."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import RecordDict
from secagg_meter import Meter, stages

from umbel.privacy.noise.scale import Scale
from umbel.privacy.randomness import SecretStream
from umbel.privacy.secagg import aggregator, collecting, journal, member, shamir
from umbel.privacy.secagg.aggregator import Aggregator
from umbel.privacy.secagg.collecting import Purpose
from umbel.privacy.secagg.fixed_point import Contribution, Floats32, Layout, Total, encode
from umbel.privacy.secagg.keys import Identity
from umbel.privacy.secagg.masks import Mask, Words, add_masks
from umbel.privacy.secagg.member import Member
from umbel.privacy.secagg.messages import Manifest, PrekeyReply, Slot
from umbel.privacy.secagg.participant import Participant
from umbel.privacy.secagg.roster import Entry, Limits, Roster
from umbel.privacy.secagg.state import State
from umbel.wire.packing import SECAGG, pieces_of, to_bytes_record

CONTEXT = b"c" * 32
WEIGHT, CAP, CLIP = 3, 5, 8.0
ON_THE_SERVER = ("hash_uploads", "combine", "unmask", "decode")


class Bystander:
    """A member that is not measured: no journal, and its vector goes up as it is, in the clear.

    It makes, checks, signs and reveals all that a member does; only the masks are left out, and are
    put into the running sum before that is opened (``Balanced.balance``). So one measured client in a
    cohort of a hundred does not cost the time of a hundred.
    """

    def __init__(self, name: str, identity: Identity, roster: Roster, run: str) -> None:
        self._member = _Unmasked(name, identity, roster)
        self._state = State(run)

    def answer(self, trip: str, request: bytes) -> bytes:
        self._state, reply = getattr(self._member, trip)(self._state, request)
        return reply

    def upload(self, request: bytes, context: bytes, words: Words) -> tuple[bytes, Words]:
        self._state, reply = self._member.upload(self._state, request, context, words)
        return reply, words


class _Unmasked(Member):
    def _masks(self, state: State, manifest: bytes, keys: dict[str, bytes]) -> list[Mask]:
        return []


class Balanced(Aggregator):
    """A server whose bystanders send unmasked vectors."""

    def balance(self, plain: Words) -> None:
        """Make the running sum what it were had the bystanders masked their vectors."""
        secrets = {key: self._reconstruct(*key) for key in self._wanted()}
        masks = [(key, -sign) for key, sign in self._unmasking(secrets)]
        add_masks(plain, masks, os.cpu_count() or 1)
        np.copyto(self._sum, plain)


class Slots:
    """A consortium whose first `measured` members are measured: the means over these are printed."""

    def __init__(self, members: int, folder: Path, measured: int = 1) -> None:
        self.names = [f"m{i:04d}" for i in range(members)]
        identities = {name: Identity(os.urandom(64)) for name in self.names}
        entries = tuple(Entry(name, identities[name].public) for name in self.names)
        self.roster = Roster(1, entries, Limits(), bytes(32))
        self.measured = self.names[:measured]
        self._number = 0
        self._server = self._open()
        self._following: dict[str, PrekeyReply] = {}
        """Prekeys of the slot to come, which rode on the reveals of the one before."""
        self.participants: dict[str, Participant | Bystander] = {
            name: Participant(Member(name, identities[name], self.roster), folder / name, "run")
            if name in self.measured
            else Bystander(name, identities[name], self.roster, "run")
            for name in self.names
        }

    def run(self, dropouts: int, update: Floats32, memory: bool = False) -> dict[str, Any]:
        """One slot; its figures. Raises ``TooFewMembers`` if the protocol refuses it."""
        meter = Meter(memory)
        if memory:
            tracemalloc.start()
        try:
            with stages(
                meter,
                {"server", *self.measured},
                quantise=(Slots, "encoded"),
                mask=(member, "add_masks"),
                share=(shamir, "share"),
                hash=(member, "digest_of"),
                prekeys=(Member, "_check_prekeys"),
                journal=(journal.Turn, "store"),
                hash_uploads=(collecting, "digest_of"),
                combine=(shamir, "combine"),
                unmask=(aggregator, "add_masks"),
                decode=(aggregator, "decode"),
            ) as timed:
                sent, held = self._drive(dropouts, update, meter)
        finally:
            tracemalloc.stop()
        active = [name for name in self.measured if name in held]
        if memory:
            vector = 4 * len(update)
            return {
                "client_peak_vectors": max(meter.peak[name] for name in active) / vector,
                "server_peak_vectors": meter.peak["server"] / vector,
            }
        return {
            "client_cpu_s": sum(meter.seconds[name] for name in active) / len(active),
            "server_cpu_s": meter.seconds["server"],
            "bytes_up": sum(sent[name] for name in active) / len(active),
            "stages": {
                name: stage.cpu / (1 if name in ON_THE_SERVER else len(active))
                for name, stage in timed.items()
            },
            "journal_wall_s": timed["journal"].wall / len(active),
            "measured": len(active),
        }

    def _drive(
        self, dropouts: int, update: Floats32, meter: Meter
    ) -> tuple[dict[str, int], list[str]]:
        """All trips, in order; bytes that each measured member sent, and the survivors.

        As in a run: with the reveal comes the prekey of the next slot. Who did not reveal is asked.
        """
        sent = dict.fromkeys(self.names, 0)

        def ask(name: str, trip: Any, request: bytes) -> bytes:
            with meter.of(name):
                reply = self.participants[name].answer(trip, request)
            sent[name] += len(reply)
            return reply

        with meter.of("server"):
            server, self._server = self._server, self._open()
            opening = server.prekey_request.to_bytes()
        for name in self.names:
            prekey = self._following.pop(name, None)
            if prekey is None:
                prekey = PrekeyReply.from_bytes(ask(name, "prekey", opening), name)
            with meter.of("server"):
                server.add_prekey(name, prekey)
        with meter.of("server"):
            server.close_prekeys(Purpose(CONTEXT, Layout(len(update), 2, 1), CAP, CLIP))
        plain, clear = self._uploads(server, dropouts, update, meter, sent)
        with meter.of("server"):
            server.close_uploads()
            confirming = server.confirm_request()
        for name in server.survivors:
            reply = ask(name, "confirm", confirming)
            with meter.of("server"):
                server.add_confirmation(name, reply)
        with meter.of("server"):
            server.close_confirmations()
        for name in server.revealers:
            with meter.of("server"):
                request = server.reveal_request(name, self._server.prekey_request)
            reply = ask(name, "reveal", request)
            with meter.of("server"):
                prekey = server.add_reveal(name, reply)
            assert prekey is not None
            self._following[name] = prekey
        if clear:
            server.balance(plain)
        del plain
        with meter.of("server"):
            total = server.open()
        self._check(total, server, update)
        return sent, server.survivors

    def _open(self) -> Balanced:
        self._number += 1
        slot = Slot("run", self._number, self.roster.hash, tuple(self.names))
        return Balanced(self.roster, slot)

    def _uploads(
        self,
        server: Balanced,
        dropouts: int,
        update: Floats32,
        meter: Meter,
        sent: dict[str, int],
    ) -> tuple[Words, bool]:
        """The upload trip; the sum of the vectors in the clear, and whether any was left so."""
        stay = self.names[: len(self.names) - dropouts]
        shared = Slots.encoded(update, len(self.names)) if len(stay) > len(self.measured) else None
        plain = np.zeros(len(update) + 2 + 4 + 3, dtype="<u4")
        for name in stay:
            with meter.of("server"):
                request = server.upload_request(name)
            person = self.participants[name]
            if isinstance(person, Participant):
                with meter.of(name):
                    assert isinstance(person.check_upload(request, CONTEXT), Manifest)
                    words = Slots.encoded(update, len(self.names))
                np.add(plain, words, out=plain)
                with meter.of(name):
                    reply, _ = person.upload(request, CONTEXT, words)
                    del words, _
                    # As the agent puts it into its message.
                    record = to_bytes_record(reply=reply, vector=person.sent())
            else:
                assert shared is not None
                np.add(plain, shared, out=plain)
                reply, _ = person.upload(request, CONTEXT, shared)
                record = to_bytes_record(reply=reply, vector=shared.tobytes())
            pieces = pieces_of(RecordDict({SECAGG: record}), "vector")
            length = sum(map(len, pieces))
            sent[name] += len(reply) + length
            with meter.of("server", received=length):
                words = [np.frombuffer(piece, dtype="<u4") for piece in pieces]
                server.add_upload(name, reply, *words)
            del record, pieces, words
        return plain, shared is not None

    def _check(self, total: Total, server: Balanced, update: Floats32) -> None:
        off = np.abs(total.mean[:1000] - update[:1000]).max()
        step = 2.0 ** -Scale(len(self.names), CLIP).bits * CAP / WEIGHT
        if total.members != len(server.survivors) or off > 2 * step:
            raise AssertionError(f"the opened mean is {off} off")

    @staticmethod
    def encoded(update: Floats32, members: int) -> Words:
        part = Contribution([update], [7, 1], [0.7], WEIGHT)
        layout = Layout(len(update), 2, 1)
        return encode(part, layout, Scale(members, CLIP), CAP, SecretStream.from_os().words)


def random_update(parameters: int) -> Floats32:
    """(parameters,) float32, normal, of the size of a usual update."""
    return np.random.default_rng(0).standard_normal(parameters, dtype=np.float32) * np.float32(0.1)
