"""The weighted front: it owns the public port and passes each request to one of the backends in a routes file.

    python -m serving.front --routes FILE --port P [--host HOST]

FILE is JSON, replaced by rename; the front looks 20 times a second and then sends new requests by the new
weights, while answers that have begun stay with the backend that began them. GET /front/health tells the routes
in force and how many requests each backend still has, those of removed backends too: a rollout may stop an old
backend once it has none.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from serving.callers import Callers
from serving.environment import SettingsError
from serving.errors import RequestError, error_body
from serving.listen import check_port
from serving.logs import choose_request_id, configure_logs
from serving.settings import Settings, read_settings
from serving.streams import ClientLeft, unless_stalled, while_connected

_LOG = logging.getLogger("serving.front")
_POLL_SECONDS = 0.05
_CONNECT_SECONDS = 5.0
# Shorter than the time after which a backend closes idle connections, so that none is used while it closes.
_KEEP_ALIVE_SECONDS = 30.0
_HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
# What the front says itself of the request. Origin it has judged: a backend is asked under another Host.
_REPLACED = {"host", "content-length", "expect", "origin", "x-request-id", "x-forwarded-for", "x-forwarded-proto"}


class Backend(BaseModel):
    """One server, and its share of new requests."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(pattern=r"^http://[^/]+$")
    weight: int = Field(ge=0)
    release: str

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        try:
            httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ValueError(f"is not an address: {error}") from error
        return url


