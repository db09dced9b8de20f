"""Faults where the network is, for tests that run rounds over real agents."""

from flwr.app import Message, RecordDict

from umbel.flower import refuse
from umbel.run.checkpoint import load_latest, restore_strategy
from umbel.wire.requests import FAILED, REFUSED

PRESS = 3
"""The node of the press."""


def go_on(run):
    """Set a run back to its last checkpoint, as --resume does."""
    checkpoint = load_latest(run.checkpoints, {n: a.shape for n, a in run.arrays.items()})
    run.round, run.arrays = checkpoint.round, checkpoint.arrays
    restore_strategy(run.strategy, checkpoint.strategy)
    return run


def events(run, kind):
    return [event for event in run.folder.read_events() if event["event"] == kind]


def only(kind, node=None, **where):
    """Whether a request is of this kind, to this node, in this round and attempt."""

    def matches(request, assignment):
        return (
            request.metadata.message_type == kind
            and node in (None, request.metadata.dst_node_id)
            and all(getattr(assignment, name) == value for name, value in where.items())
        )

    return matches


def instead(matches, replies):
    """A fault: `replies(request, reply)` arrive instead of the reply to a matching request."""

    def fault(request, reply, assignment):
        return replies(request, reply) if matches(request, assignment) else [reply]

    return fault


def on(kind, replies, node=PRESS, round_=None, attempt=None):
    """A fault: `replies(request, reply)` instead of one node's replies of a kind."""

    def fault(request, reply, assignment):
        hit = (
            request.metadata.message_type == kind
            and request.metadata.dst_node_id == node
            and round_ in (None, assignment.round)
            and attempt in (None, assignment.attempt)
        )
        return replies(request, reply) if hit else [reply]

    return fault


def once(fault):
    """A fault that happens the first time only."""
    happened = []

    def first(request, reply, assignment):
        found = [reply] if happened else fault(request, reply, assignment)
        happened.extend([True] * (found != [reply]))
        return found

    return first


def lost(request, reply):
    return []


def broken(request, reply):
    return [refuse(request, FAILED, "the disk is full")]


def refused(request, reply):
    return [refuse(request, REFUSED, "the owner says no")]


def with_content(arrays=None, metrics=None):
    """A fault that changes a reply's records."""

    def change(request, reply):
        content = dict(reply.content)
        if arrays:
            content["arrays"] = arrays(content["arrays"])
        if metrics:
            content["metrics"] = metrics(content["metrics"])
        return [Message(RecordDict(content), reply_to=request)]

    return change
