"""A release where the cluster can fetch it: a folder named by its digest below the releases URI.

release.json is written last, so a folder that has it is complete.
"""

from __future__ import annotations

import base64
import importlib
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from components.rollout.kserve.objects import release_uri
from components.rollout.target import TargetError
from serving.release import GOLDEN_FILE, RELEASE_FILE, Release, ReleaseError, file_sha256, read_release

_AT_ONCE = 8
_SECONDS = 300.0
_BLOCK = 1 << 20


class Place(Protocol):
    """A folder of an object store."""

    def listed(self) -> Mapping[str, str]:
        """Relative path -> what `fingerprint` gives for the same content."""
        ...

    def fingerprint(self, path: Path) -> str:
        """What tells whether a file there is this one."""
        ...

    def put(self, path: Path, name: str) -> None:
        """Upload one file, whole or not at all."""
        ...

    def read(self, name: str) -> bytes | None:
        """One small file; None when it is not there."""
        ...


def publish(release: Path, releases: str, digest: str) -> list[str]:
    """Have a release complete at its URI; the names of the files that were uploaded.

    A directory that holds only the manifest (see fetch_small) is enough when it is complete there already.
    Raises TargetError when it cannot be brought there.
    """
    uri = release_uri(releases, digest)
    manifest = read_release(release)
    if manifest.digest != digest:
        raise TargetError(f"{release} holds release {manifest.digest}, not {digest}; it is not published as {uri}")
    with _told(uri):
        place = open_place(uri)
        there = place.listed()
        here = {name: release / name for name in manifest.files if (release / name).exists()}
        absent = sorted(manifest.files.keys() - here.keys() - there.keys())
        if absent or (RELEASE_FILE not in there and len(here) < len(manifest.files)):
            raise TargetError(
                f"{uri} is not complete ({', '.join(absent) or RELEASE_FILE} is missing), nor is {release}; "
                "publish it from a store that has it"
            )
        missing = [name for name, path in here.items() if there.get(name) != place.fingerprint(path)]
        damaged = {name for name in missing if file_sha256(here[name]) != manifest.files[name]}
        if lost := sorted(damaged - there.keys()):
            raise TargetError(f"{here[lost[0]]} is damaged and not at {uri} either; put the file back")
        missing = [name for name in missing if name not in damaged]  # a good copy is not overwritten by a bad one
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for done in [pool.submit(place.put, here[name], name) for name in missing]:
                done.result()
        if there.get(RELEASE_FILE) != place.fingerprint(release / RELEASE_FILE):
            missing.append(RELEASE_FILE)
            place.put(release / RELEASE_FILE, RELEASE_FILE)
        return missing


def fetch_small(releases: str, digest: str, directory: Path) -> Path:
    """What the checks of a rollout need of a published release: its manifest and its golden answers, verified.

    Raises TargetError when they are not there or are not that release's.
    """
    uri = release_uri(releases, digest)
    directory.mkdir(parents=True, exist_ok=True)
    with _told(uri):
        place = open_place(uri)
        for name in (RELEASE_FILE, GOLDEN_FILE):
            content = place.read(name)
            if content is None:
                raise TargetError(f"{uri} has no {name}: it was not published, or was removed")
            (directory / name).write_bytes(content)
    manifest = _read(directory, uri)
    if manifest.digest != digest:
        raise TargetError(f"{uri} holds release {manifest.digest}; publish {digest} again")
    if manifest.files.get(GOLDEN_FILE) != file_sha256(directory / GOLDEN_FILE):
        raise TargetError(f"{uri}: {GOLDEN_FILE} is damaged; publish {digest} again")
    return directory


def _read(directory: Path, uri: str) -> Release:
    try:
        return read_release(directory)
    except ReleaseError as error:
        raise TargetError(f"{uri} is no release: {error}") from error


@contextmanager
def _told(uri: str) -> Generator[None]:
    """Turns what a store's client raises into a TargetError that names the URI."""
    try:
        yield
    except (TargetError, ReleaseError):
        raise
    except Exception as error:
        raise TargetError(f"{uri} cannot be used: {type(error).__name__}: {error}") from error


def open_place(uri: str) -> Place:
    """The folder that a URI names."""
    return _Bucket(uri) if uri.startswith("gs://") else _Folder(uri)


@dataclass
class _Bucket:
    """A folder in Google Cloud Storage, or in an emulator of it (STORAGE_EMULATOR_HOST)."""

    uri: str

    def __post_init__(self) -> None:
        storage: Any = importlib.import_module("google.cloud.storage")
        bucket, _, self._prefix = self.uri.removeprefix("gs://").partition("/")
        self._bucket = storage.Client().bucket(bucket)

    def listed(self) -> Mapping[str, str]:
        start = f"{self._prefix}/"
        return {blob.name.removeprefix(start): blob.crc32c or "" for blob in self._bucket.list_blobs(prefix=start)}

    def fingerprint(self, path: Path) -> str:
        crc32c: Any = importlib.import_module("google_crc32c")
        checksum = crc32c.Checksum()
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                checksum.update(block)
        return base64.b64encode(checksum.digest()).decode()

    def put(self, path: Path, name: str) -> None:
        blob = self._bucket.blob(f"{self._prefix}/{name}")
        blob.upload_from_filename(str(path), timeout=_SECONDS, checksum="crc32c")

    def read(self, name: str) -> bytes | None:
        blob = self._bucket.get_blob(f"{self._prefix}/{name}")
        return None if blob is None else blob.download_as_bytes(timeout=_SECONDS)


@dataclass
class _Folder:
    """A folder on S3, or of a file system; sizes are compared, and the fetch compares every digest."""

    uri: str

    def __post_init__(self) -> None:
        importlib.import_module("components.buckets")
        fsspec: Any = importlib.import_module("fsspec")
        self._files, self._root = fsspec.core.url_to_fs(self.uri)

    def listed(self) -> Mapping[str, str]:
        if not self._files.exists(self._root):
            return {}
        found = self._files.find(self._root, detail=True)
        return {path.removeprefix(self._root).lstrip("/"): str(one["size"]) for path, one in found.items()}

    def fingerprint(self, path: Path) -> str:
        return str(path.stat().st_size)

    def put(self, path: Path, name: str) -> None:
        self._files.makedirs(f"{self._root}/{name}".rpartition("/")[0], exist_ok=True)
        self._files.put_file(str(path), f"{self._root}/{name}")

    def read(self, name: str) -> bytes | None:
        with suppress(FileNotFoundError):
            return self._files.cat_file(f"{self._root}/{name}")
        return None
