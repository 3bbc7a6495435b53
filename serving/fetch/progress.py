"""What a fetch says while it runs: one JSON object per line on standard output."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from types import TracebackType

# The rate is taken over the newest so many lines, so that it follows the line and not its history.
_WINDOW = 6


class Progress:
    """Counts bytes and tells events; as a context, also tells how far it is every few seconds."""

    def __init__(self, every_seconds: float) -> None:
        self.every_seconds = every_seconds
        self.total: int | None = None
        """Bytes of all files; None as long as, or because, the source does not say."""
        self.got = 0
        """Bytes that are written, those of an earlier run included."""
        self.fetched = 0
        """Bytes that this run wrote."""
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._marks: deque[tuple[float, int]] = deque([(time.monotonic(), 0)], maxlen=_WINDOW)
        self._teller = threading.Thread(target=self._tell, daemon=True)

    def tell(self, event: str, **facts: object) -> None:
        """Write one line."""
        line = json.dumps({"event": event, **facts}, ensure_ascii=False)
        with self._lock:
            print(line, flush=True)

    def add(self, count: int) -> None:
        """Bytes written; negative when some have to be fetched again."""
        with self._lock:
            self.got += count
            self.fetched += max(count, 0)

    def __enter__(self) -> Progress:
        self._teller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._teller.join()

    def _tell(self) -> None:
        while not self._ended.wait(self.every_seconds):
            now = time.monotonic()
            since, before = self._marks[0]
            rate = (self.fetched - before) / (now - since)
            self._marks.append((now, self.fetched))
            left = None if self.total is None else self.total - self.got
            self.tell(
                "progress",
                bytes=self.got,
                total_bytes=self.total,
                bytes_per_second=round(rate),
                eta_seconds=round(left / rate, 1) if left is not None and rate else None,
            )
