import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.errors import PlanRefused
from umbel.learning.model import ModelShape
from umbel.learning.probing.verdict import INDEPENDENT
from umbel.planning.facts import ClientFacts
from umbel.planning.noise import private_recipe
from umbel.privacy.accounting.accountant import MechanismEvent, epsilon, noise_multiplier
from umbel.privacy.noise.sizes import SIZE_EPSILON, SIZE_EVENT

from .planned import MODEL, facts, job_of, plan

GROUPS = {"data": {"path": "a.csv", "group_column": "patient"}, "privacy": {"unit": "group"}}
REFUSALS = {
    "nothing trained": (
        {},
        None,
        ModelShape({}, 1000, "ab" * 32, "/model", INDEPENDENT),
        "nothing would be trained: model.lora.target leaves no tensor",
    ),
    "cohort too large": (
        {"cohort": {"size": 3}},
        None,
        MODEL,
        "cohort.size is 3, but there are only 2 clients",
    ),
    "minimum too large": (
        {"cohort": {"minimum": 5}},
        None,
        MODEL,
        "cohort.minimum is 5, but there are only 2 clients",
    ),
    "weights under privacy": (
        {"strategy": {"weighting": "examples"}},
        None,
        MODEL,
        'strategy.weighting = "examples": under example-level privacy',
    ),
    "batch clipping under privacy": (
        {"training": {"gradient_clipping": 1.0}},
        None,
        MODEL,
        "training.gradient_clipping clips a batch's gradient and does not protect privacy",
    ),
    "delta that gives a record away": (
        {"privacy": {"delta": 0.002}},
        None,
        MODEL,
        "privacy.delta = 0.002 is not below 1 / published size at client-0, client-1",
    ),
}


ALONE = {
    "no epsilon beside the published size": (
        {"privacy": {"epsilon": 0.1}},
        None,
        MODEL,
        "privacy.epsilon = 0.1: the published sizes of the data, from which noise and sampling are "
        "chosen, cost 0.1 of it",
    ),
    "delta that gives a group away": (
        {**GROUPS, "privacy": {"unit": "group", "delta": 0.002}},
        None,
        MODEL,
        "privacy.delta = 0.002 is not below 1 / published size at client-0, client-1: it would "
        "allow giving away one whole group",
    ),
    "groups that nothing tells apart": (
        {"privacy": {"unit": "group"}},
        None,
        MODEL,
        'privacy.unit = "group" without data.group_column',
    ),
    "a limit below the plan": (
        {"privacy": {"epsilon": 8.0, "limit": 2.0}},
        None,
        MODEL,
        "its rounds cost epsilon",
    ),
    "participations of each client's own noise": (
        {"cohort": {"participations": 2}},
        None,
        MODEL,
        'cohort.participations applies only to privacy.unit = "client"; under example-level',
    ),
    "shared noise of a server that may break the protocol": (
        {
            "encryption": {"confirm": False},
            "evaluation": {"counts": "private"},
            "privacy": {"unit": "client", "delta": 1e-3, "mechanism": "central"},
        },
        facts(500, 500, 500, 500, 500, 500),
        MODEL,
        'evaluation.counts = "private" with encryption.confirm = false',
    ),
}


@pytest.mark.parametrize("case", [*REFUSALS, *ALONE])
def test_what_cannot_be_right_is_refused_with_its_reason(case):
    sections, clients, model, words = (REFUSALS | ALONE)[case]
    with pytest.raises(PlanRefused) as caught:
        plan(job_of(**sections), clients, model)
    assert str(caught.value).startswith(f"This job is refused: {words}")


def test_all_reasons_are_given_at_once():
    job = job_of(
        cohort={"size": 9, "minimum": 9},
        strategy={"weighting": "examples"},
        training={"gradient_clipping": 1.0},
        privacy={"delta": 0.5},
    )
    with pytest.raises(PlanRefused) as caught:
        plan(job, facts(500, 500), ModelShape({}, 1, "", "", INDEPENDENT))
    message = str(caught.value)
    assert message.count(" · ") == 5
    for *_, words in REFUSALS.values():
        start = words.split()[0]
        assert start in message or start.startswith("client")


@pytest.mark.parametrize(
    "case",
    ["weights under privacy", "batch clipping under privacy", "delta that gives a record away"],
)
def test_what_only_privacy_forbids_is_allowed_without_it(case):
    sections, *_ = REFUSALS[case]
    privacy = {**sections.get("privacy", {}), "unit": "none"}
    assert plan(job_of(**{**sections, "privacy": privacy})).epsilon is None


def test_of_many_clients_the_first_five_are_named():
    with pytest.raises(PlanRefused, match=r"size at client-1, .*client-5 and 2 more clients"):
        plan(job_of(privacy={"delta": 0.005}), facts(100, *[500] * 7))


