"""A TCP proxy that adds latency: `python -m benchmarks.fetch.delay LISTEN_PORT TARGET_PORT MILLISECONDS WINDOW_KIB`.

Every byte leaves half of MILLISECONDS after it came, in each direction, so that a round trip takes MILLISECONDS longer.
What is under way on one connection in one direction is bounded by WINDOW_KIB per round trip, as TCP bounds it by the
receiver's window; 0 is no bound but memory. All connections together are not bounded.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque

_READ_BYTES = 2**18
_UNBOUNDED = 2**26


class Side(asyncio.BufferedProtocol):
    """One end of a connection; what comes here leaves at `other` later."""

    def __init__(self, seconds: float, window: int) -> None:
        self.seconds = seconds
        self.window = window or _UNBOUNDED
        self.other: Side | None = None
        self.transport: asyncio.Transport | None = None
        self.open = True
        self.waiting: deque[bytes] = deque()
        self.under_way = 0
        self._buffer = bytearray(_READ_BYTES)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=self.window)
        if self.other:
            self.other.flush()

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        assert self.transport
        loop = asyncio.get_running_loop()
        data = bytes(memoryview(self._buffer)[:nbytes])
        self.under_way += nbytes
        if self.under_way >= self.window:
            self.transport.pause_reading()
        self.waiting.append(data)
        loop.call_later(self.seconds, self.flush_one)
        # The window opens again when the acknowledgement is back, one round trip after the bytes left.
        loop.call_later(2 * self.seconds, self.acknowledge, nbytes)

    def flush_one(self) -> None:
        """Send on the oldest bytes, or keep them until the other end stands."""
        if self.other and self.other.transport and self.waiting:
            self.other.transport.write(self.waiting.popleft())

    def flush(self) -> None:
        """Send on what waited for the other end to stand."""
        while self.waiting:
            self.flush_one()

    def acknowledge(self, count: int) -> None:
        """Let as many further bytes in, unless the other end takes them more slowly than they come."""
        self.under_way -= count
        assert self.transport and self.other
        if not self.open:
            return
        if self.other.transport and self.other.transport.get_write_buffer_size() >= self.window:
            self.under_way += count
            asyncio.get_running_loop().call_later(0.002, self.acknowledge, count)
        elif self.under_way < self.window:
            self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if self.other and self.other.transport:
            asyncio.get_running_loop().call_later(self.seconds + 0.001, self.other.transport.close)


async def serve(listen_port: int, target_port: int, milliseconds: float, window_kib: int) -> None:
    """Accept connections for ever."""
    loop = asyncio.get_running_loop()
    seconds = milliseconds / 2000
    connecting: set[asyncio.Task[object]] = set()

    def accept() -> Side:
        client, server = Side(seconds, window_kib * 1024), Side(seconds, window_kib * 1024)
        client.other, server.other = server, client
        task = loop.create_task(loop.create_connection(lambda: server, "127.0.0.1", target_port))
        connecting.add(task)
        task.add_done_callback(connecting.discard)
        return client

    async with await loop.create_server(accept, "127.0.0.1", listen_port, reuse_port=True) as listener:
        await listener.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
