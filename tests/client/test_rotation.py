"""Keys that are replaced: who follows, who does not, and what the old ones are still good for."""

import os
import ssl
import time

import pytest
from flwr.app import Message, RecordDict

from umbel.certificate.check import verify
from umbel.certificate.form import FILE
from umbel.certificate.issue import issue
from umbel.client.home import Home
from umbel.client.intake import Intake
from umbel.client.keys import follow, renew_keys, trust, use_new_keys
from umbel.consortium.authority import Consortium
from umbel.consortium.card import Card, Request, consortium_id
from umbel.consortium.key_handovers import KINDS, hand_over
from umbel.consortium.rotation import rotate
from umbel.consortium.warrants import joined, sign_job
from umbel.errors import ConsortiumError, ProtocolError
from umbel.flower import stamp, take_server_identity
from umbel.privacy.secagg.keys import Identity
from umbel.privacy.secagg.roster import Limits, Roster, SignedRoster, open_roster
from umbel.privacy.secagg.signed import Signed
from umbel.server.signing import sign_certificate, sign_members, take_certificate, take_members
from umbel.server.split import split
from umbel.simulations.engine import Options, simulate
from umbel.storage.processes import alone
from umbel.wire.requests import ASSIGNMENT, Assignment

BEYOND_ORDERS = "Unknown request"


@pytest.fixture
def consortium(tmp_path):
    return Consortium.create(tmp_path / "hospitals", "localhost", 9443, Limits())


@pytest.fixture
def owner(consortium, tmp_path):
    (tmp_path / "notes.csv").write_text("text,label\nfine,positive\nill,negative\n")
    card = consortium.path / "consortium.json"
    home = Home.create(tmp_path / "st-mary", card, tmp_path / "notes.csv")
    consortium.admit(home.request)
    home.membership.learn(consortium.roster())
    return home


def told(home, job, order):
    """What the owner's agent says to a request of no kind, once it has found its order good."""
    take_server_identity(1)
    assignment = Assignment("0.1.0", "run", job.to_json(), 0, 0, 1, signature=order)
    message = Message(
        RecordDict({ASSIGNMENT: assignment.to_record()}),
        dst_node_id=2,
        message_type="query.unknown",
    )
    stamp(message)
    return Intake(Home.open(home.path)).handle(message).error.reason


def order_by(consortium, job, signer=None, handovers=None):
    signer = signer or consortium.operator
    order = sign_job(signer, consortium.card.id, "run", job.to_json())
    return joined(order, consortium.card.handovers if handovers is None else handovers)


@pytest.fixture
def job(job_of):
    return job_of(privacy={"unit": "none"}, encryption={"mode": "none"})


def test_owners_follow_a_new_operator_and_believe_the_old_one_no_more(consortium, owner, job):
    old = consortium.operator
    before = order_by(consortium, job)
    assert "policy" in told(owner, job, before)  # which refuses this job, once its order is good
    rotate(consortium, "operator")
    assert consortium.operator.public != old.public
    # Who does not follow believes the old one, and not the new one.
    assert "not signed by the operator" in told(owner, job, order_by(consortium, job, None, []))
    assert "policy" in told(owner, job, order_by(consortium, job))
    assert Home.open(owner.path).card == consortium.card
    assert "not signed by the operator" in told(owner, job, before)
    assert "not signed by the operator" in told(owner, job, order_by(consortium, job, old))
    assert "keys followed" in owner.audit.read_text()


def test_nobody_but_the_consortiums_key_hands_a_key_over(consortium, owner, job):
    card, thief = consortium.card, Identity(os.urandom(64))
    for signer in (consortium.operator, thief):
        for kind in KINDS:
            chain = [hand_over(signer, card.id, kind, card.keys[kind], thief.public.signing, 1, 1)]
            with pytest.raises(ProtocolError):
                card.after(chain)
            reason = told(owner, job, order_by(consortium, job, thief, chain))
            assert "does not accept the consortium's new keys" in reason
    assert Home.open(owner.path).card == card
    # Weakened: a card that believes in the thief's key for rosters follows it.
    chain = [hand_over(thief, "0" * 32, "operator", card.keys["operator"], b"x" * 32, 1, 1)]
    weak = dict(card.keys, consortium=thief.public.signing)
    from umbel.consortium.key_handovers import follow as chained

    assert chained(weak, "0" * 32, chain)["operator"] == b"x" * 32


