"""Whether an address can be listened on."""

from __future__ import annotations

import socket

from serving.settings import Settings


def check_port(settings: Settings) -> None:
    """Raises OSError in words when the address cannot be listened on, before a model is loaded."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            place = f"{settings.host}:{settings.port}"
            reason = error.strerror
            raise OSError(f"cannot listen on {place} ({reason}); choose another port with --port or PORT") from error
