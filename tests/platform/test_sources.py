"""How upstream's files come to this machine: by a commit, or by a digest, or not at all."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from manifests.installer import sources
from manifests.installer.errors import PlatformError
from manifests.installer.rendering import MANIFESTS
from manifests.installer.sources import SourceMissing
from pipelines.platform_parts import Source


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GOMODCACHE", str(tmp_path / "modules"))
    return tmp_path / "cache/platform/sources"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits: the tagged one has chart/values.yaml, the newer one another."""
    folder = tmp_path / "upstream"
    (folder / "chart").mkdir(parents=True)
    (folder / "docs").mkdir()
    git(folder, "init", "--quiet")
    git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    git(folder, "config", "uploadpack.allowFilter", "true")
    (folder / "chart/values.yaml").write_text("replicas: 1\n")
    (folder / "docs/long.md").write_text("much\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "one")
    git(folder, "tag", "v1.0.0")
    (folder / "chart/values.yaml").write_text("replicas: 2\n")
    git(folder, "commit", "--quiet", "-am", "two")
    return folder


def source(repository: Path, ref: str, commit: str, folders: tuple[str, ...] = ("chart",)) -> Source:
    return Source(repository=f"file://{repository}", ref=ref, commit=commit, folders=folders)


def test_a_commit_is_fetched_and_not_what_its_tag_has_become(repository: Path) -> None:
    pinned = source(repository, "v1.0.0", git(repository, "rev-parse", "v1.0.0"))
    git(repository, "tag", "--force", "v1.0.0", "HEAD")

    folder = sources.fetch("part", pinned)

    assert (folder / "chart/values.yaml").read_text() == "replicas: 1\n"
    assert not (folder / "docs").exists() and not (folder / ".git").exists()
    assert sources.find("part", pinned) == folder


def test_what_is_here_is_not_fetched_again(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = source(repository, "v1.0.0", git(repository, "rev-parse", "v1.0.0"))
    first = sources.fetch("part", pinned)
    monkeypatch.setenv("PATH", "")  # no git

    assert sources.fetch("part", pinned) == first


def test_a_commit_that_is_not_there(repository: Path, cache: Path) -> None:
    with pytest.raises(PlatformError, match="git"):
        sources.fetch("part", source(repository, "v1.0.0", "0" * 40))

    assert list(cache.iterdir()) == [], "nothing half-made is taken for the whole"


def test_a_folder_that_is_not_there(repository: Path) -> None:
    pinned = source(repository, "v1.0.0", git(repository, "rev-parse", "v1.0.0"), ("chart", "charts"))

    with pytest.raises(PlatformError, match=r"has no charts at v1\.0\.0"):
        sources.fetch("part", pinned)


def test_what_is_not_here_says_how_it_comes(repository: Path) -> None:
    with pytest.raises(SourceMissing, match=r"manifests\.installer fetch"):
        sources.find("part", source(repository, "v1.0.0", "0" * 40))


def test_gos_module_of_the_same_version_serves_too(tmp_path: Path) -> None:
    pinned = Source(
        repository="https://example.org/x",
        ref="v1.0.0",
        commit="0" * 40,
        folders=("chart",),
        module="example.org/Big/x",
    )
    folder = tmp_path / "modules/example.org/!big/x@v1.0.0"
    folder.mkdir(parents=True)

    assert sources.find("part", pinned) == folder


def archive(name: str, content: bytes = b"name: keda\n") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return made.getvalue()


@pytest.fixture
def served() -> Iterator[tuple[str, bytes]]:
    """An archive's address, and its content."""
    content = archive("keda/Chart.yaml")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/keda.tgz"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(content if found else b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", content
    server.shutdown()
    server.server_close()


def test_an_archive_of_the_known_content(served: tuple[str, bytes]) -> None:
    address, content = served
    pinned = Source(archive=f"{address}/keda.tgz", sha256=hashlib.sha256(content).hexdigest())

    assert (sources.fetch("keda", pinned) / "keda/Chart.yaml").read_text() == "name: keda\n"


def test_an_archive_of_another_content_is_not_used(served: tuple[str, bytes], cache: Path) -> None:
    address, _ = served

    with pytest.raises(PlatformError, match="do not use it"):
        sources.fetch("keda", Source(archive=f"{address}/keda.tgz", sha256="0" * 64))

    assert list(cache.iterdir()) == []


def test_an_archive_that_does_not_come(served: tuple[str, bytes]) -> None:
    address, _ = served

    with pytest.raises(PlatformError, match="404"):
        sources.fetch("keda", Source(archive=f"{address}/gone.tgz", sha256="0" * 64))


def test_a_python_that_would_unpack_anything_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Debian 12's own is 3.11.2."""
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(PlatformError, match=r"3\.11\.4 or newer"):
        sources.unpack(archive("keda/Chart.yaml"), tmp_path / "new")


def test_an_archive_that_leads_out_of_its_folder(tmp_path: Path) -> None:
    with pytest.raises(tarfile.FilterError):
        sources.unpack(archive("../outside"), tmp_path / "new")

    assert not (tmp_path / "outside").exists()


def test_make_takes_what_is_missing_for_a_failure() -> None:
    """CI runs this target; a source that did not come must not look like a pass."""
    makefile = (MANIFESTS.parent / "Makefile").read_text()
    recipe = makefile.partition("\nmanifests-test:")[2].partition("\n\n")[0]

    for setting in ("SLIPWAY_MANIFESTS=required", "SLIPWAY_PLATFORM=required"):
        assert setting in recipe
