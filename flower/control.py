"""What the operator's processes ask of the SuperLink, over its local port."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DeploymentError

if TYPE_CHECKING:
    from .link import Link


@dataclass(frozen=True)
class Registered:
    """A node that may connect, by its public key (PEM), under the name that it was registered with."""

    public_key: bytes
    node_id: int
    name: str


class Control:
    """What the operator's processes ask of the SuperLink. Raises ``DeploymentError``."""

    def __init__(self, link: Link) -> None:
        from flwr.supercore.control.control_http_client import ControlHttpClient
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

        self._database = link.database
        self._client = ControlHttpClient.from_server_address(
            server_address=link.local_address,
            insecure=False,
            root_certificates=link.ca.read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )

    def close(self) -> None:
        self._client.close()

    def start_run(self) -> int:
        """A new Flower run, with a bundle in which there is no code; its id."""
        from flwr.common.serde import fab_to_proto
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.supercore.fab import Fab

        content = _bundle()
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        reply = self._call("StartRun", StartRunRequest(fab=fab_to_proto(fab)))
        return int(reply.run_id)

    def stop_run(self, run_id: int) -> None:
        from flwr.proto.control_pb2 import StopRunRequest

        self._call("StopRun", StopRunRequest(run_id=run_id))

    def register(self, public_key: bytes, name: str) -> None:
        """Let the node of this public key (PEM) connect; one that is known already stays so."""
        from flwr.proto.control_pb2 import RegisterNodeRequest

        if public_key not in self.nodes():
            self._forget(public_key)
            self._call("RegisterNode", RegisterNodeRequest(public_key=public_key, name=name))

    def unregister(self, public_key: bytes) -> None:
        """Let it connect no longer; one that does not anyway stays so."""
        from flwr.proto.control_pb2 import UnregisterNodeRequest

        node = self.nodes().get(public_key)
        if node is not None:
            self._call("UnregisterNode", UnregisterNodeRequest(node_id=node))

    def nodes(self) -> dict[bytes, int]:
        """Public keys that are let in, and their node ids."""
        return {node.public_key: node.node_id for node in self.registered()}

    def registered(self) -> list[Registered]:
        """The nodes that are let in; Flower lists those that were removed, too."""
        from flwr.proto.control_pb2 import ListNodesRequest
        from flwr.supercore.constant import NodeStatus

        found = self._call("ListNodes", ListNodesRequest()).nodes_info
        return [
            Registered(bytes(node.public_key), int(node.node_id), str(node.name))
            for node in found
            if node.status != NodeStatus.UNREGISTERED
        ]

    def _forget(self, public_key: bytes) -> None:
        """Delete the row of a node that was removed: Flower never takes its key again while it is there."""
        try:
            with (
                contextlib.closing(sqlite3.connect(self._database, timeout=30)) as database,
                database,
            ):
                database.execute(
                    "DELETE FROM node WHERE public_key = ? AND status = 'unregistered'",
                    (public_key,),
                )
        except sqlite3.Error as error:
            raise DeploymentError(f"{self._database} cannot be used: {error}") from None

    def _call(self, name: str, request: Any) -> Any:
        import httpx

        try:
            return getattr(self._client, name)(request)
        except httpx.HTTPStatusError as error:
            text = error.response.text[:300]
            raise DeploymentError(f"The SuperLink refuses {name}: {text}") from None
        except httpx.HTTPError as error:
            raise DeploymentError(f"The SuperLink does not answer {name}: {error}") from None


def _bundle() -> bytes:
    """A Flower app without code: our own processes do what a bundle's code would."""
    from flwr.cli.build import build_fab_from_disk

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pyproject.toml").write_text(
            '[project]\nname = "umbel"\nversion = "1.0.0"\ndescription = ""\nlicense = "Apache-2.0"\n'
            'dependencies = []\n[tool.flwr.app]\npublisher = "umbel"\n'
            '[tool.flwr.app.components]\nserverapp = "umbel.server.app:app"\n'
            'clientapp = "umbel.client.app:app"\n'
        )
        return bytes(build_fab_from_disk(Path(folder)))
