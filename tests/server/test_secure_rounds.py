"""Rounds under secure aggregation over real agents, with faults where the network is."""

import dataclasses

import numpy as np
import pytest
from flwr.app import Array, Message, MetricRecord, RecordDict

from umbel.certificate.seal import seal_head
from umbel.errors import Interrupted, ModelError, PlanRefused, ProtocolError, RoundFailed
from umbel.flower import refuse, stamp
from umbel.learning.model import arrays_digest
from umbel.privacy.ledger.ledger import Ledger
from umbel.privacy.noise.scale import Scale
from umbel.run.checkpoint import load_latest
from umbel.server.result import summarise
from umbel.server.rounds import run_rounds
from umbel.wire.packing import SECAGG, bytes_of, to_bytes_record
from umbel.wire.requests import CONFIRM, EVALUATE, FAILED, LEDGER, PREKEY, REVEAL, TRAIN, WEIGHT

SITES = ["film", "press", "shop", "social"]
EVERYBODY = range(2, 6)
PRESS = 3


@pytest.fixture
def quick(job_of):
    """Four natural clients that train a head; one may drop out of a sum."""

    def build(**sections):
        plain = {"privacy": {"unit": "none"}, "strategy": {"weighting": "equal"}}
        for name, section in plain.items():
            sections[name] = {**section, **sections.get(name, {})}
        sections["cohort"] = {"minimum": 3, **sections.get("cohort", {})}
        return job_of("bert", **sections)

    return build


def events(run, kind):
    return [event for event in run.folder.read_events() if event["event"] == kind]


def on(kind, replies, node=PRESS, round_=None, attempt=None):
    """A fault: `replies(request, reply)` instead of one node's replies of a kind."""

    def fault(request, reply, assignment):
        hit = (
            request.metadata.message_type == kind
            and request.metadata.dst_node_id == node
            and round_ in (None, assignment.round)
            and attempt in (None, assignment.attempt)
        )
        return replies(request, reply) if hit else [reply]

    return fault


def lost(request, reply):
    return []


def broken(request, reply):
    return [refuse(request, FAILED, "the disk is full")]


def test_an_encrypted_run_learns_what_an_open_one_does(start_run, quick):
    job = quick()
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


def test_prekeys_ride_on_reveals_and_tests_on_training(start_run, quick):
    run = start_run(quick())
    run_rounds(run)
    assert run.grid.asked(PREKEY) == dict.fromkeys(EVERYBODY, 1)
    assert run.grid.asked(TRAIN) == dict.fromkeys(EVERYBODY, 3)
    assert run.grid.asked(EVALUATE) == dict.fromkeys(EVERYBODY, 1)
    assert run.grid.asked(CONFIRM) == run.grid.asked(REVEAL) == dict.fromkeys(EVERYBODY, 4)
    assert [event["round"] for event in events(run, "evaluation")] == [0, 1, 2, 3]


def test_nothing_that_an_agent_sends_holds_its_update_or_its_counts(start_run, quick):
    """Every reply is protocol bytes, the masked vector, and scalars that the plan knows already."""
    seen = []

    def listen(request, reply, assignment):
        seen.append((request.metadata.message_type, reply.content))
        return [reply]

    run = start_run(quick(privacy={"unit": "example"}, training={"batch_size": 64}), listen)
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
def test_a_round_goes_on_without_a_client_that_fails_in_any_trip(kind, fault, start_run, quick):
    cohort, encryption = {"deadline": 20.0}, {"deadline": 20.0}
    run = start_run(
        quick(cohort=cohort, encryption=encryption), on(kind, fault, round_=2, attempt=0)
    )
    run_rounds(run)
    rounds = events(run, "round")
    assert [(event["round"], event["attempt"]) for event in rounds] == [(1, 1), (2, 1), (3, 1)]
    assert list(rounds[1]["failed"]) == ["press"]
    # Who had uploaded is in the sum, whatever became of it afterwards.
    expected = [name for name in SITES if name != "press" or kind != TRAIN]
    assert rounds[1]["clients"] == expected
    assert rounds[2]["clients"] == SITES


