"""Flower's own strategies, and anybody's, behind Umbel's messages.

Umbel's clients send updates; Flower's strategies expect whole models with a weight beside them.
The adapter adds the global model back. Such a strategy sees each client's model, and it gets the
replies in the order of the cohort, so that its floating-point sums do not depend on who was first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from ..errors import StrategyError
from ..wire.arrays import Arrays, to_array_record, to_arrays
from ..wire.requests import WEIGHT, only_arrays, only_metrics
from .cohort_order import CohortOrder


class ForeignStrategy(Strategy):
    """Any Flower strategy, as one that understands updates."""

    sees: ClassVar[str] = "GROUPS"
    """It gets the means of groups as if each were a client."""

    def __init__(self, inner: Strategy) -> None:
        self.inner = inner
        self._global: Arrays = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._global = to_arrays(arrays)
        self._order = CohortOrder(grid)
        requests = self.inner.configure_train(server_round, arrays, config, grid)
        return self._order.requests(requests)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._order = CohortOrder(grid)
        requests = self.inner.configure_evaluate(server_round, arrays, config, grid)
        return self._order.requests(requests)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        for reply in (models := self._order.replies(replies)):
            update = to_arrays(only_arrays(reply.content))
            model = {name: self._global[name] + delta for name, delta in update.items()}
            metrics = only_metrics(reply.content)
            reply.content = RecordDict({"arrays": to_array_record(model), "metrics": metrics})
        failed = (
            f"{type(self.inner).__name__} cannot make a model from {len(models)} updates in round "
            f"{server_round}: "
        )
        try:
            record, summary = self.inner.aggregate_train(server_round, models)
        except Exception as error:
            raise StrategyError(f"{failed}{error}") from error
        if record is None:
            raise StrategyError(f"{failed}it may need more clients or other strategy.options.")
        return _in_float32(record), summary

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        for reply in (counted := self._order.replies(replies)):
            weight = only_metrics(reply.content)[WEIGHT]
            reply.content = RecordDict({"metrics": MetricRecord({WEIGHT: weight})})
        return self.inner.aggregate_evaluate(server_round, counted)

    def summary(self) -> None:
        self.inner.summary()


def _in_float32(record: ArrayRecord) -> ArrayRecord:
    """Some of Flower's rules answer in float64."""
    return to_array_record({name: a.numpy().astype(np.float32) for name, a in record.items()})
