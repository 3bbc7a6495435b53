"""Schema of the `rollout` parameter."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from components.step_config import StepConfig
from serving.release import ServingForm

PRESTOP_SECONDS = 5
"""How long a pod that ends still serves, so that every gateway has noticed."""

_START_SECONDS = {"vllm": 1800}
_OTHER_START_SECONDS = 600
"""By engine: the startup probe of its ServingRuntime (manifests/) ends a server that does not answer by then."""

_LONGEST_SERVICE = 37
"""KServe 0.20 labels pods isvc.<service>-<10 digits>-predictor, and a label value has 63 characters at most."""


class KServeConfig(StepConfig):
    """Where and as what a release is served on a cluster."""

    namespace: str = Field(default="slipway-serving", pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
    """Namespace of the InferenceServices and of the route."""

    gateway: str = Field(default="slipway-system/slipway", pattern=r"^[a-z0-9-]+/[a-z0-9.-]+$")
    """The Gateway that the route is attached to, as namespace/name."""

    hostname: str = Field(default="", pattern=r"^(|[a-z0-9.-]+)$")
    """Host that the route takes; "" takes every host of the gateway's listener."""

    runtime: str = Field(default="", pattern=r"^(|[a-z0-9][a-z0-9.-]*)$")
    """ServingRuntime in the namespace; "" is slipway-gpu for engine "vllm", else slipway-cpu."""

    image: str = Field(default="", pattern=r"^(|.+@sha256:[0-9a-f]{64})$")
    """Serving image by digest; "" is the runtime's own."""

    releases: str = Field(default="gs://slipway/releases", pattern=r"^(gs|s3|file)://[^@?#\s]*[^/@?#\s]$")
    """Where releases are published, each at <releases>/<its digest>: a bucket (gs, s3) or a folder that all nodes have.

    It stands in the cluster for all to read, so it holds no credentials.
    """

    route_seconds: float = Field(default=60, gt=0)
    """A gateway that does not follow a change of the weights by then ends the rollout; a cloud's load balancer takes
    minutes, a gateway in the cluster less than a second."""

    replicas: int = Field(default=1, ge=1)
    """Pods per release; the fewest where KEDA makes more. Two or more also survive the drain of a node."""

    max_replicas: int | None = Field(default=None, ge=2)
    """The most pods per release, by KEDA; None keeps their number. More of them come with the load."""

    requests_per_replica: int = Field(default=8, ge=1)
    """Requests, answered or waiting, that a pod is to have on the average before KEDA makes another."""

    prometheus: str = Field(default="", pattern=r"^(|https?://[^@?#\s]+)$")
    """Prometheus that has the servers' metrics, as KEDA reaches it; for max_replicas."""

    cpu: str = Field(default="500m", pattern=r"^[0-9]+(m|\.[0-9]+)?$")
    """CPU that a pod is sure to have; it may use what is free beside."""

    memory: str = Field(default="2Gi", pattern=r"^[0-9]+(Mi|Gi|Ti)$")
    """Memory that a pod asks for, and may not exceed."""

    gpus: int = Field(default=0, ge=0)
    """GPUs (nvidia.com/gpu) per pod; vLLM splits the model over them."""

    grace_seconds: int = Field(default=150, ge=1)
    """terminationGracePeriodSeconds: longer than the pod serves on after it was told to end, and drains then."""

    node_selector: dict[str, str] = Field(default={})
    """Labels of the nodes that may run a pod."""

    tolerations: list[dict[str, str]] = Field(default=[])
    """Taints that a pod tolerates, as Kubernetes writes them."""

    @model_validator(mode="after")
    def _scaling_is_whole(self) -> KServeConfig:
        if self.max_replicas is None:
            for name in ("prometheus", "requests_per_replica"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} is for max_replicas; set that, or leave it out")
            return self
        if self.max_replicas <= self.replicas:
            raise ValueError(f"max_replicas {self.max_replicas} must be above replicas ({self.replicas})")
        if not self.prometheus:
            raise ValueError("max_replicas needs prometheus: the address at which KEDA asks for the servers' load")
        return self


