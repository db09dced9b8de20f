"""The agent at an owner: what it answers, what it refuses, and what it charges before it looks."""

import dataclasses
import hashlib
import json
import os
import signal

import numpy as np
import pytest

from umbel.certificate.seal import seal_head
from umbel.client.agent import Agent
from umbel.client.kept import KeptUpdates
from umbel.client.policy import Policy
from umbel.client.rules import EncryptionRules, PrivacyRules
from umbel.client.work import WorkHere, Workplace
from umbel.learning.tasks import task_for
from umbel.planning.facts import training_size
from umbel.planning.noise import event_of_test, private_recipe
from umbel.planning.schedule import most_tests
from umbel.privacy.accounting.accountant import MechanismEvent
from umbel.privacy.ledger.ledger import Ledger
from umbel.privacy.noise.sizes import SIZE_EPSILON, SIZE_EVENT
from umbel.privacy.randomness import SecretStream
from umbel.wire.arrays import to_arrays
from umbel.wire.requests import (
    EVALUATE,
    FAILED,
    LEDGER,
    OUT_OF_RANGE,
    PREPARE,
    REFUSED,
    TRAIN,
    WEIGHT,
    Readiness,
    only_metrics,
)

DELTA = 1e-3


def update_of(reply):
    assert not reply.has_error(), reply.error.reason
    return to_arrays(reply.content["arrays"])


def as_bytes(reply):
    return b"".join(array.tobytes() for array in update_of(reply).values())


def form(reply):
    """All of an answer but the numbers that it charges for or masks."""
    assert not reply.has_error(), reply.error.reason
    content = reply.content
    arrays = {
        k: [(n, a.dtype, a.shape) for n, a in r.items()] for k, r in content.array_records.items()
    }
    metrics = {
        key: {name: (type(v), len(v) if isinstance(v, list) else 0) for name, v in record.items()}
        for key, record in content.metric_records.items()
    }
    return arrays, metrics, {key: list(r) for key, r in content.config_records.items()}


def seeded(what):
    return SecretStream.from_key(hashlib.sha256(what.encode()).digest())


def test_a_ready_agent_tells_its_name_version_base_and_published_size(owner, job):
    mary = owner(job)
    readiness = Readiness.from_record(mary.ask(PREPARE).content["readiness"])
    assert readiness == Readiness(
        version="0.1.0",
        name="mary",
        base_model=mary.learner.shape().base_digest,
        size=mary.account.size.value.data,
        training_share=0.8,
        holds_out=True,
    )
    assert mary.entries() == []
    with Ledger(mary.ledger) as ledger:
        assert ledger.events(mary.account.name) == [SIZE_EVENT]


def test_a_job_for_groups_is_refused_before_a_charge_where_data_tell_none(owner, open_job_of):
    """Each record would be a group of its own, and the promise to patients empty."""
    mary = owner(
        open_job_of(
            privacy={"unit": "group"},
            data={"group_column": "document"},
            evaluation={"counts": "off"},
        )
    )
    assert not mary.ask(PREPARE).has_error()
    told = mary.data
    for data in (
        dataclasses.replace(told, records_per_group=None),
        dataclasses.replace(told, train=dataclasses.replace(told.train, groups=None)),
        dataclasses.replace(told, test=dataclasses.replace(told.test, groups=None)),
    ):
        work = WorkHere("mary", Workplace(mary.learner, task_for(mary.job, 2)), data)
        policy = Policy.simulated(mary.job)
        mary.agent = Agent("mary", work, mary.account, mary.ledger, policy=policy)
        for kind in (PREPARE, TRAIN):
            reply = mary.ask(kind)
            assert reply.error.code == REFUSED
            assert "declares no groups" in reply.error.reason
    with Ledger(mary.ledger) as ledger:
        assert [e.event for e in ledger.entries() if e.event != SIZE_EVENT] == []


@pytest.fixture
def job(open_job_of):
    return open_job_of()


