"""The public port: what comes in before anybody is known, and how much of it is held.

Guarantee, together with ``admission`` and ``members``: a connection that has not shown a member's
signature makes this process hold less than ``MOST_UNKNOWN`` bytes of what it sent, as two requests, each
a line with at most ``MOST_FIELDS`` header fields and the beginning of a body, and is ended when its time
is over, whatever it is in the midst of.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .admission import Admission, Guest

MOST_HEAD = 16 * 1024
"""Bytes of a request line with its header fields."""
MOST_FIELDS = 100
MOST_UNKNOWN = 512 * 1024
"""Bytes of a connection without a member's signature: the head, and what the system delivers at once."""
_HANDSHAKE_SECONDS = 5.0
_PIECE = 4096
_LINGER = struct.pack("ii", 1, 0)
"""Closing resets the connection: nothing of it remains."""
_REPORT_SECONDS = 60.0
_log = logging.getLogger(__name__)

Address = tuple[str, int]


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, with bounds on what is parsed: a request, and one that waits its turn."""

    def __init__(self, guest: Guest, door: Door, **named: Any) -> None:
        super().__init__(**named)
        self._guest, self._door = guest, door
        self._in_head, self._head, self._fields, self._came = True, 0, 0, 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._guest.end = transport.abort
        if self.client is not None:
            self._door.guests[self.client] = self._guest

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._door.leave(self._guest)
        if self.client is not None:
            self._door.guests.pop(self.client, None)

    def data_received(self, data: bytes) -> None:
        if self._guest.member is None:
            self._came += len(data)
            if self._came > MOST_UNKNOWN:
                self.transport.abort()
                return
        at = 0
        # In pieces: what is parsed at once makes objects many times as large.
        while self._in_head and at < len(data) and not self.transport.is_closing():
            piece = data[at : at + _PIECE]
            at, self._head = at + len(piece), self._head + len(piece)
            super().data_received(piece)
            if self._in_head and self._head > MOST_HEAD:
                self.transport.abort()
                return
        if at < len(data) and not self.transport.is_closing():
            super().data_received(data[at:])

    # What is raised in these ends the connection, as a request that cannot be read does.

    def on_message_begin(self) -> None:
        # One may wait: an answer goes out before its end is told (Flower's middleware sends that for
        # itself), and anyone who has it all may ask again at once.
        if self.pipeline:
            raise ValueError("more requests before the last one was answered")
        self._in_head, self._fields = True, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        if self._fields > MOST_FIELDS:
            raise ValueError("too many header fields")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head, self._head = False, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head = True


class Door:
    """Takes connections from the public socket, as ``admission`` allows."""

    def __init__(self, listener: socket.socket, admission: Admission) -> None:
        self._listener, self.admission = listener, admission
        self.guests: dict[Address, Guest] = {}
        """Open connections, by the address and port that they come from."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._reported, self._told = time.monotonic(), 0

    def leave(self, guest: Guest) -> None:
        self.admission.leave(guest)

    def recognise(self, client: Address, member: bytes) -> None:
        """A member has signed a request that came from there."""
        if (guest := self.guests.get(client)) is not None:
            self.admission.recognise(guest, member)

    def member_at(self, client: Address) -> bytes | None:
        """The key that signed a request of this connection."""
        guest = self.guests.get(client)
        return guest.member if guest else None

    async def serve(self, protocol: Callable[[Guest], asyncio.Protocol], tls: Any) -> None:
        """Until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, where = await loop.sock_accept(self._listener)
            except OSError as error:  # such as too many open files
                _log.warning("a connection was not accepted: %s", error)
                await asyncio.sleep(0.1)
                continue
            guest = self.admission.enter(str(where[0]))
            self._report()
            if guest is None:
                _reset(connection)
                continue
            task = loop.create_task(self._welcome(connection, guest, protocol, tls))
            guest.end = task.cancel  # type: ignore[assignment]
            loop.call_later(self.admission.bounds.seconds, self._end_if_overdue, guest)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _welcome(
        self,
        connection: socket.socket,
        guest: Guest,
        protocol: Callable[[Guest], asyncio.Protocol],
        tls: Any,
    ) -> None:
        """Agree on keys, within a time; then it is the protocol's."""
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol(guest),
                connection,
                ssl=tls,
                ssl_handshake_timeout=_HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=1.0,
            )
        except (OSError, asyncio.CancelledError):
            self.leave(guest)
            _reset(connection)

    def _end_if_overdue(self, guest: Guest) -> None:
        if self.admission.overdue(guest):
            guest.end()

    def _report(self) -> None:
        """One line a minute, however many there are."""
        now, refused = time.monotonic(), self.admission.refused
        if refused > self._told and now - self._reported >= _REPORT_SECONDS:
            _log.warning(
                "%d connections without a member's key were closed in the last %.0f s",
                refused - self._told,
                now - self._reported,
            )
            self._reported, self._told = now, refused


class Server(uvicorn.Server):
    """uvicorn for the sockets that it is given, and behind a door for the public one."""

    def __init__(self, config: uvicorn.Config, door: Door) -> None:
        super().__init__(config)
        self._door, self._task = door, None

    _task: asyncio.Task[None] | None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.should_exit:
            return

        def protocol(guest: Guest) -> asyncio.Protocol:
            return GuardedProtocol(
                guest,
                self._door,
                config=self.config,
                server_state=self.server_state,
                app_state=self.lifespan.state,
            )

        self._task = asyncio.create_task(self._door.serve(protocol, self.config.ssl))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._task is not None:
            self._task.cancel()
        await super().shutdown(sockets)


def _reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
    connection.close()
