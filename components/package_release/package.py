"""Make a release directory: the one servable form of a model, and answers that every server of it must repeat."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from components.chat import Message, control_tokens, end_token_ids, last_question, load_tokenizer, prompt_ids
from components.package_release.gguf import write_gguf
from components.progress import say
from components.step_config import InputError
from serving.engine import open_engine
from serving.engine.weights import load_weights, stored_dtype
from serving.release import (
    GGUF_FILE,
    GOLDEN_FILE,
    RELEASE_FILE,
    SYSTEM_PROMPT_FILE,
    GoldenAnswer,
    Origin,
    Release,
    ServingForm,
    payload_files,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")

_ROUNDING = 0.005
"""Nats by which two exact computations of the same weights may differ: float32 sums in another order."""


@dataclass(frozen=True)
class Golden:
    """How many golden answers a release carries, and how long they may be."""

    prompts: int
    tokens: int
    gap_bound: float
    """Where the first and second choice are closer than this (nats), an engine that is not exact may differ."""


class EngineMismatch(RuntimeError):
    """The engine answers otherwise than the weights that are scored: evaluation would not describe what is served."""


def package(
    serving: ServingForm, base: Path, trained: Path | None, examples: Path, golden: Golden, directory: Path
) -> Release:
    """Write `release/` below `directory` and return its manifest.

    `trained` is finetune's artifact, or None to package the bare base the same way. `base`, `examples`: the
    artifacts of fetch_base and prepare_data. Raises InputError when the examples do not fit the base, and
    EngineMismatch when the engine's greedy answers are not those of the packaged weights.
    """
    release = directory / "release"
    if release.exists():  # a killed run's half-written release
        shutil.rmtree(release)
    release.mkdir(parents=True)
    data = json.loads((examples / "data.json").read_bytes())
    context_length = AutoConfig.from_pretrained(base / "model").max_position_embeddings
    if data["max_tokens"] > context_length:
        raise InputError(
            f"data.max_tokens is {data['max_tokens']}, but the base's context holds {context_length} tokens; "
            f"set data.max_tokens to {context_length} or choose another base"
        )
    _write_weights(serving, base / "model", trained, release)
    tokenizer = load_tokenizer(base / "model")
    manifest = Release(
        serving=serving,
        base=Origin.model_validate_json((base / "origin.json").read_bytes()),
        data_digest=data["digest"],
        context_length=context_length,
        end_token_ids=end_token_ids(tokenizer),
        files={},
    )
    (release / SYSTEM_PROMPT_FILE).write_text(data["system_prompt"], encoding="utf-8")
    # the engine reads the manifest, so there is one before the answers are known
    _write_manifest(manifest, release)
    answers = _golden_answers(release, manifest, examples, golden) if golden.prompts else []
    (release / GOLDEN_FILE).write_text(
        json.dumps([answer.model_dump() for answer in answers], ensure_ascii=False, indent=1), encoding="utf-8"
    )
    manifest = _write_manifest(manifest, release)
    say("release", digest=manifest.digest, golden_answers=len(answers))
    return manifest


def _write_manifest(manifest: Release, release: Path) -> Release:
    manifest = manifest.model_copy(update={"files": payload_files(release)})
    (release / RELEASE_FILE).write_bytes(manifest.canonical())
    return manifest


def _write_weights(serving: ServingForm, base_model: Path, trained: Path | None, release: Path) -> None:
    """Config, tokenizer and the weights in their servable form; an adapter is merged into its base."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    merged = release.parent / "merged"
    if merged.exists():  # a killed run's; what stays here would become part of the artifact
        shutil.rmtree(merged)
    if trained is not None:
        _trained_model(base_model, trained).save_pretrained(merged)
        _copy(base_model, _TOKENIZER_FILES, merged)
    source = base_model if trained is None else merged
    if serving.form == "gguf":
        write_gguf(source, release / GGUF_FILE, serving.precision)
        _copy(base_model, ["config.json"], release)
    else:
        # the base's config, since training may have left its own settings (no cache) in the trained one
        config = AutoConfig.from_pretrained(base_model)
        model = AutoModelForCausalLM.from_pretrained(source, config=config, dtype=stored_dtype(serving))
        model.save_pretrained(release)
        for weights in release.glob("*.safetensors"):
            weights.chmod(0o644)  # safetensors writes 0600, and a server may run as somebody else
    _copy(base_model, [*_TOKENIZER_FILES, "generation_config.json"], release)
    if trained is not None:
        shutil.rmtree(merged)


