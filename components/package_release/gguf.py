"""Write a Hugging Face safetensors directory as one GGUF file, for engines that read nothing else.

The format is https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; the block format Q8_0 (32 int8 values
and one float16 scale) is the `gguf` package's. Reading a file back gives the dequantized weights.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors import safe_open

from components.step_config import InputError

_ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
_PRECISIONS = {
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
}
_Q8_BLOCK = 32
_ROTARY = re.compile(r"\.self_attn\.([qk])_proj\.weight$")


def write_gguf(model_directory: Path, target: Path, precision: str) -> None:
    """Write config, weights and tokenizer of `model_directory` to the file `target`.

    Matrices are stored in `precision` ("q8_0" or "f16"), vectors in float32. The bytes are a pure function of
    the input. Raises InputError for a model that GGUF engines would misread.
    """
    config = json.loads((model_directory / "config.json").read_bytes())
    architecture = _ARCHITECTURES.get(config["model_type"])
    if architecture is None:
        raise InputError(
            f"model_type {config['model_type']!r} has no GGUF form here (only {', '.join(_ARCHITECTURES)}); "
            "set rollout.serving.engine to transformers"
        )
    _refuse_unwritable(config)
    matrix_type, file_type = _PRECISIONS[precision]
    writer = gguf.GGUFWriter(target, gguf.MODEL_ARCH_NAMES[architecture])
    _add_shape(writer, config)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_tokenizer(writer, model_directory, config)
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    for name, weights in _tensors(model_directory, tied=config.get("tie_word_embeddings", False)):
        target_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target_name is None:
            raise InputError(f"{model_directory}: tensor {name} has no place in a {config['model_type']} GGUF")
        if architecture is gguf.MODEL_ARCH.LLAMA and (match := _ROTARY.search(name)):
            heads = config["num_attention_heads"] if match[1] == "q" else _kv_heads(config)
            weights = _interleave_rotary(weights, heads)
        _add_tensor(writer, target_name, weights, matrix_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _kv_heads(config: dict[str, Any]) -> int:
    return config.get("num_key_value_heads") or config["num_attention_heads"]


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def _refuse_unwritable(config: dict[str, Any]) -> None:
    """What GGUF's architectures have no field for, or what their CPU engine computes otherwise."""
    rope = _rope(config)
    present = {
        f"rotary scaling {rope}": rope.get("rope_type", rope.get("type", "default")) != "default",
        f"hidden_act {config.get('hidden_act')}": config.get("hidden_act", "silu") not in ("silu", "swish"),
        "attention_bias": config.get("attention_bias", False),  # qwen2 has biases without saying so; those are read
        "use_sliding_window": config.get("use_sliding_window", False),
    }
    for what, found in present.items():
        if found:
            raise InputError(f"{what} is not written to GGUF; set rollout.serving.engine to transformers")


def _add_shape(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    rope = _rope(config)
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(_kv_heads(config))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)
    writer.add_rope_dimension_count(head)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_vocab_size(config["vocab_size"])


def _add_tokenizer(writer: gguf.GGUFWriter, directory: Path, config: dict[str, Any]) -> None:
    """Vocabulary and merges of a byte-level BPE `tokenizer.json`; rows without a token are marked unused."""
    tokenizer = json.loads((directory / "tokenizer.json").read_bytes())
    if tokenizer["model"]["type"] != "BPE":
        raise InputError(
            f"tokenizer of type {tokenizer['model']['type']} is not written to GGUF; use engine transformers"
        )
    highest = max([*tokenizer["model"]["vocab"].values(), *(added["id"] for added in tokenizer["added_tokens"])])
    if highest >= config["vocab_size"]:
        raise InputError(f"the tokenizer has ids up to {highest}, the model only {config['vocab_size']} rows")
    tokens = [f"[UNUSED{index}]" for index in range(config["vocab_size"])]
    types = [gguf.TokenType.UNUSED] * len(tokens)
    for token, index in tokenizer["model"]["vocab"].items():
        tokens[index], types[index] = token, gguf.TokenType.NORMAL
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2" if config["model_type"].startswith("qwen") else "smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    end = config.get("eos_token_id")
    if end is not None:
        writer.add_eos_token_id(end[0] if isinstance(end, list) else end)
    if config.get("bos_token_id") is not None:
        writer.add_bos_token_id(config["bos_token_id"])
    if config.get("pad_token_id") is not None:
        writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)


def _tensors(directory: Path, *, tied: bool):
    """(name, float32 array) of every tensor, in name order; a tied head is left out, GGUF implies it."""
    files = sorted(directory.glob("*.safetensors"))
    where = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            where |= dict.fromkeys(tensors.keys(), file)
    for name in sorted(where):
        if tied and name == "lm_head.weight":
            continue
        with safe_open(where[name], framework="pt") as tensors:
            yield name, tensors.get_tensor(name).float().numpy()


def _interleave_rotary(weights: np.ndarray, heads: int) -> np.ndarray:
    """Reorder the rows of q and k from transformers' half-split rotary layout to ggml's pairwise one."""
    halves = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return halves.swapaxes(1, 2).reshape(weights.shape)


def _add_tensor(
    writer: gguf.GGUFWriter, name: str, weights: np.ndarray, matrix_type: gguf.GGMLQuantizationType
) -> None:
    if weights.ndim < 2:
        writer.add_tensor(name, np.ascontiguousarray(weights, dtype=np.float32))
        return
    if matrix_type is gguf.GGMLQuantizationType.Q8_0 and weights.shape[-1] % _Q8_BLOCK:
        raise InputError(f"{name} has rows of {weights.shape[-1]} values; Q8_0 needs a multiple of {_Q8_BLOCK}")
    writer.add_tensor(name, gguf.quantize(weights, matrix_type), raw_dtype=matrix_type)
