"""A compiled pipeline run as Jobs: each step's container as Kubeflow's driver and launcher would have it.

Kubeflow's backend is not part of the test cluster (docs/cluster.md), so this reads the compiled YAML as its driver
does: tasks in the order of the graph, conditions, parameters and artifacts resolved into an executor input; and calls
the container as its launcher does: `command` and `args` of the YAML with the executor input in the place of `{{$}}`,
artifacts at /minio/..., results in the files that the executor input names. What it does not know it refuses.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from tests.cluster import jobs
from tests.cluster.harness import Cluster
from tests.cluster.place import ClusterError

CLAIM, _LAUNCHER = "slipway-store", "slipway-launcher"
_USER = 65532
_BUCKET = "mlpipeline"
_COMPARISON = re.compile(r"inputs\.parameter_values\['([^']+)'\] == '([^']*)'")


class Shared:
    """Folders of the node as the volumes that steps mount."""

    def __init__(self, cluster: Cluster, folder: Path):
        self._cluster = cluster
        self.store = folder / "store"
        """What compiled pipelines mount: the store."""

        self.launcher = folder / "launcher"
        """What Kubeflow's launcher moves in and out of a pod: artifacts, results, and the run file's data."""

        for volume in (self.store, self.launcher, self.launcher / "artifacts", self.launcher / "data"):
            give(volume)

    def claim(self) -> None:
        """Offer both in the cluster; a pod can mount a claim only once, so each has its own."""
        self.release()
        for name, folder in ((CLAIM, self.store), (_LAUNCHER, self.launcher)):
            self._cluster.apply(_volume(name, folder))

    def release(self) -> None:
        """Take them back; the folders stay."""
        for name in (CLAIM, _LAUNCHER):
            self._cluster.kubectl("-n", jobs.NAMESPACE, "delete", "pvc", name, "--ignore-not-found")
            self._cluster.kubectl("delete", "pv", name, "--ignore-not-found")


def give(folder: Path) -> None:
    """Make a folder that the steps' user may write to."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chown(folder, _USER, _USER)


def _volume(name: str, folder: Path) -> list[dict[str, Any]]:
    """A folder of the node as a volume, and the claim that it is bound to."""
    common = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    size = {"storage": "1Gi"}
    place = {"hostPath": {"path": str(folder), "type": "Directory"}, "capacity": size}
    bound = {"volumeName": name, "resources": {"requests": size}}
    metadata = {"name": name, "namespace": jobs.NAMESPACE}
    return [
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": common | place},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": common | bound},
    ]


@dataclass
class Values:
    """What flows between tasks: parameter -> value, artifact -> the list that an executor input holds."""

    parameters: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


@dataclass
class Step:
    """One step that ran."""

    finished: jobs.Finished
    outputs: Values
    pod: dict[str, Any]


