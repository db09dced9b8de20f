"""The adapter's README.md: a model card (Mitchell et al. 2019) in the hub's form, from measured numbers.

It describes the training data by what owners make public of them and holds none of it. Its front
matter is YAML that the hub reads.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..job import Job
from ..learning.usage import usage
from ..quantities import NOT_DEFINED, WHY_NOT_DEFINED, metric_text, telling, undefined
from .form import Certificate
from .issue import CAUSES, figures_of

Json = Mapping[str, Any]

_HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
_MAIN = ("accuracy", "perplexity")
_NAMED = (
    "accuracy",
    "f1",
    "precision",
    "recall",
    "roc_auc",
    "perplexity",
    "exact_match",
    "loss",
)


def model_card(
    job: Job, plan: Json, result: Json, certificate: Certificate | None, adapter: Json
) -> str:
    """The card of a finished run, as Markdown under YAML.

    plan and result: as in plan.json and result.json; adapter: as in the adapter's umbel.json. Without a
    certificate it says that there is none.
    """
    parts = [
        f"# {job.name}",
        _summary(job, result, certificate),
        "## How to load it",
        usage(adapter).rstrip(),
        "## What it is for",
        _purpose(job),
        "## What it was trained on",
        _data(job, plan, result, certificate),
        "## How good it is",
        _measured(job, plan, result),
        "## Privacy",
        _privacy(job, result),
        *_audit(certificate),
        "## Limits",
        _limits(certificate),
        "## Certificate",
        _certificate(certificate),
    ]
    return _front_matter(job, plan, result) + "\n\n".join(parts) + "\n"


def _blur(plan: Json) -> float | None:
    """Standard deviation that noise gives the main figure of a test of the owners' counts."""
    found: float | None = plan["evaluation"]["deviation"]
    return found


def _front_matter(job: Job, plan: Json, result: Json) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    task = job.kind.pipeline
    tags = ["umbel", "federated-learning"]
    if job.private and not result["reproducible"]:
        tags.append("differential-privacy")
    if job.encrypted:
        tags.append("secure-aggregation")
    blur = _blur(plan)
    figures = figures_of(telling(result["metrics"], blur))
    if plan.get("personal_tensors"):  # they are of the owners' own models, and not of this adapter
        figures = {}
    noise = f", counted with noise ({_noise(job, blur)})" if blur is not None else ""
    measured = [
        EvalResult(
            task_type=task,
            dataset_type="private",
            dataset_name=f"held-out records of {result['clients']} data owners{noise}",
            metric_type=name,
            metric_value=figures[name],
        )
        for name in _NAMED
        if name in figures and math.isfinite(figures[name])
    ]
    base = job.model.base
    data = ModelCardData(
        base_model=base if _is_on_the_hub(base) else None,
        library_name="transformers" if job.adapter == "full" else "peft",
        license="unknown",
        pipeline_tag=task,
        tags=tags,
        model_name=job.name if measured else None,
        eval_results=measured or None,
    )
    return f"---\n{data.to_yaml().rstrip()}\n---\n\n"


def _about(result: Json) -> str:
    """What it is, if owners have models of their own."""
    return f" {result['about']}" if result.get("about") else ""


def _is_on_the_hub(base: str) -> bool:
    return bool(_HUB_ID.fullmatch(base)) and not Path(base).exists()


def _simulated(certificate: Certificate | None) -> bool:
    return certificate is not None and certificate.kind == "simulation"


def _summary(job: Job, result: Json, certificate: Certificate | None) -> str:
    kind = {"lora": "A LoRA adapter", "head": "A linear head", "full": "All weights"}[job.adapter]
    across = "data owners who kept their data"
    if _simulated(certificate):
        across = "virtual data owners on one machine (a simulation)"
    return (
        f"{kind} ({result['trainable_parameters']:,} trained parameters) for `{job.model.base}`, "
        f"tuned across {result['clients']:,} {across}, in "
        f"{_rounds(job, result)} of {result['strategy']}, with Umbel {result['umbel_version']}."
        f"{_changes(result)} "
        f"The base model's files have the digest `{result['base_sha256']}`."
        f"{_about(result)}"
    )


def _changes(result: Json) -> str:
    """Who took part when, if that changed."""
    if len(result["rosters"]) < 2:
        return ""
    parts = [f"{period['clients']} from round {period['first']} on" for period in result["rosters"]]
    return f" Owners left or joined on the way: {', '.join(parts)}."


def _rounds(job: Job, result: Json) -> str:
    if result["ended"] is None:
        return f"{result['rounds']:,} rounds"
    why = CAUSES[result["ended"]["cause"]]
    return f"{result['rounds']:,} of {job.training.rounds:,} planned rounds ({why})"


def _purpose(job: Job) -> str:
    labels = ", ".join(
        f"`{json.dumps(label, ensure_ascii=False)}`" for label in job.data.labels or ()
    )
    records, longest = {"spans": "texts"}.get(job.kind.reads, job.kind.reads), ""
    if records != "pictures":
        longest = f", of up to {job.model.max_length} tokens"
    return (
        f"{job.kind.purpose.format(labels=labels)} It is meant for {records} like those of the owners that "
        f"trained it{longest}; the figures below say nothing about other {records}. Nobody should act on "
        "what it says about a person before a human has looked at the case."
    )


