"""What an owner's policy refuses, why it says so, and how its file is read."""

import tomllib
from datetime import datetime

import pytest

from umbel.client.policy import NotYet, Policy, write_policy_template
from umbel.errors import PlanRefused, UmbelError
from umbel.job import Job


@pytest.fixture
def job():
    """The default job, with sections changed."""

    def build(**sections):
        return Job.build({"data": {"path": "data.csv"}, **sections})

    return build


@pytest.fixture
def policy(tmp_path):
    """A policy that was read from a file with this text."""

    def read(text):
        path = tmp_path / "policy.toml"
        path.write_text(text, encoding="utf-8")
        return Policy.read(path)

    return read


def test_the_template_reads_as_the_default_policy_and_names_every_key(tmp_path):
    path = tmp_path / "policy.toml"
    write_policy_template(path)
    assert Policy.read(path) == Policy()
    assert tomllib.loads(path.read_text()) == Policy().model_dump()


def test_a_policy_in_use_is_never_overwritten_by_the_template(tmp_path, policy):
    strict = policy("[privacy]\nepsilon_limit = 1")
    with pytest.raises(UmbelError, match="exists already"):
        write_policy_template(tmp_path / "policy.toml")
    assert Policy.read(tmp_path / "policy.toml") == strict


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[privcy]\nepsilon_limit = 1", r"unknown key 'privcy' \(did you mean 'privacy'\?\)"),
        ("[privacy]\nepsilon_limt = 1", r"unknown key 'privacy.epsilon_limt' \(did you mean"),
        ("[encryption]\nrequired = 0", "encryption.required = 0: "),
        ("[encryption]\nsmallest_cohort = 2", "encryption.smallest_cohort = 2: .* 3"),
        ("[privacy]\nepsilon_limit = inf", "privacy.epsilon_limit = inf"),
        ("[privacy]\nepsilon_limit = nan", "privacy.epsilon_limit = nan"),
        ("[privacy]\nunits = []", r"privacy.units = \[\]"),
        ('[jobs]\nhours = ["22-6"]', "'22-6' is not a window of time"),
        ('[jobs]\nhours = ["08:00-08:00"]', "is not a window of time"),
        ('[jobs]\nbase_models = ["abc"]', "jobs.base_models.0 = 'abc'"),
        ("[resources]\ngpu_memory_share = 1.5", "resources.gpu_memory_share"),
        ("privacy = ", "is not valid TOML"),
    ],
)
def test_a_slip_in_the_file_is_named_with_its_place(text, words, policy, tmp_path):
    with pytest.raises(UmbelError, match=words) as error:
        policy(text)
    assert str(tmp_path / "policy.toml") in str(error.value)


def test_without_a_policy_nothing_is_done(tmp_path):
    with pytest.raises(UmbelError, match="There is no policy"):
        Policy.read(tmp_path / "policy.toml")


def test_the_default_policy_takes_the_default_job(job):
    Policy().check("mary", job())


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"privacy": {"unit": "none"}}, r'privacy.unit "example" \(privacy.units\)'),
        ({"privacy": {"unit": "client"}}, r'privacy.unit "example" \(privacy.units\)'),
        ({"privacy": {"epsilon": 9.0}}, r"epsilon 8 \(privacy.epsilon_per_job\).* asks for 9"),
        ({"privacy": {"delta": 1e-3}}, r"delta 1e-05 \(privacy.delta_limit\)"),
        ({"encryption": {"mode": "none"}}, r"encrypted updates \(encryption.required\)"),
        ({"encryption": {"confirm": False}}, "encryption.confirm_required"),
        ({"training": {"rounds": 1001}}, r"1000 rounds \(jobs.max_rounds\)"),
        ({"training": {"local_steps": 1001}}, r"1000 steps in a round \(jobs.max_steps\)"),
        ({"training": {"batch_size": 5000}}, r"4096 records in a step \(jobs.max_batch\)"),
        ({"model": {"max_length": 4097}}, r"4096 tokens in a text \(jobs.max_length\)"),
        (
            {"model": {"adapter": "lora", "lora": {"rank": 257}}},
            r"256 as the rank of adapters \(jobs.max_rank\)",
        ),
        (
            {"encryption": {"group_size": 8}},
            r"does not allow sums of groups \(encryption.group_sums\), but .*group_size = 8",
        ),
    ],
)
def test_the_default_policy_refuses_what_weakens_the_defaults(sections, words, job):
    with pytest.raises(PlanRefused, match=f"^mary's policy .*{words}"):
        Policy().check("mary", job(**sections))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[privacy]\nepsilon_limit = 3", r"epsilon 3 \(privacy.epsilon_limit\)"),
        ("[encryption]\nsmallest_cohort = 5", r"at least 5 clients .* over 3"),
        ('[jobs]\ntasks = ["causal-lm"]', r'accepts "causal-lm" \(jobs.tasks\)'),
        (
            '[jobs]\nadapters = ["lora"]',
            r'accepts "lora" \(jobs.adapters\), but the job has "head"',
        ),
        ('[jobs]\nstrategies = ["fedadam", "fedprox"]', '"fedadam" or "fedprox"'),
    ],
)
def test_what_the_owner_narrows_is_refused(text, words, policy, job):
    with pytest.raises(PlanRefused, match=words):
        policy(text).check("mary", job())


def test_all_reasons_are_told_at_once(job):
    bad = job(privacy={"unit": "none"}, encryption={"mode": "none"}, training={"rounds": 5000})
    with pytest.raises(PlanRefused) as error:
        Policy().check("mary", bad)
    for key in ("privacy.units", "encryption.required", "jobs.max_rounds"):
        assert key in str(error.value)


