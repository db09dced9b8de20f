"""At the end of a run each owner that took part gets the result, over the same channel."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from .. import __version__
from ..certificate.parcel import Parcel, pack
from ..privacy.secagg.keys import Identity
from ..run.checkpoint import latest_counted
from ..run.events import Delivered
from ..run.run_folder import RunFolder
from ..wire.packing import SECAGG, to_bytes_record
from ..wire.requests import ASSIGNMENT, COUNTED, RESULT, Assignment
from .exchange import Exchange

_MOST_BYTES = 2**31
"""A larger result does not fit one message: owners must get it another way."""
_SECONDS = 600.0
"""Seconds; other runs wait meanwhile."""
_log = logging.getLogger(__name__)


def hand_out(
    grid: Grid,
    folder: RunFolder,
    nodes: Mapping[str, int],
    signer: Identity,
    delegation: str | None = None,
) -> Delivered:
    """Send a finished run's result to these clients; an event that says who has it, and why others do not.

    nodes: by name, those that are to get it. Raises ``CertificateError`` if there is none to send.
    """
    identity, job = folder.read_json("run.json"), folder.job
    parcel = pack(folder.path, identity["id"], signer, delegation)
    online = set(grid.get_node_ids())
    failed = {name: "not connected" for name, node in nodes.items() if node not in online}
    answered: list[str] = []
    if len(parcel.content) > _MOST_BYTES:
        failed = dict.fromkeys(nodes, f"the result has {len(parcel.content):,} bytes")
    else:
        requests = {n: node for n, node in nodes.items() if n not in failed}
        order = Assignment(
            __version__, identity["id"], job.to_json(), 0, 0, 1, signature=identity["signature"]
        )
        counted = latest_counted(folder.path / "checkpoints")
        messages = [_request(n, order, parcel, counted.get(name)) for name, n in requests.items()]
        names = {node: name for name, node in requests.items()}
        exchange = Exchange(grid, messages, names, min(_SECONDS, job.cohort.deadline))
        for _ in exchange:
            pass
        answered = sorted(exchange.answered)
        failed |= exchange.failed
    return Delivered(answered, failed)


def awaiting(folder: RunFolder, clients: Mapping[str, int]) -> dict[str, int]:
    """Those of the clients that have not got the result yet, by the run's events."""
    got = {name for event in folder.told(Delivered) for name in event.clients}
    return {name: node for name, node in clients.items() if name not in got}


def _request(
    node: int, order: Assignment, parcel: Parcel, counted: tuple[int, bytes] | None
) -> Message:
    """counted: if owners keep a state, the newest round that had this one's update, and what shows it."""
    record = to_bytes_record(listed=parcel.listed, content=parcel.content)
    content = RecordDict({ASSIGNMENT: order.to_record(), SECAGG: record})
    if counted is not None:
        content[COUNTED] = ConfigRecord({"round": counted[0], "shown": counted[1]})
    return Message(content, dst_node_id=node, message_type=RESULT)
