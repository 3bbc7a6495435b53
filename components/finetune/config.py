"""Schema of the `training` parameter."""

from typing import Literal

from pydantic import Field, model_validator

from components.step_config import StepConfig

_ADAPTER = ("rank", "alpha", "dropout", "target_modules")


class TrainingConfig(StepConfig):
    """One fine-tuning run: LoRA or all weights."""

    method: Literal["lora", "full"] = "lora"
    """"lora" trains an adapter beside the frozen base; "full" trains every weight, without an adapter."""

    rank: int = Field(default=16, ge=1)
    """Rank of the adapter matrices; their output is scaled by alpha / rank (Hu et al. 2021)."""

    alpha: float = Field(default=32, gt=0)
    """Scale of the adapter; see rank."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of the adapter's input."""

    target_modules: str | list[str] = "all-linear"
    """Which layers get an adapter; "all-linear" is every linear layer but the output head."""

    learning_rate: float = Field(default=2e-4, gt=0)
    """Peak of the cosine schedule."""

    warmup_share: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps in which the rate rises linearly from 0."""

    weight_decay: float = Field(default=0.0, ge=0)
    """Of AdamW (Loshchilov & Hutter 2019)."""

    max_grad_norm: float = Field(default=1.0, gt=0)
    """Longer gradients are cut to this norm before each step."""

    epochs: int = Field(default=1, ge=1)
    """How often every example is trained on."""

    max_train_tokens: int = Field(default=0, ge=0)
    """Stop planning batches at this many tokens in all epochs; 0 means no limit."""

    batch_tokens: int = Field(default=1024, ge=16)
    """Most tokens that one forward pass packs together; documents never see each other."""

    gradient_checkpointing: bool = False
    """Keep each layer's input alone and compute the rest again on the way back (Chen et al. 2016): up to 1.6 times
    the work, the same weights. For Qwen2.5-7B with LoRA in bfloat16 14 kB a token and layer instead of 250."""

    accumulate: int = Field(default=2, ge=1)
    """Forward passes whose gradients make one optimizer step."""

    checkpoint_steps: int = Field(default=10, ge=1)
    """Optimizer steps between checkpoints: what a kill can cost at most."""

    threads: int = Field(default=0, ge=0)
    """CPU threads of torch; 0 leaves torch's choice. Part of what makes two runs equal bit for bit."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the frozen base while it trains; adapters, and all weights when method is full, are float32."""

    seed: int = 0
    """Of the adapter's first weights and of the order of the examples."""

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> "TrainingConfig":
        fields = type(self).model_fields
        changed = [name for name in _ADAPTER if getattr(self, name) != fields[name].default]
        if self.method == "full" and changed:
            raise ValueError(f"{', '.join(changed)} are the adapter's; leave them out, or set method: lora")
        return self
