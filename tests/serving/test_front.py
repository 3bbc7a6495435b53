"""The weighted front before hand-written backends, and before real ones."""

from __future__ import annotations

import asyncio
import errno
import http.client
import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route
from starlette.types import Message

from serving.front import Backend, Balancer, Front, Routes, RoutesFile
from serving.settings import Settings
from tests.ports import free_port
from tests.serving.conftest import Running, start


class FakeBackend:
    """Says its name, streams slowly, echoes, and counts the streams that were broken off."""

    def __init__(self, name: str):
        self.name = name
        self.broken = 0
        app = Starlette(
            routes=[
                Route("/name", self._name, methods=["GET", "POST"]),
                Route("/slow", self._slow),
                Route("/endless", self._endless),
                Route("/echo/{rest:path}", self._echo, methods=["GET", "POST", "HEAD"]),
            ]
        )
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        self._thread = threading.Thread(target=self._server.run, args=([listener],))
        self._thread.start()
        wait_for(lambda: self._server.started)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def route(self, weight: int) -> dict[str, object]:
        return {"url": self.url, "weight": weight, "release": f"sha256:{self.name}"}

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    async def _name(self, request: Request) -> JSONResponse:
        return JSONResponse({"name": self.name}, headers={"X-Slipway-Release": f"sha256:{self.name}"})

    async def _slow(self, request: Request) -> StreamingResponse:
        return StreamingResponse(self._parts(20), media_type="text/event-stream")

    async def _endless(self, request: Request) -> StreamingResponse:
        return StreamingResponse(self._parts(10**9), media_type="text/event-stream")

    async def _parts(self, count: int) -> AsyncIterator[str]:
        try:
            for index in range(count):
                yield f"{self.name}{index} "
                await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            self.broken += 1
            raise

    async def _echo(self, request: Request) -> JSONResponse:
        body = (await request.body()).decode()
        path = request.scope["raw_path"].decode()
        return JSONResponse(
            {
                "path": path,
                "query": request.url.query,
                "target": f"{path}?{request.scope['query_string'].decode()}",
                "body": body,
                "headers": dict(request.headers),
            },
            status_code=int(request.query_params.get("status", 200)),
        )


MakeBackend = Callable[[str], FakeBackend]


@pytest.fixture
def make_backend() -> Iterator[MakeBackend]:
    made: list[FakeBackend] = []

    def make(name: str) -> FakeBackend:
        made.append(FakeBackend(name))
        return made[-1]

    yield make
    for backend in made:
        backend.stop()


@pytest.fixture(scope="module")
def routes_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("front") / "routes.json"


@pytest.fixture(scope="module")
def front(routes_file: Path) -> Iterator[Running]:
    running = start(
        ["serving.front", "--routes", str(routes_file)],
        routes_file.with_suffix(".log"),
        "/front/health",
        SLIPWAY_MAX_BODY_BYTES="4096",
    )
    yield running
    assert running.stop() == 0


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def write_routes(path: Path, *backends: dict[str, object]) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps({"service": "energy-chat", "backends": backends}))
    beside.rename(path)


def set_routes(front: Running, path: Path, *backends: dict[str, object]) -> float:
    """Replace the routes and wait until they are in force; the seconds that took."""
    write_routes(path, *backends)
    start_time = time.monotonic()
    while httpx.get(front.url + "/front/health").json()["routes"]["backends"] != list(backends):
        assert time.monotonic() - start_time < 5
    return time.monotonic() - start_time


def test_balancer_shares_are_exact_over_a_turn() -> None:
    balancer = Balancer()
    backends = [Backend(url=f"http://{name}", weight=weight, release=name) for name, weight in [("a", 90), ("b", 10)]]
    balancer.replace(Routes(service="s", backends=[*backends, Backend(url="http://c", weight=0, release="c")]))
    chosen = [backend.release for _ in range(200) if (backend := balancer.choose())]
    assert Counter(chosen) == {"a": 180, "b": 20}
    assert chosen[:10].count("b") == 1  # spread over the turn, not at its end
    assert balancer.choose(without=backends) is None


