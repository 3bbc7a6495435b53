"""Whether an address can be listened on."""

from __future__ import annotations

import socket

import pytest

from serving.listen import check_port
from serving.settings import Settings
from tests.ports import free_port


def need_ipv6() -> None:
    """A kernel may have it and the machine no address."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"needs IPv6: {error}")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::", "::1"])
def test_an_address_of_this_machine(host: str) -> None:
    if ":" in host:
        need_ipv6()
    check_port(Settings(host=host, port=free_port()))


@pytest.mark.parametrize(
    ("family", "host", "place"), [(socket.AF_INET, "127.0.0.1", "127.0.0.1"), (socket.AF_INET6, "::1", r"\[::1\]")]
)
def test_an_address_in_use(family: socket.AddressFamily, host: str, place: str) -> None:
    if family == socket.AF_INET6:
        need_ipv6()
    with socket.socket(family) as taken:
        taken.bind((host, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"cannot listen on {place}:{port} \(.+\); choose another port"):
            check_port(Settings(host=host, port=port))


@pytest.mark.parametrize("host", ["nowhere.invalid", "a..b", "x" * 70])
def test_a_name_that_is_none(host: str) -> None:
    with pytest.raises(OSError, match="cannot listen on"):
        check_port(Settings(host=host, port=free_port()))
