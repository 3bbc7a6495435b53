"""A tiny random model with a real tokenizer, as a release directory of either engine."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from components.package_release.gguf import write_gguf
from serving.release import GGUF_FILE, RELEASE_FILE, SYSTEM_PROMPT_FILE, Origin, Release, ServingForm, payload_files

CONTEXT = 256
SYSTEM_PROMPT = "You answer questions about energy."
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SENTENCES = [
    "A heat pump moves warmth from the air outside into the rooms of a house.",
    "Insulation keeps warmth in, so that less of it has to be made.",
    "The sun and the wind give power that costs no fuel: 3.6 MJ make 1 kWh, at 20 °C.",
    "Grüße aus Köln, naïve café, 電気, 😀 and 🌍.",
]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with ChatML's special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
    )


def make_release(
    directory: Path, engine: str = "openvino", *, seed: int = 0, endless: bool = False, **generation: object
) -> Release:
    """Write a release: a two-layer llama as GGUF for "openvino", a one-layer GPT-2 for the others.

    An endless one has no end token and a long context: its answers run until they are cancelled. `generation`
    goes into generation_config.json.
    """
    context = 16_384 if endless else CONTEXT
    directory.mkdir(parents=True)
    tokenizer = make_tokenizer()
    model_directory = directory.with_name(directory.name + "-model") if engine == "openvino" else directory
    torch.manual_seed(seed)
    ids = {"bos_token_id": 1, "eos_token_id": None if endless else 2, "pad_token_id": 0}
    if engine == "openvino":
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=context,
            tie_word_embeddings=True,
            initializer_range=0.3,
            **ids,
        )
        model = LlamaForCausalLM(config)
    else:
        shape = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": context, "initializer_range": 0.3}
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **shape, **ids))
    model.save_pretrained(model_directory)
    tokenizer.save_pretrained(model_directory)
    if engine == "openvino":
        write_gguf(model_directory, directory / GGUF_FILE, "q8_0")
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            (directory / name).write_bytes((model_directory / name).read_bytes())
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, **generation}))
    (directory / SYSTEM_PROMPT_FILE).write_text(SYSTEM_PROMPT)
    (directory / "golden.json").write_text("[]")
    release = Release(
        serving=ServingForm(engine=engine, precision="q8_0" if engine == "openvino" else "f32"),
        base=Origin(source="scratch", digest="0" * 64),
        data_digest="0" * 64,
        context_length=context,
        end_token_ids=[] if endless else [2],
        files=payload_files(directory),
    )
    (directory / RELEASE_FILE).write_bytes(release.canonical())
    return release
