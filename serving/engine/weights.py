"""The weights of a release as a transformers model: what scoring, golden gaps and the fallback engine compute with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from serving.release import GGUF_FILE, Release, ServingForm

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def compute_device() -> torch.device:
    """Where torch computes: the machine's first GPU, its CPU where there is none."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def stored_dtype(serving: ServingForm) -> torch.dtype:
    """What the weights of a safetensors release are stored in."""
    import torch

    return {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[serving.precision]


def load_weights(directory: Path, release: Release) -> PreTrainedModel:
    """The release's model on the CPU, in evaluation mode; a GGUF's matrices are dequantized to float32.

    The config is the release's own, so that nothing is guessed from the GGUF's metadata.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = AutoConfig.from_pretrained(directory)
    if release.serving.form == "gguf":
        model = AutoModelForCausalLM.from_pretrained(
            directory,
            config=config,
            gguf_file=GGUF_FILE,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
        )
    else:
        model = AutoModelForCausalLM.from_pretrained(directory, config=config, dtype=stored_dtype(release.serving))
    return model.eval()
