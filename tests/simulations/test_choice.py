"""Runs whose result is chosen: the best model kept, training ended early, and what that costs."""

import csv
import json
import os
import signal

import pytest

from umbel.errors import CheckpointError, PlanRefused
from umbel.learning.predict import Predictor
from umbel.privacy.ledger.ledger import Ledger
from umbel.redteam.audit import audit_run
from umbel.server.run import Silent
from umbel.simulations.engine import Options, plan_job, resume, simulate

SITES = ["film", "press", "shop", "social"]


@pytest.fixture(scope="module")
def quick(job_of):
    """A head on features at four sites; without privacy, so that more rounds change no earlier one."""

    def build(unit="none", **sections):
        steps = {"batch_size": 16, "rounds": 5, "local_steps": 12, "learning_rate": 0.05}
        sections["training"] = {**steps, **sections.get("training", {})}
        sections["privacy"] = {"unit": unit, "delta": 1e-3, **sections.get("privacy", {})}
        return job_of("bert", seed=1, **sections)

    return build


@pytest.fixture
def start(tmp_path):
    def run(job, name="run", listener=None, **options):
        options = {"workers": 1, "reproducible": True, **options}
        return simulate(job, Options(run_dir=tmp_path / name, **options), listener)

    return run


def write(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return str(path)


@pytest.fixture(scope="module")
def teacher(quick, tmp_path_factory):
    """A run of one round, which no test changes."""
    options = Options(tmp_path_factory.mktemp("teacher") / "run", workers=1, reproducible=True)
    return simulate(quick(training={"rounds": 1}), options)


@pytest.fixture(scope="module")
def taught(teacher, texts):
    """A public file whose labels are what the model after round 1 says: none is better on it."""
    found = Predictor.load(teacher.path).predict(texts, 0)
    likely = [(one.text, max(one.probabilities.items(), key=lambda pair: pair[1])) for one in found]
    rows = [(text, label) for text, (label, share) in likely if share > 0.505]
    assert len({label for _, label in rows}) == 2
    return write(teacher.path.with_name("taught.csv"), rows)


@pytest.fixture
def all_negative(texts, tmp_path):
    """A public file on which nothing is better than the untrained head, which says this of all."""
    return write(tmp_path / "negative.csv", [(text, "negative") for text in texts[:40]])


def result(folder):
    return folder.read_json("result.json")


def rounds_of(folder, kind):
    return [event["round"] for event in folder.read_events() if event["event"] == kind]


def charged(folder, site="film"):
    with Ledger(folder.path / "ledgers" / f"{site}.sqlite") as ledger:
        ledger.verify()
        return [entry.key.split("/")[1] for entry in ledger.entries()]


def test_the_server_tests_on_public_records_beside_the_owners(quick, start, taught):
    folder = start(quick(training={"rounds": 2}, evaluation={"public_path": taught}))
    found = result(folder)
    assert rounds_of(folder, "holdout") == rounds_of(folder, "evaluation") == [0, 1, 2]
    assert found["public"]["examples"] == found["public"]["metrics"]["examples"] > 100
    assert found["public"]["initial"]["accuracy"] < 1
    # The owners' figures are what they are without a public file.
    plain = result(start(quick(training={"rounds": 2}), "plain"))
    assert plain["public"] is None
    for key in ("metrics", "initial", "client_metrics", "adapter_sha256"):
        assert found[key] == plain[key]


def test_without_counts_of_the_owners_the_public_figures_are_the_only_ones(quick, start, taught):
    evaluation = {"public_path": taught, "counts": "off", "every": 2}
    folder = start(quick("example", training={"rounds": 3}, evaluation=evaluation))
    assert rounds_of(folder, "holdout") == [0, 2, 3]
    assert rounds_of(folder, "evaluation") == []
    assert result(folder)["metrics"] == {}
    assert 0 <= result(folder)["public"]["metrics"]["accuracy"] <= 1
    assert charged(folder) == ["seed 1", "1", "2", "3"]


def test_the_best_model_is_the_result_and_is_that_of_a_shorter_run(quick, start, taught, teacher):
    folder = start(quick(evaluation={"public_path": taught, "keep": "best"}))
    found = result(folder)
    assert found["rounds"] == 5
    assert found["kept"] == {
        "round": 1, "ended_early": False, "on": "public hold-out", "metric": "accuracy", "value": 1.0,
    }  # fmt: skip
    assert found["public"]["metrics"]["accuracy"] == 1.0
    shorter = result(teacher)
    assert found["adapter_sha256"] == shorter["adapter_sha256"]
    # All figures are those of the model that was kept.
    assert found["metrics"] == shorter["metrics"]
    assert found["client_metrics"] == shorter["client_metrics"]
    # An audit looks at the kept model, not at the last one.
    assert audit_run(folder.path)["adapter_sha256"] == shorter["adapter_sha256"]


def test_training_ends_when_patience_does_and_what_is_unspent_stays_so(quick, start, all_negative):
    evaluation = {"public_path": all_negative, "patience": 2, "counts": "off"}
    job = quick("example", evaluation=evaluation)
    folder = start(job)
    found, plan = result(folder), folder.read_json("plan.json")
    assert found["rounds"] == 2
    assert found["kept"]["ended_early"]
    assert found["kept"]["round"] == 2
    assert charged(folder) == ["seed 1", "1", "2"]
    planned = max(client["epsilon"] for client in plan["clients"])
    assert found["privacy"]["epsilon"] < planned <= job.privacy.epsilon
    assert "over at most 5 rounds" in found["privacy"]["guarantee"]
    [ended] = [event for event in folder.read_events() if event["event"] == "ended"]
    assert ended["reason"] == "no better accuracy in 2 tests since round 0 (public hold-out)"


def test_noised_counts_may_decide_where_nothing_is_public(quick, start):
    evaluation = {"keep": "best", "patience": 1, "epsilon": 4.0, "every": 1}
    job = quick("example", privacy={"epsilon": 8.0}, evaluation=evaluation)
    assert job.counts == "private"
    folder = start(job)
    found = result(folder)
    figures = {e["round"]: e["metrics"] for e in folder.read_events() if e["event"] == "evaluation"}
    # The figure of a model comes with the next round's training: of which one more has run.
    best = max(figures, key=lambda round_: (figures[round_]["accuracy"], -round_))
    assert found["kept"]["on"] == "private counts"
    assert found["kept"]["round"] == best
    assert found["metrics"] == figures[best]
    tests = [what for what in charged(folder) if what.startswith("test ")]
    assert tests == [f"test {round_}" for round_ in range(found["rounds"] + 1)]
    assert found["privacy"]["epsilon"] <= job.privacy.epsilon


def test_exact_counts_decide_where_nothing_is_promised(quick, start):
    found = result(start(quick(evaluation={"keep": "best"})))
    assert found["kept"]["on"] == "exact counts"
    assert found["kept"]["value"] == found["metrics"]["accuracy"]


def test_a_language_model_is_chosen_by_its_loss_on_public_texts(job_of, start, texts, tmp_path):
    lines = [json.dumps({"text": text}) for text in texts[::4]]
    (tmp_path / "public.jsonl").write_text("\n".join(lines))
    evaluation = {"public_path": str(tmp_path / "public.jsonl"), "keep": "best", "counts": "off"}
    job = job_of(
        "llama", task="causal-lm", training={"rounds": 2, "batch_size": 64}, evaluation=evaluation
    )
    folder = start(job)
    found = result(folder)
    losses = [
        event["metrics"]["loss"] for event in folder.read_events() if event["event"] == "holdout"
    ]
    assert found["kept"]["round"] == losses.index(min(losses))
    assert found["public"]["metrics"]["loss"] == found["kept"]["value"] == min(losses)
    assert found["public"]["metrics"]["perplexity"] > 1


class At(Silent):
    """Kills this process the first time that an event was written or a stage begins."""

    def __init__(self, moment):
        self.moment = moment

    def started(self, what, total):
        self._reached(what)

    def event(self, event):
        self._reached(f"{event.kind} {getattr(event, 'round', '')} written")

    def _reached(self, moment):
        if moment == self.moment:
            os.kill(os.getpid(), signal.SIGKILL)


MOMENTS = [
    "holdout 0 written",
    "train 1",
    "round 1 written",
    "public 1",
    "holdout 1 written",
    "train 2",
    "evaluation 1 written",
    "holdout 3 written",
    "ended 3 written",
    "evaluation 3 written",
    "kept 1 written",
]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_is_killed_chooses_as_if_it_had_not_been(
    moment, quick, start, taught, teacher, tmp_path, forked
):
    job = quick(evaluation={"public_path": taught, "keep": "best", "patience": 2})
    assert forked(lambda: start(job, listener=At(moment))) == -signal.SIGKILL
    folder = resume(tmp_path / "run", 1)
    found = result(folder)
    assert (found["rounds"], found["kept"]["round"]) == (3, 1)
    shorter = result(teacher)
    assert found["adapter_sha256"] == shorter["adapter_sha256"]
    assert rounds_of(folder, "holdout") == [0, 1, 2, 3]
    assert found["public"]["metrics"]["accuracy"] == 1.0


@pytest.mark.parametrize("moment", ["evaluation 0 written", "round 2 written", "evaluate 5"])
def test_a_choice_on_noised_counts_survives_a_kill(moment, quick, start, tmp_path, forked):
    evaluation = {"keep": "best", "epsilon": 4.0, "every": 1}
    job = quick("example", evaluation=evaluation)
    undisturbed = result(start(job, "undisturbed"))
    assert forked(lambda: start(job, listener=At(moment))) == -signal.SIGKILL
    found = result(resume(tmp_path / "run", 1))
    assert found["kept"] == undisturbed["kept"]
    assert found["adapter_sha256"] == undisturbed["adapter_sha256"]


def test_the_best_model_gone_from_disk_is_said(quick, start, taught, tmp_path, forked):
    job = quick(evaluation={"public_path": taught, "keep": "best"})
    assert forked(lambda: start(job, listener=At("train 5"))) == -signal.SIGKILL
    [best] = (tmp_path / "run" / "checkpoints" / "best").iterdir()
    os.truncate(best, best.stat().st_size // 2)
    with pytest.raises(CheckpointError, match=r"best model of this run \(round 1\)"):
        resume(tmp_path / "run", 1)


OPEN = {"encryption": {"mode": "none"}, "simulation": {"encryption_required": False}}


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({**OPEN, "evaluation": {"counts": "exact"}}, "read each client's exact counts"),
        ({"evaluation": {"counts": "exact", "keep": "best"}}, "a choice made on exact counts"),
        ({"evaluation": {"counts": "exact", "patience": 2}}, "evaluation.patience = 2 with"),
        ({"evaluation": {"counts": "off", "patience": 2}}, "without any test"),
        ({"evaluation": {"keep": "best"}, "data": {"test_fraction": 0.0}}, "without any test"),
        ({"evaluation": {"patience": 1, "every": 0}}, "nothing is tested between rounds"),
    ],
)
def test_what_would_release_more_than_is_promised_is_refused(sections, words, quick):
    with pytest.raises(PlanRefused, match=words):
        plan_job(quick("example", **sections))


@pytest.mark.parametrize(
    ("unit", "sections", "counts"),
    [
        ("example", {}, "private"),
        ("example", OPEN, "private"),
        ("example", {"evaluation": {"keep": "best"}}, "private"),
        ("example", {"evaluation": {"keep": "best", "public_path": "p.csv"}}, "private"),
        ("client", {}, "off"),
        ("client", {"evaluation": {"keep": "best"}}, "private"),
        ("none", {**OPEN, "evaluation": {"patience": 1}}, "exact"),
        ("example", {**OPEN, "evaluation": {"counts": "off"}}, "off"),
    ],
)
def test_counts_are_exact_by_default_only_where_nothing_is_private(unit, sections, counts, quick):
    assert quick(unit, **sections).counts == counts
