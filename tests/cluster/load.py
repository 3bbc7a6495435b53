"""Load from outside, which sees every request that is lost.

    python -m tests.cluster.load URL --report FILE [--model NAME] [--host NAME] [--least N] [--rate R] [--connections C]

Sends questions until SIGTERM has come and at least N were sent, finishes those that run, prints the report and exits
with 1 when one failed. A request fails by any status but 200, any error of its connection, a reply that cannot be
read, a stream that ends without [DONE], and an answer of another release than its header names. Nothing is tried
again. FILE holds the report from the beginning and is replaced every half second, so that others can follow.

A quarter are streams. Most connections are kept, one request in ten opens its own.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

_PROJECT = Path(__file__).resolve().parents[2]
_TOPICS = ("heat pumps", "insulation", "the sun", "the wind", "batteries", "windows", "cellars", "cooling", "tariffs")
_TIMEOUT = httpx.Timeout(60, connect=5)
_MOST_FAILURES = 200
"""So many are kept in full; all are counted."""


class AnswerFault(Exception):
    """An answer came, and it is wrong."""


@dataclass
class Failure:
    """One request that was lost."""

    number: int
    at: str
    seconds: float
    """Since the request was sent."""

    kind: str
    path: str
    stream: bool
    release: str
    words: str


@dataclass
class Report:
    """What happened until now."""

    url: str
    started: str = field(default_factory=lambda: _now())
    seconds: float = 0.0
    sent: int = 0
    answered: int = 0
    streams: int = 0
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=dict)
    releases: dict[str, int] = field(default_factory=dict)
    """Release that answered -> how often."""

    latency_ms: dict[str, float] = field(default_factory=dict)
    done: bool = False


class Load:
    """Sends and keeps the books."""

    def __init__(self, url: str, model: str, *, host: str, least: int, rate: float, connections: int):
        self.report = Report(url)
        self.stopping = False
        self._model, self._least, self._rate, self._connections = model, least, rate, connections
        self._headers = {"Host": host} if host else {}
        self._numbers = itertools.count()
        self._latencies: list[float] = []
        self._kinds: Counter[str] = Counter()
        self._releases: Counter[str] = Counter()
        self._start = time.monotonic()

    async def run(self, report: Path) -> None:
        """Send until told to stop."""
        writing = asyncio.create_task(self._write_on(report))
        await asyncio.gather(*(self._work() for _ in range(self._connections)))
        writing.cancel()
        self.report.done = True
        self.write(report)

    def write(self, path: Path) -> None:
        """Replace the report."""
        self._sum_up()
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(asdict(self.report), indent=1))
        beside.rename(path)

    async def _write_on(self, path: Path) -> None:
        parent = os.getppid()
        while os.getppid() == parent:
            self.write(path)
            await asyncio.sleep(0.5)
        os._exit(2)  # who began it was killed, and nobody is left to stop it

    async def _work(self) -> None:
        """One connection's requests, one after another."""
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        async with httpx.AsyncClient(
            base_url=self.report.url, headers=self._headers, timeout=_TIMEOUT, limits=limits, trust_env=False
        ) as client:
            while not (self.stopping and self.report.sent >= self._least):
                number = next(self._numbers)
                # Request n has its moment, whoever is free takes it.
                if self._rate and (ahead := self._start + number / self._rate - time.monotonic()) > 0:
                    await asyncio.sleep(ahead)
                await self._send(client, number)

    async def _send(self, client: httpx.AsyncClient, number: int) -> None:
        path, body = question(number, self._model)
        headers = {"Connection": "close"} if number % 10 == 9 else {}
        self.report.sent += 1
        self.report.streams += bool(body.get("stream"))
        answer = _Answer()
        begin = time.monotonic()
        try:
            async with client.stream("POST", path, json=body, headers=headers) as response:
                await answer.read(response, bool(body.get("stream")))
        except (httpx.HTTPError, AnswerFault, ValueError, KeyError, IndexError) as error:
            kind = str(answer.status) if answer.status not in (None, 200) else type(error).__name__
            self._failed(number, time.monotonic() - begin, kind, path, body, answer.release, str(error))
            return
        self._latencies.append(time.monotonic() - begin)
        self._releases[answer.release] += 1
        self.report.answered += 1

    def _failed(
        self, number: int, seconds: float, kind: str, path: str, body: dict[str, Any], release: str, words: str
    ) -> None:
        self.report.failed += 1
        self._kinds[kind] += 1
        failure = Failure(number, _now(), round(seconds, 3), kind, path, bool(body.get("stream")), release, words[:500])
        if len(self.report.failures) < _MOST_FAILURES:
            self.report.failures.append(failure)
        print(json.dumps(asdict(failure)), file=sys.stderr, flush=True)

    def _sum_up(self) -> None:
        self.report.seconds = round(time.monotonic() - self._start, 1)
        self.report.kinds, self.report.releases = dict(self._kinds), dict(self._releases)
        if len(self._latencies) > 1:
            cuts = statistics.quantiles(self._latencies, n=100, method="inclusive")
            named = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": max(self._latencies)}
            self.report.latency_ms = {name: round(seconds * 1000, 1) for name, seconds in named.items()}


