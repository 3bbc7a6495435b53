"""images.lock, and what `make pin` asks a registry and believes of the answer."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from images import lock, registry
from images.errors import ImageError
from images.lock import Foreign
from tests.images.conftest import ROOT

INDEX = json.dumps(
    {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}
).encode()
DIGEST = "sha256:" + hashlib.sha256(INDEX).hexdigest()
ENTRY = "- name: base\n  image: docker.io/library/python:3.11\n  used_by: tests\n  digest: {}\n"


class Registry(BaseHTTPRequestHandler):
    """A registry that wants a token for `private/…`, and lies about `liar/…`."""

    def do_GET(self) -> None:
        host = self.headers["Host"]
        if self.path.startswith("/token?"):
            return self._answer(
                200, json.dumps({"token": "t" if "scope=repository%3Aprivate" in self.path else ""}).encode()
            )
        if self.path.startswith("/v2/private/") and self.headers["Authorization"] != "Bearer t":
            scope = "repository:private/python:pull"
            asks = f'Bearer realm="http://{host}/token",service="registry",scope="{scope}"'
            return self._answer(401, b"{}", {"WWW-Authenticate": asks})
        if not self.path.endswith("/manifests/3.11"):
            return self._answer(404, b"{}")
        if "vnd.oci.image.index" not in self.headers["Accept"]:
            return self._answer(200, b"{}")
        claimed = "sha256:" + "0" * 64 if "/liar/" in self.path else DIGEST
        kind = "text/html" if "/portal/" in self.path else "application/vnd.oci.image.index.v1+json"
        return self._answer(200, INDEX, {"Docker-Content-Digest": claimed, "Content-Type": kind})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"localhost:{server.server_port}"
    server.shutdown()


def test_the_file_is_as_make_pin_writes_it():
    text = lock.FILE.read_text()
    assert lock.write(lock.read(text)) == text


def test_every_image_that_a_dockerfile_stands_on_is_there():
    for dockerfile in ("components/Dockerfile", "serving/Dockerfile"):
        assert f"ARG BASE_IMAGE={lock.entry('python').image}\n" in (ROOT / dockerfile).read_text()


@pytest.mark.parametrize("repository", ["library/python", "private/python"])
def test_the_digest_is_that_of_what_the_registry_sends(host: str, repository: str):
    assert registry.digest(f"{host}/{repository}:3.11") == DIGEST


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("liar/python:3.11", "says that .* is sha256:0{64}, and what it sends is sha256:"),
        ("portal/python:3.11", "sends 'text/html' .* no manifest"),
        ("library/python:2.7", "answers 404 when asked for"),
    ],
)
def test_an_answer_that_cannot_be_believed_is_refused(host: str, reference: str, said: str):
    with pytest.raises(ImageError, match=said):
        registry.digest(f"{host}/{reference}")


def test_a_registry_that_does_not_answer_is_told():
    with pytest.raises(ImageError, match=r"localhost:1 does not answer \(ConnectError"):
        registry.digest("localhost:1/library/python:3.11")


@pytest.mark.parametrize(
    "reference", ["python:3.11", "library/python:3.11", "docker.io/library/python", "a.b/c@sha256:0"]
)
def test_a_name_that_means_something_else_elsewhere_is_refused(reference: str):
    with pytest.raises(ImageError, match="is not HOST/REPOSITORY:TAG"):
        registry.digest(reference)


def test_docker_hub_is_asked_where_it_answers():
    assert registry.Reference.parse("docker.io/library/python:3.11").address == (
        "https://registry-1.docker.io/v2/library/python/manifests/3.11"
    )


def test_what_is_looked_up_is_written_and_told():
    text, said, failed = lock.pin(ENTRY.format("null"), lambda image: DIGEST)
    assert lock.read(text) == [Foreign("base", "docker.io/library/python:3.11", "tests", DIGEST)]
    assert said == [f"base: docker.io/library/python:3.11 is {DIGEST}, was unpinned"] and failed == []
    assert lock.entry("base", text).pinned == f"docker.io/library/python@{DIGEST}"
    assert lock.pin(text, lambda image: DIGEST) == (text, [], [])


@pytest.mark.parametrize("before", ["null", DIGEST])
def test_what_cannot_be_looked_up_stays_and_is_told(before: str):
    def fails(image: str) -> str:
        raise ImageError("docker.io does not answer")

    text, said, failed = lock.pin(ENTRY.format(before), fails)
    assert lock.read(text) == lock.read(ENTRY.format(before)) and said == []
    assert failed == [f"base: docker.io does not answer; stays {'unpinned' if before == 'null' else before}"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ENTRY.format("sha256:abc"), "'sha256:abc' is no digest; `make pin` writes it"),
        (ENTRY.format("null") + "  tag: latest\n", "unexpected keyword argument 'tag'"),
        (ENTRY.format("null") * 2, "a name stands there twice"),
        (ENTRY.format("null").replace("docker.io/", ""), "is not HOST/REPOSITORY:TAG"),
    ],
)
def test_a_lock_that_says_something_else_is_refused(text: str, said: str):
    with pytest.raises(ImageError, match=said):
        lock.read(text)
