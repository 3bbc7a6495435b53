"""What a cluster lacks of manifests/upstream.yaml: part by part what stands there, at which version, and what mends it.

It only reads. What may not be read is said, and counts as not there: nobody is told that all is well unseen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from components.rollout.kserve.client import Cluster
from components.rollout.target import TargetError
from components.step_config import InputError
from pipelines.platform_parts import ENVIRONMENTS, Environment, Part, Platform, Setting, Thing

ENVIRONMENT_LABEL = "slipway.dev/environment"
GOOGLE_ACCOUNT = "iam.gke.io/gcp-service-account"
_SYSTEM = "slipway-system"
_SECONDS = 10.0
_METADATA_ALONE = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
"""How a Secret is asked for, whose content is none of the doctor's business."""

Object = dict[str, Any]


class Unseen(TargetError):
    """The API server would not show it."""


class Reader(Cluster):
    """Objects of any kind and place by their path; nothing else."""

    @classmethod
    def connect(cls, namespace: str = "default", api_seconds: float = _SECONDS) -> Reader:
        """As Cluster.connect; the namespace is of no account here."""
        return cast("Reader", super().connect(namespace, api_seconds))

    def read(self, path: str, accept: str = "application/json") -> Object | None:
        """None when there is no such object, or no such kind. Raises Unseen."""
        try:
            reply = self._api.call_api(
                path,
                "GET",
                header_params={"Accept": accept},
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=_SECONDS,
            )
            return json.loads(reply.read())
        except Exception as error:
            status = getattr(error, "status", None)
            if status == 404:
                return None
            said = _message(getattr(error, "body", None)) or f"{type(error).__name__}: {error}"
            raise Unseen(f"{said} (HTTP {status})" if status else f"{self.server} does not answer: {said}") from error


@dataclass
class Finding:
    """One part: what is wanted, what is there, what is wrong with it."""

    part: str
    why: str
    wanted: str
    found: str = ""
    """The version that is there, where that can be told."""

    problems: list[str] = field(default_factory=list)
    remedy: str = ""

    @property
    def ok(self) -> bool:
        return not self.problems


def examine(platform: Platform, reader: Reader, environment: Environment | None = None) -> list[Finding]:
    """Every part of the environment, in the order of installation. Raises InputError when nobody says which it is."""
    server = reader.read("/version") or {}
    chosen = environment or _environment(reader)
    kubernetes = Finding("kubernetes", "the cluster itself", platform.kubernetes, server.get("gitVersion", "unknown"))
    return [kubernetes, *(_examine_part(part, reader, chosen) for part in platform.of(chosen))]


def _environment(reader: Reader) -> Environment:
    """As `make platform` has written it on our namespaces."""
    found = reader.read(f"/api/v1/namespaces/{_SYSTEM}") or {}
    label = found.get("metadata", {}).get("labels", {}).get(ENVIRONMENT_LABEL, "")
    for known in ENVIRONMENTS:
        if label == known:
            return known
    raise InputError(
        f"the cluster {reader.server} does not say which environment it is (label {ENVIRONMENT_LABEL} of the namespace "
        f"{_SYSTEM}); name it with --environment {'|'.join(ENVIRONMENTS)}"
    )


def _examine_part(part: Part, reader: Reader, environment: Environment) -> Finding:
    finding = Finding(part.name, part.why, part.version)
    checks: list[Callable[[], Iterator[str]]] = [
        lambda: _kinds(part, reader, finding),
        lambda: _webhooks(part, reader),
        lambda: _deployments(part, reader, finding, environment),
        lambda: _api_services(part, reader),
        lambda: _settings(part, reader),
        lambda: _objects(part, reader, environment),
        lambda: _namespaces(part, reader),
    ]
    for check in checks:
        try:
            finding.problems += check()
        except Unseen as error:
            finding.problems.append(f"cannot be seen: {error}")
    if finding.found and part.version and not _same(finding.found, part.version):
        finding.problems.append(f"is version {finding.found}, and {part.version} is wanted")
    if finding.problems:
        finding.remedy = _remedy(part, environment)
    return finding


def _remedy(part: Part, environment: Environment) -> str:
    if environment == "test-cluster":
        return "make cluster"
    return part.by or f"make platform ENV={environment} PART={part.name}"


