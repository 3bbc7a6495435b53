"""Schema of the `rollout` parameter."""

from typing import Literal

from pydantic import Field

from components.step_config import StepConfig
from serving.release import ServingForm


class RolloutConfig(StepConfig):
    """How a release is packaged, checked and brought to traffic."""

    target: Literal["local"] = "local"
    """"local" serves on this machine behind the weighted front."""

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
    """Public port of the front, on 127.0.0.1."""

    ready_seconds: float = Field(default=120, gt=0)
    """A candidate that is not ready by then is removed; also the longest that one golden answer may take."""

    drain_seconds: float = Field(default=120, gt=0)
    """How long the old release may finish the answers that it has begun; its server is told the same.

    The longest answer that a server gives by default, 1024 tokens, takes about a minute on two CPU cores.
    """
