"""The only module that touches Flower's non-public parts.

Flower sets the identity of a task and the ids of messages inside its own runtimes. A grid of ours
has to do the same, and there is no public way.
"""

from __future__ import annotations

import os
import uuid

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from flwr.app import Error, Message
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

SERVER_NODE = 1


def take_server_identity(run_id: int) -> None:
    """Let this process create messages as the server of a run."""
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = SERVER_NODE
    TaskIdentity.task_id = 0


def empty_run(run_id: int) -> Run:
    return Run.create_empty(run_id)


def stamp(message: Message) -> str:
    """Give a message the id that a SuperLink would give it."""
    message.metadata.__dict__["_message_id"] = uuid.uuid4().hex
    return message.metadata.message_id


def refuse(message: Message, code: int, reason: str) -> Message:
    """An error reply."""
    return Message(Error(code, reason), reply_to=message)


def quiet_logs() -> None:
    """Flower logs every strategy call at INFO; our own progress replaces that."""
    import logging

    logging.getLogger("flwr").setLevel(logging.WARNING)
