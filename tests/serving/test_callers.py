"""Who may ask a server on a loopback address."""

from __future__ import annotations

import pytest

from serving.callers import Callers
from serving.errors import RequestError
from serving.settings import read_settings


def allowed(headers: dict[str, str], **environment: str) -> bool:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    try:
        Callers(read_settings(environment)).check({"type": "http", "headers": raw})
    except RequestError as error:
        assert error.status_code == 403
        return False
    return True


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "localhost:1", "LocalHost", "[::1]:8000", "[::1]"])
def test_names_of_this_machine(host: str) -> None:
    assert allowed({"host": host})
    assert allowed({"host": host, "origin": f"http://{host}"}) and allowed({"host": host, "origin": f"https://{host}"})


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000", "evil@localhost", "[::1", "::1]x",
     "10.0.0.1", "0.0.0.0", "localhost:80:80", "127.0.0.1/x", "\xe9", "localhost evil"],
)  # fmt: skip
def test_other_names(host: str) -> None:
    assert not allowed({"host": host})
    assert not allowed({"host": host}, HOST="::1") and not allowed({"host": host}, HOST="localhost")
    # On an address of a network nobody can say which names are right.
    assert allowed({"host": host, "origin": "http://evil.example"}, HOST="0.0.0.0")


def test_a_request_without_host() -> None:
    assert not allowed({})


@pytest.mark.parametrize("origin", ["null", "", "http://evil.example", "http://localhost:9", "ftp://localhost:8000"])
def test_other_origins(origin: str) -> None:
    assert not allowed({"host": "localhost:8000", "origin": origin})


def test_further_hosts_are_a_setting() -> None:
    further = {"SLIPWAY_ALLOWED_HOSTS": "chat.example,[fd00::5]"}
    assert allowed({"host": "chat.example", "origin": "https://chat.example"}, **further)
    assert allowed({"host": "[fd00::5]:80"}, **further)
    assert not allowed({"host": "chat.example", "origin": "https://evil.example"}, **further)
    assert not allowed({"host": "evil.example"}, **further)
