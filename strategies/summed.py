"""A rule that needs nothing but the weighted sum of updates, as a Flower strategy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from ..job import TrainingSpec
from ..job.rate import rates_of_round
from ..wire.arrays import Arrays, to_array_record, to_arrays
from ..wire.requests import (
    ASKED,
    BESIDE,
    EVALUATE,
    LOCAL_HALF,
    REACHES,
    SECOND,
    TRAIN,
    WEIGHT,
    only_arrays,
    only_metrics,
)
from .contract import UPDATE, Rule, Shapes, checked_channels, checked_sent, trained_shapes
from .fold import FixedPointSum
from .residual import residual_in
from .second import checked_asked, reaches_told, second_channels


class SummedStrategy(Strategy):
    """The adapter between a ``Rule`` that needs sums and Flower (``compared``: one that compares).

    It asks every node that the grid shows (the round's cohort) and folds replies as they arrive. Under
    secure aggregation there is one reply for each sum that the server may open, with its means and its
    weight; the mean of these is the mean of the clients.
    """

    def __init__(
        self,
        rule: Rule,
        total_weight: int = 2**20,
        local_half: str = "",
        training: TrainingSpec | None = None,
    ) -> None:
        """total_weight: of all clients together. local_half: as ``LOCAL_HALF`` says. training: without it
        the learning rates of each round pass for 1 in all."""
        self.inner = rule
        self._total_weight, self._local_half = total_weight, local_half
        self._training = training
        self._global: Arrays = {}
        self._trained: Arrays = {}
        self._first: dict[str, np.ndarray] = {}
        self._reaches: dict[str, float] = {}

    @property
    def sees(self) -> str:
        return self.inner.sees

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._global = to_arrays(arrays)
        shapes = {name: array.shape for name, array in self._global.items()}
        trained = trained_shapes(self.inner, server_round, shapes)
        self._trained = {name: self._global[name] for name in trained}
        for name, value in self.inner.told(server_round).items():
            config[name] = value
        self._reaches = reaches_told(self.inner.scales(self._trained))
        for name, reach in self._reaches.items():
            config[name] = reach
        if self._local_half:
            config[LOCAL_HALF] = self._local_half
        beside = checked_sent(self.inner, self._global)
        return self._ask(TRAIN, arrays, config, grid, beside)

    def lacks(self, sums: int) -> str:
        """Why the round that was configured cannot be made of so many sums; empty if it can."""
        return ""

    @property
    def two_sums(self) -> bool:
        """Whether a round has a second sum, for which ``aggregate_train`` gives no model yet."""
        return second_channels(self.inner, self._shapes) is not None

    @property
    def _shapes(self) -> Shapes:
        """Of what the round trains."""
        return {name: array.shape for name, array in self._trained.items()}

    def configure_second(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The requests for a round's second sum, for those that are in the first: what that brought, and
        what is asked of the same updates."""
        asked = checked_asked(self.inner, self._trained)
        requests = list(self.configure_train(server_round, arrays, config, grid))
        self._reaches = reaches_told(self.inner.scales(self._trained, asked))
        record, reaches = to_array_record(asked), ConfigRecord({**self._reaches})
        for request in requests:
            request.content[ASKED] = record
            request.content[REACHES] = reaches
        return [
            Message(r.content, dst_node_id=r.metadata.dst_node_id, message_type=SECOND)
            for r in requests
        ]

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return self._ask(EVALUATE, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        return self.aggregate_total(server_round, self.total(replies))

    def aggregate_total(
        self, server_round: int, total: FixedPointSum
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """``aggregate_train`` of replies that are added up already."""
        rates = rates_of_round(server_round, self._training) if self._training else 1.0
        self.inner.summed(total.weight / self._total_weight, rates)
        if self.two_sums:
            self._hear_first(total)
            return None, None
        return to_array_record(self._following(total)), None

    def total(self, replies: Iterable[Message]) -> FixedPointSum:
        """Their sum. Each is let go of once it is added; raises what `replies` do, and ``MessageError``."""
        total = FixedPointSum(self._total_weight)
        for reply in replies:
            weight = int(only_metrics(reply.content)[WEIGHT])  # type: ignore[arg-type]
            total.add(to_arrays(only_arrays(reply.content)), weight)
            del reply
        return total

    def _hear_first(self, total: FixedPointSum) -> None:
        """What the first of two sums says; the model stays as it is."""
        channels = checked_channels(self.inner, self._shapes).scaled(self._reaches)
        for channel, name, mean in channels.means(total.means()):
            if channel == UPDATE:
                self._first[name] = mean
            else:
                self.inner.hear(channel, name, mean)

    def aggregate_second(self, server_round: int, replies: Iterable[Message]) -> ArrayRecord:
        """The next model, once the second sum is there, too."""
        total = self.total(replies)
        model, first = self._global, self._first
        trained = {**self._trained, **residual_in(model)}
        channels = second_channels(self.inner, self._shapes)
        self._global, self._trained, self._first = {}, {}, {}
        assert channels is not None
        for channel, name, mean in channels.scaled(self._reaches).means(total.means()):
            self.inner.hear(channel, name, mean)
        found = self.inner.next_model(trained, first)
        return to_array_record(
            {**model, **{n: a.astype(np.float32) for n, a in found.items()}}.items()
        )

    def _following(self, total: FixedPointSum) -> Iterator[tuple[str, np.ndarray]]:
        """The next model, array by array: means are twice as large as the model."""
        model, shapes = self._global, self._shapes
        self._global, self._trained = {}, {}
        channels = checked_channels(self.inner, shapes).scaled(self._reaches)
        further = channels.shapes.keys() - channels.update.shapes.keys()
        for channel, name, mean in channels.means(total.means(first=further)):
            if channel != UPDATE:
                self.inner.hear(channel, name, mean)
                continue
            found = self.inner.next_model({name: model.pop(name)}, {name: mean})
            del mean
            yield name, found.pop(name).astype(np.float32)
        for name in shapes:
            if name in channels.update.shapes:
                continue
            found = self.inner.next_model({name: model[name]}, {})
            if name in found:
                model[name] = found[name].astype(np.float32)
        yield from model.items()  # and what was not trained

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        for _ in replies:  # counts are added up by the round loop; here they only have to arrive
            pass
        return None

    def summary(self) -> None:
        """Nothing to print: the plan says it."""

    def _ask(
        self,
        kind: str,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
        beside: Arrays | None = None,
    ) -> list[Message]:
        content = RecordDict({"arrays": arrays, "config": config})
        if beside:
            content[BESIDE] = to_array_record(beside)
        return [
            Message(content, dst_node_id=node, message_type=kind) for node in grid.get_node_ids()
        ]
