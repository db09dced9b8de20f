"""Commands that change several files, killed before each change: what is left counts.

The same command once more ends well.
"""

import itertools
import os
import shutil

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from umbel.client.home import Home
from umbel.client.keys import follow as owner_follows
from umbel.client.keys import renew_keys, trust, use_new_keys
from umbel.consortium.authority import Consortium
from umbel.consortium.card import Request, public_pem
from umbel.consortium.key_handovers import KINDS
from umbel.consortium.rotation import follow, rotate
from umbel.privacy.secagg.keys import Identity
from umbel.privacy.secagg.roster import Limits
from umbel.server.signing import sign_members, take_members
from umbel.server.split import SECRETS, split

NAMES = ("east", "north")
CHANGES = ("replace", "rename", "unlink")


@pytest.fixture
def cuts(forked, tmp_path):
    """Copies of a folder, in each of which `act` was killed before another change of a file's name.

    The last one is that in which it was not.
    """

    places = itertools.count(1)

    def of(folder, act):
        for number in itertools.count(1):
            copy = tmp_path / f"{next(places)}" / folder.name
            shutil.copytree(folder, copy, symlinks=True)

            def die(copy=copy, number=number):
                left = iter(range(number - 1))
                for name in CHANGES:
                    setattr(os, name, counted(getattr(os, name), left))
                act(copy)

            code = forked(die)
            assert code in (0, 9)
            yield copy
            if code == 0:
                assert number > 2
                return

    def counted(change, left):
        def call(path, *rest, **named):
            if os.path.lexists(path) and next(left, None) is None:
                os._exit(9)
            return change(path, *rest, **named)

        return call

    return of


@pytest.fixture
def consortium(tmp_path):
    made = Consortium.create(tmp_path / "made" / "hospitals", "localhost", 9443, Limits())
    for name in NAMES:
        made.admit(request_of(made, name))
    return made


@pytest.fixture
def owner(consortium, tmp_path):
    (tmp_path / "notes.csv").write_text("text,label\nfine,positive\nill,negative\n")
    card = consortium.path / "consortium.json"
    home = Home.create(tmp_path / "made" / "st-mary", card, tmp_path / "notes.csv")
    consortium.admit(home.request)
    home.membership.learn(consortium.roster())
    return home


def request_of(consortium, name):
    node = public_pem(ec.generate_private_key(ec.SECP384R1()).public_key())
    return Request.make(consortium.card, name, Identity(os.urandom(64)), node)


def let_in(folder):
    """Names and keys of the nodes that a server lets in: each of them the roster's."""
    keys, unreadable = Consortium.open(folder).node_keys()
    assert not unreadable
    return {name: key for key, name in keys.items()}


def test_an_admission_and_a_removal(consortium, cuts):
    before, new = let_in(consortium.path), request_of(consortium, "west")
    after = before | {"west": new.node_key.encode()}
    for left in cuts(consortium.path, lambda folder: Consortium.open(folder).admit(new)):
        assert let_in(left) in (before, after)
        Consortium.open(left).admit(new)
        assert let_in(left) == after
    del after["west"], after["east"]
    consortium.admit(new)

    def remove(folder):
        for name in ("west", "east"):
            Consortium.open(folder).remove(name)

    for left in cuts(consortium.path, remove):
        for name in ("west", "east", "west"):
            Consortium.open(left).remove(name)
        assert let_in(left) == after
        assert {path.name for path in (left / "members").iterdir()} == {"north.json"}


def test_a_member_with_other_keys_is_let_in_with_those_of_the_roster(consortium, owner, cuts):
    before, asked = let_in(consortium.path), Request.read(renew_keys(owner))
    after = before | {owner.name: asked.node_key.encode()}
    for left in cuts(consortium.path, lambda folder: Consortium.open(folder).admit(asked)):
        assert let_in(left) in (before, after)
        Consortium.open(left).admit(asked)
        assert let_in(left) == after
        assert not list((left / "members").glob("*.next"))


def test_a_roster_that_is_brought(consortium, owner, cuts):
    keys = split(consortium, consortium.path.parent / "keys")
    before, asked = let_in(consortium.path), Request.read(renew_keys(owner))
    keys.admit(asked)
    keys.remove("east")
    packet = sign_members(keys)
    for left in cuts(consortium.path, lambda folder: take_members(Consortium.open(folder), packet)):
        assert let_in(left) in (before, let_in(keys.path))
        take_members(Consortium.open(left), packet)
        assert let_in(left) == let_in(keys.path)


def test_keys_that_move_apart_are_in_one_folder_or_both_and_in_the_end_in_one(consortium, cuts):
    for left in cuts(
        consortium.path.parent, lambda at: split(Consortium(at / "hospitals"), at / "keys")
    ):
        here, there = left / "hospitals", left / "keys"
        for name in SECRETS:
            assert (here / name).exists() or (there / name).exists()
        if any((here / name).exists() for name in SECRETS):
            split(Consortium.open(here), there)
        server, keys = Consortium.open(here), Consortium.open(there)
        assert not [name for name in SECRETS if (here / name).exists()]
        assert keys.identity, keys.operator
        assert server.delegate_identity.public.signing == keys.delegate


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_that_is_replaced(kind, consortium, cuts):
    before = consortium.card
    for left in cuts(consortium.path, lambda folder: rotate(Consortium.open(folder), kind)):
        found = Consortium.open(left)
        assert found.card in (before, before.after(found.card.handovers))
        assert len(let_in(left)) == len(NAMES)
        rotate(found, kind)  # whichever of the two keys is there goes on
        assert found.identity
        assert found.operator
        found.renew_certificate()
        assert found.roster_is_by_todays_key


def test_a_server_and_an_owner_that_follow(consortium, owner, cuts):
    keys = split(consortium, consortium.path.parent / "keys")
    for kind in KINDS:
        rotate(keys, kind)
    chain, packet = keys.card.handovers, sign_members(keys)
    for left in cuts(consortium.path, lambda folder: follow(Consortium.open(folder), chain)):
        take_members(Consortium.open(left), packet)
        assert Consortium.open(left).card == keys.card
    authority, former = keys.card.ca_certificate, owner.card.ca_certificate
    for left in cuts(owner.path, lambda folder: owner_follows(Home.open(folder), chain)):
        home = Home.open(left)
        believed = home.ca_certificate.read_text()
        assert former in believed
        assert home.card.ca_certificate in believed
        owner_follows(home, chain)
        home.membership.learn(keys.roster())
        assert authority in Home.open(left).ca_certificate.read_text()
        trust(home, keys.card)
        assert home.ca_certificate.read_text() == authority


def test_an_owner_that_goes_over_to_its_new_keys(owner, cuts):
    asked = Request.read(renew_keys(owner))
    for left in cuts(owner.path, lambda folder: use_new_keys(Home.open(folder))):
        if list((left / "next").iterdir()):
            use_new_keys(Home.open(left))
        home = Home.open(left)
        assert home.request.keys == asked.keys
        assert home.node_key.read_bytes().startswith(b"-----BEGIN OPENSSH")
