"""The card, the request and the operator's signature: what is taken, and what is refused."""

import json
import os

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from umbel.consortium.authority import Consortium
from umbel.consortium.card import Card, Request, check_name, public_pem
from umbel.consortium.warrants import check_job_signature, sign_job
from umbel.errors import ConsortiumError, PlanRefused
from umbel.privacy.secagg.keys import Identity
from umbel.privacy.secagg.roster import Limits

OPERATOR = Identity(bytes(range(64)))
JOB = '{"name":"reviews"}'


@pytest.fixture(scope="session")
def card(tmp_path_factory):
    folder = tmp_path_factory.mktemp("consortium") / "hospitals"
    return Consortium.create(folder, "umbel.example.org", 9443, Limits()).card


@pytest.fixture(scope="session")
def other_card(tmp_path_factory):
    folder = tmp_path_factory.mktemp("consortium") / "banks"
    return Consortium.create(folder, "umbel.example.org", 9443, Limits()).card


def node_key(curve=None):
    return public_pem(ec.generate_private_key(curve or ec.SECP384R1()).public_key())


@pytest.fixture(scope="session")
def request_(card):
    return Request.make(card, "st-mary", Identity(os.urandom(64)), node_key())


def changed(document, **values):
    return type(document).model_validate({**document.model_dump(), **values})


def test_a_card_is_read_as_it_was_written(card, tmp_path):
    card.write(tmp_path / "consortium.json")
    assert Card.read(tmp_path / "consortium.json") == card


def test_a_card_names_its_consortium_by_the_key_that_signs_rosters(card, other_card):
    assert card.id != other_card.id
    assert changed(card, host="elsewhere.example.org", name="x").id == card.id


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("umbel.example.org", "umbel.example.org:9443"),
        ("10.0.0.7", "10.0.0.7:9443"),
        ("fd00::7", "[fd00::7]:9443"),
    ],
)
def test_an_address_can_be_connected_to(card, host, address):
    assert changed(card, host=host).address == address


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hosts": "x"}, "did you mean 'host'?"),
        ({"host": "https://umbel.example.org"}, "only a host name or an IP address"),
        ({"port": 65535}, "port = 65535"),
        ({"consortium_key": "abc"}, "consortium_key = 'abc'"),
        ({"ca_certificate": "none"}, "ca_certificate"),
        ({"format": "umbel consortium 2"}, "'umbel consortium 2', not 'umbel consortium 1'"),
    ],
)
def test_a_card_that_is_not_quite_one_is_refused_with_the_place(card, tmp_path, change, words):
    path = tmp_path / "consortium.json"
    path.write_text(json.dumps({**card.model_dump(), **change}))
    with pytest.raises(ConsortiumError) as refused:
        Card.read(path)
    assert words in str(refused.value)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'"x"', b"[" * 50_000, b"1" * 70_000])
def test_a_file_that_is_no_card_at_all_is_one_sentence(tmp_path, content):
    path = tmp_path / "consortium.json"
    path.write_bytes(content)
    with pytest.raises(ConsortiumError, match="consortium card"):
        Card.read(path)
    with pytest.raises(ConsortiumError, match="There is no consortium card"):
        Card.read(tmp_path / "nothing.json")


def test_a_request_proves_that_its_keys_are_held(card, request_, tmp_path):
    request_.write(tmp_path / "request.json")
    read = Request.read(tmp_path / "request.json")
    read.check(card)
    assert read == request_


def test_a_request_for_another_consortium_is_refused(other_card, request_):
    with pytest.raises(ConsortiumError, match="for another consortium than 'banks'"):
        request_.check(other_card)


@pytest.mark.parametrize(
    "change",
    [
        lambda: {"name": "st-john"},
        lambda: {"umbel_version": "9.9.9"},
        lambda: {"node_key": node_key()},
        lambda: {"signing_key": Identity(os.urandom(64)).public.signing.hex()},
        lambda: {"agreement_key": Identity(os.urandom(64)).public.agreement.hex()},
        lambda: {"signature": "0" * 128},
    ],
)
def test_nothing_in_a_request_can_be_changed_on_its_way(card, request_, change):
    with pytest.raises(ConsortiumError, match="not signed with its own keys"):
        changed(request_, **change()).check(card)


