"""Where the steps run, and what their pods are given: named profiles, compiled into the pipeline.

Kubeflow cannot read a resource request out of a dict parameter, so a run file names a profile instead. What a pod is
given beside its share of a machine (the store's volume, secrets, tokens) is the same in every profile: it belongs to
the cluster. Vertex AI takes only the share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:  # kfp takes a second to import, and the command line reads the names only
    from kfp import dsl

Engine = Literal["kubeflow", "vertex"]
"""Who runs the pipeline: Kubeflow Pipelines on a cluster, or Vertex AI Pipelines."""

ENGINES: tuple[Engine, ...] = get_args(Engine)
DEFAULT_ENGINE = ENGINES[0]

_POOL_LABEL = "slipway.dev/pool"
_GPU_LABEL = "cloud.google.com/gke-accelerator"
_QUEUE_LABEL, _GPU_QUEUE = "kueue.x-k8s.io/queue-name", "gpu"
"""Where Kueue runs, a step waits in this queue until there is room for it (manifests/components/gke/queue.yaml)."""

_USER = 65532
"""Of the steps' images. Kubeflow demands a user that is not root, and Kubernetes believes only numbers."""

VERTEX_ACCELERATORS = {
    "nvidia-l4": "NVIDIA_L4",
    "nvidia-tesla-a100": "NVIDIA_TESLA_A100",
    "nvidia-h100-80gb": "NVIDIA_H100_80GB",
}
"""GKE's node label -> Vertex AI's name of the same GPU."""

RUN_ID_VARIABLE = "SLIPWAY_RUN_ID"
"""Holds Kubeflow's id of the run in every pod: the runs of a schedule share their parameters, and differ in this."""

_RUN_ID_FIELD = "metadata.labels['pipeline/runid']"


@dataclass(frozen=True)
class Resources:
    """What one pod asks for; requests and limits are equal, so that a step is never evicted for using its share."""

    cpu: str
    memory: str
    gpus: int = 0
    accelerator: str = ""
    """Value of GKE's node label, for example "nvidia-l4"."""
    spot: bool = False
    pool: str = ""
    """A node pool that takes only who asks for it, by GKE's taint and label slipway.dev/pool (prod.tfvars)."""
    hours: int = 6
    """A pod that runs longer is ended; so is one whose image or secret is not there, which would wait for ever."""


@dataclass(frozen=True)
class Volume:
    """A shared volume, mounted by every step: it holds the store."""

    claim: str
    """A PersistentVolumeClaim (ReadWriteMany) in the namespace of the pipeline's pods."""

    path: str


@dataclass(frozen=True)
class Variables:
    """Keys of a Secret or ConfigMap as environment variables of some steps; what is missing there is left unset."""

    name: str
    keys: tuple[tuple[str, str], ...]
    """(key, environment variable) each."""

    steps: tuple[str, ...] = ()
    """Who gets them; () is every step."""

    def given_to(self, step: str) -> bool:
        return not self.steps or step in self.steps


@dataclass(frozen=True)
class Token:
    """A Secret of type kubernetes.io/service-account-token that one step mounts: its rights in the cluster.

    Beside what Kubernetes fills in (token, ca.crt) it holds a `kubeconfig` that names those files, since the usual
    place of a pod's token is taken: Kubeflow's launcher, which runs in the same container, speaks to the API server
    with the run's own account from there (kubeflow/pipelines 2.17.0, backend/src/v2/client_manager, InClusterConfig).
    """

    step: str
    secret: str
    path: str = "/var/run/secrets/slipway"

    @property
    def kubeconfig(self) -> str:
        return f"{self.path}/kubeconfig"


@dataclass(frozen=True)
class Placement:
    """Resources of each step (a step that is not named gets `small`), and what the cluster has for the pods."""

    small: Resources = Resources(cpu="1", memory="2Gi")
    steps: dict[str, Resources] = field(default_factory=dict)

    store: Volume = Volume(claim="slipway-store", path="/mnt/slipway")

    secrets: tuple[Variables, ...] = (
        Variables("slipway-hugging-face", (("token", "HF_TOKEN"),), steps=("fetch_base",)),
        Variables(
            "slipway-object-store",
            (
                ("access-key-id", "AWS_ACCESS_KEY_ID"),
                ("secret-access-key", "AWS_SECRET_ACCESS_KEY"),
                ("endpoint-url", "AWS_ENDPOINT_URL"),
            ),
            steps=("prepare_data", "fetch_base", "rollout"),
        ),
    )
    """Google's stores need none: a pod's identity there is its service account."""

    settings: tuple[Variables, ...] = (
        Variables("slipway-settings", (("mlflow-tracking-uri", "MLFLOW_TRACKING_URI"),)),
        Variables(
            "slipway-settings",
            (("storage-emulator-host", "STORAGE_EMULATOR_HOST"),),
            steps=("prepare_data", "fetch_base", "rollout"),
        ),
    )
    """ConfigMaps."""

    tokens: tuple[Token, ...] = (Token("rollout", "rollout-token"), Token("resolve_champion", "reader-token"))
    """The rollout alone may change what is live; the first step may look at it."""

    def of(self, step: str) -> Resources:
        return self.steps.get(step, self.small)


