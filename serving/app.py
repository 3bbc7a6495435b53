"""Puts the parts together: KServe's application with our routes, middleware and error shapes.

Importing this module imports kserve, which parses sys.argv: serving/__main__.py does it last.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from kserve import ModelServer, model_server
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serving.drain import Departure, DrainingServer
from serving.errors import RequestError, describe_validation, error_body
from serving.generation import Generator
from serving.middleware import Frame
from serving.model import ReleaseModel
from serving.openai import openai_router
from serving.routes import own_router
from serving.settings import Settings

_KEEP_ALIVE_SECONDS = 620
"""Longer than gateways keep an idle connection (Google's load balancers 600 s, Traefik 90 s): one that the server
closes first may be closed while a request is on its way."""


class ReleaseServer(ModelServer):
    """KServe's server for one release: HTTP only, one process, on the address that the settings name."""

    def __init__(self, generator: Generator, settings: Settings):
        super().__init__(
            http_port=settings.port,
            workers=1,
            enable_grpc=False,
            grace_period=settings.drain_seconds,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            enable_latency_logging=False,
        )
        self._settings, self._departure = settings, Departure()
        self._generator = generator
        # KServe looks its application up by this name when it starts. Its own was made with a description of the
        # routes, which cannot be taken back once it is constructed.
        model_server.app = FastAPI(openapi_url=None, default_response_class=model_server.ORJSONResponse)
        add_routes(model_server.app, generator, settings, self._departure)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; running answers may finish."""
        self.start([ReleaseModel(self._generator)])

    async def _serve(self) -> None:
        # KServe always binds 0.0.0.0; its uvicorn configuration is complete here, and nothing listens yet.
        assert self._rest_server is not None
        self._rest_server.config.host = self._settings.host
        # KServe's own server stops listening at once, and closes idle connections whatever has arrived on them.
        server = DrainingServer(self._rest_server.config, self._settings, self._departure)
        self._rest_server._server = server  # pyright: ignore[reportAttributeAccessIssue]
        await super()._serve()


def add_routes(app: FastAPI, generator: Generator, settings: Settings, departure: Departure) -> None:
    """Our routes come before KServe's, which are added when its server starts."""
    app.add_middleware(Frame, release=generator.release.digest, settings=settings, departure=departure)
    app.include_router(own_router(generator))
    app.include_router(openai_router(generator))
    app.add_api_route("/v2", _metadata, methods=["GET"])
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)


async def _metadata() -> dict[str, Any]:
    """V2's description of the server. KServe's own names the extension that loads models, which is closed here."""
    return {"name": "kserve", "version": version("kserve"), "extensions": []}


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    param, code = (error.param, error.code) if isinstance(error, RequestError) else (None, None)
    body = error_body(request.scope["path"], error.status_code, str(error.detail), param, code)
    return JSONResponse(body, error.status_code, error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    details: list[Any] = list(error.errors())
    message, param = describe_validation(details)
    return JSONResponse(error_body(request.scope["path"], 400, message, param), 400)