def test_a_client_without_a_prekey_is_left_out_of_its_first_sum(start_run, quick):
    run = start_run(quick(), on(PREKEY, broken, round_=1))
    run_rounds(run)
    assert [event["clients"] for event in events(run, "round")] == [
        ["film", "shop", "social"],
        SITES,
        SITES,
    ]


@pytest.mark.parametrize("kind", [TRAIN, CONFIRM, REVEAL])
def test_a_slot_with_too_few_is_given_up_and_repeated_under_fresh_keys(kind, start_run, quick):
    def fault(request, reply, assignment):
        hit = request.metadata.message_type == kind and assignment.round == 2
        hit = hit and assignment.attempt == 0 and request.metadata.dst_node_id in (3, 4)
        return broken(request, reply) if hit else [reply]

    run = start_run(quick(), fault)
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
    undisturbed = start_run(quick(), name="undisturbed")
    run_rounds(undisturbed)
    assert arrays_digest(run.arrays) == arrays_digest(undisturbed.arrays)


def test_too_few_members_stop_the_run_with_the_reason(start_run, quick):
    def fault(request, reply, assignment):
        hit = request.metadata.message_type == TRAIN and request.metadata.dst_node_id in (3, 4)
        return broken(request, reply) if hit else [reply]

    run = start_run(quick(cohort={"retries": 1}), fault)
    with pytest.raises(
        RoundFailed, match=r"2 of 4 clients answered, but 3 are needed.*disk is full"
    ):
        run_rounds(run)


def _spoiled(change):
    def replies(request, reply):
        parts = {name: bytes_of(reply.content, name) for name in reply.content[SECAGG]}
        content = dict(reply.content)
        content[SECAGG] = to_bytes_record(**change(parts))
        return [Message(RecordDict(content), reply_to=request)]

    return replies


def _flipped(data):
    return data[:-1] + bytes([data[-1] ^ 1])


POISONS = {
    "a bit of the vector": lambda p: {**p, "vector": _flipped(p["vector"])},
    "a short vector": lambda p: {**p, "vector": p["vector"][:-4]},
    "a torn vector": lambda p: {**p, "vector": p["vector"][:-1]},
    "no vector": lambda p: {"reply": p["reply"]},
    "a bit of the signature": lambda p: {**p, "reply": _flipped(p["reply"])},
    "nothing": lambda p: {},
}


@pytest.mark.parametrize("kind", POISONS)
def test_an_upload_that_cannot_be_right_is_a_dropout_and_poisons_nothing(kind, start_run, quick):
    job = quick(training={"rounds": 2})
    run = start_run(job, on(TRAIN, _spoiled(POISONS[kind]), round_=1))
    without = start_run(job, on(TRAIN, broken, round_=1), name="without")
    run_rounds(run)
    run_rounds(without)
    first, second = events(run, "round")
    assert first["clients"] == ["film", "shop", "social"]
    assert list(first["failed"]) == ["press"]
    assert second["clients"] == SITES
    assert arrays_digest(run.arrays) == arrays_digest(without.arrays)


@pytest.mark.parametrize("where", ["weight", "epsilon"])
def test_scalars_beside_an_upload_are_checked(where, start_run, quick):
    def change(request, reply):
        metrics = {**reply.content["metrics"]}
        metrics[WEIGHT if where == "weight" else "epsilon"] = 7 if where == "weight" else [0.5]
        content = {**reply.content, "metrics": MetricRecord(metrics)}
        return [Message(RecordDict(content), reply_to=request)]

    run = start_run(quick(training={"rounds": 1}), on(TRAIN, change))
    run_rounds(run)
    assert list(events(run, "round")[0]["failed"]) == ["press"]


