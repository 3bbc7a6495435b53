import json
import random
import shutil

import pytest
import torch
from transformers import AutoTokenizer, Gemma2Config, GraniteConfig

from components.evaluate.score import Example, as_served, score_release
from components.step_config import InputError
from serving.engine.weights import load_weights
from serving.release import read_release
from tests.components.artifacts import SYSTEM_PROMPT, conversations, make_examples, make_release, random_model

SYSTEM = {"role": "system", "content": SYSTEM_PROMPT}
UNICODE = [
    {"role": "user", "content": "Was heißt „kWh“?"},
    {"role": "assistant", "content": "Kilowattstunde, 3,6 MJ: Grüße aus Köln, 電気 😀."},
]


def naive(directory, messages) -> tuple[float, int]:
    """Nats and tokens of all answers, one forward pass for each, from text that is put together by hand."""
    model, tokenizer = load_weights(directory, read_release(directory)), AutoTokenizer.from_pretrained(directory)
    text, nats, tokens = "", 0.0, 0
    for message in messages:
        text += f"<|im_start|>{message['role']}\n"
        if message["role"] == "assistant":
            prompt = tokenizer(text)["input_ids"]
            whole = tokenizer(text + message["content"] + "<|im_end|>")["input_ids"]
            assert whole[: len(prompt)] == prompt
            with torch.no_grad():
                logits_TV = model(torch.tensor([whole])).logits[0].double()
            for position in range(len(prompt), len(whole)):
                nats -= float(logits_TV[position - 1].log_softmax(-1)[whole[position]])
            tokens += len(whole) - len(prompt)
        text += message["content"] + "<|im_end|>\n"
    return nats, tokens


@pytest.fixture(scope="module")
def examples():
    """Short and long ones, one to three questions, with and without the data's prompt."""
    listed = [*conversations(1)[:5], *conversations(2)[:2], conversations(3)[0], UNICODE]
    return [Example(f"e{number}", [SYSTEM, *messages]) for number, messages in enumerate(listed)]


@pytest.fixture(scope="module")
def release(inputs):
    return inputs.challenger / "release"


@pytest.fixture(scope="module")
def scores(release, examples):
    return score_release(release, examples, SYSTEM_PROMPT, batch_tokens=2048, name="challenger")


def test_a_score_is_what_a_naive_computation_gives(release, examples, scores):
    for example, score in zip(examples, scores, strict=True):
        nats, tokens = naive(release, example.messages)
        assert score.nll_sum == pytest.approx(nats, abs=1e-4 * tokens)
        assert score.tokens == tokens


def test_every_turn_of_the_assistant_counts(release):
    messages = [SYSTEM, *conversations(3)[0]]
    both = score_release(release, [Example("e", messages)], SYSTEM_PROMPT, batch_tokens=2048, name="challenger")[0]
    # the same answers, each as the last of its conversation
    turns = [naive(release, messages[:end]) for end in (3, 5, 7)]
    assert both.nll_sum == pytest.approx(turns[2][0], rel=1e-4)
    assert 0 < turns[0][0] < turns[1][0] < turns[2][0]
    assert both.tokens == turns[2][1] > turns[1][1] > turns[0][1]
    assert both.bytes == sum(len(message["content"].encode()) for message in messages[2::2])


def test_bytes_are_those_of_the_answers_text(scores):
    assert scores[-1].bytes == len("Kilowattstunde, 3,6 MJ: Grüße aus Köln, 電気 😀.".encode())


@pytest.mark.parametrize("batch_tokens", [16, 700, 100_000])
def test_how_examples_are_batched_does_not_matter(release, examples, scores, batch_tokens):
    again = score_release(release, examples, SYSTEM_PROMPT, batch_tokens=batch_tokens, name="challenger")
    for score, other in zip(scores, again, strict=True):
        assert other.nll_sum == pytest.approx(score.nll_sum, abs=1e-4 * score.tokens)
        assert (other.tokens, other.bytes) == (score.tokens, score.bytes)


def test_the_order_of_the_examples_does_not_matter(release, examples, scores):
    order = random.Random(0).sample(range(len(examples)), len(examples))
    shuffled = [examples[index] for index in order]
    again = score_release(release, shuffled, SYSTEM_PROMPT, batch_tokens=2048, name="challenger")
    for index, score in zip(order, again, strict=True):
        assert score.nll_sum == pytest.approx(scores[index].nll_sum, abs=1e-4 * score.tokens)
        assert score.tokens == scores[index].tokens


