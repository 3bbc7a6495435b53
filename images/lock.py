"""images.lock: the foreign images that Slipway stands on, and the digest of each, which `make pin` looks up."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from images import registry
from images.errors import ImageError

FILE = Path(__file__).parent.parent / "images.lock"

HEAD = """\
# The images of others that Slipway stands on. A tag may be another image tomorrow, a digest never is. Digests are
# looked up by `make pin` where the registry can be reached, never written by hand; `digest: null` is not pinned yet:
# `make images` then makes a base from Debian's signed packages instead, and a release is refused.
"""


@dataclass(frozen=True)
class Foreign:
    """One image of others."""

    name: str
    image: str
    """HOST/REPOSITORY:TAG."""

    used_by: str
    digest: str | None = None

    @property
    def pinned(self) -> str | None:
        """HOST/REPOSITORY@sha256:…, where the digest is known."""
        return f"{self.image.rpartition(':')[0]}@{self.digest}" if self.digest else None


def read(text: str) -> list[Foreign]:
    """Raises ImageError for an entry that is not one."""
    entries = []
    for entry in yaml.safe_load(text):
        try:
            foreign = Foreign(**entry)
        except TypeError as error:
            raise ImageError(f"images.lock: {entry}: {error}") from error
        registry.Reference.parse(foreign.image)
        if foreign.digest is not None and not re.fullmatch(r"sha256:[0-9a-f]{64}", foreign.digest):
            raise ImageError(f"images.lock: {foreign.name}: {foreign.digest!r} is no digest; `make pin` writes it")
        entries.append(foreign)
    if len({foreign.name for foreign in entries}) < len(entries):
        raise ImageError("images.lock: a name stands there twice")
    return entries


def write(entries: list[Foreign]) -> str:
    """The file's text."""
    lines = [
        f"- name: {one.name}\n  image: {one.image}\n  used_by: {one.used_by}\n  digest: {one.digest or 'null'}\n"
        for one in entries
    ]
    return HEAD + "".join(lines)


def entry(name: str, text: str | None = None) -> Foreign:
    """One image by its name."""
    return next(one for one in read(FILE.read_text() if text is None else text) if one.name == name)


def pin(text: str, look_up: Callable[[str], str] = registry.digest) -> tuple[str, list[str], list[str]]:
    """(new text, what has changed, what could not be looked up): an entry without an answer stays as it is."""
    entries, said, failed = [], [], []
    for one in read(text):
        try:
            found = replace(one, digest=look_up(one.image))
        except ImageError as error:
            failed.append(f"{one.name}: {error}; stays {one.digest or 'unpinned'}")
            found = one
        if found != one:
            said.append(f"{one.name}: {one.image} is {found.digest}, was {one.digest or 'unpinned'}")
        entries.append(found)
    return write(entries), said, failed
