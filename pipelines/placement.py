"""Where the steps run in a cluster: named profiles, compiled into the pipeline.

Kubeflow cannot read a resource request out of a dict parameter, so a run file names a profile instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kfp import dsl, kubernetes

_GPU_LABEL = "cloud.google.com/gke-accelerator"


@dataclass(frozen=True)
class Resources:
    """What one pod asks for; requests and limits are equal, so that a step is never evicted for using its share."""

    cpu: str
    memory: str
    gpus: int = 0
    accelerator: str = ""
    """Value of GKE's node label, for example "nvidia-l4"."""
    spot: bool = False


@dataclass(frozen=True)
class Placement:
    """Resources of each step; a step that is not named gets `small`."""

    small: Resources = Resources(cpu="1", memory="2Gi")
    steps: dict[str, Resources] = field(default_factory=dict)

    def of(self, step: str) -> Resources:
        return self.steps.get(step, self.small)


def _profile(train: Resources, evaluate: Resources, model_memory: str) -> Placement:
    """A profile by its two heavy steps, and the memory that holds the whole model on a CPU."""
    handling = Resources(cpu="2", memory=model_memory)
    return Placement(
        steps={
            "prepare_data": Resources(cpu="2", memory="8Gi"),
            "fetch_base": handling,
            "finetune": train,
            "package_release": handling,
            "package_base": handling,
            "evaluate": evaluate,
        }
    )


PROFILES: dict[str, Placement] = {
    "cpu": _profile(Resources("4", "12Gi"), Resources("4", "12Gi"), "8Gi"),
    "l4": _profile(
        Resources("7", "28Gi", 1, "nvidia-l4", spot=True), Resources("7", "28Gi", 1, "nvidia-l4", spot=True), "48Gi"
    ),
    "a100": _profile(
        Resources("11", "80Gi", 1, "nvidia-tesla-a100"), Resources("7", "28Gi", 1, "nvidia-l4", spot=True), "48Gi"
    ),
    "h100x8": _profile(
        Resources("200", "1800Gi", 8, "nvidia-h100-80gb"), Resources("24", "220Gi", 1, "nvidia-h100-80gb"), "320Gi"
    ),
}


def place(task: dsl.PipelineTask, resources: Resources) -> dsl.PipelineTask:
    """Ask for the resources, and for the nodes that have them."""
    task.set_cpu_request(resources.cpu).set_cpu_limit(resources.cpu)
    task.set_memory_request(resources.memory).set_memory_limit(resources.memory)
    # KFP's cache sees neither the code nor the content of inputs; the store does
    task.set_caching_options(False)
    if resources.gpus:
        task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(resources.gpus)
        kubernetes.add_node_selector(task, _GPU_LABEL, resources.accelerator)
        kubernetes.add_toleration(task, key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")
    if resources.spot:
        kubernetes.add_node_selector(task, "cloud.google.com/gke-spot", "true")
        kubernetes.add_toleration(task, key="cloud.google.com/gke-spot", operator="Exists", effect="NoSchedule")
    return task
