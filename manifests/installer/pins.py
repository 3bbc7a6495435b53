"""Upstream's images by digest: manifests/upstream.lock says which content each tag had when it was looked up.

`make pin` looks up, where the registries are reached; without a digest the tag is used, but not in prod.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import yaml

from images import registry
from images.errors import ImageError
from manifests.installer.errors import PlatformError
from manifests.installer.rendering import MANIFESTS, Given, images, read_variables, render, strings
from pipelines.platform_parts import ON_GKE, Platform

FILE = MANIFESTS / "upstream.lock"

_HEADING = """\
# The images of manifests/upstream.yaml. A tag may be another image tomorrow, a digest never is. Digests are looked up
# by `make pin` where the registries can be reached, never written by hand; null is not known yet, and refused in prod.
"""

_NAMED = re.compile(r"(?<![\w./@-])(?:[a-z0-9.-]+\.[a-z]+/)?[a-z0-9][a-z0-9_.-]*(?:/[a-z0-9_.-]+)+:v?\d[\w.-]*")
"""[HOST/]PATH/NAME:VERSION, as images stand in arguments, variables and settings."""

Object = dict[str, Any]
Lock = Mapping[str, str | None]


def references(objects: Iterable[Object]) -> list[str]:
    """Every image that is named by its tag, once, as it is written: by pods, and by what makes pods."""
    every = [one for one in objects if one["kind"] != "CustomResourceDefinition"]  # those have examples
    found = {name for one in every for _, text in strings(one) for name in _NAMED.findall(text)}
    return sorted(name for name in found | set(images(every)) if "@" not in name)


def named_upstream(platform: Platform) -> list[str]:
    """Whole references of all that upstream's parts name, in any environment; our own images are pinned elsewhere."""
    said = read_variables(MANIFESTS / "platform.env.example")
    found: set[str] = set()
    for environment in ON_GKE:
        for part in platform.of(environment):
            if part.by or any(folder.startswith("overlays/") for folder in part.kustomization.values()):
                continue
            needed = [*part.needs, *part.needs_there.get(environment, ())]
            example = dict.fromkeys(needed, "example@example.iam.gserviceaccount.com") | said
            found |= {whole(name) for name in references(render(platform, part, Given(environment, example, "")))}
    return sorted(found)


def whole(reference: str) -> str:
    """HOST/REPOSITORY:TAG of a name that leaves out what Docker Hub is taken for."""
    first, slash, _ = reference.partition("/")
    if slash and ("." in first or ":" in first):
        return reference
    return f"docker.io/{reference}" if slash else f"docker.io/library/{reference}"


def read() -> dict[str, str | None]:
    """Whole reference -> digest. Raises PlatformError."""
    try:
        found = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlatformError(f"{FILE} cannot be read ({error.strerror}); run this in a checkout of Slipway") from error
    wrong = [name for name, digest in found.items() if digest and not re.fullmatch(r"sha256:[0-9a-f]{64}", digest)]
    if wrong:
        raise PlatformError(f"{FILE}: {', '.join(wrong)}: a digest is sha256: and 64 hexadecimal digits, or null")
    return found


def pin(objects: list[Object], lock: Lock) -> list[Object]:
    """The objects with each known digest behind its tag, and the whole name before it.

    Binary Authorization compares patterns with the name as a pod writes it, and Docker Hub's may be left out there.
    """
    known = {name: digest for name in references(objects) if (digest := lock.get(whole(name)))}
    return [one if one["kind"] == "CustomResourceDefinition" else _replaced(one, known) for one in objects]


def _replaced(value: Any, known: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(one, known) for key, one in value.items()}
    if isinstance(value, list):
        return [_replaced(one, known) for one in value]
    if isinstance(value, str):
        for name, digest in known.items():
            value = re.sub(rf"(?<![\w./@-]){re.escape(name)}(?![\w.@-])", f"{whole(name)}@{digest}", value)
    return value


def unpinned(objects: Iterable[Object], lock: Lock) -> list[str]:
    return [name for name in references(objects) if not lock.get(whole(name))]


def look_up(names: Iterable[str], ask: Callable[[str], str] = registry.digest) -> dict[str, str]:
    """Whole reference -> digest, for all of them or none. Raises PlatformError."""
    found: dict[str, str] = {}
    failed: list[str] = []
    for name in sorted({whole(name) for name in names}):
        try:
            found[name] = ask(name)
        except ImageError as error:
            failed.append(str(error))
    if failed:
        raise PlatformError("nothing is written:\n" + "\n".join(failed))
    return found


def compose(lock: Lock) -> str:
    """The text of the file."""
    return _HEADING + yaml.safe_dump(dict(sorted(lock.items())), sort_keys=False)
