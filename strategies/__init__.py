"""How updates become the next model: the contract of a strategy, ours, and Flower's behind an adapter.

A strategy is named in the job: one of ours, a class of ``flwr.serverapp.strategy``, or
``module:Class``, which is a ``Rule`` of this contract or a strategy of Flower's kind.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import MessageError, PlanRefused, StrategyError
from .contract import (
    UPDATE,
    Channel,
    Channels,
    LocalRule,
    Rule,
    Shapes,
    Told,
    checked_channels,
)
from .robust import ROBUST

if TYPE_CHECKING:
    from flwr.serverapp.strategy import Strategy

    from ..job import Job, StrategySpec, TrainingSpec

__all__ = [
    "NAMES",
    "Channel",
    "Channels",
    "LocalRule",
    "Rule",
    "Told",
    "build_strategy",
    "channels_of",
    "compares",
    "heard_of",
    "keeps_state",
    "local_half",
    "refusals",
    "sees",
    "state_of",
]

NAMES = (
    *("fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "fedprox", "scaffold", "feddyn"),
    *ROBUST,
)


# With less than all of a cohort, Flower's rules would draw at random, or wait for nodes for ever.
_SAID_ELSEWHERE = {
    "fraction_train": "cohort.size",
    "min_train_nodes": "cohort.minimum",
    "min_available_nodes": "cohort.minimum",
    "fraction_evaluate": "evaluation.every",
    "min_evaluate_nodes": "evaluation.every",
}


def build_strategy(
    spec: StrategySpec, total_weight: int, training: TrainingSpec | None = None
) -> Strategy:
    """The strategy of a job, as Flower has them. `total_weight` is what all clients weigh together.

    training: for a rule whose owners keep a state. Raises ``StrategyError`` with the known names or options.
    """
    kind = _kind(spec)
    if not issubclass(kind, Rule):
        return _foreign(kind, spec)
    from .compared import ComparedStrategy
    from .summed import SummedStrategy

    rule: Rule = _construct(kind, dict(spec.options), spec)
    owns = spec.name if kind.local is not None and ":" in spec.name else ""
    adapter = SummedStrategy if rule.sees == "SUM" else ComparedStrategy
    return adapter(rule, total_weight, owns, training)


def sees(spec: StrategySpec) -> str:
    """What a job's strategy must see: as ``Rule.sees``."""
    return str(getattr(build_strategy(spec, 2**20), "sees", "INDIVIDUAL"))


def compares(spec: StrategySpec) -> Rule | None:
    """The rule of a job's strategy if it compares updates; None for one of a sum, and for Flower's."""
    kind = _kind(spec)
    if not issubclass(kind, Rule):
        return None
    rule: Rule = _construct(kind, dict(spec.options), spec)
    return rule if rule.sees != "SUM" else None


def channels_of(
    spec: StrategySpec, shapes: Shapes, accepted: Collection[str] | None = None
) -> Channels:
    """What a round of this strategy adds up for a model of these tensors.

    accepted: names of strategies whose own code may be loaded; None: any. Of another, and of Flower's,
    it is the update alone. Raises ``StrategyError``.
    """
    kind = _kind(spec) if _knows(spec, accepted) else None
    if kind is None or not issubclass(kind, Rule):
        return Channels((Channel(UPDATE, shapes),))
    rule: Rule = _construct(kind, dict(spec.options), spec)
    try:
        return checked_channels(rule, shapes)
    except (ValueError, LookupError) as error:
        raise StrategyError(f"strategy.name = {spec.name!r}: {error}") from None


def refusals(job: Job, accepted: Collection[str] | None = None) -> Iterator[str]:
    """Why a job cannot be right with its strategy. `accepted`: as for ``channels_of``."""
    if _knows(job.strategy, accepted) and issubclass(kind := _kind(job.strategy), Rule):
        yield from kind.refusals(job)


def keeps_state(spec: StrategySpec, accepted: Collection[str] | None = None) -> bool:
    """Whether owners keep a state from round to round, whatever the model."""
    return bool(state_of(spec, {"weight": (1,)}, accepted))


def state_of(spec: StrategySpec, shapes: Shapes, accepted: Collection[str] | None = None) -> Shapes:
    """What an owner keeps from round to round; nothing with most strategies."""
    return _declared(spec, accepted, lambda half: half.state(shapes))


def heard_of(spec: StrategySpec, shapes: Shapes, accepted: Collection[str] | None = None) -> Shapes:
    """What goes out beside the model; nothing with most strategies."""
    return _declared(spec, accepted, lambda half: half.hears(shapes))