def test_groups_of_enough_clients_satisfy_the_smallest_cohort(policy, job):
    rules = policy("[encryption]\nsmallest_cohort = 5\ngroup_sums = true")
    rules.check("mary", job(encryption={"group_size": 5}))
    with pytest.raises(PlanRefused, match="at least 5 clients .* over 4"):
        rules.check("mary", job(encryption={"group_size": 4}))


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"privacy": {"unit": "none"}},
        {"privacy": {"epsilon": 1e6, "delta": 0.5, "limit": 1e9}},
        {"encryption": {"confirm": False}},
        {"training": {"rounds": 10**6}},
    ],
)
def test_a_virtual_owner_permits_all_but_what_its_job_says_of_encryption(sections, job):
    strict = job(**sections)
    Policy.simulated(strict).check("mary", strict)
    in_the_clear = {**sections, "encryption": {"mode": "none"}}
    allowed = job(**in_the_clear, simulation={"encryption_required": False})
    Policy.simulated(allowed).check("mary", allowed)
    with pytest.raises(PlanRefused, match="policy requires encrypted updates"):
        Policy.simulated(strict).check("mary", allowed)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"encryption": {"mode": "none"}}, 'refuses evaluation.counts = "exact" with encryption'),
        ({"evaluation": {"keep": "best"}}, 'refuses evaluation.keep = "best" with evaluation'),
    ],
)
def test_no_owner_gives_exact_counts_where_they_would_be_read_or_decide(sections, words, job):
    """Whatever a server's plan lets pass."""
    evaluation = {"counts": "exact", **sections.pop("evaluation", {})}
    asked = job(**sections, evaluation=evaluation, simulation={"encryption_required": False})
    with pytest.raises(PlanRefused, match=words):
        Policy.simulated(asked).check("mary", asked)


def test_an_owner_does_not_mind_a_public_file_that_it_does_not_have(job):
    asked = job(evaluation={"public_path": "/operator/public.csv", "keep": "best"})
    Policy().check("mary", asked)


def test_the_ledgers_limit_is_the_lower_of_the_owners_and_the_jobs(policy, job):
    asked = job(privacy={"epsilon": 2.0, "limit": 6.0})
    assert policy("[privacy]\nepsilon_limit = 4").epsilon_limit_for(asked) == 4
    assert Policy().epsilon_limit_for(asked) == 6
    plain = job(privacy={"epsilon": 2.0})
    assert policy("[privacy]\nepsilon_limit = 4").epsilon_limit_for(plain) == 4
    assert Policy.simulated(plain).epsilon_limit_for(plain) == 2


def test_only_named_base_models_are_accepted_where_any_is_named(policy):
    named = policy(f'[jobs]\nbase_models = ["{"a" * 64}"]')
    named.check_model("mary", "a" * 64)
    Policy().check_model("mary", "b" * 64)
    with pytest.raises(PlanRefused, match=r"b{64} \(jobs.base_models\)"):
        named.check_model("mary", "b" * 64)


def test_the_cards_operator_is_accepted_unless_others_are_named(policy):
    card, other = "c" * 64, "d" * 64
    Policy().check_operator("mary", card, card)
    with pytest.raises(PlanRefused, match="jobs.operators"):
        Policy().check_operator("mary", other, card)
    named = policy(f'[jobs]\noperators = ["{other}"]')
    named.check_operator("mary", other, card)
    with pytest.raises(PlanRefused, match="jobs.operators"):
        named.check_operator("mary", card, card)


@pytest.mark.parametrize(
    ("clock", "hours", "allowed"),
    [
        ("22:00", '"22:00-06:00"', True),
        ("03:30", '"22:00-06:00"', True),
        ("06:00", '"22:00-06:00"', False),
        ("21:59", '"22:00-06:00"', False),
        ("12:30", '["22:00-06:00", "12:00-13:00"]', True),
        ("13:00", '["22:00-06:00", "12:00-13:00"]', False),
        ("13:00", "[]", True),
    ],
)
def test_training_starts_only_within_the_owners_hours(clock, hours, allowed, policy):
    now = datetime.fromisoformat(f"2026-03-02T{clock}")
    rules = policy(f"[jobs]\nhours = {hours}")
    if allowed:
        rules.check_time("mary", now, 0.0)
    else:
        with pytest.raises(NotYet, match="jobs.hours"):
            rules.check_time("mary", now, 0.0)


@pytest.mark.parametrize("spent", [7200.0, 9e9, float("nan")])
def test_a_run_that_has_used_up_its_time_is_refused_for_good(spent, policy):
    rules = policy("[jobs]\nmax_hours = 2")
    rules.check_time("mary", datetime(2026, 3, 2), 7199.0)
    with pytest.raises(PlanRefused, match=r"2 hours \(jobs.max_hours\)") as error:
        rules.check_time("mary", datetime(2026, 3, 2), spent)
    assert not isinstance(error.value, NotYet)


def test_who_protects_records_takes_part_in_jobs_that_protect_groups_and_not_the_other_way(
    policy, job
):
    grouped = job(
        data={"path": "a.csv", "group_column": "patient"},
        privacy={"unit": "group"},
        evaluation={"counts": "private"},
    )
    records = policy('[privacy]\nunits = ["example"]')
    groups = policy('[privacy]\nunits = ["group"]')
    records.check("clinic", job())
    records.check("clinic", grouped)
    groups.check("clinic", grouped)
    with pytest.raises(PlanRefused, match=r'accepts privacy.unit "group" .* the job has "example"'):
        groups.check("clinic", job())
