"""A rule that compares updates, or means of groups, as a Flower strategy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from ..errors import StrategyError
from ..wire.arrays import to_array_record, to_arrays
from ..wire.requests import only_arrays
from .cohort_order import CohortOrder
from .contract import Shapes
from .fold import check_range
from .summed import SummedStrategy


class ComparedStrategy(SummedStrategy):
    """Holds all vectors of a round, in the cohort's order: what came first changes nothing."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._order = CohortOrder(grid)
        return super().configure_train(server_round, arrays, config, grid)

    def lacks(self, sums: int) -> str:
        return self.inner.refusal(sums, len(self._order))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        trained = self._shapes
        rows: dict[int, np.ndarray] = {}
        for reply in replies:
            update = to_arrays(only_arrays(reply.content))
            check_range(update)
            flat = [update[name].ravel() for name in trained]
            rows[self._order.of_reply(reply)] = np.concatenate(flat)
            del reply, update, flat
        asked = len(self._order)
        if not rows or (reason := self.inner.refusal(len(rows), asked)):
            raise StrategyError(
                f"Round {server_round} cannot be made of {len(rows)} updates or means of groups: "
                + (reason if rows else "there is none")
            )
        vectors = np.empty((len(rows), len(next(iter(rows.values())))), np.float32)
        for row, place in enumerate(sorted(rows)):  # each is let go of: together they are large
            vectors[row] = rows.pop(place)
        return to_array_record(self._stepped(trained, self.inner.combine(vectors, asked))), None

    def _stepped(self, trained: Shapes, combined: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """The next model, array by array."""
        model, self._global, self._trained = self._global, {}, {}
        start = 0
        for name in trained:
            array = model.pop(name)
            mean = combined[start : start + array.size].reshape(array.shape)
            start += array.size
            yield name, self.inner.next_model({name: array}, {name: mean})[name].astype(np.float32)
        yield from model.items()  # what was not trained
