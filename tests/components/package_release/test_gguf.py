"""Round trips: what is read back from the file computes what the source computes, in transformers and in OpenVINO."""

import json
import shutil
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedModel, Qwen2Config, Qwen3Config

from components.package_release.gguf import write_gguf
from components.step_config import InputError
from serving.engine import open_engine
from serving.engine.weights import load_weights
from serving.release import GGUF_FILE, RELEASE_FILE, Origin, Release, ServingForm
from tests.components.artifacts import random_model

SHAPE = {
    "vocab_size": 640,  # 40 rows more than there are tokens
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
    "initializer_range": 0.3,
}
MODELS = {
    "llama, tied head": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama, own head": LlamaConfig(**SHAPE, tie_word_embeddings=False),
    "llama, each head its own keys": LlamaConfig(**SHAPE | {"num_key_value_heads": 4}),
    "llama, wide heads": LlamaConfig(**SHAPE, head_dim=32),
    "llama, slow rotation": LlamaConfig(**SHAPE, rope_parameters={"rope_type": "default", "rope_theta": 500_000.0}),
    "qwen2": Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen2, own head": Qwen2Config(**SHAPE, tie_word_embeddings=False),
    "qwen3": Qwen3Config(**SHAPE, tie_word_embeddings=True, head_dim=32),
}
TYPES = {"q8_0": gguf.GGMLQuantizationType.Q8_0, "f16": gguf.GGMLQuantizationType.F16}
PROMPT = torch.arange(5, 45)[None]  # (1, T)


@pytest.fixture(scope="module")
def tokenizer(llama):
    return llama.base / "model"


def save(model: PreTrainedModel, tokenizer: Path, directory: Path, **options) -> Path:
    model.save_pretrained(directory, **options)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tokenizer / name, directory)
    return directory


def release(source: Path, precision: str, directory: Path) -> Release:
    """Only as much of a release as engines and weights look at."""
    directory.mkdir()
    write_gguf(source, directory / GGUF_FILE, precision)
    shutil.copy(source / "config.json", directory)
    manifest = Release(
        serving=ServingForm(engine="openvino", precision=precision),
        base=Origin(source="test", digest="0"),
        data_digest="0",
        context_length=128,
        end_token_ids=[2],
        files={},
    )
    (directory / RELEASE_FILE).write_bytes(manifest.canonical())
    return manifest


@torch.no_grad()
def stored_as(model: PreTrainedModel, precision: str) -> PreTrainedModel:
    """The model with its matrices through the gguf package's own functions and back."""
    for parameter in model.parameters():
        if parameter.ndim == 2:
            stored = gguf.quantize(parameter.float().numpy(), TYPES[precision])
            parameter.copy_(torch.from_numpy(gguf.dequantize(stored, TYPES[precision])))
    return model


@torch.no_grad()
def assert_same_logits(one: PreTrainedModel, other: PreTrainedModel) -> None:
    torch.testing.assert_close(one(PROMPT).logits, other(PROMPT).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", ["q8_0", "f16"])
@pytest.mark.parametrize("name", MODELS)
def test_what_is_read_back_computes_the_same(tokenizer, tmp_path, name, precision):
    model = random_model(MODELS[name])
    manifest = release(save(model, tokenizer, tmp_path / "source"), precision, tmp_path / "release")
    read = load_weights(tmp_path / "release", manifest)
    assert not read.training and {parameter.dtype for parameter in read.parameters()} == {torch.float32}
    if precision == "q8_0":  # the rounding itself is seen
        with torch.no_grad():
            assert (read(PROMPT).logits - model(PROMPT).logits).abs().max() > 1e-3
    assert_same_logits(read, stored_as(model, precision))


def test_weights_that_f16_can_say_come_back_bit_by_bit(tokenizer, tmp_path):
    model = stored_as(random_model(MODELS["llama, own head"]), "f16")
    manifest = release(save(model, tokenizer, tmp_path / "source"), "f16", tmp_path / "release")
    read = dict(load_weights(tmp_path / "release", manifest).named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(read[name], parameter), name


@pytest.mark.parametrize("name", ["llama, tied head", "llama, own head", "qwen2", "qwen3"])
def test_the_cpu_engine_reads_the_same_model(tokenizer, tmp_path, name):
    model = random_model(MODELS[name])
    release(save(model, tokenizer, tmp_path / "source"), "q8_0", tmp_path / "release")
    engine = open_engine(tmp_path / "release")
    try:
        (answer,) = engine.greedy([PROMPT[0].tolist()], 12)
    finally:
        engine.close()
    mask = torch.ones_like(PROMPT)
    said = stored_as(model, "q8_0").generate(PROMPT, attention_mask=mask, max_new_tokens=12, do_sample=False)
    assert answer == said[0, PROMPT.shape[1] :].tolist()


def test_rows_of_queries_and_keys_are_interleaved_within_each_head(tokenizer, tmp_path):
    """ggml turns neighbours (0, 1), (2, 3) …; transformers turns a head's first half against its second."""
    model = random_model(MODELS["llama, tied head"])
    attention = model.model.layers[0].self_attn
    with torch.no_grad():
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            projection.weight.copy_(torch.arange(projection.weight.shape[0])[:, None].expand_as(projection.weight))
    write_gguf(save(model, tokenizer, tmp_path / "source"), tmp_path / GGUF_FILE, "f16")
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / GGUF_FILE).tensors}
    rows = {name: tensors[f"blk.0.attn_{name}.weight"][:, 0].tolist() for name in "qkv"}
    half = 8  # of 16 values a head
    head = [row for pair in zip(range(half), range(half, 2 * half), strict=True) for row in pair]
    assert rows["q"] == [16 * number + row for number in range(4) for row in head]
    assert rows["k"] == [16 * number + row for number in range(2) for row in head]
    assert rows["v"] == list(range(32))