def test_no_backend_is_503_in_words(front: Running, routes_file: Path) -> None:
    set_routes(front, routes_file)
    reply = httpx.post(front.url + "/v1/chat/completions", json={})
    assert reply.status_code == 503
    assert reply.headers["retry-after"] == "1"
    assert reply.json()["error"]["type"] == "server_error"
    assert "no release is served" in reply.json()["error"]["message"]


def test_requests_pass_unchanged(front: Running, routes_file: Path, make_backend: MakeBackend) -> None:
    set_routes(front, routes_file, make_backend("a").route(1))
    reply = httpx.post(
        front.url + "/echo/a%2Fb?x=1&status=418",
        content="text",
        headers={"Connection": "X-Secret", "X-Secret": "1", "X-Kept": "2", "X-Request-Id": "mine"},
    )
    assert reply.status_code == 418
    seen = reply.json()
    assert (seen["path"], seen["query"], seen["body"]) == ("/echo/a%2Fb", "x=1&status=418", "text")
    assert seen["headers"]["x-kept"] == "2"
    assert seen["headers"]["x-request-id"] == "mine"
    assert "x-secret" not in seen["headers"]
    assert httpx.head(front.url + "/echo/x").headers["content-type"] == "application/json"


def test_headers_and_path_pass_byte_by_byte(front: Running, routes_file: Path, make_backend: MakeBackend) -> None:
    set_routes(front, routes_file, make_backend("a").route(1))
    connection = http.client.HTTPConnection(front.url.removeprefix("http://"), timeout=10)
    target = '/echo/a/../b//./%7E%2f%c3%A9|^`{}?x=a|b&y=%zz&z="<>'
    connection.putrequest("GET", target)
    connection.putheader("X-Latin", b"\xe9")
    connection.putheader("X-Name", "Zoë 電気".encode())
    connection.putheader("X-Request-Id", "é".encode())
    connection.endheaders()
    reply = connection.getresponse()
    assert reply.status == 200
    seen = json.loads(reply.read())
    connection.close()
    assert seen["target"] == target
    assert seen["headers"]["x-latin"] == "é"
    assert seen["headers"]["x-name"].encode("latin-1").decode() == "Zoë 電気"
    assert re.fullmatch("[0-9a-f]{16}", seen["headers"]["x-request-id"])
    assert front.log.read_bytes().isascii()


def test_a_request_to_upgrade_is_an_ordinary_one(front: Running, routes_file: Path, make_backend: MakeBackend) -> None:
    set_routes(front, routes_file, make_backend("a").route(1))
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    headers["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
    assert httpx.get(front.url + "/name", headers=headers).json() == {"name": "a"}


def test_all_paths_but_health_go_to_a_backend(front: Running, routes_file: Path, make_backend: MakeBackend) -> None:
    set_routes(front, routes_file, make_backend("a").route(1))
    assert httpx.get(front.url + "/front/other").text == "Not Found"  # the backend's words
    assert httpx.post(front.url + "/front/health").status_code == 405
    refused = httpx.get(front.url + "/front/health", headers={"Host": "evil.example"})
    assert refused.status_code == 403 and "localhost" in refused.json()["error"]["message"]


def test_what_the_front_refuses_has_the_routes_shape_and_names_the_release(
    front: Running, routes_file: Path, make_backend: MakeBackend
) -> None:
    a, b = make_backend("a").route(1), make_backend("b").route(1)
    dead = {"url": f"http://127.0.0.1:{free_port()}", "weight": 1, "release": "sha256:dead"}
    long = b"x" * 5000

    def refused(status: int, content: bytes = b"") -> tuple[str | None, str]:
        """Release and words; the same on routes of both kinds."""
        kserve = httpx.post(front.url + "/v2/models/m/infer", content=content)
        openai = httpx.post(front.url + "/v1/chat/completions", content=content)
        assert kserve.status_code == openai.status_code == status
        assert kserve.json() == {"error": openai.json()["error"]["message"]}
        assert kserve.headers.get("x-slipway-release") == openai.headers.get("x-slipway-release")
        assert kserve.headers["x-request-id"] and ("retry-after" in kserve.headers) == (status == 503)
        return kserve.headers.get("x-slipway-release"), kserve.json()["error"]

    set_routes(front, routes_file)
    assert refused(503) == (None, "no release is served at the moment; try again in a moment")
    set_routes(front, routes_file, a, b | {"weight": 0})
    assert refused(413, long) == ("sha256:a", "the body is longer than 4096 bytes; shorten the conversation")
    set_routes(front, routes_file, a, b)
    assert refused(413, long)[0] is None
    set_routes(front, routes_file, dead)
    assert refused(503) == ("sha256:dead", "no backend answers; try again in a moment")


def test_a_client_that_leaves_while_it_sends_is_no_fault(front: Running) -> None:
    host, _, port = front.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"POST /name HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf")
        time.sleep(0.1)
    deadline = time.monotonic() + 5
    while '"status": 499' not in front.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert "Traceback" not in front.log.read_text()