@pytest.fixture
def plain(open_job_of):
    return open_job_of(privacy={"unit": "none"})


def test_an_update_is_charged_with_exactly_what_it_cost(owner, job):
    mary = owner(job)
    epsilons = [mary.ask(TRAIN, round_).content["metrics"]["epsilon"] for round_ in (1, 2, 3)]
    recipe = private_recipe(job, training_size(mary.account.size.value.data, 0.8), 3)
    assert [entry.event for entry in mary.entries()] == [recipe.round_event] * 3
    assert recipe.round_event.steps == 2
    assert recipe.round_event.noise_multiplier > 0.3
    assert epsilons == sorted(epsilons)
    assert epsilons[-1] <= job.privacy.epsilon


def test_epsilon_in_a_reply_is_the_composition_of_the_ledgers_events(owner, job):
    """Composed once more by dp-accounting's own accountant."""
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    mary = owner(job)
    mary.ask(TRAIN, 1)
    told = mary.ask(TRAIN, 2).content["metrics"]["epsilon"]
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    for entry in mary.entries():
        gaussian = dp_accounting.GaussianDpEvent(entry.event.noise_multiplier)
        sampled = dp_accounting.PoissonSampledDpEvent(entry.event.sampling_rate, gaussian)
        accountant.compose(sampled, entry.event.steps)
    assert told == pytest.approx(accountant.get_epsilon(DELTA) + SIZE_EPSILON, rel=5e-3)


@pytest.mark.parametrize("moment", ["stream", "sample", "noise"])
def test_what_a_killed_agent_had_begun_is_on_disk_as_spent(moment, owner, job, forked, monkeypatch):
    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    def secrets(what):
        return die() if moment == "stream" else seeded(what)

    mary = owner(job, secrets=secrets)
    with monkeypatch.context() as patch:
        if moment != "stream":
            patch.setattr(SecretStream, {"sample": "uniform", "noise": "normal"}[moment], die)
        assert forked(lambda: mary.ask(TRAIN, 1)) == -signal.SIGKILL
    [entry] = mary.entries()
    assert entry.key == "run/1/0"
    assert entry.dataset == mary.account.name
    # The repeated request is charged again: what ran before the crash may have left the machine.
    update_of(owner(job).ask(TRAIN, 1))
    assert len(mary.entries()) == 2


def test_a_spent_budget_refuses_before_training_and_names_no_data(owner, open_job_of, texts):
    dear = open_job_of(privacy={"epsilon": 8.0, "limit": 0.05})
    mary = owner(dear, secrets=lambda what: pytest.fail("training began"))
    for kind, words in (
        (PREPARE, "too little privacy budget left"),
        (TRAIN, "the job promises at most 0.05"),
    ):
        reply = mary.ask(kind)
        assert reply.error.code == REFUSED
        assert words in reply.error.reason
        assert mary.entries() == []
        assert not any(text in reply.error.reason for text in texts)
        assert str(mary.ledger) not in reply.error.reason


def test_a_second_job_on_spent_data_is_refused_before_its_first_round(owner, job):
    mary = owner(job)
    for round_ in (1, 2, 3):
        update_of(mary.ask(TRAIN, round_))
    reply = mary.ask(PREPARE, run="another")
    assert reply.error.code == REFUSED
    assert "too little privacy budget left" in reply.error.reason
    assert "spent epsilon" not in reply.error.reason
    assert not mary.ask(PREPARE).has_error()


def test_a_reply_tells_what_its_run_has_spent_and_not_what_others_have(owner, open_job_of):
    mary = owner(open_job_of(privacy={"epsilon": 2.0, "limit": 100.0}))
    told = {
        run: [
            only_metrics(mary.ask(TRAIN, round_, run=run).content)["epsilon"]
            for round_ in (1, 2, 3)
        ]
        for run in ("one", "two")
    }
    assert told["one"] == told["two"]
    assert told["one"][0] < told["one"][2] <= 2.0
    with Ledger(mary.ledger) as ledger:
        assert ledger.spent(mary.account.name, 1e-3) > told["two"][2]


