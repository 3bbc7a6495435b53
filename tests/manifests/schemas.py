"""Every object against its own schema, strictly: Kubernetes' for its own kinds, the CRD's for the others.

CRDs are read from Go modules, each at the version and checksum of a go.mod and go.sum: those of the test cluster's
programs (tests/cluster/modules) and those of what stands beside them on GKE (tests/manifests/modules). Tests look at
what has been fetched; `python -m tests.manifests.schemas` fetches (150 MB, once).
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER, BESIDE = ROOT / "tests/cluster/modules", ROOT / "tests/manifests/modules"
KUBERNETES = "1.34"

Object = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """Where the CRDs of an API group come from."""

    module: str
    folder: Path
    """Its go.mod names the version."""

    pattern: str
    """Files in the module."""

    @property
    def version(self) -> str:
        found = re.search(
            rf"^\s*(?:require )?{re.escape(self.module)} (v\S+)", (self.folder / "go.mod").read_text(), re.M
        )
        if not found:
            raise SchemaMissing(f"{self.folder / 'go.mod'} does not require {self.module}")
        return found[1]


SOURCES = {
    "serving.kserve.io": Source(
        "github.com/kserve/kserve", CLUSTER, "config/crd/full/**/serving.kserve.io_[cis]*.yaml"
    ),
    "gateway.networking.k8s.io": Source("sigs.k8s.io/gateway-api", CLUSTER, "config/crd/standard/*.yaml"),
    "networking.gke.io": Source("github.com/GoogleCloudPlatform/gke-gateway-api", BESIDE, "config/crd/*.yaml"),
    "monitoring.googleapis.com": Source(
        "github.com/GoogleCloudPlatform/prometheus-engine", BESIDE, "charts/operator/crds/*.yaml"
    ),
    "cert-manager.io": Source("github.com/cert-manager/cert-manager", BESIDE, "deploy/crds/*.yaml"),
    "keda.sh": Source("github.com/kedacore/keda/v2", BESIDE, "config/crd/bases/keda.sh_*.yaml"),
    "kueue.x-k8s.io": Source("sigs.k8s.io/kueue", BESIDE, "config/components/crd/bases/*.yaml"),
}
"""API group -> its CRDs."""

UNCHECKED = {
    "rules that a CRD writes in CEL (x-kubernetes-validations)": "the API server alone evaluates them",
    "networking.gke.io": "v1.3.0 of GKE's kinds, the newest that the Go proxy serves; a cluster may know more fields",
    "parameters of StorageClass slipway-store": "the driver reads them, Kubernetes does not",
    "values of gatewayClassName, annotations and Google's names": "only Google knows them",
}
"""What no test of these says anything about -> why."""


class SchemaMissing(RuntimeError):
    """The schema is not on this machine; the message says how it comes there."""


def group_of(one: Object) -> str:
    """API group of an object; "" for Kubernetes' oldest."""
    return one["apiVersion"].rpartition("/")[0]


def faults(one: Object) -> list[str]:
    """What is wrong with an object, field by field. Raises SchemaMissing."""
    try:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)
        return []
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(str(part) for part in error.path)}: {error.message}"]
    except kubernetes_validate.SchemaNotFoundError:
        pass  # a custom resource: its CRD has the schema
    source = SOURCES.get(group_of(one))
    if source is None:
        return [f"apiVersion {one['apiVersion']}: nothing here describes the group; add it to SOURCES"]
    schema = custom_schemas(group_of(one), one["kind"]).get(one["apiVersion"])
    if schema is None:
        return [f"apiVersion {one['apiVersion']}: no CRD of {source.module} has a served {one['kind']} of that version"]
    found = jsonschema.Draft202012Validator(schema).iter_errors(one)
    return [f"{error.json_path.removeprefix('$.')}: {error.message}" for error in found]


@functools.cache
def custom_schemas(group: str, kind: str) -> dict[str, Object]:
    """apiVersion -> schema, of each served version of a kind; {} when there is none. Raises SchemaMissing."""
    return {
        f"{group}/{version['name']}": _strict(version["schema"]["openAPIV3Schema"], top=True)
        for crd in _custom_resource_definitions(SOURCES[group], kind)
        for version in crd["spec"]["versions"]
        if version["served"]
    }


def _custom_resource_definitions(source: Source, kind: str) -> Iterator[Object]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # InferenceService's has two megabytes
    files = sorted(module_folder(source).glob(source.pattern))
    if not files:
        raise FileNotFoundError(
            f"{source.module} {source.version} has no {source.pattern}: look where its CRDs are now"
        )
    for file in files:
        text = file.read_text()
        if not re.search(rf"^    kind: {kind}$", text, re.M):  # parsing takes seconds
            continue
        # a chart's file may have lines that are no YAML before it is rendered
        for one in yaml.load_all(re.sub(r"^\s*\{\{.*\}\}\s*$", "", text, flags=re.M), loader):
            if one and one["kind"] == "CustomResourceDefinition" and one["spec"]["names"]["kind"] == kind:
                yield one


def module_folder(source: Source, *, fetch: bool = False) -> Path:
    """Where Go keeps the source of a module, checked against go.sum. Raises SchemaMissing when it is not there."""
    go = shutil.which("go")
    if not go:
        raise SchemaMissing(f"the CRDs come with Go's module {source.module}, and there is no Go: https://go.dev/dl")
    told = subprocess.run(
        [go, "mod", "download", "-json", f"{source.module}@{source.version}"],
        cwd=source.folder,
        env=os.environ | ({} if fetch else {"GOPROXY": "off"}),  # looks, fetches nothing
        capture_output=True,
        text=True,
        timeout=600,
    )
    answer = json.loads(told.stdout) if told.stdout.lstrip().startswith("{") else {}
    if told.returncode or "Dir" not in answer:
        why = answer.get("Error", told.stderr.strip())
        raise SchemaMissing(f"`make manifests-test` fetches Go's module {source.module} {source.version}: {why}")
    return Path(answer["Dir"])


_AS_IT_IS = ("enum", "default", "required", "oneOf", "anyOf", "allOf", "not")
"""A CRD's alternatives repeat some fields of the object around them, which names them all."""


def _strict(schema: Any, top: bool = False) -> Any:
    """The schema, refusing fields that it does not name, as the API server does with strict field validation."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: value if key in _AS_IT_IS else _strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict):
        strict["properties"] = {name: _strict(one) for name, one in schema["properties"].items()}
        if not ("additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")):
            strict["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        strict["type"] = ["integer", "string"]
    if schema.get("nullable") and "type" in schema:
        strict["type"] = [schema["type"], "null"]
    if top:  # the API server knows metadata by itself
        strict["properties"]["metadata"] = {"type": "object"}
    return strict


def main() -> int:
    """Fetch what is missing. 1 when something cannot be had."""
    try:
        for source in SOURCES.values():
            print(f"{source.module} {source.version}: {module_folder(source, fetch=True)}")
    except SchemaMissing as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
