"""Replies whose client has left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from starlette.types import Message

from serving.streams import EventStream


def test_a_client_that_left_before_the_reply_began_closes_its_source() -> None:
    """The events have not begun then, and what they would have closed holds a place in the engine."""
    closed: list[str] = []

    async def pieces() -> AsyncGenerator[str, None]:
        try:
            while True:
                yield "piece"
        finally:
            closed.append("pieces")

    async def events(source: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
        async for piece in source:
            yield piece

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        await asyncio.sleep(60)

    async def leave() -> None:
        source = pieces()
        await anext(source)
        await EventStream(events(source), source)({"type": "http"}, receive, send)
        assert closed == ["pieces"]

    asyncio.run(leave())