def test_weights_are_honoured(front: Running, routes_file: Path, make_backend: MakeBackend) -> None:
    set_routes(front, routes_file, make_backend("a").route(3), make_backend("b").route(1))
    with httpx.Client() as client:
        names = Counter(client.get(front.url + "/name").json()["name"] for _ in range(40))
    assert names == {"a": 30, "b": 10}


def test_a_refused_connection_goes_to_another_backend(
    front: Running, routes_file: Path, make_backend: MakeBackend
) -> None:
    dead = {"url": f"http://127.0.0.1:{free_port()}", "weight": 50, "release": "sha256:dead"}
    set_routes(front, routes_file, dead, make_backend("a").route(50))
    assert {httpx.post(front.url + "/name").json()["name"] for _ in range(6)} == {"a"}
    set_routes(front, routes_file, dead)
    reply = httpx.get(front.url + "/name")
    assert reply.status_code == 503 and "no backend answers" in reply.json()["error"]["message"]


def test_a_killed_backend_with_open_connections_loses_nothing(
    front: Running, routes_file: Path, make_backend: MakeBackend
) -> None:
    """A pooled connection that its backend has closed is not an error for the client."""
    first, second = make_backend("a"), make_backend("b")
    set_routes(front, routes_file, first.route(1))
    assert httpx.get(front.url + "/name").json() == {"name": "a"}
    set_routes(front, routes_file, first.route(1), second.route(1))
    first.stop()
    assert {httpx.get(front.url + "/name").json()["name"] for _ in range(4)} == {"b"}


def test_a_long_body_is_refused(front: Running, routes_file: Path, make_backend: MakeBackend) -> None:
    set_routes(front, routes_file, make_backend("a").route(1))
    assert httpx.post(front.url + "/name", content=b"x" * 5000).status_code == 413
    assert httpx.post(front.url + "/name", content=b"x" * 4000).status_code == 200


def test_a_client_that_leaves_closes_the_upstream(front: Running, routes_file: Path, make_backend: MakeBackend) -> None:
    backend = make_backend("a")
    set_routes(front, routes_file, backend.route(1))
    with httpx.stream("GET", front.url + "/endless") as reply:
        next(reply.iter_text())
    wait_for(lambda: backend.broken == 1)
    assert httpx.get(front.url + "/front/health").json()["in_flight"] == {backend.url: 0}


def test_a_client_that_stops_reading_closes_the_upstream(make_backend: MakeBackend) -> None:
    """An old backend would otherwise never have none, and a rollout wait for it."""
    backend = make_backend("a")
    balancer = Balancer()
    balancer.replace(Routes(service="s", backends=[Backend.model_validate(backend.route(1))]))
    front = Front(balancer, Settings(stall_seconds=1))
    messages: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]
    sent: list[Message] = []

    async def receive() -> Message:
        if not messages:
            await asyncio.sleep(60)
        return messages.pop()

    async def send(message: Message) -> None:
        sent.append(message)
        await asyncio.sleep(60 if len(sent) > 2 else 0)

    async def ask() -> None:
        scope = {"type": "http", "method": "GET", "path": "/endless", "raw_path": b"/endless", "query_string": b""}
        scope |= {"headers": [(b"host", b"localhost")], "scheme": "http", "client": ("127.0.0.1", 1)}
        await asyncio.wait_for(front(scope, receive, send), 30)
        await front.close()

    asyncio.run(ask())
    assert front.in_flight == {backend.url: 0}
    wait_for(lambda: backend.broken == 1)