def test_a_wrong_share_is_decoded_around_and_named(start_run, quick):
    """Three of four shares are enough, and a prekey tells which three are right."""
    from umbel.privacy.secagg.messages import Reveal, RevealReply, Signed
    from umbel.simulations.membership import membership

    def lie(parts):
        reply = RevealReply.from_bytes(parts["reply"])
        reveal = Reveal.from_bytes(reply.reveal.body)
        shares = tuple(dataclasses.replace(s, share=bytes(32)) for s in reveal.shares)
        press = membership(run.folder.path / "owners", "press").participant("r").member.identity
        signed = Signed.by(press, dataclasses.replace(reveal, shares=shares))
        return {"reply": dataclasses.replace(reply, reveal=signed).to_bytes()}

    job = quick(encryption={"colluders": 0.0}, cohort={"minimum": 3}, training={"rounds": 1})
    run = start_run(job, on(REVEAL, _spoiled(lie), node=PRESS, round_=1, attempt=0))
    run_rounds(run)
    [event] = events(run, "round")
    assert event["clients"] == SITES
    assert list(event["failed"]) == ["press"]
    assert "that it sent is wrong" in event["failed"]["press"]


def test_a_server_that_asks_different_clients_for_different_things_gets_no_upload(
    start_run, quick, monkeypatch
):
    """The digest of the request is in the manifest: another model is refused before data is touched."""
    import umbel.server.secure as secure

    run = start_run(quick(training={"rounds": 1}, cohort={"retries": 0}))
    uploads = secure.SecureCollection._uploads

    def other_model(self, groups):
        for message in self._requests.values():
            record = message.content["arrays"]
            changed = {n: Array(a.numpy() + np.float32(1)) for n, a in record.items()}
            message.content["arrays"] = type(record)(changed)
        uploads(self, groups)

    monkeypatch.setattr(secure.SecureCollection, "_uploads", other_model)
    with pytest.raises(RoundFailed, match="another model, round or job"):
        run_rounds(run)


@pytest.mark.parametrize("error", [ModelError, MemoryError])
def test_who_cannot_train_is_counted_in_the_sum_and_not_named(error, start_run, quick, monkeypatch):
    """A visible failure would tell the server something of this client's records, and nobody else's."""
    import umbel.client.work as work

    train = work.train

    def diverge(*arguments, **named):
        if named["who"] == "press":
            raise error("the model gives outputs that are not finite")
        return train(*arguments, **named)

    monkeypatch.setattr(work, "train", diverge)
    run = start_run(quick(training={"rounds": 1}))
    run_rounds(run)
    [event] = events(run, "round")
    assert event["clients"] == SITES
    assert event["failed"] == {}
    assert event["unable"] == 1


def test_a_model_that_nobody_can_train_stops_the_run_and_says_so(start_run, quick, monkeypatch):
    import umbel.client.work as work
    from umbel.errors import ModelError

    def diverge(*arguments, **named):
        raise ModelError("secret 12.5")

    monkeypatch.setattr(work, "train", diverge)
    run = start_run(quick())
    with pytest.raises(
        RoundFailed, match="no client was able to train or test the model"
    ) as caught:
        run_rounds(run)
    assert "12.5" not in str(caught.value)
    assert run.grid.asked(TRAIN) == dict.fromkeys(EVERYBODY, 1)  # and not again


def test_the_newest_head_of_each_owner_is_certified_over_the_whole_run(start_run, quick, tmp_path):
    """Press is away from the second part of the run on: what it said in the first one still holds."""
    job = quick(
        privacy={"unit": "example", "delta": 1e-3, "epsilon": 20.0},
        evaluation={"counts": "private", "epsilon": 10.0, "every": 1},
        training={"rounds": 2, "batch_size": 64},
    )
    first = start_run(job)
    first.should_stop = lambda: first.round == 1
    with pytest.raises(Interrupted):
        run_rounds(first)
    second = start_run(job, lambda request, reply, assignment: (
        broken(request, reply) if request.metadata.dst_node_id == PRESS else [reply]
    ))  # fmt: skip
    second.restore()
    result = summarise(second, run_rounds(second), {}, {"reproducible": True})
    newest = []
    for site in SITES:
        with Ledger(tmp_path / "run" / "ledgers" / f"{site}.sqlite") as ledger:
            assert len(ledger.entries()) == (3 if site == "press" else 6)
            newest.append(seal_head(ledger.identity, ledger.head()))
    assert result["sealed_heads"] == sorted(newest)