class Routes(BaseModel):
    """The content of a routes file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    service: str
    backends: list[Backend]


class Balancer:
    """Chooses backends by smooth weighted round robin (nginx's): shares are exact over every full turn."""

    def __init__(self) -> None:
        self._routes = Routes(service="", backends=[])
        self._credit: Counter[str] = Counter()

    @property
    def routes(self) -> Routes:
        return self._routes

    def only_release(self) -> str | None:
        """The release that the next request gets when there is no choice; None when there is one."""
        releases = {backend.release for backend in self._routes.backends if backend.weight}
        return releases.pop() if len(releases) == 1 else None

    def replace(self, routes: Routes) -> None:
        self._routes = routes
        self._credit.clear()

    def choose(self, without: Sequence[Backend] = ()) -> Backend | None:
        """The next backend that has weight and is not in `without`; None when there is none."""
        refused = {backend.url for backend in without}
        open_ = [backend for backend in self._routes.backends if backend.weight and backend.url not in refused]
        if not open_:
            return None
        for backend in open_:
            self._credit[backend.url] += backend.weight
        chosen = max(open_, key=lambda backend: self._credit[backend.url])
        self._credit[chosen.url] -= sum(backend.weight for backend in open_)
        return chosen


class RoutesFile:
    """Reads the routes again whenever the file has been replaced."""

    def __init__(self, path: Path, balancer: Balancer):
        self._path, self._balancer = path, balancer
        self._seen: tuple[int, int, int] | None = None
        self._told = ""

    async def follow(self) -> None:
        """Runs until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(_POLL_SECONDS)

    def look(self) -> None:
        """Take the file's routes if it is another file than last time; a bad or missing one changes nothing."""
        try:
            status = self._path.stat()
            identity = (status.st_ino, status.st_mtime_ns, status.st_size)
            if identity == self._seen:
                return
            content = self._path.read_bytes()
            self._seen = identity
            routes = Routes.model_validate_json(content)
        except FileNotFoundError:
            return
        except (ValidationError, OSError) as error:
            if str(error) != self._told:  # one that cannot be opened is tried again at every look
                _LOG.error("the routes file cannot be read, the routes in force stay: %s", error)
            self._told = str(error)
            return
        self._told = ""
        self._balancer.replace(routes)
        _LOG.info("routes", extra={"backends": [backend.model_dump() for backend in routes.backends]})


@dataclass
class Exchange:
    """One request on its way through, and what the log will say of it."""

    scope: Scope
    request_id: str
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    start: float = field(default_factory=time.monotonic)
    status: int | None = None
    backend: Backend | None = None
    attempts: int = 0


class BackendLost(Exception):
    """A backend failed before the first byte of its reply."""


class Front:
    """The proxy as an ASGI application (all paths but /front/health)."""

    def __init__(self, balancer: Balancer, settings: Settings):
        self._balancer, self._settings = balancer, settings
        self._callers = Callers(settings)
        self._transport = httpx.AsyncHTTPTransport(
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=100, keepalive_expiry=_KEEP_ALIVE_SECONDS
            )
        )
        self.in_flight: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        send = unless_stalled(send, self._settings.stall_seconds)
        request_id = choose_request_id(request.headers.get("x-request-id", ""))
        exchange = Exchange(scope, request_id, _request_headers(request, request_id))
        try:
            self._callers.check(scope)
            exchange.body = await self._read(request)
            await while_connected(request, self._forward(exchange, send))
        except (ClientLeft, ClientDisconnect):
            exchange.status = exchange.status or 499
        except RequestError as error:
            await self._refuse(exchange, send, error)
        finally:
            _log(exchange)

    async def close(self) -> None:
        await self._transport.aclose()

    async def _read(self, request: Request) -> bytes:
        """The whole body: a request can then be sent a second time, and a slow client holds no backend.

        Raises RequestError 413.
        """
        limit = self._settings.max_body_bytes
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise RequestError(413, f"the body is longer than {limit} bytes; shorten the conversation")
        return bytes(body)

    async def _forward(self, exchange: Exchange, send: Send) -> None:
        """Try a backend, and once more another one if the first is lost before it has replied.

        Raises RequestError 503 when there is none, 400 for a request that cannot be passed on.
        """
        tried: list[Backend] = []
        for _ in range(2):
            backend = self._balancer.choose(without=tried)
            if backend is None:
                break
            tried.append(backend)
            exchange.backend, exchange.attempts = backend, len(tried)
            try:
                await self._pass(exchange, backend, send)
                return
            except BackendLost as error:
                _LOG.warning("backend lost", extra={"backend": backend.url, "why": str(error)})
        message = "no backend answers" if tried else "no release is served at the moment"
        raise RequestError(503, f"{message}; try again in a moment", headers={"Retry-After": "1"})

    async def _pass(self, exchange: Exchange, backend: Backend, send: Send) -> None:
        self.in_flight[backend.url] += 1
        try:
            response = await self._open(exchange, backend)
            try:
                exchange.status = response.status_code
                headers = _end_to_end(response.headers.raw)
                await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
                async for chunk in response.aiter_raw():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            finally:
                await response.aclose()
        finally:
            self.in_flight[backend.url] -= 1

    async def _open(self, exchange: Exchange, backend: Backend) -> httpx.Response:
        """Send the request and read the reply's head.

        Raises BackendLost, after which another backend may be asked, since answers have no side effects; RequestError
        400 for what HTTP cannot carry on.
        """
        query = exchange.scope["query_string"]
        request = httpx.Request(exchange.scope["method"], backend.url, headers=exchange.headers, content=exchange.body)
        request.extensions = {
            "timeout": {"connect": _CONNECT_SECONDS, "read": None, "write": None, "pool": None},
            # Path and query go on byte by byte; as a part of the URL, httpx would normalise them.
            "target": exchange.scope["raw_path"] + (b"?" + query if query else b""),
        }
        try:
            return await self._transport.handle_async_request(request)
        except httpx.LocalProtocolError as error:
            raise RequestError(400, f"the request cannot be passed on: {error}") from error
        except httpx.TransportError as error:
            raise BackendLost(f"{type(error).__name__}: {error}") from error

    async def _refuse(self, exchange: Exchange, send: Send, error: RequestError) -> None:
        """Reply in place of a backend, in the shape of its route, and name the release that the reply stands for."""
        exchange.status = error.status_code
        headers = {"X-Request-Id": exchange.request_id, **(error.headers or {})}
        release = exchange.backend.release if exchange.backend else self._balancer.only_release()
        if release is not None:
            headers["X-Slipway-Release"] = release
        body = error_body(exchange.scope["path"], error.status_code, error.detail)
        await JSONResponse(body, error.status_code, headers)(exchange.scope, _no_more, send)