def test_an_epsilon_that_no_noise_meets_is_refused_with_the_least_that_can_be_met():
    job = job_of(privacy={"epsilon": 0.1 + 1e-6, "delta": 1e-5}, training={"batch_size": 900})
    with pytest.raises(
        PlanRefused, match=r"No noise keeps .* raise privacy\.epsilon \(now 0\.1\d*, of"
    ):
        plan(job)


@given(
    target=st.sampled_from([0.5, 2.0, 8.0]),
    rounds=st.integers(1, 30),
    steps=st.integers(1, 8),
    batch=st.sampled_from([16, 64, 500]),
    spare=st.integers(0, 3),
    sizes=st.lists(st.sampled_from([120, 3742]), min_size=1, max_size=1),
)
@settings(max_examples=4, deadline=None)
def test_epsilon_never_passes_the_target_also_when_the_spare_rounds_are_used(
    target, rounds, steps, batch, spare, sizes
):
    job = job_of(
        privacy={"epsilon": target, "delta": 1e-5, "spare_rounds": spare},
        training={"rounds": rounds, "local_steps": steps, "batch_size": batch},
    )
    found = plan(job, facts(*sizes))
    assert 0 < found.epsilon <= target
    for client in found.clients:
        whole = MechanismEvent(
            client.noise_multiplier, client.sampling_rate, steps * (rounds + spare)
        )
        assert client.epsilon <= epsilon([whole, SIZE_EVENT], 1e-5) <= target
        # No more noise than that takes: half a percent less would pass the target.
        less = MechanismEvent(0.995 * client.noise_multiplier, whole.sampling_rate, whole.steps)
        assert epsilon([less, SIZE_EVENT], 1e-5) > target


def test_plan_and_agent_derive_the_same_recipe_from_published_size_and_declared_share_alone():
    job = job_of(privacy={"epsilon": 3.0})
    [client] = plan(job, facts(4625, share=0.8)).clients
    assert client.training_size == 3700
    recipe = private_recipe(job, 3700, client.rounds)
    assert client.sampling_rate == recipe.sampling_rate == 64 / 3700
    assert client.noise_multiplier == recipe.noise_multiplier
    assert client.epsilon == recipe.epsilon
    assert client.events["size"] == SIZE_EVENT
    assert recipe.expected_batch_size == pytest.approx(64)
    steps = job.training.local_steps
    assert recipe.round_event == MechanismEvent(recipe.noise_multiplier, 64 / 3700, steps)
    paid = (job.training.rounds + job.spare_rounds) * steps
    remains = 3.0 - SIZE_EPSILON
    needed = noise_multiplier(remains, job.privacy.delta, 64 / 3700, paid)
    assert recipe.noise_multiplier == pytest.approx(needed, rel=2e-3)


def test_the_choice_of_clients_amplifies_nothing():
    job = job_of(cohort={"size": 1}, training={"rounds": 6})
    for client in plan(job, facts(*[500] * 3)).clients:
        assert client.sampling_rate == 64 / 500
        steps = client.rounds * job.training.local_steps
        spent = MechanismEvent(client.noise_multiplier, 64 / 500, steps)
        assert client.epsilon == epsilon([spent, SIZE_EVENT], job.privacy.delta)


def test_a_client_that_only_tests_has_spent_what_its_tests_cost():
    job = job_of(evaluation={"counts": "private", "epsilon": 2.0})
    recipe = private_recipe(job, 3700, participations=0, tests=4)
    tests = epsilon([recipe.planned["tests"]], job.privacy.delta)
    assert recipe.epsilon == SIZE_EPSILON + tests > SIZE_EPSILON


def test_a_batch_larger_than_the_data_takes_each_record_in_each_step():
    job = job_of(training={"batch_size": 500})
    recipe = private_recipe(job, 87, 10)
    assert recipe.sampling_rate == 1.0
    # Its part of a step is then 87 / 500 of a whole one, and so is its noise.
    assert recipe.expected_batch_size == 500
    assert any("no amplification" in w for w in plan(job, facts(87, 500)).warnings)


def test_a_client_that_is_never_asked_costs_no_more_than_its_published_size():
    job = job_of(cohort={"size": 1}, training={"rounds": 1, "batch_size": 500})
    clients = plan(job, facts(500, 500, 500)).clients
    assert sorted(client.rounds for client in clients) == [0, 0, 1]
    assert sorted(client.epsilon > SIZE_EPSILON for client in clients) == [False, False, True]


def test_the_guarantee_names_epsilon_delta_unit_and_what_is_not_covered():
    found = plan(job_of(privacy={"epsilon": 2.0, "delta": 1e-6, "spare_rounds": 1}))
    words = found.guarantee
    stated = float(words.partition("data: (")[2].partition(",")[0])
    assert found.epsilon <= stated <= found.epsilon + 0.0011
    assert "1e-06)-differential privacy for one record added or removed" in words
    assert "ends its part before it passes 2 (up to 1 round may be repeated)" in words
    assert "over 10 rounds" in words
    assert "label names" in words.partition("not covered are")[2]
    assert "held-out records" not in words
    assert words.endswith(found.server_sees)
    assert "the server sees each client's own noised update" in found.server_sees


