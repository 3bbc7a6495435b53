"""A port for a server of a test."""

from __future__ import annotations

import socket


def free_port() -> int:
    """One of the loopback's that nobody listens at; somebody may until it is used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
