"""Every step asks for what its profile says, GPU steps find their nodes, and nothing else keeps others off them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest

from pipelines.placement import PROFILES, Placement, Resources
from pipelines.run_config import RunConfig
from tests.pipelines import ir

GPU_PROFILES = [name for name in PROFILES if name != "cpu"]
ACCELERATOR_LABEL = "cloud.google.com/gke-accelerator"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
SPOT_LABEL = "cloud.google.com/gke-spot"
POOL_LABEL = "slipway.dev/pool"


def find_misplaced(pipeline: ir.Pipeline, placement: Placement) -> list[str]:
    """Steps whose pod asks for something else than the profile says, a sentence each."""
    problems: list[str] = []
    for step in pipeline.steps():
        wanted = placement.of(step.replace("-", "_"))
        asked = pipeline.container(step).resources
        found = {
            "cpu": (asked.resource_cpu_request, asked.resource_cpu_limit),
            "memory": (asked.resource_memory_request, asked.resource_memory_limit),
            "accelerator": (asked.accelerator.resource_type, asked.accelerator.resource_count),
            **node_rules(pipeline, step),
        }
        expected = {
            "cpu": (wanted.cpu, wanted.cpu),
            "memory": (wanted.memory, wanted.memory),
            "accelerator": ("nvidia.com/gpu", str(wanted.gpus)) if wanted.gpus else ("", ""),
            "nodes": wanted_labels(wanted),
            "queue": "gpu" if wanted.gpus else "",
            "tolerations": wanted_tolerations(wanted),
        }
        wrong = [name for name in expected if found[name] != expected[name]]
        problems += [f"{step}: {name} is {found[name]}, not {expected[name]}" for name in wrong]
    return problems


def node_rules(pipeline: ir.Pipeline, step: str) -> dict[str, Any]:
    """The labels that a step's node must have, and the taints that it may have."""
    config = pipeline.kubernetes.get(pipeline.executor_of(step))
    if config is None:
        return {"nodes": {}, "tolerations": set(), "queue": ""}
    tolerated = {one.key for one in config.tolerations if (one.operator, one.effect) == ("Exists", "NoSchedule")}
    queue = config.pod_metadata.labels.get(QUEUE_LABEL, "")
    return {"nodes": dict(config.node_selector.labels), "tolerations": tolerated, "queue": queue}


def wanted_labels(resources: Resources) -> dict[str, str]:
    spot = "true" if resources.spot else ""
    labels = {ACCELERATOR_LABEL: resources.accelerator, POOL_LABEL: resources.pool, SPOT_LABEL: spot}
    return {key: value for key, value in labels.items() if value}


def wanted_tolerations(resources: Resources) -> set[str]:
    taints = {"nvidia.com/gpu": resources.gpus, SPOT_LABEL: resources.spot, POOL_LABEL: resources.pool}
    return {key for key, wanted in taints.items() if wanted}


# --- the profiles ----------------------------------------------------------------------------------------------


def test_a_run_file_may_name_exactly_the_profiles():
    assert list(get_args(RunConfig.model_fields["placement"].annotation)) == list(PROFILES)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_names_steps_of_the_pipeline(compiled, profile):
    steps = {name.replace("-", "_") for name in ir.parse(compiled("laptop", profile)).steps()}
    assert set(PROFILES[profile].steps) <= steps


@pytest.mark.parametrize("profile", GPU_PROFILES)
def test_a_gpu_profile_trains_and_scores_on_gpus(profile):
    for step in ("finetune", "evaluate"):
        resources = PROFILES[profile].of(step)
        assert resources.gpus >= 1
        assert resources.accelerator.startswith("nvidia-")


def test_the_cpu_profile_asks_for_no_gpu():
    assert [step for step, resources in PROFILES["cpu"].steps.items() if resources.gpus or resources.spot] == []


def test_a_step_without_an_entry_is_small():
    placement = Placement(small=Resources("1", "1Gi"), steps={"finetune": Resources("8", "8Gi")})
    assert placement.of("finetune").cpu == "8"
    assert placement.of("stop") == Resources("1", "1Gi")


# --- as compiled -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
def test_every_step_is_placed(compiled, profile):
    pipeline = ir.parse(compiled("laptop", profile))
    assert find_misplaced(pipeline, PROFILES[profile]) == []
    assert all(pipeline.container(step).resources.cpu_request > 0 for step in pipeline.steps())
    assert all(pipeline.container(step).resources.memory_limit > 0 for step in pipeline.steps())


def test_eight_gpus_are_eight(compiled):
    accelerator = ir.parse(compiled("laptop", "h100x8")).container("finetune").resources.accelerator
    assert (accelerator.resource_count, accelerator.resource_type) == ("8", "nvidia.com/gpu")


# --- what the pods are given -----------------------------------------------------------------------------------


