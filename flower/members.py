"""What of the public port reaches Flower: the Fleet API, for members, with bodies that are bounded.

Guarantee: nothing of a body is read before the header fields of its request were found to be signed with
the key of a node that the operator admitted, within the time that Flower allows; but for the few bytes of
a request to be let in, which Flower refuses with a reason. A body is no longer than its kind of request
may have, and one that comes too slowly ends its connection.
"""

from __future__ import annotations

import asyncio
import binascii
import time
from base64 import b64decode
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .door import Door

FLEET = "/v1/fleet/"
_ASKS_IN = f"{FLEET}activate-node"
MOST_STRANGE = 4096
"""Bytes of a request to be admitted by somebody who is not a member (yet)."""
_MIB = 2**20
MOST_BYTES = {f"{FLEET}push-object": 2**31 - 1, f"{FLEET}push-messages": 64 * _MIB}
"""Bytes of a member's body. An object is at most as large as a protocol buffer may be."""
MOST_OTHER = _MIB
SLOWEST = 16 * 1024
"""Bytes per second, after ``PATIENCE`` seconds, below which a body is given up."""
PATIENCE = 30.0
_MOST_KEY, _MOST_DIGITS = 1024, 16

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]


class Refused(Exception):
    """Why a request goes no further, as a status of HTTP."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class MembersOnly:
    """Lets requests to the public port reach the Fleet API, and nothing else.

    flower: Flower's own application; `app` is what answers, usually the same.
    """

    def __init__(
        self,
        flower: Any,
        public_port: int,
        door: Door,
        app: App | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._flower, self._port, self._door = flower, public_port, door
        self._app: App = app or flower
        self._patience = patience

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" or scope["server"][1] != self._port:
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        try:
            most = await self._most(scope)
            body = await self._read(scope, receive, most)
        except Refused as refused:
            await _answer(send, refused.status)
            return
        # Who is no member asks once in a connection: connections are counted, requests are not.
        answer = _last(send) if most == MOST_STRANGE else send
        await self._app(scope, _replayed(body, receive), answer)

    async def _most(self, scope: Scope) -> int:
        """Bytes that the body may have; ``Refused`` by path and header fields alone."""
        path = scope["path"]
        if not path.startswith(FLEET):
            raise Refused(404)
        key = _key(scope)
        if key is None:
            raise Refused(401)
        if self._door.member_at(scope["client"]) != key:
            from starlette.concurrency import run_in_threadpool

            signed, known = await run_in_threadpool(self._looked_up, scope, key)
            if not signed or not (known or path == _ASKS_IN):
                raise Refused(401)
            if not known:
                return MOST_STRANGE
            self._door.recognise(scope["client"], key)
        return MOST_BYTES.get(path, MOST_OTHER)

    def _looked_up(self, scope: Scope, key: bytes) -> tuple[bool, bool]:
        """Whether the header fields are signed with this key, and whether it is a member's."""
        from fastapi import HTTPException, Request
        from flwr.proto.fleet_pb2 import ActivateNodeRequest
        from flwr.superlink.dependencies.linkstate import get_linkstate
        from flwr.superlink.routers.fleet.node_auth import authenticate_node

        request = Request({**scope, "app": self._flower, "state": {}})
        # Flower's own check, with the claim that is true of any key; it makes the real one later.
        request.state.protobuf_request = ActivateNodeRequest(public_key=key)
        try:
            authenticate_node(request)
        except HTTPException:
            return False, False
        known: int | None = get_linkstate(request).get_node_id_by_public_key(key)
        return True, known is not None

    async def _read(self, scope: Scope, receive: Any, most: int) -> bytes:
        """The whole body; ``Refused`` if it is, or says that it is, too long, or comes too slowly."""
        said = dict(scope["headers"]).get(b"content-length", b"0")
        if not said.isdigit() or len(said) > _MOST_DIGITS or int(said) > most:
            raise Refused(413)
        parts: list[bytes] = []
        came, begun = 0, time.monotonic()
        while True:
            left = begun + self._patience + came / SLOWEST - time.monotonic()
            try:
                async with asyncio.timeout(max(0.0, left)):
                    message = await receive()
            except TimeoutError:
                raise Refused(408) from None
            if message["type"] == "http.disconnect":
                raise Refused(400)
            parts.append(message.get("body", b""))
            came += len(parts[-1])
            if came > most:
                raise Refused(413)
            if not message.get("more_body"):
                return b"".join(parts)


def _key(scope: Scope) -> bytes | None:
    from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER

    said = dict(scope["headers"]).get(FLEET_HTTP_PUBLIC_KEY_HEADER.lower().encode(), b"")
    try:
        return b64decode(said, validate=True) if 0 < len(said) <= _MOST_KEY else None
    except binascii.Error:
        return None


def _replayed(body: bytes, receive: Any) -> Callable[[], Awaitable[Any]]:
    """Gives the body that was read already, once, and then what there is."""
    left = [body]

    async def again() -> Any:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return again


def _last(send: Any) -> Callable[[Any], Awaitable[None]]:
    """Sends the answer, and ends the connection after it."""

    async def last(message: Any) -> None:
        if message["type"] == "http.response.start":
            fields = [*message.get("headers", ()), (b"connection", b"close")]
            message = {**message, "headers": fields}
        await send(message)

    return last


async def _answer(send: Any, status: int) -> None:
    headers = [(b"content-length", b"0"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
