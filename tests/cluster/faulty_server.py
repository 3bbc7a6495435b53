"""The model server with one fault, which SLIPWAY_FAULT names.

It stands in the place of serving/__main__.py in images made for tests (faults.py); the real one lies beside it.

    crashes        ends at once, with an exit code
    unready        serves, but /health says no
    memory         takes memory until it is ended for it
    differs        other tokens than the release's golden ones
    slow           every answer takes SLIPWAY_FAULT_SECONDS longer
    errors         every third answer is a 500, those to golden prompts never
    hangs          answers three prompts, then nothing more: /health too
    stuck          answers three prompts, then none; /health says that all is well
    dies           answers three prompts, then ends
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time
from collections.abc import AsyncGenerator
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FAULTS = ("crashes", "unready", "memory", "differs", "slow", "errors", "hangs", "stuck", "dies")
SLOW_SECONDS = 60.0
_GOOD_ANSWERS = 3


class Faulty:
    """The application behind the real middleware, which counts what goes wrong here as it would anywhere."""

    def __init__(self, app: ASGIApp, fault: str):
        self._app, self._fault = app, fault
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._fault == "unready" and scope["path"] == "/health":
            await JSONResponse({"error": "not yet"}, 503)(scope, receive, send)
            return
        if scope["type"] == "http" and scope["method"] == "POST":
            body = await _read(receive)
            await self._befall(b"return_token_ids" in body)
            receive = _again(body, receive)
        await self._app(scope, receive, send)

    async def _befall(self, golden: bool) -> None:
        number = next(self._numbers)
        if self._fault == "slow":
            await asyncio.sleep(float(os.environ.get("SLIPWAY_FAULT_SECONDS", SLOW_SECONDS)))
        elif self._fault == "errors" and not golden and number % 3 == 0:
            raise RuntimeError("a fault for a test")
        elif number <= _GOOD_ANSWERS:
            return
        elif self._fault == "hangs":
            time.sleep(1_000_000)
        elif self._fault == "stuck":
            await asyncio.Event().wait()
        elif self._fault == "dies":
            os._exit(3)


class OtherTokens:
    """An engine whose every second token is another one."""

    def __init__(self, engine: Any):
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def generate(self, *arguments: Any) -> AsyncGenerator[Any, None]:
        async for delta in self._engine.generate(*arguments):
            yield delta._replace(
                token_ids=[token ^ (place % 2) for place, token in enumerate(delta.token_ids, start=1)]
            )


async def _read(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


def _again(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Message:
        return messages.pop() if messages else await receive()

    return received


def bring_in(fault: str) -> None:
    """Change the parts of the server that the fault needs."""
    from serving import true_main
    from serving.middleware import Frame

    init, opening = Frame.__init__, true_main.open_engine

    def framed(self: Frame, app: ASGIApp, **options: Any) -> None:
        init(self, Faulty(app, fault), **options)

    Frame.__init__ = framed
    if fault == "differs":
        true_main.open_engine = lambda *arguments: OtherTokens(opening(*arguments))


def main() -> int:
    """The fault around the real server."""
    fault = os.environ["SLIPWAY_FAULT"]
    assert fault in FAULTS, f"there is no fault {fault!r}; there are {', '.join(FAULTS)}"
    if fault == "crashes":
        print("serving: a fault for a test: this server never starts", file=sys.stderr)
        return 1
    held: list[bytes] = []
    while fault == "memory":
        held.append(b"x" * 2**26)
        time.sleep(0.05)
    bring_in(fault)
    from serving import true_main

    return true_main.main()


if __name__ == "__main__":
    sys.exit(main())
