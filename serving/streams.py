"""Replies that end their work when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

T = TypeVar("T")
STREAM_FAILED = "stream_failed"
"""Set in a request's state when its stream ends with an error: the status, 200, was sent long before."""


class ClientLeft(Exception):
    """The client has closed the connection, or stopped reading; nobody reads the reply."""


def unless_stalled(send: Send, seconds: float) -> Send:
    """A `send` that raises ClientLeft when the client takes nothing for so long."""

    async def sent(message: Message) -> None:
        try:
            async with asyncio.timeout(seconds):
                await send(message)
        except TimeoutError as error:
            raise ClientLeft from error

    return sent


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client disconnects first.

    Raises ClientLeft then. The body must have been read already.
    """
    task = asyncio.ensure_future(work)
    left = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeft
    finally:
        left.cancel()
        task.cancel()
        # Cancelling is asked for, not done: the place in the engine is free once the task has ended.
        await asyncio.gather(task, left, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Server-sent events from an async generator, which is closed when the client leaves, not some time later.

    So is `source`, which the events are made from: closing a generator that was never begun does not reach what it
    would have closed itself.
    """

    def __init__(self, events: AsyncGenerator[str, None], source: AsyncGenerator[Any, None]):
        # no-transform and X-Accel-Buffering keep proxies from collecting tokens
        headers = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._events, self._source = events, source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()
            await self._source.aclose()
