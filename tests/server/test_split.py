"""A server whose folder lacks the consortium's keys: what it can do with a delegation, and what it cannot."""

import dataclasses
import json
import os
import time

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from umbel.consortium.authority import Consortium
from umbel.consortium.card import Request, public_pem
from umbel.consortium.packets import SignedJob, read_packet
from umbel.consortium.rotation import rotate
from umbel.consortium.warrants import JobOrder, check_job_signature, delegate_of, sign_job
from umbel.errors import ConsortiumError, PlanRefused, ProtocolError
from umbel.privacy.secagg.keys import Identity
from umbel.privacy.secagg.messages import Slot
from umbel.privacy.secagg.roster import (
    CUT,
    DELEGATION,
    ROSTER,
    STRIDE,
    Cut,
    Cutting,
    Delegation,
    Entry,
    Limits,
    Roster,
    SignedRoster,
    open_roster,
)
from umbel.privacy.secagg.signed import DAY, FOREVER, Signed, Statement
from umbel.privacy.secagg.state import State
from umbel.run.store import Store
from umbel.server.orders import begin, place
from umbel.server.signing import (
    new_run,
    sign_again,
    sign_certificate,
    sign_members,
    sign_order,
    signed_order,
    take_certificate,
    take_members,
)
from umbel.server.split import SECRETS, split
from umbel.server.supervisor import Supervisor

RUN = "a" * 32
NAMES = ("east", "north", "south", "west")


def request_of(consortium, name):
    node = public_pem(ec.generate_private_key(ec.SECP384R1()).public_key())
    return Request.make(consortium.card, name, Identity(os.urandom(64)), node)


@pytest.fixture
def apart(tmp_path):
    """The server's folder, and the keys'."""
    server = Consortium.create(tmp_path / "server", "localhost", 9443, Limits())
    for name in NAMES:
        server.admit(request_of(server, name))
    keys = split(server, tmp_path / "keys")
    return Consortium.open(server.path), keys


@pytest.fixture
def job(job_of):
    return job_of(privacy={"unit": "none"}, encryption={"mode": "none"})


def test_a_servers_folder_holds_no_secret_but_what_it_serves_with(apart):
    server, keys = apart
    for name in SECRETS:
        assert not (server.path / name).exists()
        assert (keys.path / name).stat().st_mode & 0o777 == 0o600
    for secret in ("identity", "operator"):
        with pytest.raises(
            ConsortiumError, match="a server's folder, without the consortium's keys"
        ):
            getattr(server, secret)
        assert getattr(keys, secret)
    assert not (keys.path / "server.key").exists()
    assert [m.name for m in server.members()] == [m.name for m in keys.members()] == list(NAMES)
    with pytest.raises(ConsortiumError, match="already split"):
        split(server, keys.path.parent / "more")


def test_a_server_without_keys_orders_nothing_and_admits_nobody(apart, job):
    server, _ = apart
    without = "a server's folder, without the consortium's keys"
    with pytest.raises(ConsortiumError, match=without):
        place(server, job)
    with pytest.raises(ConsortiumError, match=without):
        server.admit(request_of(server, "stranger"))
    with pytest.raises(ConsortiumError, match=without):
        server.renew_certificate()
    assert not list(server.runs.iterdir())
    assert [m.name for m in server.members()] == list(NAMES)


def test_a_member_is_removed_without_keys_only_while_a_delegation_lasts(apart, job):
    server, keys = apart
    with pytest.raises(ConsortiumError, match="nor a valid delegation"):
        server.remove("west")
    begin(server, signed_order(keys, job, RUN))
    server.remove("west")
    server.remove("south")
    assert [m.name for m in server.members()] == ["east", "north"]
    again = Consortium.open(server.path)
    assert list(again.current_roster().by_name) == ["east", "north"]
    assert again.roster_ends() == keys.roster_ends()  # a cut prolongs nothing


def cut_of(server, keys, job, *removed):
    begin(server, signed_order(keys, job, RUN))
    for name in removed:
        server.remove(name)
    return SignedRoster.from_bytes(server.roster())


