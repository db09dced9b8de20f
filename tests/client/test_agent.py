"""The agent at an owner: what it answers, what it refuses, and what it charges before it looks."""

import os
import signal

import pytest

from umbel.certificate.seal import seal_head
from umbel.client.policy import Policy
from umbel.client.rules import EncryptionRules, PrivacyRules
from umbel.planning.facts import training_size
from umbel.planning.noise import private_recipe
from umbel.privacy.accounting.accountant import MechanismEvent
from umbel.privacy.ledger.ledger import Ledger
from umbel.privacy.noise.sizes import SIZE_EPSILON, SIZE_EVENT
from umbel.privacy.randomness import SecretStream
from umbel.wire.requests import (
    EVALUATE,
    FAILED,
    LEDGER,
    PREPARE,
    REFUSED,
    TRAIN,
    WEIGHT,
    Readiness,
    only_metrics,
)

from .asked import DELTA, as_bytes, form, seeded, update_of


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
