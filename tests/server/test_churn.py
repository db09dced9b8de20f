"""Members that are removed, admitted, away and back while a run lasts, over real agents in this process."""

import contextlib
import random
import shutil
from collections import Counter

import pytest

from umbel.certificate.check import verify
from umbel.consortium.authority import Consortium
from umbel.consortium.rotation import rotate
from umbel.consortium.warrants import check_job_signature, parted
from umbel.errors import CannotGoOn, RunFolderError
from umbel.run.events import Delivered
from umbel.run.store import Store
from umbel.server import coordinator
from umbel.server.coordinator import coordinate
from umbel.server.orders import finish
from umbel.server.rosters import Rosters
from umbel.server.run_to_lead import RunToLead
from umbel.server.signing import sign_members, take_members
from umbel.server.split import SECRETS

from .churn import RUN, Crash, Federation


@pytest.fixture
def churning(job_of, tmp_path, monkeypatch):
    """A federation of so many owners, of whom the first `begin` are members when the run is placed."""

    def build(owners=5, begin=5, apart=False, **sections):
        plain = {
            "simulation": {"partition": "iid", "clients": owners},
            "training": {"rounds": 3, "batch_size": 64, "local_steps": 2},
            "privacy": {"delta": 1e-3},
            "evaluation": {"every": 0},
            "data": {"labels": ["negative", "positive"]},
        }
        for name, section in plain.items():
            sections[name] = {**section, **sections.get(name, {})}
        job = job_of("bert", **sections)
        return Federation(job, tmp_path, monkeypatch, begin, apart)

    return build


def certified(federation):
    verdict = verify(federation.run_folder.path, card=federation.consortium.card)
    assert verdict.valid, [f for f in verdict.findings if f.holds is False]
    return verdict.certificate


def test_a_server_without_keys_shrinks_the_roster_in_a_run_and_certifies_it(churning):
    federation = churning(apart=True)
    gone, stay = federation.names[1], set(federation.names) - {federation.names[1]}
    federation.at.when("round 1 summed", lambda: federation.remove(gone))
    result = federation.lead()
    assert not [n for n in SECRETS if (federation.consortium.path / n).exists()]
    assert federation.clients() == {1: set(federation.names), 2: stay, 3: stay}
    assert [period["members"] for period in result["rosters"]] == [5, 4]
    certificate = certified(federation)
    assert certificate.key == federation.consortium.delegate.hex()
    assert certificate.key != federation.consortium.card.operator_key
    # What the consortium signs next is newer than the cut, also for owners that have learned that.
    federation.keys.remove(gone)
    taken = sign_members(federation.keys)
    assert take_members(federation.consortium, taken) == []
    for name in stay:
        federation.membership(name).learn(federation.consortium.roster())


def test_a_run_goes_on_without_a_member_that_is_removed_between_rounds(churning):
    federation = churning()
    gone, stay = federation.names[1], set(federation.names) - {federation.names[1]}
    federation.at.when("round 1 summed", lambda: federation.remove(gone))
    result = federation.lead()
    assert federation.clients() == {1: set(federation.names), 2: stay, 3: stay}
    assert federation.charged() == {
        name: Counter({str(r): 1 for r in ((1,) if name == gone else (1, 2, 3))})
        for name in federation.names
    }
    before, after = result["rosters"]
    assert (before["first"], before["members"], after["first"], after["members"]) == (1, 5, 2, 4)
    assert result["clients"] == 5
    assert gone in result["privacy"]["clients"]
    certificate = certified(federation)
    assert [period.clients for period in certificate.rosters] == [5, 4]
    assert certificate.ledgers.owners == certificate.ledgers.reported == 5
    assert (
        "5 from round 1 on, 4 from round 2 on"
        in (federation.run_folder.path / "adapter" / "README.md").read_text()
    )
    plan = federation.run_folder.read_json("plan.json")
    assert plan["left"] == [gone]
    assert plan["cohort"] == {"size": 4, "minimum": 3}


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("train 2", marks=pytest.mark.slow),
        "confirm 2",
        pytest.param("open 2", marks=pytest.mark.slow),
    ],
)
def test_a_round_in_progress_is_finished_under_its_roster_and_never_summed_without_the_member(
    moment, churning
):
    """Also if the coordinator dies in it, and the member is not let in any more."""
    federation = churning()
    gone = federation.names[0]

    def removed_and_killed():
        federation.remove(gone)
        federation.away(gone)
        raise Crash

    federation.at.when(moment, removed_and_killed)
    federation.lead()
    asked = federation.rosters_asked()
    assert len({roster for rosters in asked.values() for roster in rosters}) == 2
    for name, charges in federation.charged().items():
        for round_, times in charges.items():
            # Under two rosters only what was trained, and charged, twice.
            assert times <= len(set(asked[int(round_)])), (name, charges)
    assert all(
        gone not in clients for round_, clients in federation.clients().items() if round_ > 2
    )
    assert len(federation.clients()) == 3
    certified(federation)