def _copy(source: Path, names: Iterable[str], target: Path) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copy2(source / name, target / name)


def _trained_model(base_model: Path, trained: Path) -> PreTrainedModel:
    """The fine-tuned model in the base's dtype."""
    if (trained / "model").is_dir():
        return AutoModelForCausalLM.from_pretrained(trained / "model", dtype="auto")
    from peft import PeftModel

    base = AutoModelForCausalLM.from_pretrained(base_model, dtype="auto")
    return PeftModel.from_pretrained(base, trained / "adapter").merge_and_unload()  # type: ignore[operator]


def _golden_answers(release: Path, manifest: Release, examples: Path, golden: Golden) -> list[GoldenAnswer]:
    """Greedy answers of the serving engine to a few validation questions, with the gaps that the weights give."""
    prompts = _prompts(load_tokenizer(release), examples / "validation.parquet", golden, manifest.context_length)
    engine = open_engine(release)
    try:
        answers = engine.greedy([tokens for _, tokens in prompts], golden.tokens)
    finally:
        engine.close()
    model = load_weights(release, manifest)
    bound = _ROUNDING if manifest.serving.engine == "openvino" else golden.gap_bound
    return [
        GoldenAnswer(
            messages=messages,
            prompt_token_ids=tokens,
            token_ids=answer,
            gaps=_gaps(model, tokens, answer, bound),
        )
        for (messages, tokens), answer in zip(prompts, answers, strict=True)
    ]


def _prompts(
    tokenizer: PreTrainedTokenizerBase, parquet: Path, golden: Golden, context_length: int
) -> list[tuple[list[Message], list[int]]]:
    """The first questions by their hash whose golden answer fits into the context, each with its tokens.

    A question that spells out a control token is left out: a server reads it as text, a tokenizer as the token.
    """
    prompts: list[tuple[list[Message], list[int]]] = []
    controls = control_tokens(tokenizer)
    table = pq.read_table(parquet, columns=["question_digest", "messages"]).sort_by("question_digest")
    for messages in table["messages"]:
        question = last_question(messages.as_py())
        if any(control in message["content"] for message in question for control in controls):
            continue
        tokens = prompt_ids(tokenizer, question)
        if len(tokens) + golden.tokens <= context_length:
            prompts.append((question, tokens))
        if len(prompts) == golden.prompts:
            break
    if not prompts:
        raise InputError(
            f"no validation question leaves room for {golden.tokens} tokens in a context of {context_length}; "
            "lower rollout.golden_tokens"
        )
    return prompts


@torch.no_grad()
def _gaps(model: PreTrainedModel, prompt: Sequence[int], answer: Sequence[int], bound: float) -> list[float]:
    """Log-probability of the first choice minus the second, in nats, at each position of the answer.

    Raises EngineMismatch where the engine's token is not the weights' first choice and the gap is not below `bound`,
    InputError where the weights give no number: whatever an engine says to NaN would pass as its first choice.
    """
    logits_TV = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].double()
    top_T2 = logits_TV.log_softmax(-1).topk(2, dim=-1)
    gaps = (top_T2.values[:, 0] - top_T2.values[:, 1]).tolist()
    for position, (token, gap) in enumerate(zip(answer, gaps, strict=True)):
        if math.isnan(gap):
            raise InputError(
                f"golden answer, token {position}: the packaged weights give no probabilities (NaN); the training has "
                "diverged, or its weights overflow: lower training.learning_rate, or choose another "
                "rollout.serving.precision"
            )
        if token != int(top_T2.indices[position, 0]) and gap >= bound:
            first = int(top_T2.indices[position, 0])
            raise EngineMismatch(
                f"golden answer, token {position}: the engine says {token}, the weights say {first} "
                f"with a gap of {gap:.3f} nats; the engine does not compute what was scored"
            )
    # finer digits depend on the order of the sums, and would make another digest of the same release
    return [round(gap, 3) for gap in gaps]
