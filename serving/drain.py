"""How a server ends without losing a request.

    SIGTERM ── lingers ────────────────────── closes ── drains ──────────── exit 0
               not ready; answers everybody,            what was begun
               each reply closes its connection         may finish

Whoever spreads requests over several servers (a gateway, kube-proxy) needs a second or two until it has seen that one
is leaving, and sends requests there meanwhile, many of them on connections that it keeps. A server with nobody to
tell, as behind the local front, does not linger.
"""

from __future__ import annotations

import asyncio
import logging
import select
import time
from collections.abc import Iterable, Iterator
from socket import socket
from types import FrameType
from typing import Any

import uvicorn

from serving.settings import Settings

_LOG = logging.getLogger("serving")
_LATE_SECONDS = 0.5
"""After lingering, how long connections that were opened last may still bring their request."""

_TAKEN_SECONDS = 0.01
"""A connection that the event loop has taken is the server's a few turns later."""


class Departure:
    """Whether the server is about to end; the middleware asks."""

    begun = False


class DrainingServer(uvicorn.Server):
    """uvicorn's server that answers on for a while after the signal, and closes no connection that holds a request."""

    def __init__(self, config: uvicorn.Config, settings: Settings, departure: Departure):
        super().__init__(config)
        self._settings, self._departure = settings, departure

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The signal's handler: from here on every reply says that the server is leaving."""
        self._departure.begun = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Linger, stop listening, let what was begun finish; all of it within `drain_seconds`."""
        deadline = time.monotonic() + self._settings.drain_seconds
        linger = min(self._settings.linger_seconds, self._settings.drain_seconds)
        if linger:
            _LOG.info("leaving", extra={"linger_seconds": linger})
            await self._pause(linger)
        await self._stop_listening()
        if linger:
            await self._pause(_LATE_SECONDS)
        # An idle connection is closed in the moment in which nothing has arrived on it.
        while _readable(self._idle()) and time.monotonic() < deadline and not self.force_exit:
            await asyncio.sleep(0.01)
        self.config.timeout_graceful_shutdown = max(0, round(deadline - time.monotonic()))
        await super().shutdown(sockets)

    async def _pause(self, seconds: float) -> None:
        """A second Ctrl-C ends it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.force_exit:
            await asyncio.sleep(0.05)

    async def _stop_listening(self) -> None:
        """Close the sockets, but take every connection that waits there first: closing would break it off."""
        loop = asyncio.get_running_loop()
        listeners = [listener for server in self.servers for listener in server.sockets]
        for listener in listeners:
            loop.remove_reader(listener.fileno())
        await asyncio.sleep(_TAKEN_SECONDS)
        waiting = [connection for listener in listeners for connection in _waiting(listener.dup())]
        for server in self.servers:
            server.close()
        for connection in waiting:
            await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        """What a connection is given to, as uvicorn does it."""
        make: Any = self.config.http_protocol_class
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    def _idle(self) -> Iterable[int]:
        """Descriptors of the connections that wait for a request."""
        for connection in self.server_state.connections:
            cycle = getattr(connection, "cycle", None)
            descriptor = connection.transport.get_extra_info("socket").fileno()
            if (cycle is None or cycle.response_complete) and descriptor >= 0:
                yield descriptor


def _waiting(listener: socket) -> Iterator[socket]:
    """The connections that nobody has taken; closes this handle of the listening socket."""
    with listener:
        listener.setblocking(False)
        while True:
            try:
                yield listener.accept()[0]
            except ConnectionAbortedError:  # it has left; others may wait behind it
                continue
            except OSError:  # nobody waits, or there is no descriptor for one more
                return


def _readable(descriptors: Iterable[int]) -> bool:
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
