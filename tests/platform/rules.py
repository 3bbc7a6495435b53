"""What must hold of upstream's parts as we apply them: each rule is a function from objects to what is wrong."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator
from typing import Any

from manifests.installer import pins, rendering
from pipelines.platform_parts import Part

Object = dict[str, Any]

_CAPABILITY = {"NET_BIND_SERVICE"}
"""The one that Pod Security `restricted` lets be added."""


def name(one: Object) -> str:
    metadata = one["metadata"]
    return f"{one['kind']} {metadata.get('namespace', '')}/{metadata['name']}".replace(" /", " ")


def unrestricted(objects: Iterable[Object]) -> Iterator[str]:
    """What Pod Security `restricted` would not let in."""
    for one in objects:
        for pod, containers in rendering.pods(one):
            of_pod = pod.get("securityContext", {})
            for container in containers:
                context = of_pod | container.get("securityContext", {})
                capabilities = context.get("capabilities", {})
                asked = {
                    "runAsNonRoot": context.get("runAsNonRoot") is True,
                    "runAsUser": context.get("runAsUser") != 0,
                    "allowPrivilegeEscalation": context.get("allowPrivilegeEscalation") is False,
                    "capabilities": "ALL" in capabilities.get("drop", [])
                    and set(capabilities.get("add", [])) <= _CAPABILITY,
                    "seccompProfile": context.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
                    "privileged": not context.get("privileged"),
                }
                yield from (f"{name(one)}, {container['name']}: {what}" for what, holds in asked.items() if not holds)
            for volume in pod.get("volumes", []):
                if "hostPath" in volume:
                    yield f"{name(one)}: volume {volume['name']} is the node's own"
            yield from (f"{name(one)}: {what}" for what in ("hostNetwork", "hostPID", "hostIPC") if pod.get(what))


def unbounded(objects: Iterable[Object]) -> Iterator[str]:
    """Containers that do not say what they take, and what they may take of memory."""
    for one in objects:
        for _, containers in rendering.pods(one):
            for container in containers:
                resources = container.get("resources", {})
                if not {"cpu", "memory"} <= set(resources.get("requests", {})):
                    yield f"{name(one)}, {container['name']}: no requests"
                if "memory" not in resources.get("limits", {}):
                    yield f"{name(one)}, {container['name']}: no limit of memory"


def not_shown(part: Part, objects: Iterable[Object]) -> Iterator[str]:
    """What the part brings and `shows` leaves out, or names and the part does not bring."""
    every = list(objects)
    deployments = {one["metadata"]["name"] for one in every if one["kind"] == "Deployment"}
    # a database beside Kubeflow shows by what needs it
    yield from (f"Deployment {one} is not in `shows`" for one in deployments - set(part.shows.deployments) - {"mysql"})
    yield from (f"Deployment {one} is not there" for one in set(part.shows.deployments) - deployments)
    served = {
        f"{one['metadata']['name']}/{version['name']}"
        for one in every
        if one["kind"] == "CustomResourceDefinition"
        for version in one["spec"]["versions"]
        if version["served"]
    }
    yield from (f"the kind {one} is not there" for one in set(part.shows.crds) - served)
    for kind, wanted in (
        ("ValidatingWebhookConfiguration", part.shows.webhooks),
        ("APIService", part.shows.api_services),
    ):
        there = {one["metadata"]["name"] for one in every if one["kind"] == kind}
        yield from (f"{kind} {one} is not there" for one in set(wanted) - there)


def loose_rights(objects: Iterable[Object]) -> Iterator[str]:
    """Rights in our namespaces and Kubeflow's that read Secrets, or that name everything."""
    for one in objects:
        if one["kind"] == "Role" and one["metadata"].get("namespace") in ("kubeflow", "slipway-pipelines"):
            for rule in one["rules"]:
                if "secrets" in rule["resources"]:
                    yield f"{name(one)}: reads Secrets"
                if "*" in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]:
                    yield f"{name(one)}: *"


def webhook_ports(objects: Iterable[Object]) -> Iterator[tuple[str, int]]:
    """(whose, port in the pod) of all that the API server calls: webhooks, and APIs behind its own."""
    every = list(objects)
    called: set[tuple[str, str, int]] = set()
    for one in every:
        clients = [hook["clientConfig"] for hook in one.get("webhooks", [])]
        conversion = one.get("spec", {}).get("conversion", {}).get("webhook", {}) if "spec" in one else {}
        clients += [conversion["clientConfig"]] if "clientConfig" in conversion else []
        clients += [{"service": one["spec"]["service"]}] if one["kind"] == "APIService" else []
        for client in clients:
            service = client["service"]
            called.add((service["namespace"], service["name"], service.get("port", 443)))
    for namespace, service, port in called:
        found = [
            one
            for one in every
            if one["kind"] == "Service"
            and (one["metadata"]["name"], one["metadata"].get("namespace")) == (service, namespace)
        ]
        if not found:
            continue  # of another part: a chart may know the Service of its neighbour
        (entry,) = [each for each in found[0]["spec"]["ports"] if each["port"] == port]
        target = entry.get("targetPort", port)
        yield f"{namespace}/{service}", _number(every, found[0], target)


def _number(objects: list[Object], service: Object, target: int | str) -> int:
    """A named port as its number, from the pods that the Service selects."""
    if isinstance(target, int):
        return target
    for one in objects:
        for _, containers in rendering.pods(one):
            labels = one["spec"]["template"]["metadata"].get("labels", {})
            if service["spec"]["selector"].items() <= labels.items():
                for container in containers:
                    for port in container.get("ports", []):
                        if port.get("name") == target:
                            return port["containerPort"]
    raise ValueError(f"{service['metadata']['name']}: no pod has a port {target}")


def not_allowed(objects: Iterable[Object], patterns: Iterable[str]) -> list[str]:
    """Images that Binary Authorization's list does not let in; ** stands for a path, * for one name in it."""
    listed = list(patterns)
    return [one for one in map(pins.whole, pins.references(objects)) if not allows(listed, one)]


def allows(patterns: Iterable[str], image: str) -> bool:
    return any(re.fullmatch(fnmatch.translate(pattern.replace("**", "*")), image) for pattern in patterns)


def unknown_values(values: Any, chart: Any, path: str = "") -> Iterator[str]:
    """Keys of a values file that the chart does not have: helm takes them, and nothing happens.

    What the chart leaves open ({} or nothing) may be given anything; lists are taken whole.
    """
    if not isinstance(values, dict) or not isinstance(chart, dict) or not chart:
        return
    for key, value in values.items():
        here = f"{path}.{key}".lstrip(".")
        if key not in chart:
            yield here
        else:
            yield from unknown_values(value, chart[key], here)