def test_a_server_without_keys_brings_nobody_in_by_any_form_of_a_roster(apart, job):
    server, keys = apart
    key, whole = server.card.consortium_key_bytes, server.current_roster()
    cut = cut_of(server, keys, job, "west")
    known = server.current_roster()
    [cutting] = cut.cuts
    mine, delegation = server.delegate_identity, cutting.delegation
    stranger = Entry("x", Identity(os.urandom(64)).public)

    def by_me(purpose, body, counter=1):
        return Signed.sign(Statement(purpose, counter, 0, FOREVER, body), mine)

    def cuts(base=whole.hash, epoch=known.epoch + 1, removed=("west",), given=delegation):
        signed = by_me(CUT, Cut(base, epoch, removed).to_bytes())
        return SignedRoster(cut.roster, (Cutting(signed, given),)).to_bytes()

    grown = Roster(known.epoch + 1, (*known.members, stranger), known.limits, known.hash)
    lax = dataclasses.replace(known, limits=Limits(colluders=0.0), epoch=known.epoch + 1)
    body = Delegation(server.card.id, RUN, mine.public.signing).to_bytes()
    attempts = {
        "a roster of its own": SignedRoster(by_me(ROSTER, grown.to_bytes())).to_bytes(),
        "other limits": SignedRoster(by_me(ROSTER, lax.to_bytes())).to_bytes(),
        "a delegation of its own": cuts(removed=("south", "west"), given=by_me(DELEGATION, body)),
        "back to who was removed": cuts(removed=("south",)),
        "as before the cut": SignedRoster(cut.roster).to_bytes(),
        "nobody removed": cuts(removed=()),
        "who is no member": cuts(removed=("x",)),
        "another base": cuts(base=bytes(32)),
        "an epoch that bars the consortium": cuts(epoch=STRIDE, removed=("south", "west")),
        "an older epoch": cuts(epoch=known.epoch, removed=("south", "west")),
    }
    for what, data in attempts.items():
        with pytest.raises(ProtocolError) as refused:
            open_roster(data, key, known)
        assert refused.value.rule == "roster", what
    # The same that does shrink it is taken.
    assert len(open_roster(cuts(removed=("south", "west")), key, known).members) == 2
    # Weakened: an owner that believes in whomever the server's own key signed for.
    own = mine.public.signing
    assert "x" in open_roster(attempts["a roster of its own"], own, known).by_name


def test_what_the_consortium_signs_is_newer_than_any_cut(apart, job):
    server, keys = apart
    key = server.card.consortium_key_bytes
    cut_of(server, keys, job, "west")
    known = server.current_roster()
    keys.admit(request_of(keys, "new"))
    taken = sign_members(keys)
    assert take_members(server, taken) == ["new", "west"]  # it did not know of the removal
    assert open_roster(server.roster(), key, known).epoch == STRIDE
    with pytest.raises(ConsortiumError, match="not in this file"):
        take_members(server, taken.model_copy(update={"requests": taken.requests[1:]}))


def test_a_delegation_is_for_one_run_of_one_consortium_and_ends(apart, job):
    server, keys = apart
    order = signed_order(keys, job, RUN)
    card, now = server.card, time.time()
    key, mine = card.operator_key_bytes, server.delegate.hex()
    assert delegate_of(order.delegation, key, card.id, RUN, now) == mine
    ends = Signed.from_hex(order.delegation).said.expires
    for args in (
        (order.delegation, key, card.id, "b" * 32, now),
        (order.delegation, key, "c" * 32, RUN, now),
        (order.delegation, key, card.id, RUN, ends + 1),
        (order.delegation, key, card.id, RUN, now - 2 * DAY),
        (order.delegation, Identity(os.urandom(64)).public.signing, card.id, RUN, now),
        (order.order, key, card.id, RUN, now),
        ("", key, card.id, RUN, now),
        ("zz", key, card.id, RUN, now),
    ):
        with pytest.raises(PlanRefused, match="its delegation"):
            delegate_of(*args)