def test_rounds_that_are_repeated_too_often_end_a_run_though_the_owner_would_pay(
    owner, open_job_of
):
    patient = Policy().model_copy(
        update={
            "privacy": PrivacyRules(epsilon_limit=1e6, delta_limit=0.5),
            "encryption": EncryptionRules(required=False),
        }
    )
    mary = owner(open_job_of(privacy={"epsilon": 2.0}), policy=patient)
    replies = [mary.ask(TRAIN, 1, attempt=attempt) for attempt in range(20)]
    refused = [reply for reply in replies if reply.has_error()]
    assert refused
    assert "repeated too often" in refused[0].error.reason
    with Ledger(mary.ledger) as ledger:
        assert ledger.spent(mary.account.name, 1e-3) <= 2.0


def test_the_owners_limit_holds_over_jobs(owner, open_job_of):
    off = {"counts": "off"}
    mary = owner(open_job_of(privacy={"epsilon": 2.0, "limit": 3.0}, evaluation=off))
    answered = 0
    for run in range(6):
        for round_ in (1, 2, 3):
            answered += not mary.ask(TRAIN, round_, run=str(run)).has_error()
    assert 3 <= answered < 18
    with Ledger(mary.ledger) as ledger:
        assert ledger.spent(mary.account.name, DELTA) <= 3.0


def test_a_reproducible_agent_repeats_a_round_byte_for_byte_and_is_charged_once(owner, job):
    mary = owner(job, secrets=seeded, replayable=True)
    first, again = mary.ask(TRAIN, 1), mary.ask(TRAIN, 1, attempt=1)
    assert as_bytes(first) == as_bytes(again)
    assert first.content["metrics"]["epsilon"] == again.content["metrics"]["epsilon"]
    assert len(mary.entries()) == 1
    assert as_bytes(mary.ask(TRAIN, 2)) != as_bytes(first)
    assert len(mary.entries()) == 2


def test_otherwise_a_repeated_round_draws_new_noise_and_is_charged_again(owner, job):
    mary = owner(job)
    first, again = mary.ask(TRAIN, 1), mary.ask(TRAIN, 1, attempt=1)
    assert as_bytes(first) != as_bytes(again)
    assert again.content["metrics"]["epsilon"] > first.content["metrics"]["epsilon"]
    mary.ask(TRAIN, 1, attempt=1)
    assert len(mary.entries()) == 3


@pytest.fixture
def keeping(owner, tmp_path):
    """An agent that keeps its updates, as after a restart whenever it is made."""
    return lambda job, **options: owner(job, kept=KeptUpdates(tmp_path / "kept"), **options)


def test_a_repeated_round_brings_the_kept_update_for_nothing(keeping, job):
    mary = keeping(job)
    first = mary.ask(TRAIN, 1)
    again = [mary.ask(TRAIN, 1, attempt) for attempt in (0, 1, 7)]
    again.append(keeping(job).ask(TRAIN, 1, 8))  # a new process
    assert {as_bytes(reply) for reply in again} == {as_bytes(first)}
    assert len(mary.entries()) == 1
    told = {reply.content["metrics"]["epsilon"] for reply in (first, *again)}
    assert len(told) == 1
    heads = {reply.content[LEDGER]["head"] for reply in (first, *again)}
    assert len(heads) == 1


