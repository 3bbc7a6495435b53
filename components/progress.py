"""What a step says while it works: one JSON line per event on standard output.

In a pod these lines are the log; `slipway run` draws them as bars (pipelines/console.py).
"""

from __future__ import annotations

import json
import time
from typing import Any


def say(event: str, **fields: Any) -> None:
    """Print one event as a JSON line, at once."""
    print(json.dumps({"event": event, **fields}, ensure_ascii=False), flush=True)


class Progress:
    """Counts towards a known total and says rate and remaining time, at most once a second.

    >>> progress = Progress("finetune", total=70_000, unit="tokens")
    >>> progress.advance(512, loss=2.31)
    """

    def __init__(self, step: str, total: int, unit: str, done: int = 0):
        self._step, self._total, self._unit = step, total, unit
        self._done = self._first = done
        self._start = self._said = time.monotonic()

    def advance(self, amount: int, **values: float) -> None:
        """Count `amount` more; `values` (a loss, say) are shown beside the bar."""
        self._done += amount
        now = time.monotonic()
        if now - self._said < 1 and self._done < self._total:
            return
        self._said = now
        rate = (self._done - self._first) / max(now - self._start, 1e-9)
        say(
            "progress",
            step=self._step,
            done=self._done,
            total=self._total,
            unit=self._unit,
            rate=round(rate, 1),
            eta_seconds=round((self._total - self._done) / rate) if rate else None,
            **{name: round(value, 4) for name, value in values.items()},
        )