def _data(job: Job, plan: Json, result: Json, certificate: Certificate | None) -> str:
    records = sum(client["training_size"] for client in plan["clients"])
    group = (
        " All records of a group are on the same side of the split."
        if job.data.group_column
        else ""
    )
    where = "They never left their owners and are"
    if _simulated(certificate):
        where = "They were on one machine, divided among virtual owners, and are"
    return (
        f"Records of {result['clients']:,} owners, about {records:,} in all (each owner's number "
        f"holds noise). {where} not described further. Each owner held a part out for "
        f"testing.{group} The license of the result depends on the base model and on the owners; "
        "Umbel does not know it."
    )


def _why_untested(job: Job, result: Json) -> str:
    if job.counts == "off":
        return "the job takes no counts of held-out records (evaluation.counts)"
    if result["metrics"]:
        return "noise outweighs the counts of the owners' held-out records"
    return "no owner held records out"


def _noise(job: Job, blur: float) -> str:
    name = job.kind.deciding.key
    return f"{name} ± {metric_text(name, blur)}, one standard deviation"


def _measured(job: Job, plan: Json, result: Json) -> str:
    by_groups = job.per_group and job.tests_privately
    title = "on held-out groups, each counted as one" if by_groups else "on held-out records"
    blur = _blur(plan)
    parts = [_table(title, telling(result["metrics"], blur), telling(result["initial"], blur))]
    if parts[0] and blur is not None and WHY_NOT_DEFINED not in parts[0]:
        parts[0] += f"\n\nThe owners' counts carry noise: {_noise(job, blur)}."
    public = result["public"]
    if public:
        title = f"on {public['examples']:,} public records"
        parts.append(_table(title, public["metrics"], public["initial"]))
    parts = [part for part in parts if part]
    if not parts and result["ended"]:
        return "The owners have not tested this model, because training ended early."
    if not parts:
        return f"It was not tested: {_why_untested(job, result)}."
    kept = result["kept"]
    if kept["value"] is not None:
        parts.append(
            f"This is the model after round {kept['round']} of {result['rounds']}: of "
            f"the models that were tested, its {kept['metric']} was the best ({kept['on']}). On "
            "records that played no part in the choice it may do a little worse."
        )
    return "\n\n".join(parts)


def _table(title: str, metrics: Json, initial: Json) -> str:
    figures = figures_of(metrics)
    main = _MAIN if "accuracy" in metrics or "perplexity" in metrics else ("f1",)
    drowned = [name for name in main if undefined(metrics, name) or undefined(initial, name)]
    listed = (*_NAMED, "examples", "tokens")
    shown = [name for name in listed if name in figures or name in drowned]
    if not shown:
        return ""
    rows = [f"| {name} | {_cell(initial, name)} | {_cell(metrics, name)} |" for name in shown]
    notes = ["", WHY_NOT_DEFINED] if drowned else []
    return "\n".join([f"| {title} | before training | after |", "|---|---|---|", *rows, *notes])


def _cell(metrics: Json, name: str) -> str:
    value = figures_of(metrics).get(name)
    return NOT_DEFINED if undefined(metrics, name) else _number(value)


def _privacy(job: Job, result: Json) -> str:
    privacy = result["privacy"]
    lines = []
    if job.private and result["reproducible"]:
        lines.append(
            "**The noise of this run was drawn from the job's seed so that it can be repeated: "
            "nothing in it is private. The same job with secret noise would promise this:**"
        )
    lines.append(privacy["guarantee"])
    if privacy["epsilon"] is not None:
        lines.append(
            "By the owners' ledgers, all that was ever run on these data has cost an epsilon of at "
            f"most {_up(privacy['epsilon'])} at delta {privacy['delta']:g}."
        )
    return "\n\n".join(lines)


def _audit(certificate: Certificate | None) -> list[str]:
    if certificate is None or certificate.audit is None:
        return []
    rows = [f"| {name} | {value} |" for name, value in sorted(certificate.audit.figures.items())]
    return ["## Audit", "\n".join(["| figure | |", "|---|---|", *rows])]


def _limits(certificate: Certificate | None) -> str:
    if certificate is None:
        return "Nobody has signed the statements on this page."
    return "\n".join(f"- {limit}" for limit in certificate.limits)


def _certificate(certificate: Certificate | None) -> str:
    if certificate is None:
        return "There is none: the signing key was not available when the run ended."
    return (
        f"SHA-256 of `certificate.json`: `{certificate.digest}`, signed by `{certificate.key}` "
        f"({certificate.kind}). Check it and these files offline:\n\n"
        "```bash\numbel verify certificate.json --adapter adapter\n```"
    )


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value == int(value) and abs(value) > 1 else f"{value:.4f}"


def _up(epsilon: float) -> str:
    """Rounded up: a promise is never larger than what holds."""
    return f"{math.ceil(epsilon * 1000) / 1000:g}"