def test_a_sharded_model_gives_the_same_file(tokenizer, tmp_path):
    model = random_model(MODELS["llama, own head"])
    whole = save(model, tokenizer, tmp_path / "whole")
    sharded = save(model, tokenizer, tmp_path / "sharded", max_shard_size="100KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    for source in (whole, sharded):
        write_gguf(source, source / GGUF_FILE, "q8_0")
    assert (whole / GGUF_FILE).read_bytes() == (sharded / GGUF_FILE).read_bytes()


def test_a_tied_head_is_left_out_even_where_a_file_repeats_it(tokenizer, tmp_path):
    source = save(random_model(MODELS["qwen2"]), tokenizer, tmp_path / "source")
    write_gguf(source, tmp_path / "once.gguf", "q8_0")
    weights = load_file(source / "model.safetensors")
    head = weights["model.embed_tokens.weight"].clone()
    save_file(weights | {"lm_head.weight": head}, source / "model.safetensors")
    write_gguf(source, tmp_path / "twice.gguf", "q8_0")
    assert (tmp_path / "once.gguf").read_bytes() == (tmp_path / "twice.gguf").read_bytes()


def test_the_bytes_are_a_function_of_the_input(tokenizer, tmp_path):
    model = random_model(MODELS["qwen2"])
    for name in ("first", "second"):
        source = save(model, tokenizer, tmp_path / name)
        write_gguf(source, tmp_path / f"{name}.gguf", "q8_0")
    first = (tmp_path / "first.gguf").read_bytes()
    assert first == (tmp_path / "second.gguf").read_bytes()
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.bias[0] += 0.5
    write_gguf(save(model, tokenizer, tmp_path / "third"), tmp_path / "third.gguf", "q8_0")
    assert first != (tmp_path / "third.gguf").read_bytes()


def test_bfloat16_weights_are_read(tokenizer, tmp_path):
    source = save(random_model(MODELS["llama, tied head"]).to(torch.bfloat16), tokenizer, tmp_path / "source")
    assert load_file(source / "model.safetensors")["model.norm.weight"].dtype == torch.bfloat16
    manifest = release(source, "q8_0", tmp_path / "release")
    expected = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    assert_same_logits(load_weights(tmp_path / "release", manifest), stored_as(expected, "q8_0"))


def test_the_head_data_say_what_an_engine_needs(tokenizer, tmp_path):
    config = LlamaConfig(
        **SHAPE | {"eos_token_id": [2, 0]}, rope_parameters={"rope_type": "default", "rope_theta": 5e5}
    )
    write_gguf(save(random_model(config), tokenizer, tmp_path / "source"), tmp_path / GGUF_FILE, "q8_0")
    fields = gguf.GGUFReader(tmp_path / GGUF_FILE).fields
    said = {name: field.contents() for name, field in fields.items() if not name.startswith("GGUF.")}
    expected = {
        "general.architecture": "llama",
        "general.file_type": gguf.LlamaFileType.MOSTLY_Q8_0,
        "llama.context_length": 128,
        "llama.embedding_length": 64,
        "llama.block_count": 2,
        "llama.feed_forward_length": 96,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.rope.freq_base": 5e5,
        "llama.rope.dimension_count": 16,
        "llama.vocab_size": 640,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.padding_token_id": 3,
        "tokenizer.ggml.add_bos_token": False,
    }
    assert {name: said[name] for name in expected} == expected
    own = json.loads((tokenizer / "tokenizer.json").read_bytes())
    tokens, types = said["tokenizer.ggml.tokens"], said["tokenizer.ggml.token_type"]
    assert len(tokens) == len(types) == 640
    assert all(tokens[index] == token for token, index in own["model"]["vocab"].items())
    assert types[:5] == [gguf.TokenType.CONTROL] * 4 + [gguf.TokenType.NORMAL]
    assert tokens[600] == "[UNUSED600]" and types[600:] == [gguf.TokenType.UNUSED] * 40
    assert len(said["tokenizer.ggml.merges"]) == len(own["model"]["merges"])


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (GPT2Config(vocab_size=640, n_embd=32, n_layer=1, n_head=2), "model_type 'gpt2' has no GGUF form here"),
        (
            LlamaConfig(**SHAPE, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}),
            "rotary scaling .*linear.* is not written to GGUF",
        ),
        (LlamaConfig(**SHAPE, attention_bias=True), "attention_bias is not written to GGUF"),
        (LlamaConfig(**SHAPE, hidden_act="gelu"), "hidden_act gelu is not written to GGUF"),
        (
            Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=8, max_window_layers=0),
            "use_sliding_window is not written to GGUF",
        ),
    ],
)
def test_a_model_that_engines_would_misread_is_refused(tokenizer, tmp_path, config, says):
    source = save(AutoModelForCausalLM.from_config(config), tokenizer, tmp_path / "source")
    with pytest.raises(InputError, match=says + r".*set rollout\.serving\.engine to transformers"):
        write_gguf(source, tmp_path / GGUF_FILE, "q8_0")


