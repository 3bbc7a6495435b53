"""The bundled chat templates, on a model like the ones that need them: GPT-2's shape, one token for every end."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from pipelines import run_config
from serving.chat_template import ChatTemplate

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = sorted((ROOT / "pipelines" / "templates").glob("*.jinja"))
SYSTEM = {"role": "system", "content": "You answer questions about energy."}
TURNS = [
    {"role": "user", "content": "What does a heat pump do?"},
    {"role": "assistant", "content": "It moves heat. See [here](https://example.org)."},
    {"role": "user", "content": "And in winter?\nEven at -10 °C?"},
    {"role": "assistant", "content": "Yes: it only needs more electricity.\n\nTwo paragraphs are fine."},
]
ANSWERS = [turn["content"] for turn in TURNS if turn["role"] == "assistant"]


@pytest.fixture(scope="module", params=TEMPLATES, ids=lambda path: path.stem)
def tokenizer(request, tmp_path_factory) -> Any:
    """The tokenizer of a scratch GPT-2 that fetch_base made with the template, with GPT-2's one special token."""
    from components.chat import load_tokenizer
    from components.fetch_base.config import BaseConfig
    from components.fetch_base.fetch import fetch_base

    shape = {
        "architecture": "gpt2",
        "layers": 1,
        "width": 16,
        "heads": 2,
        "corpus": [str(ROOT / "data/energy/energy.jsonl")],
    }
    template = request.param.read_text(encoding="utf-8").strip()  # as a run file's chat_template_file is read
    config = BaseConfig.model_validate({"source": "scratch", "scratch": shape, "chat_template": template})
    folder = tmp_path_factory.mktemp("base")
    fetch_base(config, folder / "releases", folder / "champion", folder)
    made = load_tokenizer(folder / "model")
    made.bos_token = made.eos_token = made.pad_token = made.unk_token = "<|endoftext|>"
    return made


def rendered(tokenizer: Any, messages: list[dict[str, str]], *, prompt: bool) -> str:
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)


def supervised_texts(tokenizer: Any, messages: list[dict[str, str]]) -> list[str]:
    """What is trained on, decoded: one text for each run of supervised tokens."""
    from components.chat import encode

    encoded = encode(tokenizer, messages)
    runs = groupby(zip(encoded.input_ids, encoded.supervised, strict=True), key=lambda token: token[1])
    return [tokenizer.decode([token for token, _ in run]) for is_supervised, run in runs if is_supervised]


def test_plain_reads_like_a_conversation(tokenizer):
    assert rendered(tokenizer, [SYSTEM, *TURNS], prompt=False) == (
        "You answer questions about energy.\n\n"
        "Question:\nWhat does a heat pump do?\n"
        "Answer:\nIt moves heat. See [here](https://example.org).<|endoftext|>\n"
        "Question:\nAnd in winter?\nEven at -10 °C?\n"
        "Answer:\nYes: it only needs more electricity.\n\nTwo paragraphs are fine.<|endoftext|>\n"
    )
    assert rendered(tokenizer, TURNS[:1], prompt=True) == "Question:\nWhat does a heat pump do?\nAnswer:\n"


@pytest.mark.parametrize("system", [[], [SYSTEM]], ids=["without system", "with system"])
@pytest.mark.parametrize("turns", [2, 4])
def test_exactly_the_answers_and_their_ends_are_trained_on(tokenizer, system, turns):
    texts = supervised_texts(tokenizer, [*system, *TURNS[:turns]])
    assert [text.strip() for text in texts] == [f"{answer}<|endoftext|>" for answer in ANSWERS[: turns // 2]]


@pytest.mark.parametrize("turns", [1, 3])
def test_a_server_sees_what_the_model_was_trained_to_go_on_from(tokenizer, turns):
    """The prompt's tokens are the beginning of the training example, and all that follows is trained on."""
    from components.chat import encode, prompt_ids

    prompt = prompt_ids(tokenizer, [SYSTEM, *TURNS[:turns]])
    example = encode(tokenizer, [SYSTEM, *TURNS[: turns + 1]])
    assert example.input_ids[: len(prompt)] == prompt
    assert not example.supervised[len(prompt) - 1]
    assert example.supervised[len(prompt)]


def test_the_answer_ends_with_the_token_that_stops_the_server(tokenizer):
    from components.chat import encode, end_token_ids

    example = encode(tokenizer, TURNS)
    last = max(position for position, trained in enumerate(example.supervised) if trained)
    assert end_token_ids(tokenizer) == [tokenizer.eos_token_id]
    assert example.input_ids[last] == tokenizer.eos_token_id


@pytest.mark.parametrize("turns", [1, 3])
def test_the_server_renders_it_alike(tokenizer, turns):
    messages = [SYSTEM, *TURNS[:turns]]
    served = ChatTemplate(tokenizer.chat_template, tokenizer.special_tokens_map)
    assert served.render(messages) == rendered(tokenizer, messages, prompt=True)


def test_a_run_file_brings_it(monkeypatch):
    monkeypatch.chdir(ROOT)
    template = run_config.load("distilgpt2").base.chat_template
    assert template == (ROOT / "pipelines/templates/plain.jinja").read_text(encoding="utf-8").strip()
