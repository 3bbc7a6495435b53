"""A real tokenizer for the tests: byte-level BPE, trained in a moment on a few sentences."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "</s>",
    "<|pad|>",
]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_CORPUS = Path(__file__).parents[2] / "data" / "energy" / "energy.jsonl"

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]


def events(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What components/progress.py has printed since the last look."""
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture(scope="session")
def trained_bpe() -> str:
    """The trained tokenizer as JSON, so that everyone gets one of their own."""
    trainer = ByteLevelBPETokenizer()
    lines = _CORPUS.read_text(encoding="utf-8").splitlines()[:200]
    trainer.train_from_iterator(lines, vocab_size=1500, special_tokens=SPECIAL_TOKENS, show_progress=False)
    return trainer.to_str()


@pytest.fixture(scope="session")
def make_tokenizer(trained_bpe: str) -> MakeTokenizer:
    """`make_tokenizer(template, eos_token=…, pad_token=…)` is a fast tokenizer with that chat template."""

    def make(template: str | None = CHATML, **special: str) -> PreTrainedTokenizerFast:
        return PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(trained_bpe),
            chat_template=template,
            **{"eos_token": "<|im_end|>", "pad_token": "<|pad|>", **special},
        )

    return make


@pytest.fixture(scope="session")
def base_model(make_tokenizer: MakeTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base's model directory as far as data preparation looks at it: tokenizer and ChatML template."""
    directory = tmp_path_factory.mktemp("base") / "model"
    make_tokenizer().save_pretrained(directory)
    return directory
