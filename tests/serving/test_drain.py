"""The end of a server under load: nobody who was let in is lost."""

from __future__ import annotations

import asyncio
import errno
import json
import signal
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.responses import PlainTextResponse

from serving.drain import Departure, DrainingServer, _waiting
from serving.settings import Settings
from tests.cluster.load import question
from tests.ports import free_port
from tests.serving.conftest import MODEL, Running, StartServer

STREAM: dict[str, Any] = {"messages": [{"role": "user", "content": "Why?"}], "temperature": 0, "stream": True}


class Client:
    """Asks without a pause on one kept connection until no new one is taken."""

    def __init__(self, url: str, first: int):
        self._url, self._first = url, first
        self.answered = 0
        self.closed_politely = 0
        self.failures: list[str] = []

    async def run(self) -> None:
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(base_url=self._url, limits=limits, timeout=20, trust_env=False) as client:
            number = self._first
            while True:
                number += 1
                path, body = question(number, MODEL)
                try:
                    async with client.stream("POST", path, json=body) as reply:
                        text = (await reply.aread()).decode()
                except httpx.ConnectError:
                    return
                except httpx.HTTPError as error:
                    self.failures.append(f"{number}: {type(error).__name__}: {error}")
                    continue
                if reply.status_code != 200 or (body.get("stream") and not text.endswith("data: [DONE]\n\n")):
                    self.failures.append(f"{number}: {reply.status_code} {text[-200:]}")
                self.answered += 1
                self.closed_politely += reply.headers.get("connection") == "close"


async def hammer(server: Running) -> tuple[list[Client], float]:
    """Ten clients, SIGTERM while they ask; the seconds until the socket was closed for all."""
    clients = [Client(server.url, first=1000 * index) for index in range(10)]
    asking = asyncio.gather(*(client.run() for client in clients))
    while sum(client.answered for client in clients) < 50:
        await asyncio.sleep(0.05)
    server.process.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    await asking
    return clients, time.monotonic() - begin


def test_nothing_is_lost_while_a_server_leaves(start_server: StartServer) -> None:
    server = start_server(SLIPWAY_LINGER_SECONDS="2", SLIPWAY_DRAIN_SECONDS="20")
    clients, seconds = asyncio.run(hammer(server))
    assert [failure for client in clients for failure in client.failures] == []
    assert all(client.closed_politely for client in clients)
    assert 2 <= seconds < 15  # not the 20 s of the drain
    assert server.process.wait(10) == 0


def test_a_server_that_leaves_is_not_ready_and_answers(start_server: StartServer) -> None:
    server = start_server(SLIPWAY_LINGER_SECONDS="3", SLIPWAY_DRAIN_SECONDS="20")
    with httpx.Client(base_url=server.url, trust_env=False) as kept:
        assert "connection" not in kept.get("/health").headers
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        for path in ("/health", "/v2/health/ready", f"/v2/models/{MODEL}/ready"):
            reply = kept.get(path)
            assert reply.status_code == 503 and "about to end" in json.dumps(reply.json())
            assert reply.headers["connection"] == "close"
        for path in (f"/v1/models/{MODEL}:predict", "/generate"):
            body = {"prompt": "Why?", "max_tokens": 2} if path == "/generate" else {"instances": ["Why?"]}
            assert httpx.post(server.url + path, json=body).status_code == 200
    assert server.process.wait(15) == 0


def test_an_unused_connection_does_not_hold_up_the_end(start_server: StartServer) -> None:
    """Also what `slipway down` waits for: without lingering a server that has nothing to do ends at once."""
    server = start_server()
    with httpx.Client(base_url=server.url, trust_env=False) as kept:
        kept.get("/health")
        begin = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begin < 20  # not the default drain of 30 s


def test_what_has_arrived_when_a_server_closes_is_answered() -> None:
    """Connections that wait to be taken and requests that wait to be read, in the moment in which it closes."""

    async def hello(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("hello")(scope, receive, send)

    async def close_at_once() -> list[str]:
        config = uvicorn.Config(hello, port=free_port(), lifespan="off", log_config=None, access_log=False)
        server = DrainingServer(config, Settings(drain_seconds=5), Departure())
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        old, new, unused = ([HTTPConnection("127.0.0.1", config.port) for _ in range(20)] for _ in range(3))
        for connection in old + unused:
            connection.request("GET", "/")
            assert (await asyncio.to_thread(connection.getresponse)).read() == b"hello"
        for connection in old + new:
            connection.request("GET", "/")  # nothing of the server runs before the next await
        await server.shutdown()
        return [connection.getresponse().read().decode() for connection in old + new]

    assert asyncio.run(close_at_once()) == ["hello"] * 40


class Listener:
    """A listening socket whose `accept` does what it is told, one after the other."""

    def __init__(self, *answers: object):
        self.answers = list(answers)

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None: ...

    def setblocking(self, flag: bool) -> None: ...

    def accept(self) -> tuple[object, str]:
        answer = self.answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer, "somewhere"


@pytest.mark.parametrize("last", [BlockingIOError(), OSError(errno.EMFILE, "Too many open files")])
def test_what_cannot_be_taken_does_not_break_off_the_end(last: OSError) -> None:
    listener: Any = Listener("first", ConnectionAbortedError(), "second", last, "never")
    assert list(_waiting(listener)) == ["first", "second"]


def test_streams_may_finish_within_the_drain_and_no_longer(start_server: StartServer) -> None:
    server = start_server("endless", SLIPWAY_MAX_OUTPUT_TOKENS="16000", SLIPWAY_DRAIN_SECONDS="2")
    body = STREAM | {"max_tokens": 15_000}
    begin = 0.0
    with (
        pytest.raises(httpx.RemoteProtocolError),
        httpx.stream("POST", server.url + "/v1/chat/completions", json=body, timeout=30) as reply,
    ):
        for number, _ in enumerate(reply.iter_lines()):
            if number == 0:
                begin = time.monotonic()
                server.process.send_signal(signal.SIGTERM)
    assert 1.5 < time.monotonic() - begin < 15  # not the default drain of 30 s
    assert server.process.wait(10) == 0


def test_a_signal_while_loading_ends_it(releases: dict[str, Path], tmp_path: Path) -> None:
    """In a container nothing else would: the first process has no default action for signals."""
    log = tmp_path / "log"
    command = [sys.executable, "-m", "serving", "--release", str(releases["openvino"]), "--model", MODEL]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--port", str(free_port())], stderr=output)
    deadline = time.monotonic() + 30
    while b'"loading"' not in log.read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert b"listening" not in log.read_bytes()
