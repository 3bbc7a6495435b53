"""A part as the objects that are applied: a chart through helm, a kustomization through kubectl, and our own label.

Kustomizations are rendered in a copy of manifests/ in which `sources/` has upstream's files and `platform.env` what
Terraform says, so that they name both by short paths.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from manifests.installer import sources, tools
from manifests.installer.errors import PlatformError
from pipelines.platform_parts import Environment, Part, Platform

MANIFESTS = Path(__file__).resolve().parents[1]
VALUES = MANIFESTS / "upstream"
PART_LABEL = "slipway.dev/part"
"""On each object but namespaces: which part brought it."""

ENVIRONMENT_LABEL = "slipway.dev/environment"
"""On namespaces: what `slipway doctor --cluster` compares with."""

OUR_NAMESPACES = "slipway-"
"""Namespaces that begin so are made by our own manifests."""

Object = dict[str, Any]


@dataclass(frozen=True)
class Given:
    """What is said of one environment outside the repository."""

    environment: Environment
    variables: Mapping[str, str]
    """platform.env."""

    images: str
    """The text of images.env; "" where there is none yet."""


def given(environment: Environment, platform_file: Path | None = None, images_file: Path | None = None) -> Given:
    """The files beside the environment's overlay, or others. Raises PlatformError without a platform file."""
    overlay = MANIFESTS / f"overlays/gke-{environment}"
    images = images_file or overlay / "images.env"
    variables = read_variables(platform_file or overlay / "platform.env")
    return Given(environment, variables, images.read_text(encoding="utf-8") if images.exists() else "")


def render(platform: Platform, part: Part, given: Given) -> list[Object]:
    """All objects of a part, namespace first. Raises PlatformError, SourceMissing among them."""
    needed = [*part.needs, *part.needs_there.get(given.environment, ())]
    missing = [name for name in needed if not given.variables.get(name)]
    if missing:
        raise PlatformError(
            f"{part.name}: the platform file says nothing for {', '.join(missing)}; write it anew with "
            "`terraform -chdir=terraform/environments/gke output -raw platform_env`"
        )
    if part.chart:
        text = _chart(platform, part)
    elif part.kustomization:
        text = _kustomization(platform, part, given)
    else:
        return []
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # KServe's CRDs have megabytes
    objects = [one for one in yaml.load_all(text, loader) if one]
    objects = [one for one in objects if not part.kinds or one["kind"] in part.kinds]
    objects = [one for one in objects if one["kind"] not in part.left_out]
    objects = [*_namespace(part), *objects]
    for one in objects:
        labels = one["metadata"].setdefault("labels", {})
        # a namespace belongs to more than one part: each would take the label from the other
        labels |= {ENVIRONMENT_LABEL: given.environment} if one["kind"] == "Namespace" else {PART_LABEL: part.name}
    _refuse_placeholders(part, objects)
    return objects


def _namespace(part: Part) -> Iterator[Object]:
    if part.namespace and not part.namespace.startswith(OUR_NAMESPACES):
        level = {f"pod-security.kubernetes.io/{mode}": part.pod_security for mode in ("enforce", "warn", "audit")}
        metadata = {"name": part.namespace, "labels": level}
        yield {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def _chart(platform: Platform, part: Part) -> str:
    assert part.chart
    source = sources.find(part.chart.source, platform.sources[part.chart.source])
    with tempfile.TemporaryDirectory() as folder:
        chart = Path(folder, "chart")
        shutil.copytree(source / part.chart.path, chart)
        complete(chart, part.version)
        command = [tools.helm(), "template", part.name, str(chart), "--include-crds", "--no-hooks"]
        command += ["--namespace", part.namespace or "default", "--kube-version", platform.kubernetes]
        command += ["--values", str(VALUES / part.chart.values)] if part.chart.values else []
        return tools.run(command, seconds=120)


def complete(chart: Path, version: str) -> None:
    """cert-manager's repository has its Chart.yaml without a version, which its release writes."""
    template, target = chart / "Chart.template.yaml", chart / "Chart.yaml"
    if template.exists() and not target.exists():
        text = re.sub(r"^(version|appVersion): .*$", rf"\1: {version}", template.read_text(), flags=re.M)
        target.write_text(text)


def _kustomization(platform: Platform, part: Part, given: Given) -> str:
    place = part.kustomization[given.environment]
    if place.startswith("overlays/") and not given.images:
        raise PlatformError(
            f"{part.name}: there is no manifests/{place}/images.env; copy manifests/images.env.example there, with the "
            "digests that the push printed"
        )
    with staged(given) as root:
        for name in part.sources:
            (root / "sources").mkdir(exist_ok=True)
            (root / "sources" / name).symlink_to(sources.find(name, platform.sources[name]))
        folder = root / place
        if not (folder / "kustomization.yaml").exists():
            raise PlatformError(f"{part.name}: there is no manifests/{place}")
        return tools.run(
            [tools.kubectl(), "kustomize", "--load-restrictor=LoadRestrictionsNone", str(folder)], seconds=120
        )


@contextmanager
def staged(given: Given) -> Iterator[Path]:
    """A copy of manifests/, with what is said of the environment where kustomizations look for it."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "manifests")
        shutil.copytree(MANIFESTS, root, ignore=shutil.ignore_patterns("*.py", "__pycache__", "*.env"))
        text = "".join(f"{name}={value}\n" for name, value in given.variables.items())
        overlay = root / f"overlays/gke-{given.environment}"
        for place in (root, overlay):
            if place.is_dir():
                (place / "platform.env").write_text(text)
        if given.images and overlay.is_dir():
            (overlay / "images.env").write_text(given.images)
        yield root


def _refuse_placeholders(part: Part, objects: list[Object]) -> None:
    """A name of the platform file that stands where its value should: a replacement that met nothing."""
    for one in objects:
        for path, value in strings(one):
            found = re.search(r"\bPLATFORM_[A-Z_]+\b", value)
            if found:
                where = f"{one['kind']} {one['metadata']['name']}, {path}"
                raise PlatformError(f"{part.name}: {where}: {found[0]} was not replaced by its value")


def strings(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, text) of each text in an object."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from strings(one, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from strings(one, f"{path}.{number}")


def read_variables(file: Path) -> dict[str, str]:
    """NAME=VALUE lines, as `terraform output -raw platform_env` writes them. Raises PlatformError."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        write = "terraform -chdir=terraform/environments/gke output -raw platform_env"
        raise PlatformError(f"there is no platform file {file}; write it with `{write} > {file}`") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.startswith("#"):
            name, equals, value = line.partition("=")
            if not equals or not re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
                raise PlatformError(f"{file}, line {number}: {line!r} is not NAME=VALUE")
            found[name] = value
    return found


def pods(one: Object) -> Iterator[tuple[Object, list[Object]]]:
    """(pod spec, its containers) of whatever in an object becomes a pod."""
    spec = one.get("spec", {})
    match one["kind"]:
        case "Deployment" | "StatefulSet" | "DaemonSet" | "Job":
            pod = spec["template"]["spec"]
        case "CronJob":
            pod = spec["jobTemplate"]["spec"]["template"]["spec"]
        case "Pod":
            pod = spec
        case _:
            return
    yield pod, [*pod.get("initContainers", []), *pod["containers"]]


def images(objects: list[Object]) -> list[str]:
    """Every image that the pods name, once."""
    found = {container["image"] for one in objects for _, containers in pods(one) for container in containers}
    return sorted(found)