def test_a_repeated_request_brings_the_same_vector_and_the_same_head(start_run, quick, tmp_path):
    """The first answer is lost on its way; another job has charged the ledger since."""
    agents, seen = [], []

    def asked_twice(request, reply, assignment):
        if request.metadata.message_type != TRAIN or request.metadata.dst_node_id != PRESS:
            return [reply]
        with Ledger(tmp_path / "run" / "ledgers" / "press.sqlite") as ledger:
            row = ledger.entries()[-1]
            ledger.reserve(
                row.dataset, row.event, job="j", key="another/1/0", delta=row.delta, limit=1e6
            )
        again = agents[0].call("handle", PRESS, request)
        stamp(again)
        seen.append((reply.content, again.content))
        return [again]

    job = quick(privacy={"unit": "example"}, training={"rounds": 1, "batch_size": 64})
    run = start_run(job, asked_twice)
    agents.append(run.grid.inner._workers)
    run_rounds(run)
    [(first, second)] = seen
    assert bytes_of(first, "vector") == bytes_of(second, "vector")
    assert first[LEDGER]["head"] == second[LEDGER]["head"]
    assert events(run, "round")[0]["heads"].keys() == set(SITES)


def test_epsilon_is_known_of_who_dropped_out_after_its_upload(start_run, quick):
    """It said what it had spent; of who never answered only its limit is certain."""
    job = quick(privacy={"unit": "example"}, training={"batch_size": 64, "rounds": 1})

    def fault(request, reply, assignment):
        kind, node = request.metadata.message_type, request.metadata.dst_node_id
        return broken(request, reply) if (kind, node) == (CONFIRM, PRESS) else [reply]

    run = start_run(job, fault)
    found = summarise(run, run_rounds(run), {}, {"reproducible": True})["privacy"]
    assert sorted(found["clients"]) == SITES
    assert 0 < found["clients"]["press"] < job.privacy.owner_limit


def test_a_sum_that_failed_is_no_client_that_spent_budget(start_run, quick, monkeypatch):
    import umbel.server.secure as secure

    read, calls = secure.read_sum, []

    def first_fails(run, stage, content, group):
        calls.append(group)
        if len(calls) == 1:
            raise ProtocolError("sum", "the cohort", "it is garbage")
        return read(run, stage, content, group)

    monkeypatch.setattr(secure, "read_sum", first_fails)
    job = quick(privacy={"unit": "example"}, training={"batch_size": 64, "rounds": 1})
    run = start_run(job)
    found = summarise(run, run_rounds(run), {}, {"reproducible": True})["privacy"]
    first, second = events(run, "round")
    assert (first["aggregated"], second["aggregated"]) == (False, True)
    assert first["failed"] == {}, "no client failed"
    assert "it is garbage" in first["lacks"]
    assert sorted(found["clients"]) == SITES


def test_a_sum_that_does_not_weigh_what_the_plan_says_is_no_model(start_run, quick, monkeypatch):
    """A member can put any words into its vector; the weight at least is known beforehand."""
    import umbel.client.secure as secure

    upload = secure.SecureUpload.send

    def heavier(self, part, dither, what, groups):
        return upload(self, dataclasses.replace(part, weight=1), dither, what, groups)

    job = quick(strategy={"weighting": "examples"}, cohort={"retries": 0})
    run = start_run(job)
    monkeypatch.setattr(secure.SecureUpload, "send", heavier)
    with pytest.raises(RoundFailed, match="it has weight 4, but"):
        run_rounds(run)


def test_a_member_that_names_a_slot_beyond_all_others_is_not_believed(start_run, quick):
    def boast(request, reply):
        record = reply.content["readiness"]
        record["slot"] = 2**53 - 1
        return [reply]

    from umbel.wire.requests import PREPARE

    run = start_run(quick(training={"rounds": 1}), on(PREPARE, boast))
    run_rounds(run)
    assert run.sums.used < 10


def test_a_round_without_enough_prekeys_trains_nobody(start_run, quick):
    """Training costs privacy; where the round cannot count, it is given up before."""
    fault = on(PREKEY, broken, round_=1)
    run = start_run(quick(cohort={"minimum": 4, "retries": 0}), fault)
    with pytest.raises(RoundFailed, match="the disk is full"):
        run_rounds(run)
    assert run.grid.asked(TRAIN) == {}