class RolloutConfig(StepConfig):
    """How a release is packaged, checked and brought to traffic."""

    target: Literal["local", "kserve"] = "local"
    """"local" serves on this machine behind the weighted front; "kserve" on a cluster behind its gateway."""

    service: str = Field(default="energy-chat", pattern=r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$")
    """Name of the live service; also the model's name in its HTTP API."""

    serving: ServingForm = ServingForm()
    """The one form in which a release holds its weights."""

    golden_prompts: int = Field(default=4, ge=1)
    """Validation prompts whose greedy answers are part of the release."""

    golden_tokens: int = Field(default=24, ge=1)
    """Longest golden answer."""

    gap_bound: float = Field(default=0.05, ge=0)
    """An engine other than "openvino" may first differ from a golden answer only where the gap (nats) is below this."""

    port: int = Field(default=8000, ge=1, le=65535)
    """Public port of the front, on 127.0.0.1; for target "local"."""

    strategy: Literal["surge", "replace"] = "surge"
    """"surge" runs old and new beside each other; "replace" stops the old one first, where there is room for one."""

    stages: list[int] = Field(default=[10, 50, 100], min_length=1)
    """Shares of the traffic, in percent, at which a candidate is watched; the last is 100. For "surge"."""

    min_requests: int = Field(default=20, ge=1)
    """Requests that the candidate must have answered before a stage is decided; golden prompts are replayed for it."""

    max_error_rate: float = Field(default=0.01, ge=0, le=1)
    """Share of a stage's requests that may fail (HTTP 5xx); above it the candidate is rolled back."""

    stage_seconds: float = Field(default=300, gt=0)
    """A candidate that has not answered min_requests by then is rolled back."""

    ready_seconds: float = Field(default=120, gt=0)
    """A candidate that is not ready by then is removed; on a cluster that counts from when it is made.

    At most what the startup probe of the engine's ServingRuntime gives a server, unless kserve.runtime names another.
    """

    answer_seconds: float = Field(default=120, gt=0)
    """The longest that one golden answer may take."""

    drain_seconds: float = Field(default=120, gt=0)
    """How long the old release may finish the answers that it has begun; its server is told the same.

    The longest answer that a server gives by default, 1024 tokens, takes about a minute on two CPU cores.
    """

    kserve: KServeConfig = KServeConfig()
    """Settings of target "kserve"."""

    @field_validator("stages")
    @classmethod
    def _lead_to_everything(cls, stages: list[int]) -> list[int]:
        if stages[-1] != 100 or stages[0] < 1 or any(low >= high for low, high in pairwise(stages)):
            raise ValueError("must rise from at least 1 to 100, as 10, 50, 100 do")
        return stages

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> RolloutConfig:
        """A setting of the target that is not used would be read by nobody."""
        if self.target == "local" and self.kserve != KServeConfig():
            changed = ", ".join(sorted(key for key, value in self.kserve if value != getattr(KServeConfig(), key)))
            raise ValueError(f"kserve ({changed}) is for target kserve; set target: kserve, or leave kserve out")
        if self.serving.engine == "vllm" and (self.target == "local" or not self.kserve.gpus):
            needed = "rollout.kserve.gpus" if self.target == "kserve" else "target: kserve, and GPUs there"
            raise ValueError(f"engine vllm needs a GPU; set {needed}, or choose another engine")
        if self.target == "kserve" and len(self.service) > _LONGEST_SERVICE:
            raise ValueError(f"service {self.service!r} is longer than the {_LONGEST_SERVICE} characters that fit")
        longest = _START_SECONDS.get(self.serving.engine, _OTHER_START_SECONDS)
        if self.target == "kserve" and not self.kserve.runtime and self.ready_seconds > longest:
            raise ValueError(
                f"ready_seconds {self.ready_seconds:g} is above the {longest} s that the ServingRuntime of engine "
                f"{self.serving.engine} gives a server to start; set at most that, or in kserve.runtime a "
                "ServingRuntime whose startupProbe waits longer"
            )
        needed = self.drain_seconds + PRESTOP_SECONDS
        if self.target == "kserve" and self.kserve.grace_seconds <= needed:
            raise ValueError(
                f"kserve.grace_seconds {self.kserve.grace_seconds} must be above drain_seconds and the "
                f"{PRESTOP_SECONDS} s that a pod serves on: above {needed:g}"
            )
        return self


def as_recorded(noted: Mapping[str, Any]) -> RolloutConfig:
    """Settings that were written down when they were in force, as they are: today's checks are for new ones."""
    serving = ServingForm.model_construct(**noted.get("serving", {}))
    kserve = KServeConfig.model_construct(**noted.get("kserve", {}))
    fields: dict[str, Any] = {**noted, "serving": serving, "kserve": kserve}
    return RolloutConfig.model_construct(**fields)
