"""What owners say of how far they came, after a restart or an absence: no single one moves the others."""

import os

import pytest
from flwr.app import Message, RecordDict

from umbel.errors import MessageError
from umbel.flower import take_server_identity
from umbel.privacy.secagg.keys import Identity
from umbel.privacy.secagg.roster import Entry, Limits, Roster
from umbel.server.replies import readiness_of
from umbel.server.restored import agreed
from umbel.server.sums import SecureSums
from umbel.wire.requests import Readiness


def test_no_single_owner_names_a_round_or_a_slot_that_the_others_do_not_know():
    entries = tuple(Entry(name, Identity(os.urandom(64)).public) for name in "abc")
    for colluders in (0.0, 0.1):
        roster = Roster(1, entries, Limits(colluders=colluders), bytes(32))
        assert agreed([5, 5, 2**40], roster) == 5
        assert agreed([5, 5, 2**40], None) == 5
        assert agreed([5], roster) == agreed([5, 5, 0], roster) == 5
        sums = SecureSums(roster)
        sums.learn({"a": 5, "b": 5, "c": 5})
        # Away for a moment, and asked alone.
        sums.learn({"c": 2**40})
        assert sums.used == 5
        assert sums.open_slot("run", "abc").slot.number == 6


def test_what_an_owner_says_of_its_slots_and_rounds_has_bounds():
    take_server_identity(1)
    for slot, round_ in ((2**53 - 1, 0), (-1, 0), (0, 2**62), (0, -1)):
        said = Readiness("0.1.0", "c", "0" * 64, 100, 1.0, slot=slot, round=round_)
        reply = Message(
            RecordDict({"readiness": said.to_record()}), dst_node_id=1, message_type="query.prepare"
        )
        with pytest.raises(MessageError, match="what its data cannot have"):
            readiness_of(reply)