def test_a_policy_refuses_what_the_owner_did_not_allow(start_run, quick):
    job = quick()
    run = start_run(job)
    clear = job.encryption.model_copy(update={"mode": "none"})
    terms = dataclasses.replace(run.plan.terms, job=job.model_copy(update={"encryption": clear}))
    run.plan = dataclasses.replace(run.plan, terms=terms)
    with pytest.raises(RoundFailed, match="policy requires encrypted updates"):
        run_rounds(run)


def test_a_job_with_other_limits_than_the_roster_is_refused(start_run, quick):
    job = quick()
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


def test_weights_are_summed_with_the_updates(start_run, quick, reviews_csv, tmp_path):
    header, *rows = reviews_csv.read_text(encoding="utf-8").splitlines()
    many = tmp_path / "many.csv"  # above the smallest published size, and 200 more in one place
    more = [row for row in rows if ",press" in row or row.startswith("press,")] * 6
    many.write_text("\n".join([header, *rows * 6, *more]) + "\n", encoding="utf-8")
    job = quick(
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


def test_a_two_trip_round_leaves_out_the_confirmation(start_run, quick):
    run = start_run(quick(encryption={"confirm": False}))
    run_rounds(run)
    assert run.grid.asked(CONFIRM) == {}
    assert run.round == 3


def test_a_run_goes_on_after_a_stop_with_slots_that_were_never_used(start_run, quick):
    run = start_run(quick())
    run.should_stop = lambda: run.round == 1
    with pytest.raises(Exception, match="after round 1 of 3"):
        run_rounds(run)
    again = start_run(quick())
    checkpoint = load_latest(again.checkpoints, {n: a.shape for n, a in again.arrays.items()})
    again.round, again.arrays = checkpoint.round, checkpoint.arrays
    run_rounds(again)
    assert again.sums.used > run.sums.used
    undisturbed = start_run(quick(), name="undisturbed")
    run_rounds(undisturbed)
    assert arrays_digest(again.arrays) == arrays_digest(undisturbed.arrays)


def test_who_was_clipped_is_counted_and_not_named(start_run, quick):
    run = start_run(quick(encryption={"clip": 1e-4}, training={"rounds": 1}))
    run_rounds(run)
    [event] = events(run, "round")
    assert event["clipped"] == 4
    assert all(np.abs(array).max() <= 1.01e-4 for array in run.arrays.values())


def test_an_owners_own_figures_stay_in_its_own_log(start_run, quick):
    run = start_run(quick())
    run_rounds(run)
    assert all(event["clients"] == {} for event in events(run, "evaluation"))
    log = run.folder.path / "owners" / "press" / "metrics.jsonl"
    assert len(log.read_text().splitlines()) == 4


def test_a_strategy_that_compares_is_refused_without_groups(start_run, quick):
    with pytest.raises(PlanRefused, match="compares single updates"):
        start_run(quick(strategy={"name": "FedMedian"}))


def test_each_client_is_told_what_it_last_sent_of_its_ledger_and_nothing_else_changes(
    start_run, quick
):
    job = quick(privacy={"unit": "example"}, training={"rounds": 2, "batch_size": 64})
    plain, run = start_run(job, name="plain"), start_run(job, name="told")
    run.heads = {"press": "ab" * 32}  # of a run before
    run_rounds(plain)
    run_rounds(run)
    assert arrays_digest(run.arrays) == arrays_digest(plain.arrays)
    assert not [request for request, _ in plain.grid.requests if LEDGER in request.content]
    sent = {0: {"press": "ab" * 32}} | {e["round"]: e["heads"] for e in events(run, "round")}
    told = {number: {} for number in sent}
    names = run.names
    for request, assignment in run.grid.requests:
        if request.metadata.message_type == TRAIN and LEDGER in request.content:
            name = names[request.metadata.dst_node_id]
            told[assignment.round - 1][name] = request.content[LEDGER]["head"]
    assert {n: heads for n, heads in told.items() if n < 2} == {n: sent[n] for n in (0, 1)}
