"""Asks a registry which digest a tag has today."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

import httpx

from images.errors import ImageError

_MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)


@dataclass(frozen=True)
class Reference:
    """HOST/REPOSITORY:TAG."""

    host: str
    repository: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Raises ImageError: a short name would mean something else on another machine."""
        found = re.fullmatch(r"([\w-]+(?:\.[\w-]+)+(?::\d+)?|localhost:\d+)/([a-z0-9._/-]+):([\w.-]+)", text)
        if not found:
            raise ImageError(
                f"{text!r} is not HOST/REPOSITORY:TAG, such as docker.io/library/python:3.11-slim-bookworm"
            )
        return cls(*found.groups())

    @property
    def address(self) -> str:
        """Where the manifest is; Docker Hub answers under another name."""
        host = "registry-1.docker.io" if self.host == "docker.io" else self.host
        scheme = "http" if re.match(r"(localhost|127\.0\.0\.1)(:|$)", host) else "https"
        return f"{scheme}://{host}/v2/{self.repository}/manifests/{self.tag}"


def digest(reference: str, client: httpx.Client | None = None) -> str:
    """sha256:… of what a tag names, for all platforms where it has several.

    The bytes are hashed here as well: a digest that a registry only claims is not written down.
    Raises ImageError.
    """
    asked = Reference.parse(reference)
    with client or httpx.Client(timeout=30, follow_redirects=True) as http:
        try:
            answer = _manifest(http, asked)
        except httpx.HTTPError as error:
            raise ImageError(f"{asked.host} does not answer ({type(error).__name__}: {error})") from error
    if answer.status_code != 200:
        raise ImageError(f"{asked.host} answers {answer.status_code} when asked for {reference}")
    found = "sha256:" + hashlib.sha256(answer.content).hexdigest()
    claimed = answer.headers.get("Docker-Content-Digest", found)
    if claimed != found:
        raise ImageError(f"{asked.host} says that {reference} is {claimed}, and what it sends is {found}")
    if answer.headers.get("Content-Type", "").partition(";")[0] not in _MANIFESTS:
        raise ImageError(f"{asked.host} sends {answer.headers.get('Content-Type')!r} for {reference}, no manifest")
    return found


def _manifest(http: httpx.Client, asked: Reference) -> httpx.Response:
    """As anybody, or with the token that the registry tells anybody to fetch."""
    headers = {"Accept": ", ".join(_MANIFESTS)}
    answer = http.get(asked.address, headers=headers)
    challenge = answer.headers.get("WWW-Authenticate", "")
    if answer.status_code != 401 or not challenge.lower().startswith("bearer "):
        return answer
    said = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    if "realm" not in said:
        return answer
    told = http.get(said.pop("realm"), params=said)
    if told.status_code != 200:
        return told
    token = told.json().get("token") or told.json().get("access_token", "")
    return http.get(asked.address, headers=headers | {"Authorization": f"Bearer {token}"})
