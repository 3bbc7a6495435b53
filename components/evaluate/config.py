"""Schema of the `evaluation` parameter."""

from pydantic import Field

from components.step_config import StepConfig


class EvaluationConfig(StepConfig):
    """What is scored: answers of the test split, and a few greedy samples to read."""

    max_examples: int = Field(default=0, ge=0)
    """Score at most this many test examples, chosen by the hash of their question; 0 means all."""

    samples: int = Field(default=16, ge=0)
    """Greedy answers shown side by side in the report."""

    sample_tokens: int = Field(default=60, ge=1)
    """Longest sample answer, in tokens."""

    batch_tokens: int = Field(default=2048, ge=16)
    """Most tokens, padding included, in one forward pass."""
