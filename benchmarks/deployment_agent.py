"""An owner's agent that also notes how long it takes over each message; or one that only answers.

Started by deployment.py:

    deployment_agent.py note FILE FOLDER     `umbel client run FOLDER --rehearsal`, with a line of
                                             JSON in FILE for every message
    deployment_agent.py echo NODE FOLDER     Umbel's agent process and loop, but every message is
                                             sent back as it came; NODE is "umbel" or "flower":
                                             with our SuperNode, or with Flower's as it is
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flwr.app import Message

    from umbel.flower.node import Node


def note(notes: Path, folder: str) -> None:
    """The agent as it is, with clocks around training, testing, and all that a message takes."""
    from umbel import cli
    from umbel.client import child, intake

    learning = 0.0

    def clocked(act: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any, **named: Any) -> Any:
            nonlocal learning
            begun = time.monotonic()
            try:
                return act(*values, **named)
            finally:
                learning += time.monotonic() - begun

        return call

    for what in ("trained", "tested"):
        setattr(child.WorkInChild, what, clocked(getattr(child.WorkInChild, what)))
    handle = intake.Intake.handle

    def handled(self: intake.Intake, message: Message) -> Message:
        nonlocal learning
        learning, begun, at = 0.0, time.monotonic(), time.time()
        try:
            return handle(self, message)
        finally:
            line = {
                "kind": message.metadata.message_type,
                "round": message.content.config_records["assignment"]["round"],
                "at": at,
                "seconds": time.monotonic() - begun,
                "learning": learning,
            }
            with notes.open("a") as file:
                file.write(json.dumps(line) + "\n")

    intake.Intake.handle = handled  # type: ignore[method-assign]
    sys.argv = ["umbel", "client", "run", folder, "--rehearsal"]
    cli.main()


def echo(node: str, folder: str) -> None:
    """The loop that fetches messages and brings back replies, and nothing in between."""
    from flwr.app import Message

    from umbel.client import intake, service
    from umbel.client.home import Home
    from umbel.flower.node import Node
    from umbel.storage.processes import log_to_stderr

    def handle(self: intake.Intake, message: Message) -> Message:
        return Message(message.content, reply_to=message)

    intake.Intake.handle = handle  # type: ignore[method-assign]
    if node == "flower":
        Node.command = unpatched  # type: ignore[method-assign]
        service._ASK_SECONDS = 1.0  # Flower's SuperNode rings no bell
    log_to_stderr()
    service.serve(Home.open(Path(folder)))


def unpatched(node: Node) -> list[str]:
    """How Flower's own SuperNode is started for an owner."""
    program = Path(__file__).with_name("deployment_node.py")
    paths = (str(path) for path in (node.ca, node.key, node.secret))
    return [sys.executable, str(program), node.address, *paths, str(node.port)]


if __name__ == "__main__":
    if sys.argv[1] == "note":
        note(Path(sys.argv[2]), sys.argv[3])
    else:
        echo(sys.argv[2], sys.argv[3])