def test_under_group_level_privacy_the_guarantee_speaks_of_a_patient():
    found = plan(job_of(**GROUPS))
    words = found.guarantee
    assert "whether or not any one patient's records were in that client's data" in words
    assert "for one group (all records with one value of the owner's group column" in words
    assert "Poisson sampling of whole groups" in words
    assert "one record added" not in words
    assert found.to_dict()["proof"]["unit"] == "group"


def test_a_group_costs_what_a_record_does():
    """The same noise for so many groups as for so many records, at every client."""
    groups, records = plan(job_of(**GROUPS)), plan(job_of())
    assert [c.noise_multiplier for c in groups.clients] == [
        c.noise_multiplier for c in records.clients
    ]
    assert [c.events for c in groups.clients] == [c.events for c in records.clients]


def test_the_guarantee_stands_in_the_plan_as_values_too():
    job = job_of(privacy={"epsilon": 2.0, "delta": 1e-6, "limit": 3.0})
    found = plan(job).to_dict()["proof"]
    assert found["epsilon"] <= 2.0 < found["never_more_than"] == 3.0
    assert (found["unit"], found["delta"], found["rounds"]) == ("example", 1e-6, 10)
    assert found["neighbours"] == "one record added or removed"
    assert found["assumes"] == []
    for text in (found["mechanism"], *found["not_covered"]):
        assert text in plan(job).guarantee
    assert plan(job_of(privacy={"unit": "none"})).to_dict()["proof"] == {"unit": "none"}


def test_noise_that_drowns_the_figures_of_tests_is_warned_of():
    def warned(records, **evaluation):
        data = {"path": "a.csv", "labels": ["a", "b"]}
        private = {"counts": "private", **evaluation}
        job = job_of(evaluation=private, data=data, privacy={"epsilon": 8.0, "delta": 1e-6})
        clients = facts(2 * records, 2 * records, share=0.5)
        return [w for w in plan(job, clients).warnings if "noise moves accuracy" in w]

    assert len(warned(1000)) == 1
    assert warned(1000, epsilon=7.8, every=0) == []
    assert warned(100_000) == []


def test_exact_counts_are_named_as_not_covered_and_private_ones_as_covered():
    def words(**evaluation):
        job = job_of(encryption={"mode": "secure-sum"}, evaluation=evaluation)
        return plan(job, facts(500, 500, 500)).guarantee.partition("not covered are")

    covered, _, uncovered = words(counts="exact")
    assert "held-out records (their exact counts are summed over the cohort)" in uncovered
    covered, _, uncovered = words()
    assert "that each client adds whole to its own" in covered
    assert "collude" not in covered
    assert "the same holds for held-out records" in covered
    assert "held-out records" not in uncovered


def test_training_that_may_end_early_is_promised_for_at_most_all_rounds():
    job = job_of(evaluation={"counts": "private", "every": 1, "patience": 2})
    assert "composed over at most 10 rounds" in plan(job).guarantee


def test_without_privacy_the_guarantee_promises_none():
    found = plan(job_of(privacy={"unit": "none"}))
    assert found.guarantee.startswith("No differential privacy")
    assert found.epsilon is None
    assert 'privacy.unit = "none": nothing protects single records.' in found.warnings


def test_clients_without_held_out_records_are_warned_about():
    some = [*facts(500), ClientFacts("untested", 500, 1.0, False, False)]
    job = job_of(privacy={"unit": "none"})
    assert "No held-out records at untested." in plan(job, some).warnings
    none = plan(job, facts(500, 500, held_out=False)).warnings
    assert any("the model will not be tested" in warning for warning in none)


def test_weights_are_equal_or_published_sizes_and_their_sum_bounds_a_round():
    equal = plan(job_of(training={"batch_size": 4000}), facts(3742, 120))
    assert [client.weight for client in equal.clients] == [1, 1]
    sized = plan(job_of(privacy={"unit": "none"}), facts(3742, 120, share=0.5))
    assert [client.weight for client in sized.clients] == [1871, 60]
    assert (equal.total_weight, sized.total_weight) == (2, 1931)


def test_the_minimum_is_all_that_are_asked_unless_the_job_says_less():
    for cohort, minimum in (({}, 3), ({"size": 2}, 2), ({"minimum": 1}, 1)):
        job = job_of(cohort=cohort, privacy={"unit": "none"})
        assert plan(job, facts(500, 500, 500)).minimum == minimum


def test_the_plan_as_json_holds_the_numbers_that_it_stands_for():
    import json

    values = json.loads(json.dumps(plan(job_of()).to_dict()))
    assert values["trainable_parameters"] == 34
    assert values["bytes_up_per_client_round"] == 136
    assert values["base_sha256"] == "ab" * 32
    assert [client["name"] for client in values["clients"]] == ["client-0", "client-1"]
    assert "differential privacy" in values["guarantee"]
