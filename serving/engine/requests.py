"""Requests between callers (an event loop or a plain thread) and the one thread that computes."""

from __future__ import annotations

import asyncio
import queue
import threading
from abc import ABC, abstractmethod
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


class ThreadedEngine(ABC):
    """What engines have in common whose one thread computes everything; `_work` is that thread.

    An engine starts `_thread` once it can compute.
    """

    def __init__(self, thread: str):
        self._inbox: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        """None asks the thread to end."""

        self._closing = False
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._work, name=thread, daemon=True)

    @abstractmethod
    def _work(self) -> None:
        """Compute what falls into the inbox until the engine closes, then tell everybody who still waits."""

    @property
    def failure(self) -> str | None:
        return self._failure

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> AsyncGenerator[Delta, None]:
        """Submit a request and yield its deltas; cancels it when the caller leaves early."""
        deltas: asyncio.Queue[Delta | EngineError] = asyncio.Queue()
        request = Request(list(prompt_ids), sampling, deltas, asyncio.get_running_loop())
        self._submit(request)
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
                request.cancelled = True  # seen before the next token

    def greedy(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
        """Most likely answers, computed together where the engine can; same order as the prompts."""
        sinks: list[queue.SimpleQueue[Delta | EngineError]] = [queue.SimpleQueue() for _ in prompts]
        for prompt_ids, sink in zip(prompts, sinks, strict=True):
            self._submit(Request(list(prompt_ids), Sampling(max_tokens=max_tokens), sink, None))
        return [_drain(sink) for sink in sinks]

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._inbox.put(None)
            self._thread.join()

    def _submit(self, request: Request) -> None:
        if self._failure or self._closing:
            raise EngineError(self._failure or "the engine is closed")
        self._inbox.put(request)
        # It may have fallen into the inbox after the last look; whoever reads the error twice reads the first.
        if self._failure:
            request.put(EngineError(self._failure))


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