def test_a_key_with_which_everybody_would_agree_is_refused(card, request_):
    with pytest.raises(ConsortiumError, match="cannot be used"):
        changed(request_, agreement_key="00" * 32).check(card)


@pytest.mark.parametrize(
    "key", ["", "no key", node_key(ec.SECP256R1()), node_key() + "\n", "\ud800"]
)
def test_a_node_key_is_the_one_text_of_a_p384_key(card, request_, key):
    with pytest.raises(ConsortiumError):
        request_.model_copy(update={"node_key": key}).check(card)


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "st mary", "x" * 65, "a\n", "Ä"])
def test_a_name_is_safe_as_a_files_name(card, name):
    with pytest.raises(ConsortiumError, match="letters from a to z, digits"):
        Request.make(card, name, Identity(os.urandom(64)), node_key())


def test_a_fingerprint_is_compared_however_it_was_typed(card, request_):
    groups = request_.fingerprint.split(" ")
    assert [len(group) for group in groups] == [4] * 8
    assert request_.has_fingerprint("-".join(groups).upper())
    assert not request_.has_fingerprint(" ".join(groups[:-1]))
    assert not request_.has_fingerprint("")
    assert changed(request_, node_key=node_key()).fingerprint != request_.fingerprint


def test_a_signed_job_is_taken(card):
    signature = sign_job(OPERATOR, card.id, "run-1", JOB)
    check_job_signature(OPERATOR.public.signing, card.id, "run-1", JOB, signature)


def test_a_job_signed_by_nobody_is_refused(card):
    with pytest.raises(PlanRefused, match="is not signed"):
        check_job_signature(OPERATOR.public.signing, card.id, "run-1", JOB, "")


def test_a_job_of_another_signer_run_consortium_or_text_is_refused(card, other_card):
    signature = sign_job(OPERATOR, card.id, "run-1", JOB)
    stranger = Identity(os.urandom(64)).public.signing
    mine = OPERATOR.public.signing
    for claim in [
        (stranger, card.id, "run-1", JOB, signature),
        (mine, other_card.id, "run-1", JOB, signature),
        (mine, card.id, "run-2", JOB, signature),
        (mine, card.id, "run-1", JOB + " ", signature),
        (mine, card.id, "run-1", JOB, "not hexadecimal"),
        (mine, card.id, "run-1", JOB, signature[:-2]),
        (mine, card.id, "", JOB, signature),
        (mine, card.id, "run-1", "\ud800", signature),
    ]:
        with pytest.raises(PlanRefused, match="not signed by the operator"):
            check_job_signature(*claim)


@pytest.mark.parametrize(
    "host",
    [
        *("10.0.0.256", "256.1.1.1", "1.2.3", "10.0.0", "127.1", "1", "0x7f.0.0.1", "example.0x10"),
        *(
            "a..b",
            ".example.org",
            "example.org.",
            "-a.org",
            "a-.org",
            "a.-b",
            "x" * 64,
            "ex_ample.org",
        ),
        *("[::1]", "::g", "fe80::1%eth0 ", "a b", ".".join(["abcdefgh"] * 40)),
    ],
)
def test_a_host_that_nobody_can_mean_is_refused(card, host):
    with pytest.raises(ValueError, match="host"):  # pydantic's
        changed(card, host=host)
    if not host.startswith("["):
        with pytest.raises(ConsortiumError):
            _server_at(f"{host}:9443")


@pytest.mark.parametrize(
    "host", ["localhost", "3com.com", "a", "10.0.0.255", "x" * 63, "1.example", "a1"]
)
def test_a_host_that_can_be_meant_is_taken(card, host):
    assert changed(card, host=host).host == host
    assert _server_at(f"{host}:9443").address == f"{host}:9443"


def _server_at(address):
    from umbel.client.settings import ServerSettings

    return ServerSettings.build({"address": address}, "client.toml")


@pytest.mark.parametrize("letter", ["é", "語", "😀", "𝒳"])
def test_a_members_name_has_no_letter_of_more_than_a_byte(letter):
    """Sixty of four bytes each were a name, and too long for a file's."""
    for name in (letter, letter * 60, f"a{letter}"):
        with pytest.raises(ValueError, match="at most 64 characters"):
            check_name(name)
    assert check_name("a" * 64)
