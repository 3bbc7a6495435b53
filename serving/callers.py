"""Who may ask a server on a loopback address: programs of this machine, and pages that the server itself gave out.

A web page of somebody else's reaches loopback addresses too: under its own name, which it points at 127.0.0.1 (DNS
rebinding; Host tells it), or by a request across origins that a browser sends without asking (Origin tells it).
A server on any other address is asked under names that it cannot know; whoever opens it to a network guards it.
"""

from __future__ import annotations

import ipaddress
import re

from starlette.datastructures import Headers
from starlette.types import Scope

from serving.errors import RequestError
from serving.settings import Settings

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(:[0-9]*)?")


class Callers:
    """Refuses requests that a page of another origin sent."""

    def __init__(self, settings: Settings):
        self._checks = _loopback(settings.host)
        self._further = {name.strip("[]").lower() for name in settings.allowed_hosts.split(",") if name}

    def check(self, scope: Scope) -> None:
        """Raises RequestError 403."""
        if not self._checks:
            return
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        if not self._is_ours(host):
            raise RequestError(
                403,
                "the request's Host is not a name of this server, which serves this machine only: ask 127.0.0.1 or "
                "localhost, or name the host in SLIPWAY_ALLOWED_HOSTS",
            )
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):
            raise RequestError(403, "the request comes from a page of another origin; only this server's pages may ask")

    def _is_ours(self, host: str) -> bool:
        parts = _HOST.fullmatch(host)
        name = parts[1].strip("[]") if parts else ""
        return _loopback(name) or name in self._further


def _loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
