"""A tiny model made from nothing: random weights, and a tokenizer trained on the corpus."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from components.fetch_base.config import ScratchModel
from components.step_config import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_UNKNOWN, _START, _END, _PAD = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"


def make_scratch(config: ScratchModel, model: Path) -> None:
    """Write a random model of the configured shape and its tokenizer into `model`."""
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    tokenizer = _train_tokenizer(config)
    shared = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.convert_tokens_to_ids(_START),
        "eos_token_id": tokenizer.convert_tokens_to_ids(_END),
        "pad_token_id": tokenizer.convert_tokens_to_ids(_PAD),
        "tie_word_embeddings": True,
    }
    if config.architecture == "llama":
        shape = LlamaConfig(
            hidden_size=config.width,
            intermediate_size=3 * config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=config.context_length,
            **shared,
        )
    else:
        shape = GPT2Config(
            n_embd=config.width, n_layer=config.layers, n_head=config.heads, n_positions=config.context_length, **shared
        )
    torch.manual_seed(config.seed)
    AutoModelForCausalLM.from_config(shape, dtype=torch.float32).save_pretrained(model)
    tokenizer.save_pretrained(model)


def _train_tokenizer(config: ScratchModel) -> PreTrainedTokenizerFast:
    """Byte-level BPE, so that every text has tokens; the corpus may be any text, JSON lines too."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    missing = [path for path in config.corpus if not Path(path).is_file()]
    if missing:
        raise InputError(f"base.scratch.corpus: {missing[0]} is no file (looked in {Path.cwd()})")
    trainer = ByteLevelBPETokenizer()
    trainer.train(
        config.corpus,
        vocab_size=config.vocabulary,
        min_frequency=2,
        special_tokens=[_UNKNOWN, _START, _END, _PAD],
        show_progress=False,
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=trainer._tokenizer,
        bos_token=_START,
        eos_token=_END,
        pad_token=_PAD,
        unk_token=_UNKNOWN,
        chat_template=CHATML,
        model_max_length=config.context_length,
        clean_up_tokenization_spaces=False,
    )