def _kinds(part: Part, reader: Reader, finding: Finding) -> Iterator[str]:
    for one in part.shows.crds:
        name, _, version = one.partition("/")
        found = reader.read(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")
        if found is None:
            yield f"the kind {name} is missing"
            continue
        bundle = found["metadata"].get("annotations", {}).get("gateway.networking.k8s.io/bundle-version")
        finding.found = bundle or finding.found
        served = [each["name"] for each in found["spec"]["versions"] if each["served"]]
        if version not in served:
            yield f"the kind {name} is served as {', '.join(served) or 'nothing'}, not as {version}"
        elif not _holds(found, "Established"):
            yield f"the kind {name} is not established: {_reason(found, 'Established')}"


def _deployments(part: Part, reader: Reader, finding: Finding, environment: Environment) -> Iterator[str]:
    if environment == "test-cluster" and _answered_from_outside(part, reader):
        finding.found = "unknown; it runs beside the cluster"
        return
    for number, name in enumerate(part.shows.deployments):
        found = reader.read(f"/apis/apps/v1/namespaces/{part.namespace}/deployments/{name}")
        if found is None:
            yield f"Deployment {part.namespace}/{name} is missing"
            continue
        if number == 0:
            finding.found = _version(found, part.version)
        wanted, status = found["spec"].get("replicas", 1), found.get("status", {})
        available = status.get("availableReplicas", 0)
        if status.get("observedGeneration", 0) < found["metadata"].get("generation", 0):
            yield f"Deployment {part.namespace}/{name} has not been looked at since it was changed"
        elif available < wanted:
            yield f"Deployment {part.namespace}/{name} has {available} of {wanted} replicas: {_why_not(found)}"


def _answered_from_outside(part: Part, reader: Reader) -> bool:
    """Whether its webhooks call an address instead of a Service: the test cluster's controllers are no pods."""
    found = [reader.read(_webhook_path(name)) for name in part.shows.webhooks]
    hooks = [hook for one in found if one for hook in one.get("webhooks", [])]
    return bool(hooks) and all("url" in hook["clientConfig"] for hook in hooks)


def _webhook_path(name: str) -> str:
    return f"/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/{name}"


def _webhooks(part: Part, reader: Reader) -> Iterator[str]:
    for name in part.shows.webhooks:
        found = reader.read(_webhook_path(name))
        if found is None:
            yield f"the webhook {name} is missing"
            continue
        without = [hook["name"] for hook in found.get("webhooks", []) if not hook["clientConfig"].get("caBundle")]
        if without:
            yield f"the webhook {name} has no certificate to trust ({', '.join(without)}), so that writing fails"


def _api_services(part: Part, reader: Reader) -> Iterator[str]:
    for name in part.shows.api_services:
        found = reader.read(f"/apis/apiregistration.k8s.io/v1/apiservices/{name}")
        if found is None:
            yield f"the API {name} is missing"
        elif not _holds(found, "Available"):
            yield f"the API {name} is not available: {_reason(found, 'Available')}"


def _settings(part: Part, reader: Reader) -> Iterator[str]:
    for setting in part.shows.settings:
        found = reader.read(f"/api/v1/namespaces/{part.namespace}/configmaps/{setting.config_map}")
        if found is None:
            yield f"ConfigMap {part.namespace}/{setting.config_map} is missing"
            continue
        value = _value(found, setting)
        if value != setting.value:
            place = f"{setting.config_map}, {setting.key}.{setting.field}"
            yield f"the setting {place} is {value or 'not there'}, and {setting.value} is wanted"


def _value(config_map: Object, setting: Setting) -> str:
    try:
        value = json.loads(config_map.get("data", {}).get(setting.key, "{}")).get(setting.field, "")
    except (ValueError, AttributeError):
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _objects(part: Part, reader: Reader, environment: Environment) -> Iterator[str]:
    for thing in part.shows.objects:
        if environment not in thing.environments:
            continue
        found = reader.read(_path(thing), _METADATA_ALONE if thing.plural == "secrets" else "application/json")
        what = f"{thing.plural} {f'{thing.namespace}/' if thing.namespace else ''}{thing.name} ({thing.why})"
        if found is None:
            yield f"{what} is missing"
        elif thing.condition and not _holds(found, thing.condition):
            yield f"{what} is not {thing.condition}: {_reason(found, thing.condition)}"
        # on the test cluster, tests start the janitor themselves
        elif found.get("spec", {}).get("suspend") and environment != "test-cluster":
            yield f"{what} is suspended"
        elif thing.google and environment != "test-cluster" and not _annotation(found, GOOGLE_ACCOUNT):
            yield f"{what} has no annotation {GOOGLE_ACCOUNT}, so that Google knows it as nobody"


def _path(thing: Thing) -> str:
    root = f"/apis/{thing.version}" if "/" in thing.version else f"/api/{thing.version}"
    return f"{root}{f'/namespaces/{thing.namespace}' if thing.namespace else ''}/{thing.plural}/{thing.name}"


def _namespaces(part: Part, reader: Reader) -> Iterator[str]:
    """The part that makes ours."""
    if "Namespace" in part.kinds:
        for name in (_SYSTEM, "slipway-serving", "slipway-pipelines"):
            found = reader.read(f"/api/v1/namespaces/{name}")
            if found is None:
                yield f"the namespace {name} is missing"
            elif found["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
                yield f"the namespace {name} does not enforce Pod Security restricted"


def _version(deployment: Object, wanted: str) -> str:
    """The tag of an image that bears the version; that of the first one when none does."""
    containers = deployment["spec"]["template"]["spec"]["containers"]
    names = [one["image"].partition("@")[0].rpartition("/")[2] for one in containers]
    tags = [name.partition(":")[2] for name in names if ":" in name]
    return next((tag for tag in tags if _same(tag, wanted)), tags[0] if tags else "unknown")


def _same(found: str, wanted: str) -> bool:
    """v1.2.3, 1.2.3 and 1.2.3-full are one version; what cannot be told is not said to be another."""
    bare = found.removeprefix("v").partition("-")[0]
    return found.startswith("unknown") or bare == wanted.removeprefix("v")


def _condition(found: Object, kind: str) -> Object:
    return next((one for one in found.get("status", {}).get("conditions", []) if one["type"] == kind), {})


def _holds(found: Object, kind: str) -> bool:
    return _condition(found, kind).get("status") == "True"


def _reason(found: Object, kind: str) -> str:
    condition = _condition(found, kind)
    return condition.get("message") or condition.get("reason") or "nothing is said about it"


def _why_not(deployment: Object) -> str:
    for kind, bad in (("ReplicaFailure", "True"), ("Progressing", "False"), ("Available", "False")):
        condition = _condition(deployment, kind)
        if condition.get("status") == bad:
            return condition.get("message", condition.get("reason", kind))
    return "it is starting"


def _annotation(found: Object, name: str) -> str:
    return found["metadata"].get("annotations", {}).get(name, "")


def _message(body: Any) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, TypeError, KeyError):
        return ""
