"""A strategy is made of the options of a job: what it does not know is refused with what it knows."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from ..errors import StrategyError
from .catalogue import OURS, ours

if TYPE_CHECKING:
    from flwr.serverapp.strategy import Strategy

    from ..job import StrategySpec

# With less than all of a cohort, Flower's rules would draw at random, or wait for nodes for ever.
_SAID_ELSEWHERE = {
    "fraction_train": "cohort.size",
    "min_train_nodes": "cohort.minimum",
    "min_available_nodes": "cohort.minimum",
    "fraction_evaluate": "evaluation.every",
    "min_evaluate_nodes": "evaluation.every",
}


def foreign(kind: type[Strategy], spec: StrategySpec) -> Strategy:
    from .foreign import ForeignStrategy

    known = inspect.signature(kind).parameters
    for name, field in _SAID_ELSEWHERE.items():
        if name in spec.options:
            raise StrategyError(
                f"strategy.options: {name} is not an option of the strategy; set {field}"
            )
    # Flower waits for ever for nodes that a cohort of this size does not have.
    floors = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
    if not _takes_any(kind):
        floors = {name: value for name, value in floors.items() if name in known}
    return ForeignStrategy(construct(kind, {**floors, **spec.options}, spec))


def construct(kind: type[Any], options: dict[str, Any], spec: StrategySpec) -> Any:
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


def own_rule(spec: StrategySpec) -> Any:
    """The rule of a job, made of its options, if it is one of Umbel's own; else None.

    Agents ask before a record is read, and load no other code for it. Raises ``StrategyError``.
    """
    return construct(ours(spec.name), dict(spec.options), spec) if spec.name in OURS else None


def _takes_any(kind: type[Any]) -> bool:
    parameters = inspect.signature(kind).parameters.values()
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