@pytest.mark.parametrize("other", ["model", "config", "participations", "run", "round"])
def test_another_question_is_no_repetition(other, keeping, open_job_of):
    job = open_job_of(privacy={"epsilon": 50.0})
    mary = keeping(job)
    first = as_bytes(mary.ask(TRAIN, 1))
    moved = {
        n: a + np.linspace(0.1, 0.5, a.size, dtype=np.float32).reshape(a.shape)
        for n, a in mary.learner.initial.items()
    }
    asked = {
        "model": {"arrays": moved},
        "config": {"config": {"proximal-mu": 0.5}},
        "participations": {"participations": 3, "run": "other"},
        "run": {"run": "other"},
        "round": {"round_": 2},
    }[other]
    assert as_bytes(mary.ask(TRAIN, **{"round_": 1, **asked})) != first
    assert len(mary.entries()) == 2
    if other not in ("run", "participations"):  # the round before is closed
        assert as_bytes(mary.ask(TRAIN, 1)) != first
        assert len(mary.entries()) == 3


def test_a_repeated_test_is_drawn_anew_and_charged_beside_a_kept_update(keeping, open_job_of):
    # So much noise that five numbers are drawn alike less often than once in 10^9 runs of this test.
    job = open_job_of(evaluation={"counts": "private", "epsilon": 0.5})
    assert event_of_test(job, most_tests(job)).noise_multiplier > 10
    mary = keeping(job)
    first, again = (mary.ask(TRAIN, 1, attempt, test=True) for attempt in (0, 1))
    assert as_bytes(first) == as_bytes(again)
    assert first.content["metrics"]["counts"] != again.content["metrics"]["counts"]
    assert [entry.what for entry in mary.entries()] == ["test 0", "1", "test 0"]
    assert mary.ask(EVALUATE, 3).content["metrics"]["epsilon"] > 0
    assert as_bytes(mary.ask(TRAIN, 1, 2)) != as_bytes(first)  # training was over


def test_no_server_burns_a_budget_with_one_round_or_with_tests(owner, open_job_of):
    job = open_job_of(
        evaluation={"counts": "private", "epsilon": 2.0},
        privacy={"limit": 1000.0, "spare_rounds": 1},
        cohort={"retries": 2},
    )
    mary = owner(job)
    replies = [mary.ask(TRAIN, 1, attempt) for attempt in range(5)]
    assert [reply.has_error() for reply in replies] == [False] * 3 + [True] * 2
    assert "repeated too often" in replies[-1].error.reason
    assert not mary.ask(TRAIN, 2).has_error()
    tests = [mary.ask(EVALUATE, n % 4, n) for n in range(most_tests(job) + 3)]
    assert sum(not reply.has_error() for reply in tests) == most_tests(job) + 1
    assert "noise of its tests" in tests[-1].error.reason


def test_without_noise_of_its_own_nothing_is_kept(keeping, open_job_of, tmp_path):
    mary = keeping(open_job_of(privacy={"unit": "none"}))
    mary.ask(TRAIN, 1)
    assert not (tmp_path / "kept").exists()


def test_without_privacy_nothing_is_charged_and_the_loss_is_told(owner, plain):
    mary = owner(plain)
    metrics = mary.ask(TRAIN).content["metrics"]
    assert metrics["loss"] > 0
    assert "epsilon" not in metrics
    assert mary.entries() == []


def test_under_privacy_neither_loss_nor_exact_size_leaves_the_owner(owner, job):
    metrics = owner(job).ask(TRAIN).content["metrics"]
    assert set(metrics) == {"epsilon", WEIGHT}
    assert metrics[WEIGHT] == 1


def head_of(reply):
    return reply.content[LEDGER]["head"]


def test_a_reply_binds_the_last_row_of_its_run_and_tells_nothing_of_other_jobs(owner, job):
    mary = owner(job)
    first, second = (head_of(mary.ask(TRAIN, round_)) for round_ in (1, 2))
    with Ledger(mary.ledger) as ledger:
        hashes = [seal_head(ledger.identity, entry.hash) for entry in ledger.entries()]
        assert [first, second] == hashes[1:]
        ledger.reserve(
            mary.account.name, MechanismEvent(9.0, 0.1, 1),
            job="another", key="another run/1/0", delta=DELTA, limit=100.0,
        )  # fmt: skip
    third = head_of(mary.ask(TRAIN, 3))
    with Ledger(mary.ledger) as ledger:
        sealed = [seal_head(ledger.identity, entry.hash) for entry in ledger.entries()]
    assert sealed[1:] == [first, second, sealed[3], third]


