"""Rounds under secure aggregation over real agents, with faults where the network is."""

import dataclasses

import numpy as np
import pytest

from umbel.errors import ModelError, PlanRefused, RoundFailed
from umbel.learning.model import arrays_digest
from umbel.privacy.noise.scale import Scale
from umbel.run.checkpoint import load_latest
from umbel.server.rounds import run_rounds
from umbel.wire.packing import SECAGG, bytes_of
from umbel.wire.requests import CONFIRM, EVALUATE, LEDGER, PREKEY, REVEAL, TRAIN, WEIGHT

from .faults import broken, events, lost, on

SITES = ["film", "press", "shop", "social"]
EVERYBODY = range(2, 6)


def test_an_encrypted_run_learns_what_an_open_one_does(start_run, encrypted):
    job = encrypted()
    opened = job.model_copy(
        update={
            "encryption": job.encryption.model_copy(update={"mode": "none"}),
            "simulation": job.simulation.model_copy(update={"encryption_required": False}),
        }
    )
    closed, clear = start_run(job), start_run(opened, name="open")
    hidden, seen = run_rounds(closed), run_rounds(clear)
    scale = Scale(4, closed.plan.clip)
    for name, array in closed.arrays.items():
        # Each round rounds to the grid, and later rounds start from a slightly other model.
        assert array == pytest.approx(clear.arrays[name], abs=100 * 2.0**-scale.bits)
    assert sorted(seen) == SITES
    assert list(hidden) == [""]
    total = hidden[""].metrics(["negative", "positive"])
    assert total["examples"] == sum(counts.examples for counts in seen.values())
    for before, after in zip(
        events(clear, "evaluation"), events(closed, "evaluation"), strict=True
    ):
        assert after["round"] == before["round"]
        assert after["metrics"]["confusion"] == before["metrics"]["confusion"]
        assert after["metrics"]["loss"] == pytest.approx(before["metrics"]["loss"], abs=1e-4)
    for before, after in zip(events(clear, "round"), events(closed, "round"), strict=True):
        assert after["loss"] == pytest.approx(before["loss"], abs=1e-4)


def test_prekeys_ride_on_reveals_and_tests_on_training(start_run, encrypted):
    run = start_run(encrypted())
    run_rounds(run)
    assert run.grid.asked(PREKEY) == dict.fromkeys(EVERYBODY, 1)
    assert run.grid.asked(TRAIN) == dict.fromkeys(EVERYBODY, 3)
    assert run.grid.asked(EVALUATE) == dict.fromkeys(EVERYBODY, 1)
    assert run.grid.asked(CONFIRM) == run.grid.asked(REVEAL) == dict.fromkeys(EVERYBODY, 4)
    assert [event["round"] for event in events(run, "evaluation")] == [0, 1, 2, 3]


def test_nothing_that_an_agent_sends_holds_its_update_or_its_counts(start_run, encrypted):
    """Every reply is protocol bytes, the masked vector, and scalars that the plan knows already."""
    seen = []

    def listen(request, reply, assignment):
        seen.append((request.metadata.message_type, reply.content))
        return [reply]

    run = start_run(encrypted(privacy={"unit": "example"}, training={"batch_size": 64}), listen)
    run_rounds(run)
    words = []
    for kind, content in seen:
        assert set(content.array_records) <= {SECAGG}
        for record in content.metric_records.values():
            assert set(record) <= {WEIGHT, "epsilon"}
        assert set(content.config_records) <= {SECAGG, LEDGER, "readiness"}
        assert all(len(head) == 64 for head in content.config_records.get(LEDGER, {}).values())
        if kind in (TRAIN, EVALUATE):
            words.append(np.frombuffer(bytes_of(content, "vector"), "<u4"))
    # Counts are small and updates near zero; masked, a word is small once in 2^12. Seven of five
    # hundred are less often than once in 10^9 runs.
    drawn = np.concatenate(words)
    assert 400 < len(drawn) < 600
    assert (drawn < 2**20).sum() < 7


@pytest.mark.parametrize("kind", [TRAIN, CONFIRM, REVEAL])
@pytest.mark.parametrize("fault", [lost, broken], ids=["lost", "broken"])
def test_a_round_goes_on_without_a_client_that_fails_in_any_trip(kind, fault, start_run, encrypted):
    cohort, encryption = {"deadline": 20.0}, {"deadline": 20.0}
    run = start_run(
        encrypted(cohort=cohort, encryption=encryption), on(kind, fault, round_=2, attempt=0)
    )
    run_rounds(run)
    rounds = events(run, "round")
    assert [(event["round"], event["attempt"]) for event in rounds] == [(1, 1), (2, 1), (3, 1)]
    assert list(rounds[1]["failed"]) == ["press"]
    # Who had uploaded is in the sum, whatever became of it afterwards.
    expected = [name for name in SITES if name != "press" or kind != TRAIN]
    assert rounds[1]["clients"] == expected
    assert rounds[2]["clients"] == SITES


