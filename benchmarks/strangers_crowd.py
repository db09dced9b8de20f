"""A crowd of strangers at a server's public port, as a process of its own: what strangers.py starts.

    python benchmarks/strangers_crowd.py PORT CONNECTIONS SECONDS

Every connection is begun again as soon as the server has ended it. It prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
import sys
import time
from collections import Counter

PAUSE = 1.0
PATH = "/v1/fleet/push-object"
_FOREVER, _STUCK = 3600.0, 20.0


class Crowd:
    """Strangers of five kinds, and what became of their connections."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.seen: Counter[str] = Counter()
        self._tls = ssl.create_default_context()
        self._tls.check_hostname, self._tls.verify_mode = False, ssl.CERT_NONE

    async def stranger(self, number: int) -> None:
        kinds = [self.silent, self.bare, self.huge, self.slow, self.endless]
        kind = kinds[number % len(kinds)]
        await asyncio.sleep(PAUSE * (number % 100) / 100)
        while True:
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                tls = None if kind == self.bare else self._tls
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port, ssl=tls)
                self.seen["opened"] += 1
                try:
                    await kind(reader, writer)
                finally:
                    writer.transport.abort()
            self.seen["tried"] += 1
            await asyncio.sleep(PAUSE)

    async def silent(self, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        """Says nothing after TLS."""
        await reader.read()

    async def bare(self, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        """Says nothing at all."""
        await reader.read()

    async def huge(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A body of a terabyte, as fast as it goes."""
        writer.write(_head(2**40))
        await self._push(writer, bytes(65536))

    async def slow(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A body of a megabyte, a byte a second."""
        writer.write(_head(2**20))
        while not writer.is_closing():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(1)

    async def endless(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Header fields without end."""
        writer.write(f"POST {PATH} HTTP/1.1\r\n".encode())
        await self._push(writer, b"a: b\r\n" * 10000)

    async def _push(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        while not writer.is_closing():
            writer.write(data)
            await asyncio.wait_for(writer.drain(), _STUCK)
            self.seen["pushed"] += len(data)


def _head(length: int) -> bytes:
    return f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


async def come(port: int, connections: int, seconds: float) -> dict[str, int]:
    crowd = Crowd(port)
    tasks = [asyncio.create_task(crowd.stranger(number)) for number in range(connections)]
    begun = time.monotonic()
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.gather(*tasks), seconds or _FOREVER)
    return {**crowd.seen, "seconds": round(time.monotonic() - begun)}


if __name__ == "__main__":
    logging.disable()  # asyncio's lines on connections that were ended
    given = [int(word) for word in sys.argv[1:]]
    print(json.dumps(asyncio.run(come(*given))), flush=True)
