"""A cohort's own order, so that what follows from replies does not depend on who answered first."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import Message
from flwr.serverapp import Grid


class CohortOrder:
    """The places of a round's nodes: by the clients' names, as node ids are random in Flower's runtimes."""

    def __init__(self, grid: Grid) -> None:
        self._places = {node: place for place, node in enumerate(grid.get_node_ids())}

    def __len__(self) -> int:
        return len(self._places)

    def of_reply(self, reply: Message) -> int:
        """The place of its sender."""
        return self._places[reply.metadata.src_node_id]

    def of_request(self, request: Message) -> int:
        """The place of the node that it goes to."""
        return self._places[request.metadata.dst_node_id]

    def replies(self, replies: Iterable[Message]) -> list[Message]:
        return sorted(replies, key=self.of_reply)

    def requests(self, requests: Iterable[Message]) -> list[Message]:
        return sorted(requests, key=self.of_request)
