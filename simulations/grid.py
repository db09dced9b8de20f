"""A Flower grid in this process: a message reaches a virtual client by a function call."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from ..errors import UmbelError
from ..flower import empty_run, refuse, stamp, take_server_identity
from ..wire.requests import FAILED
from .site import FIRST_NODE
from .workers import Workers

_RUN_ID = 1


class InProcessGrid(Grid):
    """Nodes `FIRST_NODE`, ... are the federation's clients in order; `workers` run them."""

    def __init__(self, workers: Workers, clients: int) -> None:
        self._workers = workers
        self._clients = clients
        self._sent: dict[str, Message] = {}
        self._run = empty_run(_RUN_ID)
        take_server_identity(_RUN_ID)

    @property
    def run(self) -> Run:
        return self._run

    def set_run(self, run: Run) -> None:
        self._run = run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return range(FIRST_NODE, FIRST_NODE + self._clients)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        # What is still queued belongs to a round that was given up; it would only cost time and
        # the owners' budget.
        self._workers.forget()
        self._sent.clear()
        ids = []
        for message in messages:
            ids.append(stamp(message))
            self._sent[ids[-1]] = message
            self._workers.submit(ids[-1], "handle", message.metadata.dst_node_id, message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that have arrived. Those of a round that was given up are dropped."""
        wanted = set(message_ids)
        for message_id, result in self._workers.collect():
            request = self._sent.pop(message_id, None)
            if request is None or message_id not in wanted:
                continue
            if isinstance(result, UmbelError):
                result = refuse(request, FAILED, str(result))
            elif isinstance(result, BaseException):
                raise result
            stamp(result)
            yield result

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        waiting = set(self.push_messages(messages))
        while waiting:
            for reply in self.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                yield reply