def _declared(
    spec: StrategySpec,
    accepted: Collection[str] | None,
    declared: Callable[[type[LocalRule]], Shapes],
) -> Shapes:
    if not _knows(spec, accepted) or not issubclass(kind := _kind(spec), Rule) or not kind.local:
        return {}
    try:
        return declared(kind.local)
    except (ValueError, LookupError) as error:
        raise StrategyError(f"strategy.name = {spec.name!r}: {error}") from None


def local_half(
    spec: StrategySpec, told: Mapping[str, Any], wanted: str, accepted: Collection[str]
) -> LocalRule | None:
    """What an owner's agent runs in a round, of what the server `told`; None if it only trains.

    Guarantee: the code of a strategy that is not Umbel's is loaded only if the owner accepts that very
    name. `wanted`: the strategy whose local half the server relies on, if it is not Umbel's. Raises
    ``PlanRefused`` if that may not or cannot run here, ``MessageError`` for what nobody should be told.
    """
    from .averaging import Proximal

    if wanted and wanted != spec.name:
        raise MessageError(
            f"The request is for the local half of {wanted!r:.100}, not of the job's"
        )
    half: type[LocalRule] | None = Proximal  # Flower's own strategies tell it under the same name
    if _knows(spec, accepted):
        try:
            kind = _kind(spec)
        except StrategyError as error:
            raise PlanRefused(f"the strategy's local half does not load here: {error}") from None
        half = kind.local if issubclass(kind, Rule) else Proximal
    elif wanted:
        raise PlanRefused(
            f"the strategy {wanted} has a local half, which runs at an owner only if its policy names it: "
            f'jobs.strategies = ["{wanted}"]'
        )
    try:
        return None if half is None else half(dict(told))
    except (ValueError, LookupError, TypeError) as error:
        raise MessageError(f"What the server tells of {spec.name} is unusable: {error}") from None


def _knows(spec: StrategySpec, accepted: Collection[str] | None) -> bool:
    """Whether a job's strategy may have a local half or channels of its own here: Flower's have none."""
    if ":" not in spec.name:
        return spec.name in NAMES
    return accepted is None or spec.name in accepted


def _kind(spec: StrategySpec) -> type[Any]:
    """The class that a job names: a ``Rule``, or a strategy of Flower's kind."""
    if spec.name in NAMES:
        return _ours()[spec.name]
    from flwr.serverapp import strategy as flower
    from flwr.serverapp.strategy import Strategy

    module_name, colon, class_name = spec.name.partition(":")
    try:
        found = (
            getattr(importlib.import_module(module_name), class_name, None)
            if colon
            else getattr(flower, spec.name, None)
        )
    except ImportError as error:
        raise StrategyError(f"strategy.name = {spec.name!r}: {error}") from None
    if inspect.isclass(found) and issubclass(found, Rule | Strategy):
        return found
    flowers = sorted(n for n, c in vars(flower).items() if inspect.isclass(c) and n != "Result")
    raise StrategyError(
        f"strategy.name = {spec.name!r} is not a strategy. Umbel's own: {', '.join(NAMES)}; "
        f"Flower's: {', '.join(flowers)}; or module:Class."
    )


def _ours() -> dict[str, type[Rule]]:
    from .averaging import FedAvg, FedAvgM, FedProx
    from .feddyn import FedDyn
    from .fedopt import FedAdagrad, FedAdam, FedYogi
    from .scaffold import Scaffold

    means = (FedAvg, FedAvgM, FedAdam, FedYogi, FedAdagrad, FedProx, Scaffold, FedDyn)
    ours: dict[str, type[Rule]] = dict(zip(NAMES, means, strict=False))
    return {**ours, **ROBUST}


def _foreign(kind: type[Strategy], spec: StrategySpec) -> Strategy:
    from .foreign import ForeignStrategy

    known = inspect.signature(kind).parameters
    for name, field in _SAID_ELSEWHERE.items():
        if name in spec.options:
            raise StrategyError(
                f"strategy.options: {name} is not for the strategy to say; write {field}"
            )
    # Flower waits for ever for nodes that a cohort of this size does not have.
    floors = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
    if not _takes_any(kind):
        floors = {name: value for name, value in floors.items() if name in known}
    return ForeignStrategy(_construct(kind, {**floors, **spec.options}, spec))


def _construct(kind: type[Any], options: dict[str, Any], spec: StrategySpec) -> Any:
    known = inspect.signature(kind).parameters
    unknown = sorted(set(options) - set(known))
    if unknown and not _takes_any(kind):
        names = ", ".join(sorted(known))
        raise StrategyError(
            f"strategy.options: {spec.name} does not know {unknown[0]!r}; it knows: {names}"
        )
    try:
        return kind(**options)
    except (TypeError, ValueError) as error:
        raise StrategyError(f"strategy.options of {spec.name}: {error}") from None


def _takes_any(kind: type[Any]) -> bool:
    parameters = inspect.signature(kind).parameters.values()
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