def test_files_that_are_brought_are_taken_only_as_they_were_signed(apart, job, tmp_path):
    server, keys = apart
    order, path = signed_order(keys, job, RUN), tmp_path / "job.signed"
    order.write(path)
    assert begin(server, read_packet(path)).path.exists()
    values = json.loads(path.read_text())
    for name, other in (
        ("run", "b" * 32),
        ("order", "ab"),
        ("delegation", ""),
        ("job", values["job"] | {"name": "another"}),
    ):
        path.write_text(json.dumps(values | {name: other}))
        with pytest.raises(PlanRefused):
            begin(server, read_packet(path))
    for text in ("[]", "{", '{"format": "umbel signed job 2"}', '{"format": []}'):
        path.write_text(text)
        with pytest.raises(ConsortiumError, match="not a file that umbel sign writes"):
            read_packet(path)
    assert [run.id for run in Store(server.database).runs()] == [RUN]


def test_an_order_for_a_run_that_is_here_takes_the_place_of_the_one_before(apart, job):
    server, keys = apart
    run = begin(server, signed_order(keys, job, RUN))
    later = signed_order(keys, job, RUN)
    assert begin(server, later).path == run.path
    assert run.read_json("run.json")["signature"] == later.order
    with pytest.raises(PlanRefused, match="of another job"):
        begin(server, signed_order(keys, job.model_copy(update={"name": "x"}), RUN))


def test_who_carries_a_file_sets_nothing_back_by_an_older_one_and_adds_nothing_to_it(apart, job):
    server, keys = apart
    orders = [signed_order(keys, job, RUN) for _ in range(2)]
    rosters = [sign_members(keys, days) for days in (30, 200)]
    stranger = Identity(os.urandom(64))

    def with_seal(text):
        return Signed.from_hex(text).sealed_by(stranger).to_hex()

    more = {"order": with_seal(orders[1].order), "delegation": with_seal(orders[1].delegation)}
    run = begin(server, orders[1].model_copy(update=more))
    with pytest.raises(PlanRefused, match="signed later"):
        begin(server, orders[0])
    values = run.read_json("run.json")
    assert (values["signature"], values["delegation"]) == (orders[1].order, orders[1].delegation)
    signed = SignedRoster.from_bytes(bytes.fromhex(rosters[1].roster))
    sealed = dataclasses.replace(signed, roster=signed.roster.sealed_by(stranger))
    sealed = sealed.approved_by(stranger).to_bytes().hex()
    take_members(server, rosters[1].model_copy(update={"roster": sealed}))
    ends = server.roster_ends()
    with pytest.raises(ConsortiumError, match="signed later"):
        take_members(server, rosters[0])
    assert server.roster() == bytes.fromhex(rosters[1].roster)
    assert server.roster_ends() == ends == keys.roster_ends()


def test_the_operator_signs_nothing_anew_that_it_did_not_sign_before(apart, job_of):
    """The file may come from the server's machine, which lacks the key."""
    server, keys = apart
    job = job_of()
    before = sign_order(keys, job)
    again = sign_again(keys, before)
    assert (again.run, again.job) == (before.run, before.job)
    assert again.order != before.order
    forged = [
        before.model_copy(update={"job": before.job | {"name": "another"}}),
        before.model_copy(update={"run": "another"}),
        before.model_copy(update={"order": sign_job(
            server.delegate_identity, keys.card.id, before.run, before.built.to_json()
        )}),
    ]  # fmt: skip
    for order in forged:
        with pytest.raises(PlanRefused, match="not what this operator signed"):
            sign_again(keys, order, former=True)
    rotate(keys, "operator")
    with pytest.raises(PlanRefused, match="a replaced key"):
        sign_again(keys, before)
    assert sign_again(keys, before, former=True).run == before.run
    with pytest.raises(PlanRefused, match="not what this operator signed"):
        sign_again(keys, forged[0], former=True)


def test_a_file_that_is_far_too_large_is_not_read(tmp_path):
    path = tmp_path / "large.signed"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ConsortiumError, match="not a file that umbel sign writes"):
        read_packet(path)


def test_a_run_of_a_job_with_the_longest_name_can_be_summed(job_of):
    job = job_of(name="n" * 64)
    run = new_run(job)
    assert JobOrder("c" * 32, run, bytes(32)).to_bytes()
    slot = Slot(run, 1, bytes(32), NAMES)
    assert Slot.from_bytes(slot.to_bytes()) == slot
    state = State(run, slot=(slot,))
    assert State.from_bytes(state.to_bytes(), "this client") == state
    SignedJob(run=run, job={}, order="")


