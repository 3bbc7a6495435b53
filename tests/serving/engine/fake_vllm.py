"""vLLM's OpenAI API as far as our engine uses it, computed by the transformers engine.

The fields are those of vLLM 0.10.2 and later (`return_token_ids`): in a stream each chunk's choice bears the token ids
that it adds, the end token among them, and leaving the connection aborts the request.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from serving.engine import Delta, Engine, Sampling

KNOWN = {
    "model",
    "prompt",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "repetition_penalty",
    "seed",
    "stream",
    "return_token_ids",
    "ignore_eos",
    "stop_token_ids",
}


class FakeVllm:
    """What it serves, and what a test makes it do."""

    def __init__(self, engine: Engine, context: int):
        self.engine, self.context = engine, context
        self.name = "release"
        self.healthy = True
        self.status = 200
        self.models: Response | None = None
        """Sent instead of the list of models."""

        self.chunk: dict[str, Any] | None = None
        """Sent instead of an answer."""

        self.endless = False
        """An answer runs until it is left."""

        self.requests: list[dict[str, Any]] = []
        self.aborted = 0
        """Answers that were left before their end."""

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/health")
        def health() -> Response:
            return Response(status_code=200 if self.healthy else 503)

        @app.get("/v1/models")
        def models() -> Response:
            listed = [{"id": self.name, "max_model_len": self.context}]
            return self.models or JSONResponse({"object": "list", "data": listed})

        @app.post("/v1/completions")
        async def completions(request: Request) -> Response:
            body = await request.json()
            self.requests.append(body)
            if self.status != 200 or body["model"] != self.name or set(body) - KNOWN:
                return JSONResponse({"error": {"message": "no such model or field"}}, max(self.status, 400))
            return StreamingResponse(self.events(body), media_type="text/event-stream")

        return app

    async def events(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        if self.chunk is not None:
            yield f"data: {json.dumps(self.chunk)}\n\n"
            yield "data: [DONE]\n\n"
            return
        names = ("max_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed")
        sampling = Sampling(**{name: body[name] for name in names if name in body})
        try:
            async with aclosing(
                _endless() if self.endless else self.engine.generate(body["prompt"], sampling)
            ) as deltas:
                async for delta in deltas:
                    choice = {
                        "index": 0,
                        "text": "",
                        "token_ids": delta.token_ids,
                        "finish_reason": delta.finish_reason,
                    }
                    yield f"data: {json.dumps({'id': 'cmpl-1', 'choices': [choice]})}\n\n"
            yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.aborted += 1
            raise


async def _endless() -> AsyncGenerator[Delta, None]:
    while True:
        yield Delta([5], None)
        await asyncio.sleep(0.01)


@contextmanager
def running(fake: FakeVllm) -> Iterator[str]:
    """Its address, while it runs."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(fake.app(), log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            until = time.monotonic() + 30
            while not server.started:
                assert thread.is_alive() and time.monotonic() < until, "the fake does not listen"
                time.sleep(0.01)
            yield url
        finally:
            server.should_exit = True
            thread.join(10)