def _profile(train: Resources, evaluate: Resources, handling: Resources) -> Placement:
    """A profile by its two heavy steps, and by those that hold the whole model on a CPU."""
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
    "cpu": _profile(Resources("4", "12Gi"), Resources("4", "12Gi"), Resources("2", "8Gi")),
    "l4": _profile(
        Resources("7", "28Gi", 1, "nvidia-l4", spot=True, hours=24),
        Resources("7", "28Gi", 1, "nvidia-l4", spot=True),
        Resources("2", "48Gi"),
    ),
    "a100": _profile(
        Resources("11", "72Gi", 1, "nvidia-tesla-a100", hours=48),
        Resources("7", "28Gi", 1, "nvidia-l4", spot=True),
        Resources("2", "48Gi"),
    ),
    "h100x8": _profile(
        Resources("200", "1700Gi", 8, "nvidia-h100-80gb", hours=72),
        Resources("24", "205Gi", 1, "nvidia-h100-80gb"),
        Resources("2", "320Gi", pool="memory"),
    ),
}
"""`h100x8` is for training that is spread over GPUs. `finetune` computes on one so far: until it spreads, seven of the
eight are paid for and idle, so choose it for its 80 GB and its memory alone, or not at all."""


def place(task: dsl.PipelineTask, placement: Placement, engine: Engine) -> dsl.PipelineTask:
    """Ask for the step's share of a machine, for the nodes that have it, and for what the pod is given there."""
    step = task.name.replace("-", "_")
    resources = placement.of(step)
    task.set_cpu_request(resources.cpu).set_cpu_limit(resources.cpu)
    task.set_memory_request(resources.memory).set_memory_limit(resources.memory)
    # KFP's cache sees neither the code nor the content of inputs; the store does
    task.set_caching_options(False)
    if resources.gpus:
        name = "nvidia.com/gpu" if engine == "kubeflow" else VERTEX_ACCELERATORS[resources.accelerator]
        task.set_accelerator_type(name).set_accelerator_limit(resources.gpus)
    if engine == "kubeflow":  # Vertex AI refuses a pipeline with a second document, which any of these would add
        _choose_nodes(task, resources)
        _furnish(task, step, resources, placement)
    return task


_EGRESS = {"resolve_champion": "cluster", "rollout": "cluster", "prepare_data": "https", "fetch_base": "https"}
"""What a step's pod may reach, by the policies in manifests/base/network-policies.yaml; "none" is the storage alone."""


def _choose_nodes(task: dsl.PipelineTask, resources: Resources) -> None:
    from kfp import kubernetes

    if resources.gpus:
        kubernetes.add_pod_label(task, _QUEUE_LABEL, _GPU_QUEUE)
        kubernetes.add_node_selector(task, _GPU_LABEL, resources.accelerator)
        kubernetes.add_toleration(task, key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")
    if resources.pool:
        kubernetes.add_node_selector(task, _POOL_LABEL, resources.pool)
        kubernetes.add_toleration(task, key=_POOL_LABEL, operator="Exists", effect="NoSchedule")
    if resources.spot:
        kubernetes.add_node_selector(task, "cloud.google.com/gke-spot", "true")
        kubernetes.add_toleration(task, key="cloud.google.com/gke-spot", operator="Exists", effect="NoSchedule")


def _furnish(task: dsl.PipelineTask, step: str, resources: Resources, placement: Placement) -> None:
    """Volume, variables, token and limits of one step's pod."""
    from kfp import kubernetes

    kubernetes.set_security_context(task, run_as_user=_USER, run_as_group=_USER, run_as_non_root=True)
    kubernetes.set_timeout(task, resources.hours * 3600)
    kubernetes.add_pod_label(task, "slipway.dev/egress", _EGRESS.get(step, "none"))
    kubernetes.mount_pvc(task, pvc_name=placement.store.claim, mount_path=placement.store.path)
    kubernetes.use_field_path_as_env(task, env_name=RUN_ID_VARIABLE, field_path=_RUN_ID_FIELD)
    for secret in placement.secrets:
        if secret.given_to(step):
            kubernetes.use_secret_as_env(task, secret.name, dict(secret.keys), optional=True)
    for settings in placement.settings:
        if settings.given_to(step):
            kubernetes.use_config_map_as_env(task, settings.name, dict(settings.keys), optional=True)
    for token in placement.tokens:
        if token.step == step:
            kubernetes.use_secret_as_volume(task, token.secret, token.path)
            task.set_env_variable("KUBECONFIG", token.kubeconfig)