def test_a_run_that_is_left_with_too_few_ends_early_and_one_without_a_model_fails(churning):
    federation = churning(owners=3, begin=3)
    federation.at.when("round 2 summed", lambda: federation.remove(federation.names[0]))
    result = federation.lead()
    assert (result["rounds"], result["ended"]["cause"]) == (2, "owners")
    assert f"{federation.names[0]} left the consortium" in result["ended"]["reason"]
    assert certified(federation).rounds.ended


def test_a_run_whose_members_leave_before_its_first_sum_fails_and_says_why(churning):
    federation = churning(owners=3, begin=3)
    gone = federation.names[0]

    def removed_and_killed():
        federation.remove(gone)
        federation.away(gone)
        raise Crash

    federation.at.when("train 1", removed_and_killed)
    with pytest.raises(CannotGoOn, match=f"{gone} left the consortium.*2 clients.*Start a new run"):
        federation.lead()


def test_members_join_between_rounds_where_the_job_allows_it(churning):
    federation = churning(owners=5, begin=4, cohort={"joins": True})
    new = federation.names[4]
    federation.at.when("round 1 summed", lambda: federation.admit(new))
    result = federation.lead()
    assert [new in clients for clients in federation.clients().values()] == [False, True, True]
    assert federation.charged()[new] == Counter({"2": 1, "3": 1})
    plan = {c["name"]: c for c in federation.run_folder.read_json("plan.json")["clients"]}
    assert plan[new]["rounds"] == 2
    assert plan[new]["noise_multiplier"] < min(
        plan[name]["noise_multiplier"] for name in federation.names[:4]
    )
    assert [period["clients"] for period in result["rosters"]] == [4, 5]
    certified(federation)


def test_a_member_with_whom_those_that_are_here_would_be_too_few_does_not_join(churning, caplog):
    """Of four members any sum needs four here: on the code before, the fourth's admission ended the run."""
    federation = churning(4, 3, encryption={"colluders": 0.3}, cohort={"joins": True})
    federation.at.when("round 1 summed", lambda: federation.admit(federation.names[3]))
    result = federation.lead()
    assert (result["rounds"], result["ended"]) == (3, None)
    assert [period["members"] for period in result["rosters"]] == [3]
    certified(federation)
    assert caplog.text.count("nobody joins") == 1, "it is said once, not before each sum"
    _, run = federation.taken_up()
    assert not run.roster_waits()
    run.renew(False)  # which leaves by raising


def test_a_roster_that_is_signed_anew_in_a_run_reaches_its_members(churning):
    """Else they would refuse, from its end on, although the operator did what they said."""
    federation = churning(3, 3)
    first, prolong = federation.consortium.roster(), federation.consortium.prolong
    federation.at.when("round 1 summed", lambda: prolong(500))
    result = federation.lead()
    assert [period["members"] for period in result["rosters"]] == [3]
    known = {federation.membership(name).roster.read_bytes() for name in federation.names}
    assert known == {federation.consortium.roster()} != {first}


