"""Brings a part into the cluster and waits until it answers: kubectl's server-side apply, and kubectl's watches.

Everything can be done again: what is there already is left as it is. A part's objects belong to a manager of its own,
so that two parts may name the same object, and what a newer version no longer sets is unset.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from manifests.installer import tools
from manifests.installer.errors import PlatformError
from manifests.installer.rendering import PART_LABEL
from pipelines.platform_parts import Part

Object = dict[str, Any]

PAUSE_SECONDS, WEBHOOK_SECONDS = 2.0, 5.0

FIRST = ("Namespace", "CustomResourceDefinition", "PriorityClass")
"""What others of the same part are made of: applied, and known to the server, before the rest."""


def manager(part: Part) -> str:
    """Who owns the fields that a part sets."""
    return f"slipway-{part.name}"


@dataclass(frozen=True)
class Cluster:
    """Where kubectl is pointed."""

    context: str = ""
    """Of the kubeconfig; "" is the current one."""

    def kubectl(self, *arguments: str) -> list[str]:
        chosen = [f"--context={self.context}"] if self.context else []
        return [tools.kubectl(), *chosen, *arguments]


@dataclass(frozen=True)
class Wait:
    """One thing to wait for: in words, and as kubectl's arguments without the time."""

    words: str
    arguments: tuple[str, ...]


def waits(part: Part) -> Iterator[Wait]:
    """All that shows that a part is there, in an order in which each can come true."""
    for crd in part.shows.crds:
        name = crd.partition("/")[0]
        yield Wait(f"the kind {name}", ("wait", "--for=condition=Established", f"crd/{name}"))
    for name in part.shows.deployments:
        where = f"--namespace={part.namespace}"
        yield Wait(f"Deployment {name}", ("rollout", "status", f"deployment/{name}", where))
    for name in part.shows.webhooks:
        trusted = "--for=jsonpath={.webhooks[0].clientConfig.caBundle}"
        webhook = f"validatingwebhookconfiguration/{name}"
        yield Wait(f"the certificate of the webhook {name}", ("wait", trusted, webhook))
    for name in part.shows.api_services:
        yield Wait(f"the API {name}", ("wait", "--for=condition=Available", f"apiservice/{name}"))
    for thing in part.shows.objects:
        if thing.condition:
            group = thing.version.rpartition("/")[0]
            resource = f"{thing.plural}.{group}" if group else thing.plural
            where = (f"--namespace={thing.namespace}",) if thing.namespace else ()
            wanted = ("wait", f"--for=condition={thing.condition}", f"{resource}/{thing.name}", *where)
            yield Wait(f"{thing.name}, {thing.why}", wanted)


def in_order(objects: list[Object]) -> Iterator[list[Object]]:
    """The objects in the groups in which they are applied."""
    first = [one for one in objects if one["kind"] in FIRST]
    rest = [one for one in objects if one["kind"] not in FIRST]
    yield from (group for group in (first, rest) if group)


def apply(part: Part, objects: list[Object], cluster: Cluster, say: Callable[[str], None]) -> None:
    """Apply a part and wait for it. Raises PlatformError with what kubectl said last."""
    deadline = time.monotonic() + part.wait_seconds
    for group in in_order(objects):
        _apply_group(part, group, cluster, deadline, say)
        _wait_for_kinds(group, cluster, deadline)
    for wait in waits(part):
        _wait(part, wait, cluster, deadline, say)


def apply_command(part: Part, cluster: Cluster) -> list[str]:
    flags = ["--server-side", "--force-conflicts", f"--field-manager={manager(part)}"]
    return cluster.kubectl("apply", *flags, "--filename=-")


def _apply_group(
    part: Part, group: list[Object], cluster: Cluster, deadline: float, say: Callable[[str], None]
) -> None:
    """A webhook that does not answer yet, of this part or of the one before, is asked again until the deadline."""
    given = yaml.safe_dump_all(group, sort_keys=False)
    while True:
        try:
            tools.run(apply_command(part, cluster), given=given, seconds=max(deadline - time.monotonic(), 60))
            return
        except PlatformError as error:
            if "field is immutable" in str(error) and _remove_jobs(group, cluster):
                continue
            if "failed calling webhook" not in str(error) or time.monotonic() + WEBHOOK_SECONDS > deadline:
                raise
        say(f"  {part.name}: a webhook does not answer yet")
        time.sleep(WEBHOOK_SECONDS)


