"""A reply is put together from bytes that a member wrote: any of them, and the coordinator goes on."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.common.serde_utils import metadata_to_proto
from flwr.proto.message_pb2 import ObjectTree, PullObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from umbel.flower import UNREACHED
from umbel.flower.grid import SparingGrid
from umbel.wire.arrays import to_array_record, to_arrays

RUN, SERVER, MEMBER, OTHER = 7, 1, 11, 12


def reply(sender=MEMBER, request="request to it", error=None):
    metadata = Metadata(RUN, "", sender, SERVER, request, "", 1.0, 60.0, "train")
    if error is not None:
        return make_message(metadata, error=error)
    arrays = to_array_record({"w": np.arange(5, dtype=np.float32)})
    return make_message(metadata, content=RecordDict({"a": arrays, "c": ConfigRecord({"x": 1})}))


def parts_of(message):
    """The id of what a member pushes, and all of its parts by theirs."""
    return message.object_id, {i: o.deflate() for i, o in get_all_nested_objects(message).items()}


class Link:
    """Flower's server, as the grid asks it: it stored these parts of one reply."""

    def __init__(self, parts):
        self._parts = parts

    def PullObject(self, request):
        content = self._parts[request.object_id]
        return PullObjectResponse(object_found=True, object_available=True, object_content=content)

    def ConfirmMessageReceived(self, request):
        return None


def fetched(name, parts):
    """What the grid makes of them; the link has seen that they answer a message to `MEMBER`."""

    class Connected(SparingGrid):
        def __init__(self):
            self.node = Node(node_id=SERVER)

        run = SimpleNamespace(run_id=RUN)
        _runtime_client = Link(parts)

    head = metadata_to_proto(Metadata(RUN, name, MEMBER, SERVER, "request", "", 1.0, 60.0, "train"))
    others = [ObjectTree(object_id=part) for part in parts if part != name]
    return Connected()._fetch(head, ObjectTree(object_id=name, children=others))


def test_a_reply_arrives_as_it_was_sent():
    found = fetched(*parts_of(reply()))
    assert to_arrays(found.content["a"])["w"].tolist() == [0, 1, 2, 3, 4]
    assert found.content["c"]["x"] == 1
    found = fetched(*parts_of(reply(error=Error(1000, "no"))))
    assert (found.error.code, found.error.reason) == (1000, "no")


@pytest.mark.parametrize("error", [None, Error(1000, "I refuse")])
def test_who_answers_which_message_is_what_the_link_checked(error):
    # On the code before, a member could answer, or refuse, in the name of another.
    found = fetched(*parts_of(reply(OTHER, "request to another", error)))
    assert (found.metadata.src_node_id, found.metadata.reply_to_message_id) == (MEMBER, "request")


def test_no_bytes_of_a_member_end_the_coordinator():
    name, parts = parts_of(reply())
    draw = random.Random(0)
    outcomes = set()
    for _ in range(300):
        changed = dict(parts)
        part = draw.choice(sorted(changed))
        content = bytearray(changed[part])
        match draw.randrange(4):
            case 0:
                content[draw.randrange(len(content))] ^= draw.randrange(1, 256)
            case 1:
                del content[draw.randrange(len(content)) :]
            case 2:
                content = bytearray(changed[draw.choice(sorted(changed))])
            case 3:
                content = bytearray(draw.randbytes(draw.randrange(100)))
        changed[part] = bytes(content)
        found = fetched(name, changed)
        assert found.metadata.reply_to_message_id == "request"
        if found.has_error():
            assert found.error.code in UNREACHED
        outcomes.add(found.has_error())
    assert outcomes == {True, False}