def test_a_release_scores_with_its_own_tokenizer_and_prompt(inputs, examples):
    champion = inputs.champion / "release"
    scored = score_release(champion, examples[-2:], SYSTEM_PROMPT, batch_tokens=2048, name="champion")
    for example, score in zip(examples[-2:], scored, strict=True):
        own = [{"role": "system", "content": "Be friendly."}, *example.messages[1:]]
        nats, tokens = naive(champion, own)
        assert score.nll_sum == pytest.approx(nats, abs=1e-4 * tokens)
        assert score.tokens == tokens
    challenger = score_release(
        inputs.challenger / "release", examples[-2:], SYSTEM_PROMPT, batch_tokens=2048, name="challenger"
    )
    assert [score.bytes for score in scored] == [score.bytes for score in challenger]
    assert [score.tokens for score in scored] != [score.tokens for score in challenger]


SMALL = {
    "vocab_size": 600,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}


@pytest.mark.parametrize(
    "config",
    [GraniteConfig(**SMALL, logits_scaling=4.0), Gemma2Config(**SMALL, head_dim=16, final_logit_softcapping=5.0)],
    ids=["granite", "gemma2"],
)
def test_a_model_that_scales_or_caps_its_logits_is_scored_with_them(inputs, tmp_path, config):
    base = tmp_path / "base"
    shutil.copytree(inputs.base / "release", base / "model", ignore=shutil.ignore_patterns("model.gguf"))
    (base / "origin.json").write_text(json.dumps({"source": "test", "digest": "0"}))
    random_model(config).save_pretrained(base / "model")
    examples = make_examples(tmp_path / "examples", base)
    made = make_release(tmp_path / "release", base, examples, engine="transformers", precision="f32") / "release"
    rows = [Example(str(number), [SYSTEM, *messages]) for number, messages in enumerate(conversations(1)[:2])]
    for row, score in zip(
        rows, score_release(made, rows, SYSTEM_PROMPT, batch_tokens=2048, name="challenger"), strict=True
    ):
        assert score.nll_sum == pytest.approx(naive(made, row.messages)[0], rel=1e-4)


def test_a_conversation_that_does_not_fit_into_the_context_is_refused(release, tmp_path):
    short = shutil.copytree(release, tmp_path / "release")
    manifest = json.loads((short / "release.json").read_bytes())
    (short / "release.json").write_text(json.dumps(manifest | {"context_length": 120}))
    rows = [Example("fits", [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}])]
    assert score_release(short, rows, "", batch_tokens=2048, name="champion")
    rows.append(Example("long-one", conversations(1)[0]))
    with pytest.raises(InputError) as refused:
        score_release(short, rows, "", batch_tokens=2048, name="champion")
    assert "test example long-one has " in str(refused.value)
    assert " tokens for the champion, whose context holds 120; lower data.max_tokens" in str(refused.value)


# --- as_served ---------------------------------------------------------------------------------------------------


def system(text):
    return {"role": "system", "content": text}


ASKED = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]


@pytest.mark.parametrize(
    ("messages", "data_prompt", "release_prompt", "expected"),
    [
        # the data's prompt gives way to the release's own
        ([system("data"), *ASKED], "data", "release", [system("release"), *ASKED]),
        ([system("data"), *ASKED], "data", "data", [system("data"), *ASKED]),
        ([system("data"), *ASKED], "data", "", ASKED),
        # what the example brought itself, a client would send too
        ([system("own"), *ASKED], "data", "release", [system("own"), *ASKED]),
        ([system("own"), *ASKED], "", "release", [system("own"), *ASKED]),
        ([system(""), *ASKED], "", "release", [system(""), *ASKED]),
        # the data has no prompt; the server adds the release's
        (ASKED, "", "release", [system("release"), *ASKED]),
        (ASKED, "", "", ASKED),
    ],
)
def test_a_conversation_is_scored_as_its_server_would_see_it(messages, data_prompt, release_prompt, expected):
    given = [dict(message) for message in messages]
    assert as_served(messages, data_prompt, release_prompt) == expected
    assert messages == given
