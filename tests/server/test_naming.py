"""A member that spoils a sum: its group is named and left out, by the same updates once more."""

import pytest

from umbel.errors import JobError, RoundFailed
from umbel.flower import refuse
from umbel.privacy.ledger.ledger import Ledger
from umbel.privacy.secagg.participant import Participant
from umbel.server.rounds import run_rounds
from umbel.server.sums import SecureSums
from umbel.wire.requests import FAILED, TRAIN


@pytest.fixture
def job(job_of):
    def build(rounds=1, **sections):
        return job_of(
            "bert",
            privacy={"unit": "example", "delta": 1e-3, "epsilon": 20.0},
            evaluation={"counts": "off"},
            strategy={"weighting": "equal"},
            simulation={"partition": "iid", "clients": 6},
            training={"rounds": rounds, "batch_size": 64},
            cohort={"minimum": 3, **sections.pop("cohort", {})},
            encryption={"name_spoilers": True, **sections.pop("encryption", {})},
            **sections,
        )

    return build


def spoiled_by(culprit, monkeypatch, only=lambda groups: True):
    """One flipped word; the member's own signature stands for the vector, so nobody sees whose it is."""
    upload = Participant.upload

    def spoils(self, request, context, words, what=b"", groups=(), *second):
        if self.member.name == culprit and only(groups):
            words[0] += 1
        return upload(self, request, context, words, what, groups, *second)

    monkeypatch.setattr(Participant, "upload", spoils)


def events(run):
    return [event for event in run.folder.read_events() if event["event"] == "round"]


def charged(run):
    found = {}
    for name in run.plan.by_name:
        with Ledger(run.folder.path / "ledgers" / f"{name}.sqlite") as ledger:
            found[name] = [entry.what for entry in ledger.entries_of(run.id)]
    return found


def test_a_spoiled_sum_is_opened_once_more_in_groups_and_one_is_left_out(
    start_run, job, monkeypatch
):
    run = start_run(job(), reproducible=False)
    culprit = sorted(run.plan.by_name)[2]
    spoiled_by(culprit, monkeypatch)
    run_rounds(run)
    first, second = events(run)
    assert not first["aggregated"]
    assert "named" not in first
    [named] = second["named"]
    assert culprit in named
    assert len(named) == 3
    assert second["aggregated"]
    assert sorted([*named, *second["clients"]]) == sorted(run.plan.by_name)
    # The very same updates: nobody trained again.
    assert set(map(tuple, charged(run).values())) == {("1",)}


def test_over_some_rounds_the_member_itself_is_named_and_asked_no_more(start_run, job, monkeypatch):
    run = start_run(job(rounds=6), reproducible=False)
    culprit = sorted(run.plan.by_name)[4]
    spoiled_by(culprit, monkeypatch)
    run_rounds(run)
    assert run.sums.excluded == {culprit}
    last = events(run)[-1]
    assert culprit not in last["clients"]
    assert len(last["clients"]) == 5
    assert last["attempt"] == 1


def test_who_is_left_out_stays_so_after_a_restart(start_run, job, monkeypatch):
    run = start_run(job(rounds=6), reproducible=False)
    run.restore()
    spoiled_by(culprit := sorted(run.plan.by_name)[4], monkeypatch)
    run_rounds(run)
    sums = SecureSums(run.sums.roster)
    sums.resume(run.folder)
    assert (sums.excluded, sums.suspects) == ({culprit}, {culprit})


def test_who_behaves_while_groups_are_looked_at_is_not_named_and_its_round_counts(
    start_run, job, monkeypatch
):
    run = start_run(job(), reproducible=False)
    culprit = sorted(run.plan.by_name)[0]
    spoiled_by(culprit, monkeypatch, only=lambda groups: not groups)
    run_rounds(run)
    first, second = events(run)
    assert not first["aggregated"]
    assert second["aggregated"]
    assert "named" not in second
    assert len(second["clients"]) == 6
    assert set(map(tuple, charged(run).values())) == {("1",)}


def test_a_group_that_is_not_whole_is_left_out_and_named_too(start_run, job, monkeypatch):
    """Who spoils and then stays away."""
    quitter = []

    def fault(request, reply, assignment):
        node = request.metadata.dst_node_id
        if request.metadata.message_type == TRAIN and assignment.naming and node == quitter[0]:
            return [refuse(request, FAILED, "away")]
        return [reply]

    run = start_run(job(), fault, reproducible=False)
    culprit = sorted(run.plan.by_name)[1]
    spoiled_by(culprit, monkeypatch)
    quitter.append(FIRST_NODE + sorted(run.plan.by_name).index(culprit))
    run_rounds(run)
    [named] = events(run)[-1]["named"]
    assert culprit in named
    assert len(events(run)[-1]["clients"]) == 3


FIRST_NODE = 2


def test_without_the_owners_consent_no_update_is_summed_again(start_run, job, monkeypatch):
    from umbel.client.policy import Policy

    simulated = Policy.simulated

    def strict(job, own_rank=0):
        policy = simulated(job, own_rank)
        rules = policy.encryption.model_copy(update={"name_spoilers": False})
        return policy.model_copy(update={"encryption": rules})

    monkeypatch.setattr(Policy, "simulated", strict)
    run = start_run(job(), reproducible=False)
    with pytest.raises(RoundFailed, match="encryption.name_spoilers"):
        run_rounds(run)
    assert set(map(tuple, charged(run).values())) == {()}


def test_a_job_that_names_nobody_trains_a_spoiled_round_anew(start_run, job, monkeypatch):
    run = start_run(job(encryption={"name_spoilers": False}), reproducible=False)
    culprit = sorted(run.plan.by_name)[2]
    first = []
    spoiled_by(culprit, monkeypatch, only=lambda groups: not first and not first.append(1))
    run_rounds(run)
    assert [event["aggregated"] for event in events(run)] == [False, True]
    assert set(map(tuple, charged(run).values())) == {("1", "1")}


@pytest.mark.parametrize(
    "sections",
    [
        {"privacy": {"unit": "none"}},
        {"encryption": {"name_spoilers": True, "confirm": False}},
        {"encryption": {"name_spoilers": True, "group_size": 4}},
    ],
)
def test_a_job_that_could_name_nobody_is_refused(sections, job_of):
    with pytest.raises(JobError, match="name_spoilers applies only"):
        job_of("bert", **{"encryption": {"name_spoilers": True}, **sections})