def test_a_bad_routes_file_changes_nothing(front: Running, routes_file: Path, make_backend: MakeBackend) -> None:
    set_routes(front, routes_file, make_backend("a").route(1))
    one = '{"service": "s", "backends": [{"url": "%s", "weight": 1, "release": "r"}]}'
    for text in ("{", one % "ftp://x", one % "http://a:b"):
        routes_file.write_text(text)
        time.sleep(0.15)
        assert httpx.get(front.url + "/name").json() == {"name": "a"}
    assert "routes in force stay" in front.log.read_text()


def test_a_routes_file_that_could_not_be_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As while all file descriptors are in use."""
    balancer = Balancer()
    file = RoutesFile(tmp_path / "routes.json", balancer)
    backend = {"url": "http://127.0.0.1:1", "weight": 1, "release": "sha256:a"}
    write_routes(tmp_path / "routes.json", backend)

    def refuses(_: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuses)
        file.look()
        file.look()
    assert balancer.routes.backends == []
    assert len(caplog.records) == 1  # told once, not at every look
    file.look()
    assert [found.model_dump() for found in balancer.routes.backends] == [backend]


async def _load(url: str, stop: asyncio.Event, seen: Counter[str]) -> None:
    """Requests and streams without pause; counts what they got."""
    async with httpx.AsyncClient(timeout=30) as client:
        while not stop.is_set():
            reply = await client.post(url + "/name", json={"question": "?"})
            seen[f"{reply.status_code} {reply.json().get('name')}"] += 1
            text = (await client.get(url + "/slow")).text
            seen["stream " + text[0] if text.split() == [f"{text[0]}{i}" for i in range(20)] else "cut"] += 1


async def _switch_under_load(
    front: Running, routes_file: Path, first: FakeBackend, second: FakeBackend
) -> tuple[Counter[str], float]:
    """What 16 clients got while the first backend was replaced and stopped, and how long the replacing took."""
    stop, seen = asyncio.Event(), Counter[str]()
    clients = [asyncio.create_task(_load(front.url, stop, seen)) for _ in range(16)]

    async def until(condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0.02)

    def in_flight() -> int:
        return httpx.get(front.url + "/front/health").json()["in_flight"].get(first.url, 0)

    await until(lambda: seen["stream a"] > 0 and in_flight() > 8)
    took = await asyncio.to_thread(set_routes, front, routes_file, second.route(1))
    # What the first backend has begun it finishes; when it has nothing left it may go.
    await until(lambda: in_flight() == 0)
    await asyncio.to_thread(first.stop)
    await until(lambda: seen["stream b"] > 16)
    stop.set()
    await asyncio.gather(*clients)
    return seen, took


def test_a_switch_under_load_loses_no_request(front: Running, routes_file: Path, make_backend: MakeBackend) -> None:
    first, second = make_backend("a"), make_backend("b")
    set_routes(front, routes_file, first.route(1))
    seen, took = asyncio.run(_switch_under_load(front, routes_file, first, second))
    assert set(seen) == {"200 a", "200 b", "stream a", "stream b"}, seen
    assert took < 10


def test_an_address_that_cannot_be_used_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"cannot listen on nowhere\.invalid:.* or another address"):
        start(
            ["serving.front", "--routes", str(tmp_path / "r")],
            tmp_path / "log",
            "/front/health",
            HOST="nowhere.invalid",
        )
    with pytest.raises(AssertionError, match=r"cannot listen on 203\.0\.113\.1:.* choose another port"):
        start(["serving.front", "--routes", str(tmp_path / "r")], tmp_path / "log", "/front/health", HOST="203.0.113.1")