def test_a_roster_that_is_about_to_end_is_left_for_one_with_the_same_clients(churning):
    federation = churning(4, 3)
    federation.consortium.prolong(1)
    federation.at.when("round 1 summed", lambda: federation.admit(federation.names[3]))
    result = federation.lead()
    assert [(p["members"], p["clients"]) for p in result["rosters"]] == [(3, 3), (4, 3)]
    assert set(federation.charged()) == set(federation.names[:3])
    certified(federation)


def test_a_member_that_left_between_two_writes_of_a_beginning_takes_no_part(churning, monkeypatch):
    federation = churning(4, 4, training={"rounds": 1})
    gone, begin = federation.names[0], Rosters.begin

    def killed(self, clients):
        monkeypatch.setattr(Rosters, "begin", begin)
        federation.remove(gone)
        federation.away(gone)
        raise Crash

    monkeypatch.setattr(Rosters, "begin", killed)
    result = federation.lead()
    assert federation.clients() == {1: set(federation.names[1:])}
    assert [(p["members"], p["clients"]) for p in result["rosters"]] == [(3, 3)]
    certified(federation)


def test_a_coordinator_that_dies_while_it_sends_the_result_sends_it_again(churning, monkeypatch):
    federation = churning(3, 3, training={"rounds": 1})
    store, sent = Store(federation.consortium.database), coordinator.hand_out
    nodes = {name: federation.node(name) for name in federation.names}
    task = RunToLead(
        str(federation.consortium.path), RUN, "", 0, str(federation.folder / "key"), nodes
    )
    # Flower's side of it: here the members are in this process.
    monkeypatch.setattr(coordinator, "claim_run", lambda *_: None)
    monkeypatch.setattr(coordinator, "grid_of", lambda *_: contextlib.nullcontext(federation.net))

    def killed(*_):
        raise Crash

    monkeypatch.setattr(coordinator, "hand_out", killed)
    with pytest.raises(Crash):
        coordinate(task)
    # On the code before, it was finished now, and nobody ever sent it.
    assert (store.run(RUN).status, store.run(RUN).over) == ("delivering", False)
    with pytest.raises(RunFolderError, match="is finished"):
        finish(federation.consortium, RUN)
    monkeypatch.setattr(coordinator, "hand_out", sent)
    coordinate(task)
    assert store.run(RUN).status == "finished"
    [delivered] = federation.events("delivered")
    assert {*delivered["clients"], *delivered["failed"]} == set(federation.names)
    assert len(federation.events("round")) == 1


def test_a_result_is_sent_under_an_order_by_the_key_that_certified_it(churning, monkeypatch):
    federation, sent = churning(3, 3, training={"rounds": 1}), []
    path, summed = federation.consortium.path, coordinator.summarise
    nodes = {name: federation.node(name) for name in federation.names}
    monkeypatch.setattr(coordinator, "claim_run", lambda *_: None)
    monkeypatch.setattr(coordinator, "grid_of", lambda *_: contextlib.nullcontext(federation.net))

    def rotated(*arguments):
        rotate(Consortium.open(path), "operator")
        return summed(*arguments)

    def hand_out(grid, folder, nodes, signer, delegation):
        sent.append((folder.read_json("run.json"), signer.public.signing))
        return Delivered(sorted(nodes), {})

    monkeypatch.setattr(coordinator, "summarise", rotated)
    monkeypatch.setattr(coordinator, "hand_out", hand_out)
    coordinate(RunToLead(str(path), RUN, "", 0, str(federation.folder / "key"), nodes))
    [(identity, signer)] = sent
    card, job = Consortium.open(path).card, federation.run_folder.job.to_json()
    assert signer == card.operator_key_bytes
    assert parted(identity["signature"])[1] == card.handovers != []
    assert check_job_signature(signer, card.id, identity["id"], job, identity["signature"])