def test_an_older_spelling_of_rotary_scaling_is_refused_too(tokenizer, tmp_path):
    source = save(random_model(MODELS["llama, tied head"]), tokenizer, tmp_path / "source")
    config = json.loads((source / "config.json").read_bytes())
    del config["rope_parameters"]
    config |= {"rope_theta": 10000.0, "rope_scaling": {"type": "dynamic", "factor": 2.0}}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"rotary scaling .*dynamic"):
        write_gguf(source, tmp_path / GGUF_FILE, "q8_0")


def test_rows_that_do_not_fill_blocks_are_refused_in_q8_0_only(tokenizer, tmp_path):
    config = LlamaConfig(**SHAPE | {"hidden_size": 48, "num_attention_heads": 3, "num_key_value_heads": 3})
    model = random_model(config)
    source = save(model, tokenizer, tmp_path / "source")
    with pytest.raises(InputError, match="has rows of 48 values; Q8_0 needs a multiple of 32"):
        write_gguf(source, tmp_path / GGUF_FILE, "q8_0")
    manifest = release(source, "f16", tmp_path / "release")
    assert_same_logits(load_weights(tmp_path / "release", manifest), stored_as(model, "f16"))


def test_a_tensor_without_a_place_is_refused(tokenizer, tmp_path):
    source = save(random_model(MODELS["llama, tied head"]), tokenizer, tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    save_file(weights | {"model.vision.weight": torch.zeros(2)}, source / "model.safetensors")
    with pytest.raises(InputError, match=r"tensor model\.vision\.weight has no place in a llama GGUF"):
        write_gguf(source, tmp_path / GGUF_FILE, "q8_0")


def test_a_tokenizer_that_is_not_written_is_refused(tokenizer, tmp_path):
    source = save(random_model(MODELS["llama, tied head"]), tokenizer, tmp_path / "source")
    own = json.loads((source / "tokenizer.json").read_bytes())
    (source / "tokenizer.json").write_text(json.dumps(own | {"model": {"type": "WordPiece", "vocab": {"a": 0}}}))
    with pytest.raises(InputError, match="tokenizer of type WordPiece is not written to GGUF"):
        write_gguf(source, tmp_path / GGUF_FILE, "q8_0")
    own["added_tokens"].append({"id": 640, "content": "<extra>", "special": True})
    (source / "tokenizer.json").write_text(json.dumps(own))
    with pytest.raises(InputError, match="the tokenizer has ids up to 640, the model only 640 rows"):
        write_gguf(source, tmp_path / GGUF_FILE, "q8_0")