def find_misfurnished(pipeline: ir.Pipeline) -> list[str]:
    """Steps whose pod lacks something it needs or holds something that is not its own, a sentence each."""
    problems: list[str] = []
    for step in pipeline.steps():
        config = pipeline.kubernetes.get(pipeline.executor_of(step))
        if config is None:
            problems.append(f"{step}: nothing")
            continue
        variables = {one.name: one.value for one in pipeline.container(step).env}
        found = {
            "volumes": [
                (one.pvc_name_parameter.runtime_value.constant.string_value, one.mount_path) for one in config.pvc_mount
            ],
            "tokens": [(one.secret_name, one.mount_path, one.optional) for one in config.secret_as_volume],
            "kubeconfig": variables.get("KUBECONFIG", ""),
            "secrets": {pair.env_var for one in config.secret_as_env for pair in one.key_to_env},
            "required": [
                one.secret_name for one in [*config.secret_as_env, *config.config_map_as_env] if not one.optional
            ],
            "user": (config.security_context.run_as_user, config.security_context.run_as_non_root),
            "run": [(one.name, one.field_path) for one in config.field_path_as_env],
            "deadline": config.active_deadline_seconds > 0,
            "labels": {key: value for key, value in config.pod_metadata.labels.items() if key != QUEUE_LABEL},
        }
        expected = {
            "volumes": [("slipway-store", "/mnt/slipway")],
            "tokens": [(TOKENS[step], "/var/run/secrets/slipway", False)] if step in TOKENS else [],
            "kubeconfig": "/var/run/secrets/slipway/kubeconfig" if step in TOKENS else "",
            "secrets": SECRETS.get(step, set()),
            "required": [],
            "user": (65532, True),
            "run": [("SLIPWAY_RUN_ID", "metadata.labels['pipeline/runid']")],
            "deadline": True,
            "labels": {"slipway.dev/egress": EGRESS.get(step, "none")},
        }
        wrong = [name for name in expected if found[name] != expected[name]]
        problems += [f"{step}: {name} is {found[name]}, not {expected[name]}" for name in wrong]
    return problems


EGRESS = {"rollout": "cluster", "resolve-champion": "cluster", "prepare-data": "https", "fetch-base": "https"}
TOKENS = {"rollout": "rollout-token", "resolve-champion": "reader-token"}
_STORE_KEYS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"}
SECRETS = {"fetch-base": {"HF_TOKEN", *_STORE_KEYS}, "prepare-data": _STORE_KEYS, "rollout": _STORE_KEYS}


@pytest.mark.parametrize("profile", PROFILES)
def test_every_pod_is_given_what_it_needs_and_the_rollout_alone_its_token(compiled, profile):
    assert find_misfurnished(ir.parse(compiled("laptop", profile))) == []


@pytest.mark.parametrize("step", ["finetune", "quality-gate", "stop"])
def test_a_token_in_another_pod_is_seen(compiled, step):
    documents = compiled("laptop", "cpu")
    ir.kubernetes_of(documents[1], step)["secretAsVolume"] = ir.kubernetes_of(documents[1], "rollout")["secretAsVolume"]
    (problem,) = find_misfurnished(ir.parse(documents))
    assert problem.startswith(f"{step}: tokens is [('rollout-token'")


def test_the_first_step_with_the_rollouts_rights_is_seen(compiled):
    documents = compiled("laptop", "cpu")
    ir.kubernetes_of(documents[1], "resolve-champion")["secretAsVolume"] = ir.kubernetes_of(documents[1], "rollout")[
        "secretAsVolume"
    ]
    assert find_misfurnished(ir.parse(documents))


def test_where_no_cluster_is_nothing_is_given(compiled):
    pipeline = ir.parse(compiled("laptop", "l4", "vertex"))
    assert pipeline.kubernetes == {}
    assert not any(one.name == "KUBECONFIG" for step in pipeline.steps() for one in pipeline.container(step).env)


Mutation = Callable[[dict[str, Any], dict[str, Any]], object]


def resources(spec: dict[str, Any], step: str) -> dict[str, Any]:
    return spec["deploymentSpec"]["executors"][f"exec-{step}"]["container"]["resources"]


MISTAKES: dict[str, tuple[Mutation, str]] = {
    "no accelerator": (lambda s, _: resources(s, "finetune").pop("accelerator"), "finetune: accelerator is ('', '')"),
    "two accelerators": (
        lambda s, _: resources(s, "finetune")["accelerator"].update(resourceCount="2"),
        "finetune: accelerator is ('nvidia.com/gpu', '2')",
    ),
    "an accelerator too many": (
        lambda s, _: resources(s, "stop").update(accelerator=resources(s, "finetune")["accelerator"]),
        "stop: accelerator is ",
    ),
    "no cpu": (lambda s, _: resources(s, "stop").pop("resourceCpuRequest"), "stop: cpu is ('', '1')"),
    "another memory limit": (
        lambda s, _: resources(s, "evaluate").update(resourceMemoryLimit="64Gi"),
        "evaluate: memory is ('28Gi', '64Gi')",
    ),
    "any node": (lambda _, p: ir.kubernetes_of(p, "finetune").pop("nodeSelector"), "finetune: nodes is {}"),
    "another GPU's node": (
        lambda _, p: ir.kubernetes_of(p, "finetune")["nodeSelector"]["labels"].update(
            {ACCELERATOR_LABEL: "nvidia-tesla-t4"}
        ),
        "finetune: nodes is ",
    ),
    "past the queue": (
        lambda _, p: ir.kubernetes_of(p, "finetune")["podMetadata"]["labels"].pop(QUEUE_LABEL),
        "finetune: queue is ",
    ),
    "no toleration": (
        lambda _, p: ir.kubernetes_of(p, "evaluate").pop("tolerations"),
        "evaluate: tolerations is set()",
    ),
    "a toleration that never matches": (
        lambda _, p: ir.kubernetes_of(p, "evaluate")["tolerations"][0].update(effect="NoExecute"),
        "evaluate: tolerations is ",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_misplaced_step_is_seen(compiled, mistake):
    plant, says = MISTAKES[mistake]
    documents = compiled("laptop", "l4")
    plant(*documents)
    assert [problem for problem in find_misplaced(ir.parse(documents), PROFILES["l4"]) if problem.startswith(says)]


def test_another_profile_is_seen(compiled):
    assert find_misplaced(ir.parse(compiled("laptop", "l4")), PROFILES["a100"])