class _Answer:
    """One reply, as far as it was read."""

    status: int | None = None
    release = ""

    async def read(self, response: httpx.Response, stream: bool) -> None:
        """Read and judge it. Raises AnswerFault, ValueError or KeyError for what is no answer."""
        self.status, self.release = response.status_code, response.headers.get("x-slipway-release", "")
        if self.status != 200:
            raise AnswerFault((await response.aread()).decode(errors="replace"))
        if stream:
            events = [line.removeprefix("data: ") async for line in response.aiter_lines() if line]
            if not events or events[-1] != "[DONE]":
                raise AnswerFault(f"the stream ends without [DONE], after {len(events)} events: {events[-1:]}")
            reply = json.loads(events[0])
        else:
            reply = json.loads(await response.aread())
        named = reply.get("release") or reply["system_fingerprint"]
        if named != self.release:
            raise AnswerFault(f"release {named} answered, the header names {self.release or 'none'}")


def question(number: int, model: str) -> tuple[str, dict[str, Any]]:
    """Path and body of the n-th request: four routes, every fourth a stream, all prompts different."""
    text = f"Question {number}: what about {_TOPICS[number % len(_TOPICS)]}?"
    messages = [{"role": "user", "content": text}]
    if number % 4 == 0:
        return "/v1/chat/completions", {"model": model, "messages": messages, "max_tokens": 16, "stream": True}
    if number % 8 == 1:
        return "/v1/completions", {"model": model, "prompt": text, "max_tokens": 4}
    if number % 8 == 3:
        return "/generate", {"prompt": text, "max_tokens": 4}
    return "/openai/v1/chat/completions", {"model": model, "messages": messages, "max_tokens": 4 + number % 5}


@dataclass
class RunningLoad:
    """The load's process, as a test sees it."""

    process: subprocess.Popen[bytes]
    path: Path

    def report(self) -> Report:
        """What happened until now."""
        fields = json.loads(self.path.read_text())
        fields["failures"] = [Failure(**failure) for failure in fields["failures"]]
        return Report(**fields)

    def wait_for(self, answered: int, seconds: float = 60) -> None:
        """Return when so many more were answered."""
        goal = self.report().answered + answered
        deadline = time.monotonic() + seconds
        while self.report().answered < goal:
            assert time.monotonic() < deadline and self.process.poll() is None, self.report()
            time.sleep(0.1)

    def stop(self, seconds: float = 600) -> Report:
        """Have the rest sent, and the whole report."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(seconds)
        return self.report()


@contextmanager
def load(
    url: str, model: str, report: Path, *, host: str = "", least: int = 0, rate: float = 100, connections: int = 8
) -> Iterator[RunningLoad]:
    """A process that sends requests while the block runs, from before its first line on."""
    options = {"model": model, "report": report, "host": host, "least": least, "rate": rate}
    options["connections"] = connections
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "tests.cluster.load", url, *flags]
    report.unlink(missing_ok=True)
    with report.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(command, cwd=_PROJECT, stdout=log, stderr=log)
    running = RunningLoad(process, report)
    try:
        deadline = time.monotonic() + 30
        while not report.exists():
            assert time.monotonic() < deadline and process.poll() is None, report.with_suffix(".log").read_text()
            time.sleep(0.05)
        yield running
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


async def _main(flags: argparse.Namespace) -> int:
    options = {"host": flags.host, "least": flags.least, "rate": flags.rate, "connections": flags.connections}
    sender = Load(flags.url, flags.model, **options)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: setattr(sender, "stopping", True))
    await sender.run(flags.report)
    print(flags.report.read_text())
    return 1 if sender.report.failed else 0


def main() -> int:
    """Exit codes: 0 all answered, 1 some lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.load", description="Send requests, lose none.")
    parser.add_argument("url")
    parser.add_argument("--model", default="energy-chat")
    parser.add_argument("--host", default="", help="name by which the gateway knows the service")
    parser.add_argument("--report", type=Path, required=True, help="JSON file, replaced every half second")
    parser.add_argument("--least", type=int, default=0, help="send at least so many")
    parser.add_argument("--rate", type=float, default=100, help="requests a second; 0 is as fast as they are answered")
    parser.add_argument("--connections", type=int, default=8)
    return asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
