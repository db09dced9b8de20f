"""How our processes take work from Flower's, in place of Flower's executor.

Flower would install the app that the server sent and start it again for every message. Here the
process that is there anyway acquires the task, so nothing that the server sends is ever executed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..errors import DeploymentError

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from flwr.serverapp import Grid

_CLAIM_SECONDS = 60.0
Kind = Literal["client", "server"]


@dataclass(frozen=True)
class Claim:
    """A task that is ours: until it is done, or we stop saying that we are alive."""

    run: int
    token: str


class Runtime:
    """The Runtime API of a SuperNode (plain HTTP on loopback) or of a SuperLink (TLS)."""

    def __init__(self, address: str, root_certificates: bytes | None, secret: bytes) -> None:
        self.address, self.root_certificates = address, root_certificates
        from flwr.supercore.interceptors import SuperExecAuthHttpInterceptor

        method = frozenset({"/flwr.proto.Runtime/AcquireTask"})
        self._client = self._connected(
            SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=method)
        )

    def close(self) -> None:
        self._client.close()

    def acquire(self, kind: Kind) -> Claim | None:
        """The oldest task that waits, if any; ``DeploymentError`` if nobody answers."""
        import httpx
        from flwr.proto.runtime_pb2 import AcquireTaskRequest
        from flwr.supercore.constant import TaskType

        type_ = TaskType.CLIENT_APP if kind == "client" else TaskType.SERVER_APP
        try:
            reply = self._client.AcquireTask(AcquireTaskRequest(supported_task_types=[type_]))
        except httpx.HTTPError as error:
            raise DeploymentError(f"{self.address} does not answer: {error}") from None
        if not reply.HasField("task") or not reply.token:
            return None
        return Claim(int(reply.task.run_id), reply.token)

    @contextlib.contextmanager
    def message(self, claim: Claim) -> Iterator[ClientTask]:
        """The message of a client's task; within the block Flower hears that we are alive."""
        from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor
        from flwr.supernode.runtime.run_clientapp import pull_task_input

        client = self._connected(RuntimeTokenHttpInterceptor(claim.token))
        try:
            with _alive(client):
                with in_words("The SuperNode"):
                    message, context, _, _ = pull_task_input(client)
                yield ClientTask(client, message, context)
        finally:
            client.close()

    def _connected(self, interceptor: Any) -> Any:
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
        from flwr.supercore.runtime import RuntimeHttpClient

        return RuntimeHttpClient.from_server_address(
            server_address=self.address,
            insecure=self.root_certificates is None,
            root_certificates=self.root_certificates,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec"), interceptor],
        )


@dataclass(frozen=True)
class ClientTask:
    """One message for this owner, and the way back."""

    client: Any
    message: Message
    context: Context

    def reply(self, message: Message) -> None:
        """Hand the reply to the SuperNode, and say that the task is done."""
        from flwr.common.constant import SubStatus
        from flwr.supernode.runtime.run_clientapp import push_message, push_task_output

        with in_words("The SuperNode"):
            push_message(self.client, message, self.context)
            push_task_output(self.client, self.context, SubStatus.COMPLETED, "")


@contextlib.contextmanager
def in_words(who: str) -> Iterator[None]:
    """Raise ``DeploymentError`` for what Flower's client says with a page of HTTP."""
    import httpx

    try:
        yield
    except httpx.HTTPStatusError as error:
        code = error.response.status_code
        why = "its run is over, or another process has taken it" if code == 401 else f"HTTP {code}"
        raise DeploymentError(f"{who} no longer takes part in this message: {why}") from None
    except httpx.HTTPError as error:
        raise DeploymentError(f"{who} does not answer: {error}") from None


def claim_run(address: str, root_certificates: bytes, secret: bytes, run: int) -> Claim:
    """The work of a run that was just started; that of others is nobody's, and stays undone."""
    runtime = Runtime(address, root_certificates, secret)
    try:
        end = time.monotonic() + _CLAIM_SECONDS
        while time.monotonic() < end:
            claim = runtime.acquire("server")
            if claim is not None and claim.run == run:
                return claim
            time.sleep(0.05)
    finally:
        runtime.close()
    raise DeploymentError("The SuperLink has no work for the run that was started.")


@contextlib.contextmanager
def grid_of(address: str, root_certificates: bytes, claim: Claim) -> Iterator[Grid]:
    """The grid of a run: what the coordinator speaks to the nodes through.

    When the block ends the run is over for Flower: completed, or failed if an exception ended it.
    """
    from flwr.common.constant import SubStatus
    from flwr.common.serde import run_from_proto
    from flwr.proto.runtime_pb2 import PullTaskInputRequest, PushTaskOutputRequest
    from flwr.supercore.task_identity import TaskIdentity

    from .grid import SparingGrid

    grid = SparingGrid(
        address, insecure=False, root_certificates=root_certificates, token=claim.token
    )
    client = grid._runtime_client
    status, details = SubStatus.FAILED, "the coordinator stopped"
    try:
        with _alive(client):
            task = client.PullTaskInput(PullTaskInputRequest())
            TaskIdentity.task_id = task.task_id
            TaskIdentity.run_id = task.run.run_id
            TaskIdentity.node_id = task.context.node_id
            grid.set_run(run_from_proto(task.run))
            try:
                yield grid
                status, details = SubStatus.COMPLETED, ""
            finally:
                grid._retry_invoker.max_tries = 1
                with contextlib.suppress(Exception):
                    client.PushTaskOutput(PushTaskOutputRequest(sub_status=status, details=details))
    finally:
        grid.close()


@contextlib.contextmanager
def _alive(client: Any) -> Iterator[None]:
    from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http

    sender = HeartbeatSender(make_task_heartbeat_fn_http(client))
    sender.start()
    try:
        yield
    finally:
        if sender.is_running:
            sender.stop()