def test_a_private_test_gives_a_newer_head_than_the_training_before_it(owner, open_job_of):
    mary = owner(open_job_of(evaluation={"counts": "private", "epsilon": 4.0}))
    trained, tested = head_of(mary.ask(TRAIN)), head_of(mary.ask(EVALUATE))
    with Ledger(mary.ledger) as ledger:
        size, first, second = ledger.entries()
        assert size.event == SIZE_EVENT
        assert second.event.kind == "concentrated"
        assert [trained, tested] == [
            seal_head(ledger.identity, row.hash) for row in (first, second)
        ]


def test_where_nothing_is_spent_no_head_is_given(owner, plain):
    assert LEDGER not in owner(plain).ask(TRAIN).content
    assert LEDGER not in owner(plain).ask(EVALUATE).content


def test_an_evaluation_returns_counts_of_the_held_out_records(owner, plain):
    from umbel.learning.metrics import exact_counts_from_list

    mary = owner(plain)
    metrics = mary.ask(EVALUATE).content["metrics"]
    counts = exact_counts_from_list("text-classification", metrics["counts"])
    assert counts.examples == len(mary.data.test)


def test_the_same_request_gives_the_same_update_whatever_was_asked_before(owner, plain):
    mary = owner(plain)
    first = as_bytes(mary.ask(TRAIN, 2))
    mary.ask(TRAIN, 1)
    mary.ask(EVALUATE)
    assert as_bytes(mary.ask(TRAIN, 2)) == first


def test_a_pull_in_the_request_reaches_the_trainer(owner, open_job_of):
    strong = {"name": "fedprox", "options": {"proximal_mu": 5.0}}
    weak = {"name": "fedprox", "options": {"proximal_mu": 0.01}}
    updates = [
        owner(open_job_of(privacy={"unit": "none"}, strategy=strategy)).ask(
            TRAIN, config={"proximal-mu": strategy["options"]["proximal_mu"]}
        )
        for strategy in (strong, weak)
    ]
    assert as_bytes(updates[0]) != as_bytes(updates[1])


def test_an_unknown_request_is_answered_with_an_error(owner, job):
    reply = owner(job).ask("train.everything")
    assert reply.error.code == FAILED
    assert "Unknown request 'train.everything'" in reply.error.reason


def test_another_version_is_refused_with_both_named(owner, job):
    mary = owner(job)
    for kind in (PREPARE, TRAIN, EVALUATE):
        reply = mary.ask(kind, version="9.9.9")
        assert reply.error.code == REFUSED
        assert "mary runs Umbel 0.1.0, the server 9.9.9" in reply.error.reason
    assert mary.entries() == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda arrays: {name: array * np.nan for name, array in arrays.items()}, "NaN"),
        (lambda arrays: {name: array.reshape(-1) for name, array in arrays.items()}, "shape"),
        (lambda arrays: {f"{name}.x": array for name, array in arrays.items()}, "do not match"),
        (lambda arrays: {n: a.astype(np.float64) for n, a in arrays.items()}, "float64"),
    ],
)
def test_a_global_model_that_does_not_fit_is_refused_before_anything_is_spent(
    change, words, owner, job
):
    mary = owner(job)
    arrays = change({n: array + 1 for n, array in mary.learner.initial.items()})
    for kind in (TRAIN, EVALUATE):
        reply = mary.ask(kind, arrays=arrays)
        assert reply.error.code == FAILED
        assert words in reply.error.reason
    assert mary.entries() == []


