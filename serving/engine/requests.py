"""Requests between callers (an event loop or a plain thread) and the one thread that computes."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from serving.engine import Delta, EngineError, FinishReason, Sampling


class Sink(Protocol):
    """Where the computing thread puts what it has made."""

    def put_nowait(self, item: Delta | EngineError, /) -> None: ...


@dataclass(eq=False)
class Request:
    """One prompt on its way. `cancelled` is only ever set by the caller, read by the computing thread."""

    prompt_ids: list[int]
    sampling: Sampling
    sink: Sink
    loop: asyncio.AbstractEventLoop | None
    """The loop that the sink belongs to; None for a thread's queue."""
    cancelled: bool = False
    generated: int = field(default=0)

    def put(self, item: Delta | EngineError) -> None:
        """Hand something to the caller, from the computing thread."""
        if self.loop is None:
            self.sink.put_nowait(item)
            return
        # A loop that was closed meanwhile has nobody left to read.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.sink.put_nowait, item)


class Worker(Protocol):
    """The part of an engine that takes requests."""

    def submit(self, request: Request) -> None: ...

    def cancel(self, request: Request) -> None: ...


async def stream(worker: Worker, prompt_ids: Sequence[int], sampling: Sampling) -> AsyncGenerator[Delta, None]:
    """Submit a request and yield its deltas; cancels it when the caller leaves early."""
    deltas: asyncio.Queue[Delta | EngineError] = asyncio.Queue()
    request = Request(list(prompt_ids), sampling, deltas, asyncio.get_running_loop())
    worker.submit(request)
    finished = False
    try:
        while not finished:
            item = await deltas.get()
            if isinstance(item, EngineError):
                finished = True
                raise item
            finished = item.finish_reason is not None
            yield item
    finally:
        if not finished:
            worker.cancel(request)


def collect(worker: Worker, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[int]]:
    """Answers to several prompts, computed together where the engine can; same order as the prompts."""
    sinks: list[queue.SimpleQueue[Delta | EngineError]] = [queue.SimpleQueue() for _ in prompts]
    for prompt_ids, sink in zip(prompts, sinks, strict=True):
        worker.submit(Request(list(prompt_ids), sampling, sink, None))
    return [_drain(sink) for sink in sinks]


def _drain(sink: queue.SimpleQueue[Delta | EngineError]) -> list[int]:
    token_ids: list[int] = []
    reason: FinishReason | None = None
    while reason is None:
        item = sink.get()
        if isinstance(item, EngineError):
            raise item
        token_ids += item.token_ids
        reason = item.finish_reason
    return token_ids
