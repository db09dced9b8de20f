"""How updates become the next model: Flower strategies that need only the sum, and adapters.

A strategy is named in the job: one of ours, a class of ``flwr.serverapp.strategy``, or
``module:Class``.
"""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from ..errors import StrategyError

if TYPE_CHECKING:
    from flwr.serverapp.strategy import Strategy

    from ..job import StrategySpec

NAMES = ("fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "fedprox")


# With less than all of a cohort, Flower's rules would draw at random, or wait for nodes for ever.
_SAID_ELSEWHERE = {
    "fraction_train": "cohort.size",
    "min_train_nodes": "cohort.minimum",
    "min_available_nodes": "cohort.minimum",
    "fraction_evaluate": "evaluation.every",
    "min_evaluate_nodes": "evaluation.every",
}


def build_strategy(spec: StrategySpec, total_weight: int) -> Strategy:
    """The strategy of a job. `total_weight` bounds the weights of one round together.

    Raises ``StrategyError`` with the known names or options.
    """
    from .averaging import FedAvg, FedAvgM, FedProx
    from .fedopt import FedAdagrad, FedAdam, FedYogi

    ours = dict(zip(NAMES, (FedAvg, FedAvgM, FedAdam, FedYogi, FedAdagrad, FedProx), strict=True))
    if spec.name in ours:
        return _construct(ours[spec.name], {"total_weight": total_weight, **spec.options}, spec)
    return _foreign(spec, total_weight)


def sees(spec: StrategySpec) -> str:
    """What a job's strategy must see: "SUM", or "INDIVIDUAL" updates."""
    return str(getattr(build_strategy(spec, 2**20), "sees", "INDIVIDUAL"))


def _foreign(spec: StrategySpec, total_weight: int) -> Strategy:
    from flwr.serverapp import strategy as flower
    from flwr.serverapp.strategy import Strategy

    from .base import SumStrategy
    from .foreign import ForeignStrategy

    module_name, colon, class_name = spec.name.partition(":")
    try:
        found = (
            getattr(importlib.import_module(module_name), class_name, None)
            if colon
            else getattr(flower, spec.name, None)
        )
    except ImportError as error:
        raise StrategyError(f"strategy.name = {spec.name!r}: {error}") from None
    if not (inspect.isclass(found) and issubclass(found, Strategy)):
        flowers = sorted(n for n, c in vars(flower).items() if inspect.isclass(c) and n != "Result")
        raise StrategyError(
            f"strategy.name = {spec.name!r} is not a strategy. Umbel's own: {', '.join(NAMES)}; "
            f"Flower's: {', '.join(flowers)}; or module:Class."
        )
    known = inspect.signature(found).parameters
    if issubclass(found, SumStrategy):
        bound = {"total_weight": total_weight} if "total_weight" in known else {}
        return _construct(found, {**bound, **spec.options}, spec)
    for name, field in _SAID_ELSEWHERE.items():
        if name in spec.options:
            raise StrategyError(
                f"strategy.options: {name} is not for the strategy to say; write {field}"
            )
    # Flower waits for ever for nodes that a cohort of this size does not have.
    floors = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
    if not _takes_any(found):
        floors = {name: value for name, value in floors.items() if name in known}
    return ForeignStrategy(_construct(found, {**floors, **spec.options}, spec))


def _construct(kind: type[Any], options: dict[str, Any], spec: StrategySpec) -> Any:
    known = inspect.signature(kind).parameters
    unknown = sorted(set(options) - set(known))
    if unknown and not _takes_any(kind):
        names = ", ".join(sorted(set(known) - {"total_weight"}))
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
