"""The course of a preview, over whatever can be made and destroyed.

    deploy ─▶ check /health and /generate ─▶ announce ─▶ wait (ten minutes, or the label) ─▶ destroy
        └────────┴── fails ──────┴─▶ destroy, and fail

The workflow gives each part a job of its own, so that a runner that is lost or cancelled takes nothing with it; `run`
does all of it in one process. What is left all the same is found by sweep.py.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from ci.commands import CiError

LIVES_SECONDS = 600
_HEALTHY_SECONDS = 300
_DESTROY_TRIES = 3
_PROMPT = {"prompt": "How does a heat pump work?", "max_tokens": 16}


class Target(Protocol):
    """Where a preview lives."""

    def apply(self) -> None:
        """Make it. Raises CiError."""
        ...

    def reach(self) -> AbstractContextManager[str]:
        """An address at which it can be asked from here."""
        ...

    def told(self) -> str:
        """What people are told, as Markdown: how they reach it."""
        ...

    def destroy(self) -> None:
        """Leave nothing, also of what was only half made. Raises CiError."""
        ...

    def exists(self) -> bool: ...


class Announcer(Protocol):
    """Who is told."""

    def live(self, told: str, said: str) -> None: ...

    def gone(self, reason: str) -> None: ...

    def unwanted(self) -> str:
        """Why it may go before its time: the label, a closed pull request; "" while it may stay."""
        ...


@dataclass
class Clock:
    """Time, so that tests need not wait."""

    now: Callable[[], float] = field(default=time.monotonic)
    sleep: Callable[[float], None] = field(default=time.sleep)


def deploy(target: Target, announcer: Announcer, try_it: Callable[[str], str], clock: Clock) -> None:
    """Make a preview that answers, and say where.

    Whatever goes wrong on the way, Ctrl-C and a failing announcement too, nothing is left. Raises CiError.
    """
    try:
        target.apply()
        with target.reach() as address:
            said = try_it(address)
        announcer.live(target.told(), said)
    except BaseException as error:
        destroy(target, clock)
        if isinstance(error, CiError):
            # who is told must not hide why it failed
            with suppress(CiError):
                announcer.gone(f"it failed, and was destroyed: {error}")
        raise


def wait(announcer: Announcer, clock: Clock, seconds: float = LIVES_SECONDS, pause: float = 10) -> str:
    """Until its time is over or it is not wanted any more; returns why.

    GitHub being out of reach ends nothing: the time does.
    """
    until = clock.now() + seconds
    while clock.now() < until:
        try:
            if reason := announcer.unwanted():
                return reason
        except CiError as error:
            print(f"whether it is still wanted cannot be asked: {error}", flush=True)
        clock.sleep(min(pause, max(0.0, until - clock.now())))
    return f"its {seconds / 60:g} minutes are over"


def destroy(target: Target, clock: Clock, pause: float = 15) -> None:
    """Destroy, and look whether it is gone; again when it is not. Raises CiError with the last reason."""
    reason: Exception | None = None
    for attempt in range(_DESTROY_TRIES):
        if attempt:
            clock.sleep(pause * attempt)
        try:
            target.destroy()
            if not target.exists():
                return
            reason = CiError("it still stands after it was destroyed")
        except CiError as error:
            reason = error
            print(f"destroying it failed ({attempt + 1} of {_DESTROY_TRIES}): {error}", flush=True)
    raise CiError(f"a preview was left behind, and the sweeper will try again: {reason}") from reason


def run(target: Target, announcer: Announcer, try_it: Callable[[str], str], clock: Clock) -> str:
    """All of it in one process; returns why it ended."""
    deploy(target, announcer, try_it, clock)
    reason = "the job was ended"
    try:
        reason = wait(announcer, clock)
    finally:
        destroy(target, clock)
        announcer.gone(reason)
    return reason


# --- whether it works ------------------------------------------------------------------------------------------


def try_live(address: str, clock: Clock, seconds: float = _HEALTHY_SECONDS) -> str:
    """Ask /health until it is well, then /generate once; returns the answer's text. Raises CiError."""
    until = clock.now() + seconds
    while True:
        status, body = _ask(f"{address}/health", None)
        if status == 200:
            break
        if clock.now() >= until:
            raise CiError(f"{address}/health answers {status or 'nothing'} after {seconds:g} s: {body[:300]}")
        clock.sleep(5)
    status, body = _ask(f"{address}/generate", _PROMPT)
    if status != 200:
        raise CiError(f"{address}/generate answers {status or 'nothing'}: {body[:300]}")
    try:
        text = json.loads(body)["text"]
    except (ValueError, KeyError, TypeError) as error:
        raise CiError(f"{address}/generate answers 200 without a text: {body[:300]}") from error
    if not isinstance(text, str) or not text.strip():
        raise CiError(f"{address}/generate answers with an empty text")
    return text


def _ask(url: str, body: dict | None) -> tuple[int, str]:
    """(status, text); 0 when nothing answers."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, reply.read(65536).decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read(65536).decode(errors="replace")
    except (urllib.error.URLError, OSError) as error:
        return 0, str(error)