@pytest.mark.slow
def test_members_do_not_join_unless_the_job_says_so(churning):
    federation = churning(owners=5, begin=4)
    federation.at.when("round 1 summed", lambda: federation.admit(federation.names[4]))
    result = federation.lead()
    assert all(federation.names[4] not in clients for clients in federation.clients().values())
    assert len(result["rosters"]) == 1


def test_who_was_away_when_a_run_is_taken_up_takes_part_when_it_is_back(churning):
    federation = churning(owners=4, begin=4)
    late = federation.names[2]

    def killed():
        federation.away(late)
        raise Crash

    federation.at.when("train 2", killed)
    federation.at.when("round 2 summed", lambda: federation.away())
    federation.lead()
    assert [late in clients for clients in federation.clients().values()] == [True, False, True]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_any_churn_ends_with_a_certified_model_and_charges_nobody_twice(seed, churning):
    """Twelve owners and ten rounds: members removed, added, away and back, and coordinators killed."""
    federation = churning(
        12, 9, training={"rounds": 10}, cohort={"joins": True}, encryption={"colluders": 0.1}
    )
    generator = random.Random(seed)
    members = set(federation.names[:9])

    def happens(kills):
        what = generator.choice(["remove", "admit", "away", "back", "kill" if kills else "back"])
        others = sorted(set(federation.names) - members)
        if what == "remove" and len(members) > 7:
            members.remove(gone := generator.choice(sorted(members)))
            federation.remove(gone)
        elif what == "admit" and others:
            members.add(new := generator.choice(others))
            federation.admit(new)
        elif what == "away":
            federation.away(generator.choice(sorted(members)))
        elif what == "back":
            federation.away()
        elif what == "kill":
            raise Crash

    for round_ in range(1, 11):
        federation.at.when(f"round {round_} summed", lambda: happens(False))
        stage = generator.choice(["train", "confirm", "open"])
        federation.at.when(f"{stage} {round_}", lambda: happens(True))
    result = federation.lead()
    assert sorted(federation.clients()) == list(range(1, 11)), federation.events("ended")
    asked = federation.rosters_asked()
    for name, charges in federation.charged().items():
        for round_, times in charges.items():
            assert times <= len(set(asked[int(round_)])), (name, charges)
    assert all(len(clients) >= 3 for clients in federation.clients().values())
    assert len(result["rosters"]) > 1
    certified(federation)


def set_back(federation):
    """Put a backup of round 1 back while round 4 is trained."""
    backup = federation.folder / "backup"

    def restore():
        shutil.rmtree(federation.run_folder.path)
        shutil.copytree(backup, federation.run_folder.path)
        raise Crash

    federation.at.when("train 2", lambda: shutil.copytree(federation.run_folder.path, backup))
    federation.at.when("train 4", restore)
    return federation.lead()


def test_a_run_that_came_back_from_a_backup_charges_nobody_twice(churning):
    federation = churning(training={"rounds": 5})
    result = set_back(federation)
    assert sorted(federation.clients()) == [1, 4, 5]
    assert (result["rounds"], result["ended"]["cause"]) == (3, "restored")
    every = Counter({str(round_): 1 for round_ in range(1, 6)})
    assert federation.charged() == dict.fromkeys(federation.names, every)
    assert certified(federation).rounds.done == 3


def test_a_coordinator_that_asks_its_owners_for_no_round_has_them_charged_twice(
    churning, monkeypatch
):
    """The same, weakened: what comes of it without that question."""
    monkeypatch.setattr("umbel.server.readiness.learn_rounds", lambda run, stated: None)
    federation = churning(training={"rounds": 5}, cohort={"when_stuck": "finish"})
    set_back(federation)
    assert any(max(times.values()) > 1 for times in federation.charged().values())


def test_an_owner_that_lies_about_rounds_moves_no_run(churning):
    from umbel.server.restored import learn_rounds

    federation = churning()
    federation.lead()
    _, run = federation.taken_up()
    run.round = 0
    learn_rounds(run, [1, 1, 1, 1, 3])
    assert run.round == 0
    learn_rounds(run, [0, 3, 3, 3, 3])
    assert run.round == 3