def test_weights_that_make_rounding_matter_are_refused_before_anything_is_spent(owner, job):
    mary = owner(job)
    arrays = {name: array.copy() for name, array in mary.learner.initial.items()}
    next(iter(arrays.values())).flat[0] = 1e5
    for kind in (TRAIN, EVALUATE):
        reply = mary.ask(kind, arrays=arrays)
        assert reply.error.code == OUT_OF_RANGE
        assert "none may be above 10000" in reply.error.reason
    assert mary.entries() == []


def test_a_job_that_is_no_job_is_answered_with_an_error(owner, job):
    mary = owner(job)
    for text in ("{}", json.dumps({**json.loads(job.to_json()), "more": 1}), "not json", "[1]"):
        reply = mary.ask(TRAIN, job=text)
        assert reply.error.code == FAILED
    assert mary.entries() == []


def test_a_run_keeps_to_one_noise_whatever_the_server_says_of_its_rounds(owner, job):
    """The composition is proven for noise that was fixed before."""
    mary = owner(job)
    update_of(mary.ask(TRAIN, 1))
    reply = mary.ask(TRAIN, 2, participations=30)
    assert reply.error.code == REFUSED
    assert "had different noise" in reply.error.reason
    assert len(mary.entries()) == 1


def test_a_test_that_fails_leaves_the_round_charged_and_answered_as_any_other(
    owner, job, monkeypatch
):
    """Else the charge, or the answer's form, would tell the server whose records those were."""
    usual = owner(job).ask(TRAIN, test=True)
    mary = owner(job)

    def fail(*arguments, **named):
        raise MemoryError

    monkeypatch.setattr("umbel.client.work.test", fail)
    reply = mary.ask(TRAIN, 2, test=True)
    assert form(reply) == form(usual)
    assert [entry.key for entry in mary.entries()][2:] == ["run/test 1/0", "run/2/0"]


def test_a_job_without_tests_is_never_tested(owner, open_job_of):
    mary = owner(open_job_of(evaluation={"counts": "off"}))
    for kind, test in ((EVALUATE, False), (TRAIN, True)):
        reply = mary.ask(kind, test=test)
        assert reply.error.code == REFUSED
        assert "the job has no tests" in reply.error.reason
    assert mary.entries() == []


def test_an_internal_error_tells_nothing_of_the_data(owner, job, texts, monkeypatch):
    mary = owner(job)

    def fail(*arguments, **named):
        raise RuntimeError(f"something about {texts[0]}")

    monkeypatch.setattr("umbel.client.work.train", fail)
    reply = mary.ask(TRAIN)
    assert reply.error.code == FAILED
    assert reply.error.reason == "internal error at the client; its own log says why"
    assert len(mary.entries()) == 1


def test_a_training_that_diverges_is_answered_like_any_other(owner, open_job_of, caplog):
    """Zeros stand for weights that are not finite, and why is for the owner alone."""
    model = {**open_job_of().model.model_dump(exclude={"lora"}), "adapter": "lora"}
    job = open_job_of(
        model=model, training={"optimizer": "sgd", "learning_rate": 1e38, "local_steps": 4}
    )
    mary = owner(job)
    reply = mary.ask(TRAIN)
    assert not any(array.any() for array in update_of(reply).values())
    assert "Training diverged" in caplog.text
    assert len(mary.entries()) == 1
    calm = open_job_of(model=model, training={"local_steps": 4})
    assert form(reply) == form(owner(calm).ask(TRAIN))


def test_what_a_plan_refuses_for_one_owner_its_agent_refuses_uncharged(owner, open_job_of):
    """A dishonest server makes no plan, or another one."""
    for sections, key in (
        ({"privacy": {"delta": 0.02}}, "privacy.delta"),
        ({"strategy": {"weighting": "examples"}}, "strategy.weighting"),
        ({"training": {"gradient_clipping": 1.0}}, "training.gradient_clipping"),
    ):
        mary = owner(open_job_of(**sections))
        for kind in (PREPARE, TRAIN):
            reply = mary.ask(kind)
            assert reply.error.code == REFUSED
            assert key in reply.error.reason
        assert mary.entries() == []
