"""Schema of the `gate` parameter."""

from typing import Literal

from pydantic import Field, model_validator

from components.step_config import StepConfig


class Bound(StepConfig):
    """An absolute limit on one of the challenger's metrics."""

    metric: Literal["perplexity", "nll_per_token", "nats_per_byte"]
    """Measured on the test split; of each, less is better."""

    at_most: float | None = None
    """Above it the verdict is fail."""

    at_least: float | None = None
    """Below it the verdict is fail."""

    @model_validator(mode="after")
    def _one_limit(self) -> "Bound":
        if self.at_most is None and self.at_least is None:
            raise ValueError(f"bound on {self.metric} needs at_most or at_least")
        return self


class GateConfig(StepConfig):
    """When a challenger may replace what is live."""

    margin: float = Field(default=0.02, gt=0)
    """Non-inferiority margin where all models count the same tokens, in nats per token."""

    margin_per_byte: float = Field(default=0.005, gt=0)
    """The same in nats per byte, for models that count different tokens (another tokenizer or chat template).

    Text has about four bytes to a token, so that 0.005 is as strict as 0.02 per token.
    """

    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Of the one-sided bounds."""

    resamples: int = Field(default=9999, ge=999)
    """Bootstrap resamples."""

    min_examples: int = Field(default=20, ge=2)
    """With fewer paired examples the verdict is inconclusive; those that begin with the same question count once."""

    bounds: list[Bound] = Field(default=[])
    """Absolute limits; breaking one is a fail."""

    seed: int = 0
    """Of the bootstrap."""