async def _no_more() -> dict[str, Any]:
    return {"type": "http.disconnect"}


def _request_headers(request: Request, request_id: str) -> list[tuple[bytes, bytes]]:
    """The client's headers without those of its own connection, and where it came from.

    They stay bytes: HTTP does not say which encoding a header has.
    """
    kept = [
        (name, value)
        for name, value in _end_to_end(request.headers.raw)
        if name.decode("latin-1").lower() not in _REPLACED
    ]
    client = request.client.host if request.client else "unknown"
    own = {"X-Request-Id": request_id, "X-Forwarded-For": client, "X-Forwarded-Proto": request.scope["scheme"]}
    return kept + [(name.encode(), value.encode()) for name, value in own.items()]


def _end_to_end(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Without the headers that belong to one connection (RFC 9110, 7.6.1)."""
    named = {
        token.strip().lower()
        for name, value in headers
        if name.lower() == b"connection"
        for token in value.decode("latin-1").split(",")
    }
    return [(name, value) for name, value in headers if name.decode("latin-1").lower() not in _HOP_BY_HOP | named]


def _log(exchange: Exchange) -> None:
    fields: dict[str, Any] = {
        "request_id": exchange.request_id,
        "method": exchange.scope["method"],
        "path": exchange.scope["path"][:200],
        "status": exchange.status,
        "seconds": round(time.monotonic() - exchange.start, 4),
        "attempts": exchange.attempts,
    }
    if exchange.backend:
        fields |= {"backend": exchange.backend.url, "release": exchange.backend.release}
    _LOG.info("request", extra=fields)


def create_front(routes: Path, settings: Settings) -> Starlette:
    """The application: the front's own health, everything else to a backend."""
    balancer = Balancer()
    file = RoutesFile(routes, balancer)
    front = Front(balancer, settings)
    callers = Callers(settings)

    async def health(request: Request) -> JSONResponse:
        callers.check(request.scope)
        in_force = {backend.url for backend in balancer.routes.backends}
        return JSONResponse(
            {
                "status": "ok",
                "routes": balancer.routes.model_dump(),
                "in_flight": {url: count for url, count in front.in_flight.items() if count or url in in_force},
            }
        )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        file.look()
        following = asyncio.create_task(file.follow())
        yield
        following.cancel()
        await front.close()

    app = Starlette(
        routes=[Route("/front/health", health)],
        exception_handlers={HTTPException: _http_error},
        lifespan=lifespan,
    )
    app.router.default = front
    app.router.redirect_slashes = False
    return app


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    """What the front's own route refuses."""
    assert isinstance(error, HTTPException)
    body = error_body(request.scope["path"], error.status_code, error.detail)
    return JSONResponse(body, error.status_code, error.headers)


def main() -> int:
    """Exit codes: 0 stopped by a signal, 1 the port cannot be used, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m serving.front", description="Pass requests on by weight.")
    parser.add_argument("--routes", type=Path, required=True, help="JSON file with the backends")
    parser.add_argument("--port", type=int)
    parser.add_argument("--host")
    flags = parser.parse_args()
    try:
        settings = read_settings(os.environ, port=flags.port, host=flags.host)
        check_port(settings)
    except (SettingsError, OSError) as error:
        print(f"serving.front: {error}", file=sys.stderr)
        return 2 if isinstance(error, SettingsError) else 1
    configure_logs(settings.log_level)
    config = uvicorn.Config(
        create_front(flags.routes, settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        ws="none",
        timeout_graceful_shutdown=settings.drain_seconds,
    )
    # uvicorn raises the signal that stopped it once more when it is done; the default action would be a crash.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
