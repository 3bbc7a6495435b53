"""The project's manifests as this machine's cluster gets them: overlay `test-cluster`, its address, images by digest.

The kustomization that joins them is written to .slipway/cluster/kustomization/, so that a reader can render it too:
`kubectl kustomize .slipway/cluster/kustomization`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.place import BUCKET_PORT, ROOT, ClusterError, cache_folder

OVERLAY = ROOT / "manifests/overlays/test-cluster"
DIRECTORY = ROOT / ".slipway/cluster/kustomization"
FIELD_MANAGER = "slipway-manifests"


class ManifestsError(ClusterError):
    """The manifests cannot be rendered or applied; the message holds what kubectl said."""


def kubectl() -> str:
    """The harness's own kubectl, or else the one in PATH."""
    built = cache_folder() / "cluster/bin/kubectl"
    found = str(built) if built.exists() else shutil.which("kubectl")
    if not found:
        raise ManifestsError(f"there is no kubectl at {built} or in PATH; `make cluster` builds it")
    return found


def render(node_ip: str, images: Mapping[str, str], directory: Path = DIRECTORY) -> str:
    """All objects as YAML, for a machine with this address.

    images: name in the manifests ("slipway-serving", "slipway-python") -> reference by digest,
    e.g. {"slipway-serving": "10.0.0.2:5000/slipway-serving@sha256:..."}; a name that is left out stays as it is.
    """
    write_kustomization(directory, node_ip, images)
    return build(directory)


def build(directory: Path) -> str:
    """A kustomization as YAML."""
    return _run(["kustomize", str(directory)])


def write_kustomization(directory: Path, node_ip: str, images: Mapping[str, str]) -> None:
    """What `render` gives to kubectl: two small files in a folder of their own."""
    directory.mkdir(parents=True, exist_ok=True)
    machine = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        # "local-config": kustomize reads it and leaves it out of what is applied
        "metadata": {"name": "machine", "annotations": {"config.kubernetes.io/local-config": "true"}},
        "data": {"cidr": f"{node_ip}/32", "object_store": f"http://{node_ip}:{BUCKET_PORT}"},
    }
    overlay = os.path.relpath(OVERLAY, directory.resolve())
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [overlay, "machine.yaml"],
        "components": [f"{overlay}/machine"],
        "images": [_image(name, reference) for name, reference in sorted(images.items())],
    }
    (directory / "machine.yaml").write_text(yaml.safe_dump(machine))
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(kustomization, sort_keys=False))


def apply(manifests: str, kubeconfig: Path) -> str:
    """Bring rendered manifests to the cluster by server-side apply, strictly checked; returns what kubectl printed.

    Namespaces, and the CRDs of Gateway API and KServe, are ready when it starts: the caller sees to the CRDs and to
    KServe's webhook, kubectl sends the namespaces first.
    """
    flags = ["--server-side", "--force-conflicts", "--field-manager", FIELD_MANAGER, "--validate=strict"]
    return _run(["--kubeconfig", str(kubeconfig), "apply", *flags, "-f", "-"], given=manifests)


def objects(manifests: str) -> list[dict[str, Any]]:
    """Rendered YAML as a list of objects."""
    return [one for one in yaml.safe_load_all(manifests) if one]


def _image(name: str, reference: str) -> dict[str, str]:
    """One entry of kustomize's `images`. Only a digest says what really runs, so that nothing else is taken."""
    match = re.fullmatch(r"(?P<repository>[^@]+)@(?P<digest>sha256:[0-9a-f]{64})", reference)
    if not match:
        raise ManifestsError(
            f"image {name} = {reference!r} is not REPOSITORY@sha256:DIGEST; pass what the push printed"
        )
    return {"name": name, "newName": match["repository"], "digest": match["digest"]}


def _run(arguments: list[str], given: str | None = None) -> str:
    done = subprocess.run([kubectl(), *arguments], input=given, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise ManifestsError(f"kubectl {' '.join(arguments)} failed:\n{done.stderr.strip()}")
    return done.stdout
