"""What every request passes: an id, a look at who asks, a bounded body, closed routes, a log line and metrics."""

from __future__ import annotations

import logging
import re
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import logs, metrics
from serving.callers import Callers
from serving.drain import Departure
from serving.errors import RequestError, asks_for_an_answer, asks_kserve, error_body
from serving.settings import Settings
from serving.streams import STREAM_FAILED, ClientLeft, unless_stalled, while_connected

_LOG = logging.getLogger("serving.access")
_CLOSED = [
    (re.compile(r"^/v2/repository(/|$)"), 403, "models are loaded and unloaded by a rollout, not over HTTP"),
    (re.compile(r"^/v2/models/[^/]+/versions(/|$)"), 404, "model versions are not served; leave /versions/… out"),
]
_READINESS = re.compile(r"^/health$|^/v2/health/ready$|^/v2/models/[^/]+/ready$")
_CLIENT_LEFT = 499
"""nginx's number for a client that closed the connection; nobody receives it, logs and metrics show it."""


class Frame:
    """ASGI middleware around all routes, KServe's included."""

    def __init__(self, app: ASGIApp, *, release: str, settings: Settings, departure: Departure):
        self._app = app
        self._departure = departure
        self._release = release
        self._callers = Callers(settings)
        self._max_body_bytes, self._stall_seconds = settings.max_body_bytes, settings.stall_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send = unless_stalled(send, self._stall_seconds)
        exchange = _Exchange(scope, send, self._release, self._departure)
        token = logs.request_id.set(exchange.request_id)
        try:
            await self._answer(exchange, scope, receive)
        except BaseException:
            # The reply breaks off: by a fault, or because the time after SIGTERM is over.
            exchange.failed = True
            raise
        finally:
            exchange.log()
            logs.request_id.reset(token)

    async def _answer(self, exchange: _Exchange, scope: Scope, receive: Receive) -> None:
        try:
            self._callers.check(scope)
            _refuse_closed(scope)
            if self._departure.begun and _READINESS.search(scope["path"]):
                raise RequestError(503, "the server is about to end; it answers what still arrives")
            receive = _bounded(scope, receive, self._max_body_bytes)
            if scope["method"] == "POST" and asks_kserve(scope["path"]):
                await self._infer(scope, receive, exchange.send)
            else:
                await self._app(scope, receive, exchange.send)
        except RequestError as error:
            await exchange.refuse(error)
        except (ClientLeft, ClientDisconnect):
            exchange.status = exchange.status or _CLIENT_LEFT
        # The client gets no details; the log has them, with the same request id.
        except Exception:
            _LOG.exception("unexpected fault")
            message = f"unexpected fault; the log of request {exchange.request_id} has it"
            await exchange.refuse(RequestError(500, message))

    async def _infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One of KServe's routes, which would not notice that the client has left.

        Raises ClientLeft then, and RequestError 415 for a body that is not said to be JSON.
        """
        _as_json(scope)
        request = Request(scope, receive)
        body = await request.body()
        await while_connected(request, self._app(scope, _once(body, receive), send))


class _Exchange:
    """One request and its reply."""

    def __init__(self, scope: Scope, send: Send, release: str, departure: Departure):
        self.request_id = logs.choose_request_id(Headers(scope=scope).get("x-request-id", ""))
        self.status: int | None = None
        self.failed = False
        self._whole = False
        self._scope, self._send, self._release, self._departure = scope, send, release, departure
        self._start = time.monotonic()

    async def send(self, message: Message) -> None:
        """Send a part of the reply, with our headers in its head."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Slipway-Release"] = self._release
            headers["X-Request-Id"] = self.request_id
            if self._departure.begun:
                # Whoever keeps connections opens the next one elsewhere.
                headers["Connection"] = "close"
        elif message["type"] == "http.response.body":
            self._whole = not message.get("more_body", False)
        await self._send(message)

    async def refuse(self, error: RequestError) -> None:
        """Reply with an error; a reply that has begun can only be broken off."""
        if self.status is not None:
            raise error
        body = error_body(self._scope["path"], error.status_code, error.detail, error.param, error.code)
        response = JSONResponse(body, error.status_code, error.headers)
        await response(self._scope, _nothing_more, self.send)

    def log(self) -> None:
        """One line and the metrics. The query string is left out: it is the client's."""
        seconds = time.monotonic() - self._start
        route = getattr(self._scope.get("route"), "path", "unmatched")
        status, method = self.status or _CLIENT_LEFT, self._scope["method"]
        known = method if method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS") else "other"
        metrics.REQUESTS.labels(route=route, method=known, status=str(status)).inc()
        metrics.REQUEST_SECONDS.labels(route=route).observe(seconds)
        if asks_for_an_answer(method, self._scope["path"]):
            metrics.GENERATIONS.labels(outcome=self._outcome(status)).inc()
        fields: dict[str, Any] = {"method": method, "route": route, "status": status, "seconds": round(seconds, 4)}
        _LOG.info("request", extra=fields)

    def _outcome(self, status: int) -> str:
        """One of metrics.OUTCOMES."""
        if self.failed or status >= 500 or self._scope.get("state", {}).get(STREAM_FAILED):
            return "failed"
        if status == _CLIENT_LEFT or not self._whole:
            return "left"
        return "refused" if status >= 400 else "answered"


async def _nothing_more() -> Message:
    return {"type": "http.disconnect"}


def _refuse_closed(scope: Scope) -> None:
    for path, status, message in _CLOSED:
        if path.search(scope["path"]):
            raise RequestError(status, message)
    if "inference-header-content-length" in Headers(scope=scope):
        raise RequestError(400, "binary tensors are not read; send the request as JSON")


def _as_json(scope: Scope) -> None:
    """Makes a request's header a plain `Content-Type: application/json`; KServe does not know its parameters.

    Raises RequestError 415 for other types: KServe would read JSON from some of them, and those a browser sends
    across origins without asking.
    """
    given = Headers(scope=scope).get("content-type", "")
    if given.partition(";")[0].strip().lower() != "application/json":
        raise RequestError(415, "send the body as JSON, with the header Content-Type: application/json")
    kept = [(name, value) for name, value in scope["headers"] if name.lower() != b"content-type"]
    scope["headers"] = [*kept, (b"content-type", b"application/json")]


def _once(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that has been read once more, and then what follows it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Message:
        return messages.pop() if messages else await receive()

    return received


def _bounded(scope: Scope, receive: Receive, limit: int) -> Receive:
    """A `receive` that raises RequestError 413 when the body is longer than `limit` bytes."""
    refusal = RequestError(413, f"the body is longer than {limit} bytes; shorten the conversation")
    declared = Headers(scope=scope).get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise refusal
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise refusal
        return message

    return bounded
