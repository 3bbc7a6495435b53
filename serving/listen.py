"""Whether an address can be listened on."""

from __future__ import annotations

import socket

from serving.settings import Settings


def place(settings: Settings) -> str:
    """HOST:PORT as it stands in a URL."""
    return f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"


def check_port(settings: Settings) -> None:
    """Raises OSError in words when the address cannot be listened on, before a model is loaded."""
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, _, _, address in found:
            _bind(family, kind, address)
    # A name that is none is a UnicodeError in Python's own encoding of it.
    except (OSError, UnicodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise OSError(
            f"cannot listen on {place(settings)} ({reason}); choose another port with --port or PORT, "
            "or another address with --host or HOST"
        ) from error


def _bind(family: int, kind: int, address: object) -> None:
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # As asyncio does it: :: is not 0.0.0.0 too.
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.bind(address)  # pyright: ignore[reportArgumentType]