def test_an_order_whose_delegation_is_for_another_server_is_refused(apart, job, tmp_path):
    server, keys = apart
    (keys.path / "delegate.pub").write_text(Identity(os.urandom(64)).public.signing.hex())
    with pytest.raises(PlanRefused, match="for another server"):
        begin(server, signed_order(keys, job, RUN))


def test_a_certificate_is_renewed_from_afar_for_the_servers_own_key_alone(apart, tmp_path):
    server, keys = apart
    before = server.server_certificate.read_bytes()
    take_certificate(server, sign_certificate(keys))
    assert server.server_certificate.read_bytes() != before
    plain, packet = server.server_certificate.read_text(), sign_certificate(keys)
    longer = packet.certificate + "-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n"
    take_certificate(server, packet.model_copy(update={"certificate": longer}))
    assert server.server_certificate.read_text() == packet.certificate != plain
    other = Consortium.create(tmp_path / "other", "localhost", 9443, Limits())
    for pem in (other.server_certificate.read_text(), server.ca_certificate.read_text(), "x"):
        with pytest.raises(ConsortiumError, match="not from the consortium's authority"):
            take_certificate(server, sign_certificate(keys).model_copy(update={"certificate": pem}))


def test_keys_do_not_go_apart_beneath_a_run(job, tmp_path):
    whole = Consortium.create(tmp_path / "server", "localhost", 9443, Limits())
    run = begin(whole, signed_order(whole, job, RUN))
    with pytest.raises(ConsortiumError, match="is not over"):
        split(whole, tmp_path / "keys")
    assert not (tmp_path / "keys").exists()
    Store(whole.database).set_status(run.path.name, "finished")
    assert split(whole, tmp_path / "keys").operator


def test_a_job_that_outlasts_the_roster_here_or_whose_roster_a_former_key_signed_is_not_begun(
    apart, job_of
):
    server, keys = apart
    job = job_of()
    take_members(server, sign_members(keys, 1))
    begin(server, signed_order(keys, job, "a-1"))
    long = job_of(cohort={"deadline": 86_400.0})
    sign_members(keys, 400)  # and was not brought
    with pytest.raises(PlanRefused, match="KEYS --days .* and umbel take"):
        begin(server, signed_order(keys, long, "a-2"))
    take_members(server, sign_members(keys))  # what holds for longer is not cut short
    begin(server, signed_order(keys, long, "a-2"))
    rotate(keys, "consortium")
    with pytest.raises(PlanRefused, match="with a replaced key"):
        begin(server, signed_order(keys, job, "a-3"))
    take_members(server, sign_members(keys))
    begin(server, signed_order(keys, job, "a-3"))
    assert len(Store(server.database).runs()) == 3


@pytest.mark.parametrize(
    "name", ["", "../x", "a/1", "published size", "takes over", "moved/x", "a\nb", "-x", "n" * 201]
)
def test_an_order_names_a_run_that_is_a_files_name_and_nothing_else_in_a_ledger(name):
    """A ledger's rows are by run, round and attempt, and its owner's notes stand under words of their own."""
    with pytest.raises(ValueError, match="is not a valid name of a run"):
        JobOrder("c" * 32, name, bytes(32))
    with pytest.raises(PlanRefused, match="not signed by the operator"):
        check_job_signature(bytes(32), "c" * 32, name, "{}", "ab")


def test_nothing_is_served_from_the_folder_of_the_keys(apart, job, tmp_path):
    _, keys = apart
    elsewhere = "its server has another folder"
    with pytest.raises(ConsortiumError, match=elsewhere):
        place(keys, job)
    with pytest.raises(ConsortiumError, match=elsewhere):
        begin(keys, signed_order(keys, job, RUN))
    with pytest.raises(ConsortiumError, match=elsewhere):
        Supervisor(keys).run()
    with pytest.raises(ConsortiumError, match="already the folder of the keys"):
        split(keys, tmp_path / "again")
    assert not (keys.path / "delegate.key").exists()
