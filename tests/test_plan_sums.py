"""What a plan says, demands and refuses for sums that the server cannot open."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.errors import PlanRefused
from umbel.job import Job
from umbel.planning.cohorts import groups_of
from umbel.planning.facts import ClientFacts

from .planned import NAMES, facts, job_of, plan


def secure_job(**sections):
    encryption = {"mode": "secure-sum", **sections.pop("encryption", {})}
    return job_of(encryption=encryption, privacy={"unit": "none"}, **sections)


def test_encryption_is_on_unless_the_job_turns_it_off():
    assert Job.build({"data": {"path": "a.csv"}}).encrypted


def test_updates_in_the_clear_need_every_owners_consent():
    job = job_of(privacy={"unit": "none"})
    one = [*facts(500, 500), ClientFacts("careful", 500, 0.8)]
    with pytest.raises(PlanRefused, match="the policy of careful requires encryption"):
        plan(job, one)
    allowed = plan(job, facts(500, 500, 500))
    assert any("THE SERVER READS EVERY CLIENT'S OWN UPDATE" in w for w in allowed.warnings)
    assert allowed.server_sees.startswith("NOT ENCRYPTED")
    assert "NOT ENCRYPTED" not in plan(secure_job(), facts(500, 500, 500)).server_sees


REFUSED_SUMS = {
    "two clients": ({}, facts(500, 500), "a sum over 2 clients is not opened: at least 3"),
    "a small cohort": (
        {"cohort": {"size": 2}},
        facts(500, 500, 500, 500),
        "a sum over 2 clients is not opened",
    ),
    "many colluders": (
        {"encryption": {"colluders": 0.49}},
        facts(500, 500, 500),
        "at least 4 are needed with encryption.minimum = 3 and 2 possible colluders",
    ),
    "more than there are": (
        {"encryption": {"minimum": 5}},
        facts(500, 500, 500, 500),
        "at least 5 are needed",
    ),
    "a strategy that compares": (
        {"strategy": {"name": "FedMedian"}},
        facts(*[500] * 7),
        '"FedMedian" compares single updates, which nobody can see',
    ),
    "a strategy that compares one group": (
        {"strategy": {"name": "Krum"}, "encryption": {"group_size": 4}},
        facts(*[500] * 7),
        '"Krum" compares single updates',
    ),
    "a clip beyond the words": ({"encryption": {"clip": 1e12}}, facts(*[500] * 4), "a resolution"),
    "held-out records beyond the words": (
        {},
        [*facts(500, 500, 500), ClientFacts("huge", 2**32, 0.5)],
        "the held-out counts of huge could overflow a sum of 4",
    ),
}


@pytest.mark.parametrize("case", REFUSED_SUMS)
def test_sums_that_cannot_be_kept_closed_are_refused_with_the_way_out(case):
    sections, clients, words = REFUSED_SUMS[case]
    with pytest.raises(PlanRefused) as caught:
        plan(secure_job(**sections), clients)
    assert words in str(caught.value)


def test_strategies_that_compare_updates_get_the_means_of_groups():
    found = plan(
        secure_job(strategy={"name": "FedMedian"}, encryption={"group_size": 4}), facts(*[500] * 9)
    )
    assert found.to_dict()["encryption"]["groups"] == [5, 4]
    assert (
        "over each of 2 groups of clients, and cannot open a sum over fewer than 4"
        in found.server_sees
    )


def test_the_plan_says_what_the_server_sees_and_whom_it_takes():
    found = plan(secure_job(cohort={"minimum": 3}), facts(*[500] * 4))
    assert (
        "only sums of updates, counts and losses over the cohort's 4 clients" in found.server_sees
    )
    assert (
        "cannot open a sum over fewer than 3, even if it breaks the protocol" in found.server_sees
    )
    assert "up to 1 of the 4 clients on its side" in found.server_sees
    trusting = plan(secure_job(encryption={"confirm": False}), facts(*[500] * 4))
    assert "honest but curious" in trusting.server_sees
    values = found.to_dict()["encryption"]
    assert (values["quorums"], values["fewest"], values["trips"]) == ([3], [3], 3)
    # 34 parameters, the counts of a test, two losses of four words, weight, member and check.
    assert found.to_dict()["bytes_up_per_client_round"] > 4 * (34 + 3)


def test_all_colluders_of_the_consortium_may_be_in_one_cohort():
    """The server picks it. So a small cohort of many needs a smaller share of colluders."""
    with pytest.raises(
        PlanRefused, match="and 3 possible colluders in it.*lower encryption.colluders"
    ):
        plan(secure_job(cohort={"size": 4}), facts(*[500] * 30))
    few = secure_job(cohort={"size": 5}, encryption={"colluders": 0.05})
    found = plan(few, facts(*[500] * 30))
    assert "over fewer than 4" in found.server_sees
    assert "up to 2 of the 30 clients" in found.server_sees
    # Of a cohort of all 30 the members would open 17, but they would accept a cohort of 5.
    assert "over fewer than 5" in plan(secure_job(), facts(*[500] * 30)).server_sees


def test_the_minimum_of_a_sum_is_never_below_what_the_protocol_opens():
    assert plan(secure_job(cohort={"minimum": 1}), facts(*[500] * 10)).minimum == 6
    assert plan(secure_job(), facts(*[500] * 10)).minimum == 6
    assert plan(secure_job(cohort={"minimum": 9}), facts(*[500] * 10)).minimum == 9


@given(st.permutations(NAMES), st.integers(4, 12), st.integers(0, 5))
@settings(deadline=None)
def test_groups_are_large_enough_and_the_same_for_everybody(names, size, seed):
    job = secure_job(encryption={"group_size": size}, seed=seed)
    groups = groups_of(names, job)
    assert groups == groups_of(NAMES, job)
    assert sorted(name for group in groups for name in group) == sorted(NAMES)
    assert all(len(group) >= size for group in groups)
