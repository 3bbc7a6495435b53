"""Every object against its own schema, strictly: Kubernetes' for its own kinds, the CRD's for the others.

CRDs are read from the Go modules that the test cluster is built from (tests/cluster/modules/go.mod pins them).
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from tests.cluster.place import SOURCES

KUBERNETES = "1.34"
MODULES = {
    "github.com/kserve/kserve": "config/crd/full/**/serving.kserve.io_[cis]*.yaml",
    "sigs.k8s.io/gateway-api": "config/crd/standard/*.yaml",
}

Object = dict[str, Any]


class SchemaMissing(RuntimeError):
    """The schema is not on this machine; the message says how it comes there."""


def faults(one: Object) -> list[str]:
    """What is wrong with an object, field by field. Raises SchemaMissing."""
    try:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)
        return []
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(str(part) for part in error.path)}: {error.message}"]
    except kubernetes_validate.SchemaNotFoundError:
        pass
    schema = custom_schemas().get((one["apiVersion"], one["kind"]))
    if schema is None:
        return [
            f"apiVersion {one['apiVersion']}: no CRD of {', '.join(MODULES)} has a served {one['kind']} of that version"
        ]
    found = jsonschema.Draft202012Validator(schema).iter_errors(one)
    return [f"{error.json_path.removeprefix('$.')}: {error.message}" for error in found]


@functools.cache
def custom_schemas() -> dict[tuple[str, str], Object]:
    """(apiVersion, kind) -> schema, of each served version of each CRD."""
    return {
        (f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"]): _strict(
            version["schema"]["openAPIV3Schema"], top=True
        )
        for crd in _custom_resource_definitions()
        for version in crd["spec"]["versions"]
        if version["served"]
    }


def _custom_resource_definitions() -> Iterator[Object]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # InferenceService's has two megabytes
    for module, pattern in MODULES.items():
        for file in sorted(module_folder(module).glob(pattern)):
            for one in yaml.load_all(file.read_text(), loader):
                if one and one["kind"] == "CustomResourceDefinition":
                    yield one


def module_folder(module: str) -> Path:
    """Where Go keeps the source of a module. Raises SchemaMissing when it has not been fetched."""
    go = shutil.which("go")
    if not go:
        raise SchemaMissing(
            f"the CRDs come with Go's module {module}, and there is no Go; install it, then `make cluster`"
        )
    told = subprocess.run(
        [go, "list", "-m", "-f", "{{.Dir}}", module],
        cwd=SOURCES / "modules",
        env={**os.environ, "GOPROXY": "off", "GOFLAGS": "-mod=mod"},  # looks, fetches nothing
        capture_output=True,
        text=True,
        timeout=60,
    )
    folder = told.stdout.strip()
    if told.returncode or not folder:
        raise SchemaMissing(
            f"the CRDs come with Go's module {module}, which `make cluster` fetches: {told.stderr.strip()}"
        )
    return Path(folder)


def _strict(schema: Any, top: bool = False) -> Any:
    """The schema, refusing fields that it does not name, as the API server does with strict field validation."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: value if key in ("enum", "default", "required") else _strict(value) for key, value in schema.items()}
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
