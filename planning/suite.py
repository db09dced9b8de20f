"""Every strategy of Umbel's own, as it declares itself, and what it would cost in a job.

Rows are made from the classes alone: a new one in ``strategies.OURS`` has its row by that line.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..errors import StrategyError
from ..job import Job, StrategySpec
from ..strategies import (
    OURS,
    Rule,
    has_personal,
    ours,
    personal_of,
    trained_over,
    weighs_by_loss,
)
from ..strategies.construct import construct
from ..strategies.contract import Shapes
from ..strategies.factors import factor_of
from ..strategies.residual import with_residual, without_residual
from .facts import ClientFacts
from .plan import Plan
from .refusals import plan_refusals

_PAPER = re.compile(r"\s*\(([^()]*(?:\d{4}|arXiv)[^()]*)\)")
_CITED = re.compile(r"^(.*\d{4}, .*?)\.?$", re.MULTILINE)
_PLAIN = {"data.path": "data.csv", "training.optimizer": "sgd"}
_EXAMPLE_LEVEL = Job.compose(None, _PLAIN | {"privacy.unit": "example"})
_CLIENT_LEVEL = Job.compose(None, _PLAIN | {"privacy.unit": "client"})
"""The plainest jobs of both kinds: what a strategy refuses in one, it refuses in all of its kind."""
_SEES = {"SUM": "sums", "GROUPS": "group means", "INDIVIDUAL": "single updates"}


@dataclass(frozen=True)
class Described:
    """A strategy by its declarations."""

    name: str
    rule: str
    """In a line."""
    paper: str
    about: str
    """All that its class says."""
    options: dict[str, Any]
    """Defaults by name."""
    sees: str
    local: str
    """What owners do beside training; empty for nothing."""
    state: str
    """What stays with an owner from round to round."""
    adapters: list[str]
    example: str
    """Whether it composes with example-level privacy."""
    client: str
    """With client-level privacy."""
    encryption: str
    when: str
    """When to choose it."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class InJob:
    """What a strategy would be in a job."""

    bytes_up: int
    """Of a client in a round, on average."""
    bytes_down: int
    refusal: str
    """Why the job cannot have it; empty if it can."""


def described(name: str) -> Described:
    """One of them. Raises ``StrategyError`` with the known names."""
    if name not in OURS:
        raise StrategyError(
            f"{name!r} is not one of Umbel's strategies. Choose one of: {', '.join(OURS)}."
        )
    kind = ours(name)
    about = _words(kind.__doc__)
    module = _words(inspect.getmodule(kind).__doc__)
    paper = _PAPER.search(about) or _PAPER.search(module) or _CITED.search(module)
    return Described(
        name,
        _rule(about),
        paper[1] if paper else "",
        about,
        {n: p.default for n, p in inspect.signature(kind).parameters.items()},
        _SEES[kind.sees],
        _local(kind),
        _state(kind),
        list(kind.fits),
        "no" if any(kind.refusals(_EXAMPLE_LEVEL)) else "yes",
        "no" if weighs_by_loss(StrategySpec(name=name)) else _under_client_level(kind),
        {"SUM": "yes", "GROUPS": "by groups", "INDIVIDUAL": "no"}[kind.sees],
        kind.when,
    )


def _under_client_level(kind: type[Rule]) -> str:
    if any(kind.refusals(_CLIENT_LEVEL)):
        return "no"
    # What compares updates would see one client's own if nothing sums groups.
    return "yes" if kind.sees == "SUM" else "by groups"


def in_job(plan: Plan, facts: Sequence[ClientFacts], name: str) -> InJob:
    """What a strategy would be in a planned job of another one that trains all of its adapter."""
    job = plan.job
    spec = job.strategy.model_copy(update={"name": name, "options": {}})
    other = job.model_copy(update={"strategy": spec})
    terms = replace(plan.terms, job=other)
    trained = _trained(other, ours(name), plan.model.trained)
    personal = dict(personal_of(spec, plan.model.trained)) if job.adapter in ours(name).fits else {}
    model = replace(plan.model, trained=trained, personal=personal)
    reasons = plan_refusals(terms, facts, model, plan.tests, begun=False)
    costs = replace(plan, terms=terms, model=model)
    return InJob(costs.bytes_up, costs.bytes_down, " · ".join(reasons))


def _trained(job: Job, kind: type[Rule], shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Of an adapter with all these tensors, what travels with the strategy: what it trains in some round,
    and its residuals."""
    shapes = without_residual(shapes)
    if job.adapter not in kind.fits:
        return dict(shapes)
    if kind.core:
        shapes = _with_cores(shapes)
    names = trained_over(job.strategy, shapes, job.training.rounds)
    found = {name: shape for name, shape in shapes.items() if name in names}
    return with_residual(found, construct(kind, {}, job.strategy).residual)


def _with_cores(shapes: Shapes) -> Shapes:
    """The tensors of a plain LoRA adapter, with B taken apart into B and a core (``learning.lora_core``)."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        if factor_of(name) != "B":
            found[name] = shape
            continue
        stem = name.removesuffix(".weight")
        found[f"{stem}.core.weight"] = (shape[1], shape[1])
        found[f"{stem}.out.weight"] = shape
    return found


def _words(text: str | None) -> str:
    return inspect.cleandoc(text or "")


def _rule(about: str) -> str:
    """The first sentence, without name and paper."""
    first = " ".join(about.split("\n\n")[0].split())
    _, cited, rule = first.partition("): ")
    text = rule if cited else _PAPER.sub("", first)
    return re.split(r"(?<=[\w)|])\.(?= [A-Z(]|$)", text)[0]


def _local(kind: type[Rule]) -> str:
    """What an owner does, of its update or of a model of its own."""
    halves = [half for half in (kind.local, kind.apart) if half is not None]
    return "; ".join(_rule(_words(half.__doc__)) for half in halves)


def _state(kind: type[Rule]) -> str:
    if has_personal(kind):
        return "its part of the model"
    if kind.apart is not None:
        return "a second model"
    kept = getattr(kind.local, "state", None)
    found = kept({"weight": (9,)}) if kept else {}
    if found and all(shape == (1,) for shape in found.values()):
        return f"{len(found)} number{'s' * (len(found) > 1)}"
    return f"{len(found)} x the update" if found else "none"