def test_a_chain_is_followed_as_a_whole_in_its_order_and_goes_no_two_ways(consortium):
    first = consortium.card
    for kind in (*KINDS, *KINDS):
        rotate(consortium, kind)
    last, chain = consortium.card, consortium.card.handovers
    assert first.after(chain) == last
    assert first.after(chain[:2]).after(chain) == last
    assert last.after(chain[:2]) is last
    assert last.id == first.id
    assert last.fingerprint != first.fingerprint
    wrong = [chain[1:], [chain[1], chain[0], *chain[2:]], [*chain, chain[-1]], ["zz"], ["ab"]]
    for bad in wrong:
        with pytest.raises(ProtocolError):
            first.after(bad)
    with pytest.raises(ConsortiumError, match="handover"):
        Card.build(last.model_dump() | {"handovers": chain[:-1]}, "it")
    with pytest.raises(ConsortiumError):
        Card.build(last.model_dump() | {"operator_key": "0" * 64}, "it")


def test_rosters_of_a_new_key_are_learned_and_none_of_the_old_one(consortium, owner):
    old = consortium.identity
    kept = consortium.roster()
    rotate(consortium, "consortium")
    new = consortium.roster()
    membership = owner.membership
    with pytest.raises(ProtocolError, match="not signed by the consortium"):
        membership.learn(new)
    assert follow(owner, consortium.card.handovers)
    membership.learn(new)
    again = SignedRoster.sign(SignedRoster.from_bytes(kept).whole, old, counter=2**60)
    with pytest.raises(ProtocolError, match="not signed by the consortium"):
        membership.learn(again.to_bytes())
    assert Home.open(owner.path).membership.roster.read_bytes() == new
    consortium.admit(owner.request)  # nothing of the folder is lost
    assert open_roster(consortium.roster(), consortium.card.consortium_key_bytes).epoch == 1


