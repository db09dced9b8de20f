import hashlib
import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from umbel.errors import JobError
from umbel.job import Job

DATA = {"data": {"path": "reviews.csv"}}

FILE = """
name = "reviews"
seed = 7

[data]
path = "data/reviews.csv"
test_path = "data/test.csv"

[training]
rounds = 5
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "jobs" / "job.toml"
    path.parent.mkdir()
    path.write_text(FILE)
    return path


def build(**sections):
    return Job.build({**DATA, **sections})


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"trainin": {}}, r"unknown key 'trainin' \(did you mean 'training'\?\)"),
        ({"training": {"round": 3}}, r"unknown key 'training.round' \(did you mean 'rounds'\?\)"),
        (
            {"model": {"lora": {"rnak": 3}}},
            r"unknown key 'model.lora.rnak' \(did you mean 'rank'\?\)",
        ),
        (
            {"privacy": {"qqq": 1}},
            r"unknown key 'privacy.qqq' \(known here: clipping, clipping_norm, "
            r"clipping_quantile, delta, epsilon, limit, mechanism, spare_rounds, unit\)",
        ),
        ({"data": {"path": "a", "paths": "b"}}, "did you mean 'path'"),
        ({"rounds": 3}, "did you mean 'training.rounds'"),
        ({"epsilon": 3}, "did you mean '(privacy|evaluation).epsilon' or '"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_that_is_known(sections, words):
    with pytest.raises(JobError, match=words):
        build(**sections)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"training": {"rounds": "three"}}, "training.rounds = 'three'"),
        ({"training": {"rounds": "3"}}, "training.rounds = '3'"),
        ({"training": {"rounds": True}}, "training.rounds = True"),
        ({"training": {"rounds": 2.5}}, "training.rounds = 2.5"),
        ({"privacy": {"epsilon": "8"}}, "privacy.epsilon = '8'"),
        ({"training": {"learning_rate": True}}, "training.learning_rate = True"),
        ({"training": {"gradient_checkpointing": "yes"}}, "gradient_checkpointing = 'yes'"),
        ({"training": 3}, "training = 3"),
        ({"data": {"path": 3}}, "data.path = 3"),
        ({"data": {"path": "a", "labels": "good"}}, "data.labels = 'good'"),
        ({"name": ""}, "name = ''"),
        ({"name": "../escape"}, "name = '../escape'"),
        ({"strategy": {"options": {"a": [1]}}}, "strategy.options"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_its_place(sections, words):
    with pytest.raises(JobError, match=words):
        build(**sections)


@pytest.mark.parametrize(
    "sections",
    [
        {"training": {"rounds": 0}},
        {"training": {"local_steps": -1}},
        {"training": {"batch_size": 0}},
        {"training": {"microbatch": 0}},
        {"training": {"learning_rate": 0}},
        {"training": {"learning_rate": float("nan")}},
        {"training": {"learning_rate": float("inf")}},
        {"training": {"momentum": 1}},
        {"training": {"warmup": 1}},
        {"training": {"optimizer": "lion"}},
        {"training": {"schedule": "step"}},
        {"training": {"precision": "float16"}},
        {"training": {"gradient_clipping": 0}},
        {"privacy": {"epsilon": 0}},
        {"privacy": {"epsilon": -1}},
        {"privacy": {"epsilon": float("nan")}},
        {"privacy": {"epsilon": float("inf")}},
        {"privacy": {"delta": 1}},
        {"privacy": {"delta": 0}},
        {"privacy": {"delta": float("nan")}},
        {"privacy": {"clipping_norm": 0}},
        {"privacy": {"clipping_norm": 1e-27}},
        {"privacy": {"clipping_norm": 1e4}},
        {"privacy": {"spare_rounds": -1}},
        {"privacy": {"limit": 0}},
        {"privacy": {"unit": "user"}},
        {"cohort": {"size": 0}},
        {"cohort": {"deadline": 0}},
        {"cohort": {"retries": -1}},
        {"cohort": {"size": 2, "minimum": 3}},
        {"model": {"max_length": 3}},
        {"model": {"adapter": "prefix"}},
        {"model": {"feature_scale": 0}},
        {"model": {"lora": {"rank": 0}}},
        {"model": {"lora": {"dropout": 1}}},
        {"data": {"path": "a", "test_fraction": 1}},
        {"data": {"path": "a", "limit": 0}},
        {"data": {"path": "a", "label_column": None}},
        {"task": "causal-lm", "model": {"adapter": "head"}},
        {"task": "translation"},
        {"seed": -1},
        {"seed": 2**63},
        {"strategy": {"options": {"learning_rate": float("nan")}}},
        {"simulation": {"clients": 0}},
        {"evaluation": {"every": -1}},
    ],
    ids=str,
)
def test_an_impossible_value_is_refused(sections):
    with pytest.raises(JobError, match="^job: "):
        build(**sections)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"privacy": {"clipping_norm": "adaptive"}}, "privacy.clipping_norm = 'adaptive'"),
        ({"privacy": {"accountant": "gdp"}}, "unknown key 'privacy.accountant'"),
        ({"model": {"adapter": "dora"}}, "model.adapter = 'dora'"),
        ({"model": {"lora": {"use_dora": True}}}, "unknown key 'model.lora.use_dora'"),
        ({"training": {"shuffle": True}}, "unknown key 'training.shuffle'"),
    ],
)
def test_what_would_weaken_the_guarantee_cannot_be_asked_for(sections, words):
    with pytest.raises(JobError, match=words):
        build(**sections)


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(JobError) as caught:
        build(trainin={}, training={"rounds": 0}, privacy={"delta": 2})
    message = str(caught.value)
    assert message.count(";") >= 2
    assert all(word in message for word in ("trainin", "training.rounds", "privacy.delta"))


def test_what_is_missing_is_named():
    with pytest.raises(JobError, match=r"data is missing"):
        Job.build({})


def test_defaults_follow_from_task_adapter_and_privacy():
    assert build().adapter == "head"
    assert build(task="causal-lm").adapter == "lora"
    assert build().private
    assert build().weighting == "equal"
    assert build(privacy={"unit": "none"}).weighting == "examples"
    assert build(strategy={"weighting": "examples"}).weighting == "examples"
    rates = [
        build(model={"adapter": adapter}).training.learning_rate
        for adapter in ("head", "lora", "full")
    ]
    assert rates == sorted(rates, reverse=True)
    assert build(training={"learning_rate": 0.5}).training.learning_rate == 0.5


def test_overrides_change_values_of_every_kind(file):
    job = Job.load(
        file,
        [
            "training.rounds=3",
            "privacy.epsilon=2.5",
            "name=other",
            'task="causal-lm"',
            "data.labels=['a', \"b\"]",
            "simulation.alone=true",
            "strategy.options.learning_rate=0.5",
            "simulation.partition=column:site",
            "model.base=some/model=name",
        ],
    )
    assert job.training.rounds == 3
    assert job.privacy.epsilon == 2.5
    assert (job.name, job.task) == ("other", "causal-lm")
    assert job.data.labels == ["a", "b"]
    assert job.simulation.alone
    assert job.strategy.options == {"learning_rate": 0.5}
    assert job.simulation.partition == "column:site"
    assert job.model.base == "some/model=name"


def test_of_two_overrides_the_last_wins(file):
    assert Job.load(file, ["training.rounds=3", "training.rounds=4"]).training.rounds == 4


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.rounds", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("name.first=x", "name is a value, not a section"),
        ("training.rounds.more=1", "rounds is a value, not a section"),
        ("trainin.rounds=1", "did you mean 'training'"),
        ("training.rounds=", "training.rounds"),
        (".rounds=1", "unknown key"),
        ("training=5", "training = 5"),
    ],
)
def test_an_override_that_cannot_be_right_is_refused(override, words, file):
    with pytest.raises(JobError, match=words):
        Job.load(file, [override])


def test_paths_in_a_file_start_at_its_folder(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (file, file.relative_to(tmp_path)):
        job = Job.load(path)
        assert job.data.path == str(tmp_path / "jobs" / "data" / "reviews.csv")
        assert job.data.test_path == str(tmp_path / "jobs" / "data" / "test.csv")


def test_paths_on_the_command_line_start_where_it_is_typed(file, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    job = Job.load(file, ["data.path=mine.csv"])
    assert job.data.path == str(tmp_path / "elsewhere" / "mine.csv")


def test_an_absolute_path_stays(file, tmp_path):
    assert Job.load(file, ["data.path=/somewhere/a.csv"]).data.path == "/somewhere/a.csv"


def test_a_base_model_is_a_path_only_where_it_exists(file):
    (file.parent / "model").mkdir()
    file.write_text(FILE + '[model]\nbase = "model"\n')
    assert Job.load(file).model.base == str(file.parent / "model")
    for base in ("owner/name", "package:thing/model"):
        assert Job.load(file, [f"model.base={base}"]).model.base == base


def test_a_missing_file_is_named_with_how_to_write_one(tmp_path):
    with pytest.raises(JobError, match=r"no job file .*job\.toml.*umbel init"):
        Job.load(tmp_path / "job.toml")


def test_a_toml_error_names_the_file_and_the_place(file):
    file.write_text("name = \n[data]")
    with pytest.raises(JobError, match=r"job\.toml is not valid TOML: .*line 1"):
        Job.load(file)


def test_a_file_that_is_no_text_or_a_folder_is_named(file):
    file.write_bytes(b"name = '\xff'")
    with pytest.raises(JobError, match=r"job\.toml cannot be read"):
        Job.load(file)
    with pytest.raises(JobError, match="cannot be read"):
        Job.load(file.parent)


def test_a_wrong_value_in_a_file_names_the_file(file):
    file.write_text(FILE.replace("rounds = 5", "rounds = 0"))
    with pytest.raises(JobError, match=rf"^{file}: training\.rounds = 0"):
        Job.load(file)


def test_canonical_json_comes_back_as_the_same_job_and_text(file):
    job = Job.load(file, ["strategy.options.learning_rate=0.1", "strategy.options.flag=true"])
    again = Job.build(json.loads(job.to_json()))
    assert again == job
    assert again.to_json() == job.to_json()
    assert job.digest() == hashlib.sha256(job.to_json().encode()).hexdigest()


def test_the_digest_does_not_depend_on_the_order_or_spelling_of_the_file():
    one = tomllib.loads('seed = 1\n[data]\npath = "a"\n[training]\nrounds = 3\nlocal_steps = 2')
    other = tomllib.loads(
        'training.local_steps = 2\ntraining.rounds = 3\ndata = { path = "a" }\nseed = 0x1'
    )
    assert Job.build(one).digest() == Job.build(other).digest()
    assert Job.build(one).digest() != Job.build({**one, "seed": 2}).digest()


def test_a_job_keeps_its_digest_if_new_keys_become_known():
    """Ledgers, approvals and certificates hold digests: a key that a job does not use changes none."""
    job = Job.build({"data": {"path": "a"}, "training": {"rounds": 3}})
    assert job.digest() == "e288fcd2e1f556ff028327a6c4f080f53897922ac9c1390e71e20a8e39d886fa"


@given(
    st.integers(1, 1000),
    st.floats(1e-6, 100),
    st.floats(1e-12, 0.9),
    st.lists(st.text(max_size=5), max_size=3),
)
def test_every_job_survives_its_json(rounds, epsilon, delta, labels):
    job = build(
        training={"rounds": rounds},
        privacy={"epsilon": epsilon, "delta": delta},
        data={"path": "a", "labels": labels},
    )
    assert Job.build(json.loads(job.to_json())).digest() == job.digest()


def sections_of(model, place="job"):
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from sections_of(field.annotation, f"{place}.{name}")
        else:
            yield f"{place}.{name}", field


@pytest.mark.parametrize(
    ("place", "field"), list(sections_of(Job)), ids=lambda x: x if isinstance(x, str) else ""
)
def test_every_field_says_what_it_is(place, field):
    assert field.description
    assert field.description.rstrip().endswith((".", '".'))


def test_a_job_cannot_be_changed_in_place():
    with pytest.raises(ValueError, match="frozen"):
        build().training.rounds = 3


def test_the_examples_of_the_repository_are_valid_jobs():
    examples = sorted((Path(__file__).parent.parent / "examples").glob("*.toml"))
    assert examples
    for path in examples:
        Job.load(path)
