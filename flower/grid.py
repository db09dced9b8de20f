"""Flower's grid for a coordinator whose replies are as large as its model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from flwr.app import Message, Metadata, RecordDict
from flwr.app.error import Error
from flwr.app.message import make_message
from flwr.app.message.arraychunk import ArrayChunk
from flwr.common.constant import ErrorCode
from flwr.common.serde_utils import metadata_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.supercore.constant import SYSTEM_MESSAGE_TYPE
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_object_head_values_from_object_content,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    inflate_object_from_contents,
    pull_objects,
)
from flwr.superlink.grid.http_grid import HttpGrid

_AT_ONCE = 2
"""Pieces of a reply that are fetched at a time; each is in memory three times meanwhile."""


class SparingGrid(HttpGrid):
    """Holds one reply at a time, and its bytes once. One that cannot be put together is an error of its
    sender's.

    Flower's own fetches all replies that there are before it hands out the first, and keeps every
    piece of an array beside the array until the whole message is put together; a malformed one ends it.
    """

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """The replies that have come; each is fetched when it is asked for."""
        request = PullAppMessagesRequest(message_ids=message_ids)
        found = self._runtime_client.PullMessages(request)
        for head, tree in zip(found.messages_list, found.message_object_trees, strict=True):
            yield self._fetch(head.metadata, tree)

    def _fetch(self, metadata: Any, tree: Any) -> Message:
        client, run = self._runtime_client, self.run.run_id
        name = metadata.message_id
        pull = make_pull_object_fn_protobuf(
            pull_object_protobuf=client.PullObject, node=self.node, run_id=run
        )
        try:
            contents = pull_objects(
                [t.object_id for t in iterate_object_tree(tree)],
                pull,
                max_concurrent_pulls=_AT_ONCE,
            )
        except ObjectPullError as error:
            return self._lost(run, metadata.reply_to_message_id, error)
        client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=self.node, run_id=run, message_object_id=name)
        )
        try:
            return put_together(metadata, contents)
        except Exception as error:  # a member may send any bytes
            return self._lost(run, metadata.reply_to_message_id, error)

    def _lost(self, run: int, request: str, error: Exception) -> Message:
        """What stands for a reply of which a part never came, or is malformed."""
        node = self.node.node_id
        return make_message(
            metadata=Metadata(run, "", node, node, request, "", 0.0, 0.0, SYSTEM_MESSAGE_TYPE),
            error=Error(
                ErrorCode.MESSAGE_UNAVAILABLE,
                f"its reply did not arrive completely: {error!s:.500}",
            ),
        )


def put_together(head: Any, contents: dict[str, bytes]) -> Message:
    """The reply of this head, out of its parts; raises anything for parts that are not one.

    head: as the SuperLink stored it, which has seen to it that it answers a message to its sender.
    Guarantee: who answers which message is taken from there; what the parts say of that, their sender has
    written.
    """
    name = head.message_id
    found: Any = inflate_object_from_contents(name, contents, objects=_Inflated(contents))
    if not isinstance(found, Message):
        raise TypeError(f"it is a {type(found).__name__}")
    if found.has_error():
        message = make_message(metadata_from_proto(head), error=found.error)
    elif isinstance(found.content, RecordDict):
        message = make_message(metadata_from_proto(head), content=found.content)
    else:
        raise TypeError(f"it holds a {type(found.content).__name__}")
    message.metadata.__dict__["_message_id"] = name
    return message


class _Inflated(dict[str, InflatableObject]):
    """What is put together already, without the pieces of arrays that nothing else needs."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        heads = map(get_object_head_values_from_object_content, contents.values())
        self._needed = Counter(child for _, children, _ in heads for child in children)

    def __setitem__(self, name: str, found: InflatableObject) -> None:
        if not isinstance(found, ArrayChunk) or self._needed[name] > 1:
            super().__setitem__(name, found)