def test_a_client_without_a_prekey_is_left_out_of_its_first_sum(start_run, encrypted):
    run = start_run(encrypted(), on(PREKEY, broken, round_=1))
    run_rounds(run)
    assert [event["clients"] for event in events(run, "round")] == [
        ["film", "shop", "social"],
        SITES,
        SITES,
    ]


@pytest.mark.parametrize("kind", [TRAIN, CONFIRM, REVEAL])
def test_a_slot_with_too_few_is_given_up_and_repeated_under_fresh_keys(kind, start_run, encrypted):
    def fault(request, reply, assignment):
        hit = request.metadata.message_type == kind and assignment.round == 2
        hit = hit and assignment.attempt == 0 and request.metadata.dst_node_id in (3, 4)
        return broken(request, reply) if hit else [reply]

    run = start_run(encrypted(), fault)
    run_rounds(run)
    rounds = events(run, "round")
    assert [(e["round"], e["attempt"], e["aggregated"]) for e in rounds] == [
        (1, 1, True),
        (2, 1, False),
        (2, 2, True),
        (3, 1, True),
    ]
    assert {"press", "shop"} <= set(rounds[1]["failed"])
    assert run.grid.asked(PREKEY) == dict.fromkeys(EVERYBODY, 2)
    undisturbed = start_run(encrypted(), name="undisturbed")
    run_rounds(undisturbed)
    assert arrays_digest(run.arrays) == arrays_digest(undisturbed.arrays)


@pytest.mark.parametrize("error", [ModelError, MemoryError])
def test_who_cannot_train_is_counted_in_the_sum_and_not_named(
    error, start_run, encrypted, monkeypatch
):
    """A visible failure would tell the server something of this client's records, and nobody else's."""
    import umbel.client.work as work

    train = work.train

    def diverge(*arguments, **named):
        if named["who"] == "press":
            raise error("the model gives outputs that are not finite")
        return train(*arguments, **named)

    monkeypatch.setattr(work, "train", diverge)
    run = start_run(encrypted(training={"rounds": 1}))
    run_rounds(run)
    [event] = events(run, "round")
    assert event["clients"] == SITES
    assert event["failed"] == {}
    assert event["unable"] == 1


def test_a_model_that_nobody_can_train_stops_the_run_and_says_so(start_run, encrypted, monkeypatch):
    import umbel.client.work as work
    from umbel.errors import ModelError

    def diverge(*arguments, **named):
        raise ModelError("secret 12.5")

    monkeypatch.setattr(work, "train", diverge)
    run = start_run(encrypted())
    with pytest.raises(
        RoundFailed, match="no client was able to train or test the model"
    ) as caught:
        run_rounds(run)
    assert "12.5" not in str(caught.value)
    assert run.grid.asked(TRAIN) == dict.fromkeys(EVERYBODY, 1)  # and not again


def test_a_sum_that_does_not_weigh_what_the_plan_says_is_no_model(
    start_run, encrypted, monkeypatch
):
    """A member can put any words into its vector; the weight at least is known beforehand."""
    import umbel.client.secure as secure

    upload = secure.SecureUpload.send

    def heavier(self, part, dither, what, groups):
        return upload(self, dataclasses.replace(part, weight=1), dither, what, groups)

    job = encrypted(strategy={"weighting": "examples"}, cohort={"retries": 0})
    run = start_run(job)
    monkeypatch.setattr(secure.SecureUpload, "send", heavier)
    with pytest.raises(RoundFailed, match="it has weight 4, but"):
        run_rounds(run)


def test_a_member_that_names_a_slot_beyond_all_others_is_not_believed(start_run, encrypted):
    def boast(request, reply):
        record = reply.content["readiness"]
        record["slot"] = 2**53 - 1
        return [reply]

    from umbel.wire.requests import PREPARE

    run = start_run(encrypted(training={"rounds": 1}), on(PREPARE, boast))
    run_rounds(run)
    assert run.sums.used < 10


def test_a_round_without_enough_prekeys_trains_nobody(start_run, encrypted):
    """Training costs privacy; where the round cannot count, it is given up before."""
    fault = on(PREKEY, broken, round_=1)
    run = start_run(encrypted(cohort={"minimum": 4, "retries": 0}), fault)
    with pytest.raises(RoundFailed, match="the disk is full"):
        run_rounds(run)
    assert run.grid.asked(TRAIN) == {}


def test_a_policy_refuses_what_the_owner_did_not_allow(start_run, encrypted):
    job = encrypted()
    run = start_run(job)
    clear = job.encryption.model_copy(update={"mode": "none"})
    terms = dataclasses.replace(run.plan.terms, job=job.model_copy(update={"encryption": clear}))
    run.plan = dataclasses.replace(run.plan, terms=terms)
    with pytest.raises(RoundFailed, match="policy requires encrypted updates"):
        run_rounds(run)