def _remove_jobs(group: list[Object], cluster: Cluster) -> bool:
    """A Job cannot be changed. Those of a part only prepare something, so the old one gives way; True when one did."""
    jobs = [one for one in group if one["kind"] == "Job"]
    given = yaml.safe_dump_all(jobs, sort_keys=False)
    return bool(jobs) and bool(tools.run(cluster.kubectl("delete", "--ignore-not-found", "--filename=-"), given=given))


def _wait_for_kinds(group: list[Object], cluster: Cluster, deadline: float) -> None:
    names = [f"crd/{one['metadata']['name']}" for one in group if one["kind"] == "CustomResourceDefinition"]
    if names:
        _until(("wait", "--for=condition=Established", *names), cluster, deadline)


def _wait(part: Part, wait: Wait, cluster: Cluster, deadline: float, say: Callable[[str], None]) -> None:
    say(f"  waiting for {wait.words} (at most {max(deadline - time.monotonic(), 1):.0f} s)")
    try:
        _until(wait.arguments, cluster, deadline)
    except PlatformError as error:
        what = f"{part.name}: {wait.words} did not come within {part.wait_seconds} s"
        where = f"; look with `kubectl get events,pods --namespace={part.namespace}`" if part.namespace else ""
        raise PlatformError(f"{what}{where}\n{error}") from error


def _until(arguments: tuple[str, ...], cluster: Cluster, deadline: float) -> None:
    """One of kubectl's watches. It gives up at once on what is not there yet, or has no conditions yet: so again."""
    while True:
        left = max(int(deadline - time.monotonic()), 1)
        try:
            tools.run(cluster.kubectl(*arguments, f"--timeout={left}s"), seconds=left + 30)
            return
        except PlatformError:
            if time.monotonic() + PAUSE_SECONDS > deadline:
                raise
        time.sleep(PAUSE_SECONDS)


def left_over(part: Part, objects: list[Object], cluster: Cluster) -> list[str]:
    """What an earlier version of the part has left, among the kinds that it still has. Nothing deletes it by itself."""
    kinds = sorted({_full_kind(one) for one in objects if one["kind"] != "Namespace"})
    if not kinds:
        return []
    columns = "custom-columns=KIND:.kind,NAMESPACE:.metadata.namespace,NAME:.metadata.name"
    chosen = ["--all-namespaces", "--ignore-not-found", f"--selector={PART_LABEL}={part.name}"]
    told = tools.run(cluster.kubectl("get", ",".join(kinds), *chosen, f"--output={columns}", "--no-headers"))
    wanted = {(one["kind"], one["metadata"].get("namespace", "<none>"), one["metadata"]["name"]) for one in objects}
    found = [tuple(line.split()) for line in told.splitlines() if line.strip()]
    return [f"{kind} {name} in {namespace}" for kind, namespace, name in found if (kind, namespace, name) not in wanted]


def _full_kind(one: Object) -> str:
    """As kubectl takes it: KIND.VERSION.GROUP."""
    group, _, version = one["apiVersion"].rpartition("/")
    return f"{one['kind']}.{version}.{group}"


def differences(part: Part, objects: list[Object], cluster: Cluster) -> str:
    """What applying would change, as `kubectl diff` draws it; "" is nothing. Raises PlatformError."""
    flags = ["--server-side", "--force-conflicts", f"--field-manager={manager(part)}"]
    command = cluster.kubectl("diff", *flags, "--filename=-")
    given = yaml.safe_dump_all(objects, sort_keys=False)
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=600)
    if done.returncode > 1:  # 1: there are differences
        raise PlatformError(f"`{tools.words(command)}` failed:\n{done.stderr.strip()[-2000:]}")
    return done.stdout
