"""How much at once: a bounded number of running answers, a bounded queue before them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from serving.errors import RequestError
from serving.settings import Settings

_SMOOTHING = 0.1


class Admission:
    """Counts who runs and who waits. Belongs to one event loop."""

    def __init__(self, settings: Settings):
        self._max_running, self._max_waiting = settings.max_running, settings.max_waiting
        self._places = asyncio.Semaphore(settings.max_running)
        self._mean_seconds = 1.0
        self.running = 0
        self.waiting = 0

    @property
    def capacity(self) -> int:
        """How many may run and wait together."""
        return self._max_running + self._max_waiting

    def check(self) -> None:
        """Raises RequestError 429 when the queue is full; Retry-After estimates when it will not be."""
        if self.running + self.waiting >= self.capacity:
            raise RequestError(
                429,
                f"{self.running} answers are being written and {self.waiting} requests wait; try again later",
                code="rate_limit_exceeded",
                headers={"Retry-After": str(self._retry_seconds())},
            )

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Wait for a place and hold it. Raises RequestError 429 at once when the queue is full."""
        self.check()
        self.waiting += 1
        try:
            await self._places.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        start = time.monotonic()
        try:
            yield
        finally:
            self.running -= 1
            self._places.release()
            self._mean_seconds += _SMOOTHING * (time.monotonic() - start - self._mean_seconds)

    def _retry_seconds(self) -> int:
        """Time until the queue has moved by one, from the mean length of recent answers; between 1 s and 60 s."""
        return min(60, max(1, math.ceil(self._mean_seconds * (self.waiting + 1) / self._max_running)))