def shakes_hands(server, authorities):
    """Whether who believes these authorities takes the server's certificate, by TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.server_certificate, server.server_key)
    client = ssl.create_default_context(cafile=authorities)
    here, there = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(here, there, server_hostname="localhost"),
        context.wrap_bio(there, here, server_side=True),
    ]
    for _ in range(4):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                return False
    return True


def test_a_new_authority_locks_nobody_out_on_the_way_and_the_old_one_in_the_end(
    consortium, owner, tmp_path
):
    pinned = tmp_path / "before.crt"
    pinned.write_bytes(owner.ca_certificate.read_bytes())
    rotate(consortium, "authority")
    assert shakes_hands(consortium, pinned)
    assert shakes_hands(consortium, consortium.ca_certificate)
    follow(owner, consortium.card.handovers)
    assert shakes_hands(consortium, owner.ca_certificate)  # before the certificate is renewed
    old = consortium.server_certificate.read_bytes()
    consortium.renew_certificate()
    assert shakes_hands(consortium, owner.ca_certificate)
    assert not shakes_hands(consortium, pinned)
    trust(owner, consortium.card)
    assert shakes_hands(consortium, owner.ca_certificate)
    consortium.server_certificate.write_bytes(old)
    assert not shakes_hands(consortium, owner.ca_certificate)


def test_certificates_of_a_former_operator_stay_good_and_it_certifies_nothing_new(
    consortium, job_of, tmp_path
):
    plain = job_of(training={"rounds": 1}, privacy={"unit": "none"})
    run = simulate(plain, Options(tmp_path / "run", workers=1))
    result = run.read_json("result.json")
    result["roster"] = {"consortium": consortium.card.id, "epoch": 1, "sha256": "0" * 64}
    old = consortium.operator
    certificate = issue(run.path, result, old)
    rotate(consortium, "operator")

    def signer(given):
        (tmp_path / FILE).write_bytes(given.to_bytes())
        found = verify(tmp_path / FILE, card=consortium.card).findings
        return next(finding for finding in found if finding.what == "signer")

    assert signer(certificate).holds
    assert "this key has been replaced since" in signer(certificate).text
    later = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() + 3600))
    assert signer(certificate.model_copy(update={"issued": later}).signed_by(old)).holds is False
    assert signer(issue(run.path, result, consortium.operator)).holds


def test_an_owner_replaces_its_keys_without_a_telephone_and_nobody_does_it_for_it(
    consortium, owner
):
    before = owner.request
    asked = Request.read(renew_keys(owner))
    assert Request.read(renew_keys(owner)) == asked  # the very same, if it is asked for again
    assert asked.is_of(before)
    stranger = Identity(os.urandom(64))
    forged = Request.make(consortium.card, owner.name, stranger, asked.node_key, stranger)
    assert not forged.is_of(before)
    with pytest.raises(ConsortiumError, match="is already a member"):
        consortium.admit(forged)
    for _ in range(2):
        consortium.admit(asked)
    roster = consortium.current_roster()
    assert (roster.epoch, list(roster.by_name)) == (2, [owner.name])
    assert roster.by_name[owner.name] == asked.identity
    use_new_keys(owner)
    home = Home.open(owner.path)
    assert home.request.keys == asked.keys
    home.membership.learn(consortium.roster())
    with pytest.raises(ConsortiumError, match="no new keys"):
        use_new_keys(home)
    assert consortium.admit(home.request).keys == asked.keys


def test_an_owner_that_goes_over_to_new_keys_too_early_can_still_be_admitted(consortium, owner):
    renew_keys(owner)
    use_new_keys(owner)
    consortium.admit(Request.read(owner.request_file))
    assert consortium.current_roster().by_name[owner.name] == Home.open(owner.path).request.identity
    assert "keys replaced" in owner.audit.read_text()


def test_keys_are_not_replaced_beneath_an_agent(owner):
    renew_keys(owner)
    with (
        alone(owner.path / "lock", "no"),
        pytest.raises(ConsortiumError, match="Stop it, do this again"),
    ):
        use_new_keys(owner)
    use_new_keys(owner)


def test_the_card_of_another_consortium_is_told_from_an_older_one(consortium, owner, tmp_path):
    other = Consortium.create(tmp_path / "other", "localhost", 9443, Limits())
    with pytest.raises(ConsortiumError, match="of another consortium"):
        trust(owner, other.card)
    assert trust(owner, consortium.card) is False
    forged = consortium.card.model_dump() | {"operator_key": other.card.operator_key}
    with pytest.raises(ProtocolError, match="no handover leads to its keys"):
        trust(owner, Card.build(forged, "a card that was changed on its way"))


def test_a_former_authority_that_an_owner_let_go_of_does_not_come_back(consortium, owner):
    former = consortium.card.ca_certificate
    rotate(consortium, "authority")
    follow(owner, consortium.card.handovers)
    assert former in owner.ca_certificate.read_text()
    trust(owner, consortium.card)
    for kind in ("operator", "consortium"):
        rotate(consortium, kind)
        follow(owner, consortium.card.handovers)
        assert owner.ca_certificate.read_text() == consortium.card.ca_certificate


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_runs_goes_by_keys_that_are_replaced_meanwhile(kind, consortium, owner):
    running = Consortium.open(consortium.path)
    before = running.card, running.operator, running.node_keys()
    rotate(Consortium.open(consortium.path), kind)
    assert running.card == Consortium.open(consortium.path).card != before[0]
    assert running.node_keys() == before[2]
    assert running.operator.public.signing == running.card.operator_key_bytes


@pytest.mark.parametrize("kind", ["operator", "consortium", "authority"])
def test_a_rotation_that_was_cut_before_its_last_step_is_whole(consortium, kind):
    name = "ca.key" if kind == "authority" else f"{kind}.key"
    path = consortium.path / name
    old = path.read_bytes()
    rotate(consortium, kind)
    path.rename(path.with_name(f"{name}.next"))
    path.write_bytes(old)
    again = Consortium.open(consortium.path)
    if kind == "authority":
        again.renew_certificate()
        assert shakes_hands(again, again.ca_certificate)
    else:
        assert again.operator
        assert again.identity
    assert path.read_bytes() != old


def test_a_server_apart_follows_by_what_is_brought_to_it(consortium, owner):
    keys = split(consortium, consortium.path.parent / "keys")
    server = Consortium.open(consortium.path)
    for kind in KINDS:
        rotate(keys, kind)
    take_members(server, sign_members(keys))
    assert server.card == keys.card
    assert shakes_hands(server, server.ca_certificate)
    take_certificate(server, sign_certificate(keys))
    assert shakes_hands(server, server.ca_certificate)
    follow(owner, server.card.handovers)
    owner.membership.learn(server.roster())
    assert shakes_hands(server, owner.ca_certificate)


def test_the_commands_do_it(consortium, owner, umbel):
    status, out, _ = umbel("consortium", "rotate", consortium.path, "operator")
    card = Consortium.open(consortium.path).card
    assert (status, card.fingerprint in out) == (0, True)
    status, out, _ = umbel("client", "trust", consortium.path / "consortium.json", owner.path)
    assert (status, "The new keys are accepted" in out) == (0, True)
    assert card.fingerprint in out
    assert umbel("consortium", "rotate", consortium.path, "server")[0] == 2
    assert umbel("client", "rotate", owner.path)[0] == 0
    status, out, _ = umbel("consortium", "admit", consortium.path, owner.request_file)
    assert (status, "which the new ones will replace" in out) == (0, True)
    status, out, _ = umbel("consortium", "admit", consortium.path, owner.request_file)
    assert (status, "already, with the same keys" in out) == (0, True)
    assert umbel("client", "rotate", owner.path, "--finish")[0] == 0
    assert not list((owner.path / "next").iterdir())


def test_a_handover_that_is_written_in_another_way_parts_nobody_from_the_consortium(
    consortium, owner
):
    """A server that puts a seal to a handover, or writes it in capitals, says the same with other bytes."""
    rotate(consortium, "consortium")
    [plain] = consortium.card.handovers
    sealed = Signed.from_hex(plain).sealed_by(Identity(os.urandom(64))).to_hex()
    for text in (sealed, plain.upper(), f"{plain[:2]} {plain[2:]}"):
        home = Home.open(owner.path)
        card = home.card
        assert follow(home, [text])
        assert home.card.handovers == [plain]
        assert not follow(home, [plain])
        card.write(home.card_file)
        (home.path / "consortium.key.pub").write_bytes(card.consortium_key_bytes)
    assert follow(owner, [sealed])
    rotate(consortium, "operator")
    assert follow(owner, consortium.card.handovers)
    assert owner.card == consortium.card


def test_keys_that_somebody_on_the_way_says_were_before_change_the_fingerprint(consortium):
    """Else they would be believed as former ones, and two people would compare the same."""
    real, false = consortium.card, Identity(os.urandom(64))
    own = false.public.signing
    false_id = consortium_id(own)
    steps = [
        ("authority", b"another", real.ca_certificate.encode()),
        ("consortium", own, real.consortium_key_bytes),
    ]
    chain = [
        hand_over(false, false_id, kind, old, new, number, 0)
        for number, (kind, old, new) in enumerate(steps)
    ]
    card = Card.build(real.model_dump() | {"handovers": chain}, "it")
    assert card.keys == real.keys
    assert card.past("authority")[0].key == b"another"
    assert card.fingerprint != real.fingerprint


def test_no_rotation_undoes_what_a_thief_of_the_consortiums_key_signed(consortium, owner):
    """Why the documents say that a stolen key needs a new consortium."""
    consortium.admit(owner.request)
    owner.membership.learn(consortium.roster())
    entries = consortium.current_roster().members
    stolen = Roster(2**40, entries, consortium.limits, bytes(32))
    owner.membership.learn(SignedRoster.sign(stolen, consortium.identity).to_bytes())
    rotate(consortium, "consortium")
    assert follow(owner, consortium.card.handovers)
    with pytest.raises(ProtocolError, match="is not after"):
        owner.membership.learn(consortium.roster())