class PipelineRun:
    """One run of a compiled pipeline."""

    def __init__(
        self, cluster: Cluster, documents: list[dict[str, Any]], shared: Shared, name: str, online: frozenset[str]
    ):
        """`online` names the tasks that may open connections; all others run cut off."""
        self._cluster, self._spec, self._shared, self._name = cluster, documents[0], shared, name
        self._online = online
        platforms = documents[1]["platforms"] if len(documents) == 2 else {"kubernetes": {"deploymentSpec": {}}}
        self._kubernetes: dict[str, Any] = platforms["kubernetes"]["deploymentSpec"].get("executors", {})
        self.steps: dict[str, Step] = {}
        """Task name -> what came of it, of those that have run."""

    def execute(self, parameters: dict[str, Any], seconds: float) -> None:
        """Run everything. `seconds` is for each step.

        Raises ClusterError with the log of the first step that fails.
        """
        known = self._spec["root"]["inputDefinitions"]["parameters"]
        defaults = {name: definition["defaultValue"] for name, definition in known.items()}
        self._graph(self._spec["root"], Values(defaults | parameters), seconds)

    def _graph(self, component: dict[str, Any], given: Values, seconds: float) -> None:
        tasks = component["dag"]["tasks"]
        done: dict[str, Values] = {}
        for name in TopologicalSorter(
            {name: set(task.get("dependentTasks", [])) for name, task in tasks.items()}
        ).static_order():
            task = tasks[name]
            inputs = _resolve(task.get("inputs", {}), given, done)
            if not _holds(task.get("triggerPolicy", {}).get("condition"), inputs):
                continue
            component = self._spec["components"][task["componentRef"]["name"]]
            if "dag" in component:
                self._graph(component, inputs, seconds)
            else:
                done[name] = self._step(name, component, inputs, seconds)

    def _step(self, task: str, component: dict[str, Any], inputs: Values, seconds: float) -> Values:
        executor = component["executorLabel"]
        outputs = self._outputs(task, component.get("outputDefinitions", {}))
        spec = self.pod(task, executor, _executor_input(inputs, outputs))
        # labels as the backend sets them
        own = self._kubernetes.get(executor, {}).get("podMetadata", {}).get("labels", {})
        labels = {"pipeline/runid": self._name, "pipelines.kubeflow.org/v2_component": "true", **own}
        cut = task not in self._online
        finished = jobs.run(self._cluster, f"step-{task}", spec, seconds, labels=labels, cut=cut)
        if finished.code:
            raise ClusterError(f"step {task} ended with {finished.code}; its log:\n{finished.log[-4000:]}")
        left = self._left(task, outputs)
        self.steps[task] = Step(finished, left, spec)
        return left

    def _outputs(self, task: str, definitions: dict[str, Any]) -> dict[str, Any]:
        """The executor input's `outputs`; the folders are there before the step begins, as the launcher sees to it."""
        artifacts: dict[str, Any] = {}
        for name, definition in definitions.get("artifacts", {}).items():
            place = f"{_BUCKET}/v2/artifacts/{self._spec['pipelineInfo']['name']}/{self._name}/{task}"
            _give_below(self._shared.launcher / "artifacts", place)
            one = {"name": name, "type": definition["artifactType"], "uri": f"minio://{place}/{name}", "metadata": {}}
            artifacts[name] = {"artifacts": [one]}
        _give_below(self._shared.launcher, f"{self._results(task)}/parameters")
        parameters = {
            name: {"outputFile": f"/tmp/kfp/outputs/parameters/{name}"} for name in definitions.get("parameters", {})
        }
        return {"artifacts": artifacts, "parameters": parameters, "outputFile": "/tmp/kfp/outputs/output_metadata.json"}

    def _results(self, task: str) -> str:
        return f"results/{self._name}/{task}"

    def _left(self, task: str, outputs: dict[str, Any]) -> Values:
        """What the step wrote down: values of parameters, and artifacts with the metadata it gave them."""
        folder = self._shared.launcher / self._results(task)
        written = folder / "output_metadata.json"
        told: dict[str, Any] = json.loads(written.read_bytes()) if written.exists() else {}
        artifacts = {name: one["artifacts"] for name, one in (outputs["artifacts"] | told.get("artifacts", {})).items()}
        parameters = dict(told.get("parameterValues", {}))
        for name in outputs["parameters"]:
            file = folder / "parameters" / name
            if name not in parameters and file.exists():
                parameters[name] = file.read_text()
        return Values(parameters, artifacts)

    def pod(self, task: str, executor: str, executor_input: dict[str, Any]) -> dict[str, Any]:
        """The pod's spec of one step."""
        container = self._spec["deploymentSpec"]["executors"][executor]["container"]
        filled = json.dumps(executor_input)
        shared = [
            {"name": "launcher", "mountPath": "/minio", "subPath": "artifacts"},
            {"name": "launcher", "mountPath": "/tmp/kfp/outputs", "subPath": self._results(task)},
            # where the run file's relative paths lead to: the image's working folder is /tmp
            {"name": "launcher", "mountPath": "/tmp/data", "subPath": "data", "readOnly": True},
        ]
        pod_name = {"name": "KFP_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
        spec = jobs.pod(
            container["image"],
            [*container["command"], *(filled if word == "{{$}}" else word for word in container["args"])],
            env=[pod_name, *container.get("env", [])],
            resources=_resources(container.get("resources", {})),
            volumeMounts=shared,
        )
        spec["volumes"].append({"name": "launcher", "persistentVolumeClaim": {"claimName": _LAUNCHER}})
        spec["serviceAccountName"] = "pipeline-step"
        for name, setting in self._kubernetes.get(executor, {}).items():
            if name not in _SETTINGS:
                raise ClusterError(
                    f"{executor} has the platform setting {name}, which is not known here; teach _SETTINGS"
                )
            _SETTINGS[name](spec, setting)
        return spec


def _give_below(folder: Path, path: str) -> None:
    for part in Path(path).parts:
        folder /= part
        give(folder)


def _executor_input(inputs: Values, outputs: dict[str, Any]) -> dict[str, Any]:
    artifacts = {name: {"artifacts": found} for name, found in inputs.artifacts.items()}
    return {"inputs": {"parameterValues": inputs.parameters, "artifacts": artifacts}, "outputs": outputs}


def _resolve(wanted: dict[str, Any], given: Values, done: dict[str, Values]) -> Values:
    """A task's inputs out of constants, its graph's own inputs and what tasks before it left."""
    values = Values()
    for name, source in wanted.get("parameters", {}).items():
        if "runtimeValue" in source:
            values.parameters[name] = source["runtimeValue"]["constant"]
        elif "componentInputParameter" in source:
            values.parameters[name] = given.parameters[source["componentInputParameter"]]
        else:
            producer = source["taskOutputParameter"]
            values.parameters[name] = done[producer["producerTask"]].parameters[producer["outputParameterKey"]]
    for name, source in wanted.get("artifacts", {}).items():
        if "componentInputArtifact" in source:
            values.artifacts[name] = given.artifacts[source["componentInputArtifact"]]
        else:
            producer = source["taskOutputArtifact"]
            values.artifacts[name] = done[producer["producerTask"]].artifacts[producer["outputArtifactKey"]]
    return values


def _holds(condition: str | None, inputs: Values) -> bool:
    """Whether a task is to run: `parameter == 'text'`, or `!(...)` around it, which is all that our pipeline has."""
    if condition is None:
        return True
    negated = condition.startswith("!(") and condition.endswith(")")
    match = _COMPARISON.fullmatch(condition[2:-1] if negated else condition)
    if not match:
        raise ClusterError(f"the condition {condition!r} cannot be read here")
    return (inputs.parameters[match[1]] == match[2]) != negated


def _resources(asked: dict[str, Any]) -> dict[str, Any]:
    pairs = {"requests": "Request", "limits": "Limit"}
    return {
        kind: {
            name: asked[f"resource{title}{end}"]
            for name, title in (("cpu", "Cpu"), ("memory", "Memory"))
            if f"resource{title}{end}" in asked
        }
        for kind, end in pairs.items()
    }


# --- what kfp-kubernetes puts into the second document: a function per setting, given the pod's spec -----------------


def _security_context(spec: dict[str, Any], setting: dict[str, Any]) -> None:
    numbers = {name: int(setting[name]) for name in ("runAsUser", "runAsGroup") if name in setting}
    context = spec["containers"][0]["securityContext"]
    spec["containers"][0]["securityContext"] = context | numbers | {"runAsNonRoot": setting["runAsNonRoot"]}


def _mount(spec: dict[str, Any], name: str, volume: dict[str, Any], path: str) -> None:
    spec["volumes"].append({"name": name, **volume})
    spec["containers"][0]["volumeMounts"].append({"name": name, "mountPath": path})


def _pvc_mount(spec: dict[str, Any], setting: list[dict[str, Any]]) -> None:
    for one in setting:
        claim = {"persistentVolumeClaim": {"claimName": one["constant"]}}
        _mount(spec, one["constant"], claim, one["mountPath"])


def _secret_as_volume(spec: dict[str, Any], setting: list[dict[str, Any]]) -> None:
    for one in setting:
        secret = {"secret": {"secretName": one["secretName"], "optional": one.get("optional", False)}}
        _mount(spec, one["secretName"], secret, one["mountPath"])


def _secret_as_env(spec: dict[str, Any], setting: list[dict[str, Any]]) -> None:
    for one in setting:
        for pair in one["keyToEnv"]:
            key = {"name": one["secretName"], "key": pair["secretKey"], "optional": one.get("optional", False)}
            _variable(spec, pair["envVar"], {"secretKeyRef": key})


def _config_map_as_env(spec: dict[str, Any], setting: list[dict[str, Any]]) -> None:
    for one in setting:
        for pair in one["keyToEnv"]:
            key = {"name": one["configMapName"], "key": pair["configMapKey"], "optional": one.get("optional", False)}
            _variable(spec, pair["envVar"], {"configMapKeyRef": key})


def _field_path_as_env(spec: dict[str, Any], setting: list[dict[str, Any]]) -> None:
    for one in setting:
        _variable(spec, one["name"], {"fieldRef": {"fieldPath": one["fieldPath"]}})


def _variable(spec: dict[str, Any], name: str, source: dict[str, Any]) -> None:
    spec["containers"][0]["env"].append({"name": name, "valueFrom": source})


def _deadline(spec: dict[str, Any], setting: str) -> None:
    spec["activeDeadlineSeconds"] = int(setting)


_SETTINGS = {
    "securityContext": _security_context,
    "pvcMount": _pvc_mount,
    "secretAsVolume": _secret_as_volume,
    "secretAsEnv": _secret_as_env,
    "configMapAsEnv": _config_map_as_env,
    "fieldPathAsEnv": _field_path_as_env,
    "activeDeadlineSeconds": _deadline,
    "podMetadata": lambda spec, setting: None,  # not of the pod's spec: `_step` sets its labels
}


def with_images(documents: list[dict[str, Any]], references: dict[str, str]) -> list[dict[str, Any]]:
    """The same pipeline with its images by digest: name as compiled -> reference. Each image must be named."""
    copied: list[dict[str, Any]] = json.loads(json.dumps(documents))
    for executor in copied[0]["deploymentSpec"]["executors"].values():
        executor["container"]["image"] = references[executor["container"]["image"]]
    return copied
