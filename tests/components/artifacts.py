"""Tiny artifacts as the steps leave them: base, examples, trained model, release, champion."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from components.chat import Message, encode, load_tokenizer
from components.fetch_base.config import BaseConfig, ScratchModel
from components.fetch_base.fetch import fetch_base
from components.package_release.package import Golden, package
from components.prepare_data.prepare import SCHEMA
from serving.release import ServingForm, read_release

CORPUS = Path(__file__).parents[2] / "data" / "energy" / "energy.jsonl"
CONTEXT = 768
SYSTEM_PROMPT = "You answer questions about energy."

logging.disable_progress_bar()


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny models are computed faster on one thread, above all where others compute too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def scratch(architecture: str = "llama", **changes) -> BaseConfig:
    """A base of one or two layers, as a run file asks for it."""
    shape = {
        "layers": 1,
        "width": 32,
        "heads": 2,
        "vocabulary": 600,
        "context_length": CONTEXT,
        "corpus": [str(CORPUS)],
    }
    return BaseConfig(source="scratch", scratch=ScratchModel(architecture=architecture, **(shape | changes)))


def make_base(directory: Path, architecture: str = "llama", *, seed: int = 0, vocabulary: int = 600, **changes) -> Path:
    """The artifact of fetch_base, from a folder. Its weights are spread wider than a fresh model's.

    So its answers have clear first choices. Two layers; a llama shares its keys and values between heads.
    `changes` are fields of the model's config.
    """
    drawn = directory.with_name(f"{directory.name}-drawn")
    fetch_base(scratch(architecture, layers=2, width=64, heads=4, vocabulary=vocabulary), drawn, drawn, drawn)
    shape = {"initializer_range": 0.3} | ({"num_key_value_heads": 2} if architecture == "llama" else {}) | changes
    model = random_model(AutoConfig.from_pretrained(drawn / "model", **shape), seed=seed)
    model.save_pretrained(drawn / "model")
    directory.mkdir(parents=True)
    fetch_base(BaseConfig(source=str(drawn / "model"), licence="Apache-2.0"), drawn, drawn, directory)
    return directory


def random_model(config, *, seed: int = 0) -> PreTrainedModel:
    """Float32 weights of the config's spread; vectors too, so that a lost bias or norm shows."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(1.0 if "norm" in name or "ln_" in name else 0.0, 0.2)
    return model


@cache
def conversations(turns: int) -> list[list[Message]]:
    """The bundled conversations with that many questions, the shortest first."""
    found = []
    for line in CORPUS.read_text(encoding="utf-8").splitlines():
        if line.startswith('{"id"'):
            messages = json.loads(line)["messages"]
            if len(messages) == 2 * turns:
                found.append(messages)
    return sorted(found, key=lambda messages: sum(len(message["content"]) for message in messages))


def make_examples(
    directory: Path,
    base: Path,
    *,
    test: list[list[Message]] | None = None,
    validation: list[list[Message]] | None = None,
    system_prompt: str = SYSTEM_PROMPT,
    max_tokens: int = CONTEXT,
) -> Path:
    """The artifact of prepare_data. `test` and `validation`: conversations without the run's system prompt."""
    directory.mkdir(parents=True)
    short, long = conversations(1), conversations(2)
    own = [{"role": "system", "content": "Answer in one sentence."}, *short[6]]
    splits = {
        "train": short[20:22],
        "validation": short[:3] if validation is None else validation,
        "test": [*short[3:6], own, *long[:2]] if test is None else test,
    }
    tokenizer = load_tokenizer(base / "model")
    for split, listed in splits.items():
        rows = [_row(tokenizer, f"{split}-{n:02}", messages, system_prompt) for n, messages in enumerate(listed)]
        # ids stand out of order in the file, as they may
        pq.write_table(pa.Table.from_pylist(rows[::-1], schema=SCHEMA), directory / f"{split}.parquet")
    data = {
        "digest": "d" * 64,
        "test_digest": "7" * 64,
        "system_prompt": system_prompt,
        "max_tokens": max_tokens,
    }
    (directory / "data.json").write_text(json.dumps(data), encoding="utf-8")
    return directory


def _row(tokenizer, name: str, messages: list[Message], system_prompt: str) -> dict:
    if system_prompt and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system_prompt}, *messages]
    encoded = encode(tokenizer, messages)
    tokens = {"input_ids": encoded.input_ids, "supervised": encoded.supervised}
    return {"id": name, "topic": "", "messages": messages, "question_digest": name, **tokens}


def make_adapter(directory: Path, base: Path, *, seed: int = 1) -> Path:
    """The artifact of finetune with LoRA: an adapter on every linear layer that changes the answers."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base / "model", dtype=torch.float32)
    lora = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules="all-linear",
        fan_in_fan_out=model.config.model_type == "gpt2",
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    get_peft_model(model, lora).save_pretrained(directory / "adapter")
    return directory


def make_full(directory: Path, base: Path, *, seed: int = 1) -> Path:
    """The artifact of finetune with all weights: the base's, moved a little; training has switched its cache off."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base / "model", dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    model.config.use_cache = False
    model.save_pretrained(directory / "model")
    return directory


def make_release(
    directory: Path, base: Path, examples: Path, trained: Path | None = None, *, golden: int = 0, **serving
) -> Path:
    """The artifact of package_release; `serving` are the fields of ServingForm."""
    package(ServingForm(**serving), base, trained, examples, Golden(golden, 12, 0.05), directory)
    return directory


def make_champion(directory: Path, released: Path | None) -> Path:
    """The artifact of resolve_champion: `released` is package_release's, or None when nothing is live."""
    directory.mkdir(parents=True)
    digest = read_release(released / "release").digest if released else None
    (directory / "champion.json").write_text(json.dumps({"digest": digest, "service": "energy-chat"}))
    if released:
        shutil.copytree(released / "release", directory / "release")
    return directory
