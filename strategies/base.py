"""What all of Umbel's own strategies share: they need nothing but the weighted sum of updates."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import ClassVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from ..wire.arrays import Arrays, to_array_record, to_arrays
from ..wire.requests import EVALUATE, TRAIN, WEIGHT, only_arrays, only_metrics
from .fold import FixedPointSum


class SumStrategy(Strategy):
    """A Flower strategy over the mean update; subclasses say how the next model follows from it.

    It asks every node that the grid shows (the round's cohort) and folds replies as they arrive. Under
    secure aggregation there is one reply for each sum that the server may open, with its mean update
    and its weight; the mean of these is the mean of the clients.
    Attributes that are numbers, or dictionaries or lists of arrays, are saved with each checkpoint.
    """

    sees: ClassVar[str] = "SUM"

    def __init__(self, total_weight: int = 2**20) -> None:
        self._total_weight = total_weight
        self._global: Arrays = {}

    @abstractmethod
    def next_model(
        self, model: Arrays, mean_update: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """The next model from the current one (float32) and the mean update (float64).

        Called with some arrays of each at a time.
        """

    def client_config(self) -> dict[str, float]:
        """What clients must know of the strategy."""
        return {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._global = to_arrays(arrays)
        for name, value in self.client_config().items():
            config[name] = value
        return self._ask(TRAIN, arrays, config, grid)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return self._ask(EVALUATE, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        total = FixedPointSum(self._total_weight)
        for reply in replies:
            weight = int(only_metrics(reply.content)[WEIGHT])  # type: ignore[arg-type]
            total.add(to_arrays(only_arrays(reply.content)), weight)
            del reply
        return to_array_record(self._following(total)), None

    def _following(self, total: FixedPointSum) -> Iterator[tuple[str, np.ndarray]]:
        """The next model, array by array: means are twice as large as the model."""
        model, self._global = self._global, {}
        for name, mean in total.means():
            found = self.next_model({name: model.pop(name)}, {name: mean})
            del mean
            yield name, found.pop(name).astype(np.float32)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        for _ in replies:  # counts are added up by the round loop; here they only have to arrive
            pass
        return None

    def summary(self) -> None:
        """Nothing to print: the plan says it."""

    def _ask(
        self, kind: str, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        content = RecordDict({"arrays": arrays, "config": config})
        return [
            Message(content, dst_node_id=node, message_type=kind) for node in grid.get_node_ids()
        ]
