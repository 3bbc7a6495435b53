"""How requests are counted for whoever decides on a release: by the middleware around our routes, without a model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY
from starlette.types import Message, Send

from serving.drain import Departure
from serving.engine import Delta, EngineError
from serving.metrics import OUTCOMES
from serving.middleware import Frame
from serving.openai import openai_router
from serving.release import read_release
from serving.settings import Settings
from tests.serving.test_generation import QUESTION, ScriptedEngine, make

CHAT = "/v1/chat/completions"
Framed = Callable[[ScriptedEngine], FastAPI]
HALF_AN_ANSWER = (Delta([300], None), EngineError("out of memory"))


class FaultyEngine(ScriptedEngine):
    """Fails in a way that nobody has foreseen."""

    async def generate(self, *_: object) -> AsyncGenerator[Delta, None]:
        yield Delta([300], None)
        raise ZeroDivisionError


@pytest.fixture
def framed(releases: dict[str, Path]) -> Framed:
    def frame(engine: ScriptedEngine) -> FastAPI:
        generator = make(releases["openvino"], engine)
        app = FastAPI()
        app.include_router(openai_router(generator))
        digest = read_release(releases["openvino"]).digest
        settings = Settings(max_body_bytes=1024, stall_seconds=1)
        app.add_middleware(Frame, release=digest, settings=settings, departure=Departure())
        return app

    return frame


def counts() -> dict[str, float]:
    return {
        outcome: REGISTRY.get_sample_value("slipway_generations_total", {"outcome": outcome}) or 0
        for outcome in OUTCOMES
    }


def ask(app: FastAPI, path: str = CHAT, **body: Any) -> tuple[int, str]:
    async def asked() -> tuple[int, str]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            reply = await client.post(path, json={"messages": QUESTION} | body)
            return reply.status_code, reply.text

    return asyncio.run(asked())


@pytest.mark.parametrize(
    ("engine", "body", "status", "outcome"),
    [
        (ScriptedEngine(Delta([300, 2], "stop")), {}, 200, "answered"),
        (ScriptedEngine(Delta([300, 2], "stop")), {"stream": True}, 200, "answered"),
        (ScriptedEngine(*HALF_AN_ANSWER), {}, 503, "failed"),
        (ScriptedEngine(*HALF_AN_ANSWER), {"stream": True}, 200, "failed"),
        (FaultyEngine(), {}, 500, "failed"),
        (FaultyEngine(), {"stream": True}, 200, "failed"),
        (ScriptedEngine(), {"max_tokens": 0}, 422, "refused"),
        (ScriptedEngine(), {"messages": [{"role": "user", "content": "x" * 2000}]}, 413, "refused"),
    ],
)
def test_an_answer_is_counted_by_how_it_ended(
    framed: Framed, engine: ScriptedEngine, body: dict[str, Any], status: int, outcome: str
) -> None:
    before = counts()
    assert ask(framed(engine), **body)[0] == status
    after = counts()
    assert {name: after[name] - before[name] for name in OUTCOMES} == {name: int(name == outcome) for name in OUTCOMES}


def test_other_requests_are_not_counted(framed: Framed) -> None:
    before = counts()
    assert ask(framed(ScriptedEngine()), path="/v1/models")[0] == 405
    assert counts() == before


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_is_no_fault_of_the_release(framed: Framed, stream: bool) -> None:
    """It reads the head and what has been written, and goes."""

    async def send(message: Message) -> None:
        await asyncio.sleep(0)

    assert_left(framed, stream, send, stays_seconds=0.05)


def test_a_client_that_stops_reading_loses_its_place(framed: Framed) -> None:
    """The connection stands, and nothing goes through it any more."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)
        await asyncio.sleep(60 if len(sent) > 3 else 0)

    begin = time.monotonic()
    assert_left(framed, True, send, stays_seconds=60)
    assert time.monotonic() - begin < 30


def assert_left(framed: Framed, stream: bool, send: Send, stays_seconds: float) -> None:
    """Ask for an endless answer that is counted as left; nothing of it goes on."""
    app = framed(ScriptedEngine(*[Delta([300], None)] * 10_000))
    before = counts()

    async def leave() -> None:
        body = httpx.Request("POST", "http://localhost", json={"messages": QUESTION, "stream": stream}).content
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if messages:
                return messages.pop()
            await asyncio.sleep(stays_seconds)
            return {"type": "http.disconnect"}

        headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
        scope = {"type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(), "query_string": b""}
        await app(scope | {"headers": headers, "root_path": "", "scheme": "http"}, receive, send)

    asyncio.run(leave())
    after = counts()
    assert {name: after[name] - before[name] for name in OUTCOMES} == {name: int(name == "left") for name in OUTCOMES}
    assert REGISTRY.get_sample_value("slipway_requests_running") == 0