def test_a_job_with_other_limits_than_the_roster_is_refused(start_run, encrypted):
    job = encrypted()
    run = start_run(job)
    lower = job.encryption.model_copy(update={"colluders": 0.0})
    terms = dataclasses.replace(run.plan.terms, job=job.model_copy(update={"encryption": lower}))
    run.plan = dataclasses.replace(run.plan, terms=terms)
    with pytest.raises(RoundFailed, match="differs from the consortium's roster"):
        run_rounds(run)


def test_cohorts_that_change_get_prekeys_of_their_own(start_run, job_of):
    sections = {
        "privacy": {"unit": "none"},
        "strategy": {"weighting": "equal"},
        "simulation": {"partition": "iid", "clients": 6},
        "cohort": {"size": 4},
        "training": {"rounds": 5},
        "model": {"adapter": "head"},
    }
    run = start_run(job_of("bert", **sections))
    run_rounds(run)
    assert all(len(event["clients"]) == 4 for event in events(run, "round"))
    # Everybody enters a first slot once; whoever stays in the cohort needs no trip of its own.
    assert sum(run.grid.asked(PREKEY).values()) < 5 * 4 + 6


def test_weights_are_summed_with_the_updates(start_run, encrypted, reviews_csv, tmp_path):
    header, *rows = reviews_csv.read_text(encoding="utf-8").splitlines()
    many = tmp_path / "many.csv"  # above the smallest published size, and 200 more in one place
    more = [row for row in rows if ",press" in row or row.startswith("press,")] * 6
    many.write_text("\n".join([header, *rows * 6, *more]) + "\n", encoding="utf-8")
    job = encrypted(
        strategy={"weighting": "examples"}, training={"rounds": 1}, data={"path": str(many)}
    )
    run = start_run(job)
    run_rounds(run)
    assert len({client.weight for client in run.plan.clients}) > 1
    opened = start_run(
        job.model_copy(
            update={
                "encryption": job.encryption.model_copy(update={"mode": "none"}),
                "simulation": job.simulation.model_copy(update={"encryption_required": False}),
            }
        ),
        name="open",
    )
    run_rounds(opened)
    for name, array in run.arrays.items():
        assert array == pytest.approx(opened.arrays[name], abs=1e-6)


@pytest.mark.parametrize("strategy", ["FedMedian", "Krum", "fedadam", "median"])
def test_a_robust_rule_compares_the_means_of_groups(strategy, start_run, job_of):
    job = job_of(
        "bert",
        privacy={"unit": "none"},
        strategy={
            "name": strategy,
            "weighting": "equal",
            "options": {"attackers": 0.0} if strategy == "median" else {},
        },
        simulation={"partition": "iid", "clients": 9},
        encryption={"group_size": 4},
        training={"rounds": 2},
    )
    run = start_run(job)
    before = arrays_digest(run.arrays)
    counts = run_rounds(run)
    assert arrays_digest(run.arrays) != before
    assert list(counts) == [""]
    assert [len(event["clients"]) for event in events(run, "round")] == [9, 9]


def test_a_two_trip_round_leaves_out_the_confirmation(start_run, encrypted):
    run = start_run(encrypted(encryption={"confirm": False}))
    run_rounds(run)
    assert run.grid.asked(CONFIRM) == {}
    assert run.round == 3


def test_a_run_goes_on_after_a_stop_with_slots_that_were_never_used(start_run, encrypted):
    run = start_run(encrypted())
    run.should_stop = lambda: run.round == 1
    with pytest.raises(Exception, match="after round 1 of 3"):
        run_rounds(run)
    again = start_run(encrypted())
    checkpoint = load_latest(again.checkpoints, {n: a.shape for n, a in again.arrays.items()})
    again.round, again.arrays = checkpoint.round, checkpoint.arrays
    run_rounds(again)
    assert again.sums.used > run.sums.used
    undisturbed = start_run(encrypted(), name="undisturbed")
    run_rounds(undisturbed)
    assert arrays_digest(again.arrays) == arrays_digest(undisturbed.arrays)


def test_who_was_clipped_is_counted_and_not_named(start_run, encrypted):
    run = start_run(encrypted(encryption={"clip": 1e-4}, training={"rounds": 1}))
    run_rounds(run)
    [event] = events(run, "round")
    assert event["clipped"] == 4
    assert all(np.abs(array).max() <= 1.01e-4 for array in run.arrays.values())


def test_an_owners_own_figures_stay_in_its_own_log(start_run, encrypted):
    run = start_run(encrypted())
    run_rounds(run)
    assert all(event["clients"] == {} for event in events(run, "evaluation"))
    log = run.folder.path / "owners" / "press" / "metrics.jsonl"
    assert len(log.read_text().splitlines()) == 4


def test_a_strategy_that_compares_is_refused_without_groups(start_run, encrypted):
    with pytest.raises(PlanRefused, match="compares single updates"):
        start_run(encrypted(strategy={"name": "FedMedian"}))
