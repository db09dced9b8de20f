"""The SuperLink: Flower's server, with one port for data owners and another for this machine.

In Flower's open edition whoever reaches the port can start runs, and a run carries code. So data
owners reach a port on which only the Fleet API answers, and everything else is served on loopback.
Run as a process of its own: ``python -m umbel.flower.link`` (see ``Link.command``).
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import DeploymentError
from . import end_with_parent, quiet_logs

_FLEET = "/v1/fleet/"
Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]


@dataclass(frozen=True)
class Link:
    """Where a SuperLink listens, and what it needs to start."""

    host: str
    """Address of the public port."""
    port: int
    local_port: int
    """On 127.0.0.1: the operator's own processes."""
    ca: Path
    certificate: Path
    key: Path
    secret: Path
    """Who knows it may take a run's work."""
    database: Path

    @property
    def local_address(self) -> str:
        return f"127.0.0.1:{self.local_port}"

    def command(self) -> list[str]:
        """The process to start."""
        return [
            *(sys.executable, "-m", __name__, self.host, str(self.port), str(self.local_port)),
            *(str(path) for path in (self.ca, self.certificate, self.key)),
            *(str(path) for path in (self.secret, self.database)),
        ]


class FleetOnly:
    """Lets requests to the public port reach the Fleet API and nothing else."""

    def __init__(self, app: App, public_port: int) -> None:
        self._app, self._public_port = app, public_port

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        outside = scope["type"] != "lifespan" and scope["server"][1] == self._public_port
        if outside and not (scope["type"] == "http" and scope["path"].startswith(_FLEET)):
            if scope["type"] == "http":
                await send({"type": "http.response.start", "status": 404, "headers": []})
                await send({"type": "http.response.body", "body": b""})
            return
        await self._app(scope, receive, send)


def serve(link: Link) -> None:
    """Run the SuperLink in this process until it is told to stop."""
    import uvicorn
    from flwr.superlink.main import create_app

    # By its name: the package has a function of the same name as the module.
    flower = import_module("flwr.superlink.cli.flower_superlink")
    sys.argv = [
        *("flower-superlink", "--host", "127.0.0.1", "--port", str(link.local_port)),
        *("--ssl-ca-certfile", str(link.ca), "--ssl-certfile", str(link.certificate)),
        *("--ssl-keyfile", str(link.key), "--enable-supernode-auth"),
        *("--database", str(link.database), "--isolation", "process"),
        *("--superexec-auth-secret-file", str(link.secret)),
        "--disable-runtime-dependency-installation",
    ]
    config = flower._parse_superlink_lifespan_config()
    end_with_parent()
    quiet_logs()
    app = FleetOnly(create_app(config, flower.SuperLinkLifespan), link.port)
    sockets = [_listen(link.host, link.port), _listen("127.0.0.1", link.local_port)]
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            ssl_certfile=str(link.certificate),
            ssl_keyfile=str(link.key),
        )
    )
    asyncio.run(server.serve(sockets=sockets))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(2048)
    listener.setblocking(False)
    return listener


class Control:
    """What the operator's processes ask of the SuperLink. Raises ``DeploymentError``."""

    def __init__(self, link: Link) -> None:
        from flwr.supercore.control.control_http_client import ControlHttpClient
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

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
            self._call("RegisterNode", RegisterNodeRequest(public_key=public_key, name=name))

    def unregister(self, public_key: bytes) -> None:
        from flwr.proto.control_pb2 import UnregisterNodeRequest

        node = self.nodes().get(public_key)
        if node is not None:
            self._call("UnregisterNode", UnregisterNodeRequest(node_id=node))

    def nodes(self) -> dict[bytes, int]:
        """Registered public keys and their node ids."""
        from flwr.proto.control_pb2 import ListNodesRequest

        found = self._call("ListNodes", ListNodesRequest()).nodes_info
        return {bytes(node.public_key): int(node.node_id) for node in found}

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


def main() -> None:
    parser = argparse.ArgumentParser(description="Flower's SuperLink, started by umbel server.")
    for name in ("host", "port", "local_port", "ca", "certificate", "key", "secret", "database"):
        parser.add_argument(name, type={"host": str}.get(name, int if "port" in name else Path))
    serve(Link(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
