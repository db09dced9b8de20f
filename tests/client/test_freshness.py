"""Orders and rosters end, and old ones do not come back: what a server replays or withholds, at an owner."""

import dataclasses
import re
import time

import pytest
from flwr.app import Message, RecordDict

from umbel.client.intake import Intake
from umbel.client.seen import SeenOrders
from umbel.consortium import lasting
from umbel.consortium.warrants import order_seconds, sign_job
from umbel.errors import LedgerError, PlanRefused, ProtocolError
from umbel.flower import stamp, take_server_identity
from umbel.privacy.secagg.roster import FOREVER, Roster, SignedRoster, open_roster
from umbel.privacy.secagg.signed import DAY, Signed, day
from umbel.server.orders import place
from umbel.simulations.rehearsal import set_up
from umbel.wire.requests import ASSIGNMENT, Assignment

BEYOND_ORDERS = "Unknown request"
"""What an agent says to a request of no kind, once it has found order and roster good."""


class Owner:
    def __init__(self, stage):
        self.stage, self.home = stage, stage.owners[0]
        self.time = time.time()

    def order(self, run):
        consortium, job = self.stage.consortium, self.stage.job
        return run, sign_job(
            consortium.operator,
            consortium.card.id,
            run,
            job.to_json(),
            counter=consortium.next_counter(),
            seconds=order_seconds(job),
        )

    def told(self, order, intake=None):
        """What the agent says to a server that brings this order; the agent starts anew each time."""
        take_server_identity(1)
        run, signature = order
        assignment = Assignment(
            "0.1.0", run, self.stage.job.to_json(), 0, 0, 1, signature=signature
        )
        content = RecordDict({ASSIGNMENT: assignment.to_record()})
        message = Message(content, dst_node_id=2, message_type="query.unknown")
        stamp(message)
        intake = intake or Intake(self.home, now=lambda: self.time)
        return intake.handle(message).error.reason


@pytest.fixture
def owner(job_of, tmp_path):
    return Owner(set_up(job_of(), tmp_path))


class Forgetful(SeenOrders):
    """Weakened: remembers no order."""

    def note(self, operator, said):
        pass


def test_an_order_that_was_withheld_is_not_taken_after_a_newer_one(owner, monkeypatch):
    withheld, newer = owner.order("first"), owner.order("second")
    assert BEYOND_ORDERS in owner.told(newer)
    assert "older than one that came before" in owner.told(withheld)
    home = type(owner.home)
    monkeypatch.setattr(home, "seen_orders", property(lambda h: Forgetful(h.path / "none.json")))
    assert BEYOND_ORDERS in owner.told(withheld)


def test_a_server_that_was_restored_goes_on_with_the_runs_that_it_knew(owner):
    first, second = owner.order("first"), owner.order("second")
    for order in (first, second, first, second):
        assert BEYOND_ORDERS in owner.told(order)
    again = owner.order("first")
    for order in (again, first):
        assert BEYOND_ORDERS in owner.told(order)


def test_a_signer_that_was_set_back_signs_nothing_that_looks_replayed(owner):
    assert BEYOND_ORDERS in owner.told(owner.order("first"))
    (owner.stage.consortium.path / "counter").unlink()
    assert BEYOND_ORDERS in owner.told(owner.order("second"))


def test_an_order_is_taken_until_it_ends_and_not_before_it_was_signed(owner):
    order = owner.order("first")
    lasts = order_seconds(owner.stage.job)
    for days, taken in ((-2, False), (0, True), (lasts // DAY, True), (lasts // DAY + 1, False)):
        owner.time = time.time() + days * DAY
        assert (BEYOND_ORDERS in owner.told(order)) == taken, days


def test_an_owner_that_cannot_tell_which_orders_came_takes_none(owner):
    order = owner.order("first")
    owner.home.seen_orders.path.write_text("[]")
    with pytest.raises(LedgerError, match="which orders came before"):
        owner.home.seen_orders.check("0" * 64, Signed.from_hex(order[1]).said, False, owner.time)
    assert BEYOND_ORDERS not in owner.told(order)


def test_after_its_end_nobody_goes_by_a_roster_whose_successor_the_server_withholds(owner):
    consortium, home, removed = owner.stage.consortium, owner.home, owner.stage.owners[-1].name
    home.membership.learn(consortium.roster())
    ends = consortium.roster_ends()
    order = owner.order("first")
    consortium.remove(removed)
    owner.time = ends - 1
    order = owner.order("second")
    fresh = dataclasses.replace(Signed.from_hex(order[1]).said, expires=FOREVER)
    order = "second", Signed.sign(fresh, consortium.operator).to_hex()
    assert BEYOND_ORDERS in owner.told(order)
    owner.time = ends + 1
    assert "the roster that" in owner.told(order)
    # Weakened: a roster without an end.
    key = consortium.card.consortium_key_bytes
    endless = SignedRoster.sign(
        open_roster(consortium.roster_of(consortium.epoch - 1), key), consortium.identity
    )
    home.roster.write_bytes(endless.to_bytes())
    assert BEYOND_ORDERS in owner.told(order)
    assert removed in open_roster(home.roster.read_bytes(), key).by_name


def test_a_roster_that_is_prolonged_is_the_same_one_and_an_end_is_never_set_back(owner):
    consortium, membership = owner.stage.consortium, owner.home.membership
    short = consortium.roster()
    membership.learn(short)
    consortium.prolong(365)
    long = consortium.roster()
    key = consortium.card.consortium_key_bytes
    assert open_roster(long, key).hash == open_roster(short, key).hash
    membership.learn(long)
    membership.learn(short)
    assert membership.roster.read_bytes() == long


def test_a_roster_that_has_ended_is_not_learned(owner):
    consortium, membership = owner.stage.consortium, owner.home.membership
    with pytest.raises(ProtocolError, match="ended on"):
        membership.learn(consortium.roster(), consortium.roster_ends() + 1)
    assert not membership.roster.exists()


def test_a_run_that_may_outlast_the_roster_is_refused_unless_it_can_be_prolonged(owner):
    consortium, job = owner.stage.consortium, owner.stage.job
    training = job.training.model_copy(update={"rounds": 300})
    cohort = job.cohort.model_copy(update={"deadline": 50_000.0})
    long = job.model_copy(update={"training": training, "cohort": cohort})
    with pytest.raises(PlanRefused, match=r"umbel sign roster .* --days"):
        place(consortium, long)
    assert not list(consortium.runs.iterdir())
    roster = Roster(9, (), consortium.limits, bytes(32))
    ends = int(time.time()) + 60
    signed = SignedRoster.sign(roster, consortium.identity, expires=ends)
    (consortium.path / "rosters" / "0009").write_bytes(signed.to_bytes())
    key = consortium.path / "consortium.key"
    kept = key.read_bytes()
    key.unlink()
    with pytest.raises(PlanRefused, match="outlast|may last"):
        place(type(consortium)(consortium.path), job)
    key.write_bytes(kept)
    place(type(consortium)(consortium.path), job)
    assert consortium.roster_ends() > ends


@pytest.mark.parametrize(
    ("hours", "words"), [(0.2, "an hour"), (5, "5 hours"), (47.5, "2 days"), (60, "3 days")]
)
def test_a_run_never_lasts_0_days(hours, words):
    assert lasting._so_long(hours * 3600) == words


def test_an_end_that_is_near_is_said_to_the_minute():
    assert day(time.time() + 3600).endswith(" UTC")
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", day(time.time() + 3 * DAY))
    assert day(2**62) == "a day far away"
