from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from components.chat import (
    Encoded,
    control_tokens,
    encode,
    encode_each,
    end_token_ids,
    last_question,
    load_tokenizer,
    prompt_ids,
)
from components.step_config import InputError

# Small templates in the manner of the families that they are named after.
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN = """{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou were made elsewhere.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role != 'system' %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
LLAMA3 = (
    "{{ '<|begin_of_text|>' }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported') }}{% endif %}{% endfor %}"
)
GPT2 = "{% for message in messages %}{{ message['content'] + eos_token }}{% endfor %}"
NAMES = (
    "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
NO_END = (
    "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
GENERATION = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}<|im_end|>\n{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
)
GENERATION_WITHOUT_END = GENERATION.replace("<|im_end|>\n{% endgeneration %}", "{% endgeneration %}<|im_end|>\n")

TEMPLATES = {
    "smollm2": (SMOLLM2, "<|im_end|>"),
    "qwen": (QWEN, "<|im_end|>"),
    "llama3": (LLAMA3, "<|eot_id|>"),
    "mistral": (MISTRAL, "</s>"),
    "gpt2": (GPT2, "<|endoftext|>"),
    "names": (NAMES, "<|endoftext|>"),
    "generation": (GENERATION, "<|im_end|>"),
    "generation without end": (GENERATION_WITHOUT_END, "<|im_end|>"),
}
MULTI_TURN = [
    {"role": "user", "content": "Does a heat pump work in winter?"},
    {"role": "assistant", "content": "It does, down to -20 °C."},
    {"role": "user", "content": "And the assistant heater?"},
    {"role": "assistant", "content": "Rarely.\n\nIt helps on the coldest days."},
]


def spoken(tokenizer, encoded: Encoded) -> list[str]:
    """The supervised runs, decoded."""
    runs: list[list[int]] = []
    before = False
    for token, supervised in zip(encoded.input_ids, encoded.supervised, strict=True):
        if supervised and not before:
            runs.append([])
        if supervised:
            runs[-1].append(token)
        before = supervised
    return [tokenizer.decode(run) for run in runs]


@pytest.fixture(params=TEMPLATES)
def family(request, make_tokenizer):
    """A tokenizer with one family's template, and what ends a turn in it."""
    template, end = TEMPLATES[request.param]
    eos = end if end != "<|eot_id|>" else "<|endoftext|>"
    return make_tokenizer(template, eos_token=eos, bos_token="<|begin_of_text|>"), end


def test_the_answers_and_their_end_tokens_are_supervised(family):
    tokenizer, end = family
    said = spoken(tokenizer, encode(tokenizer, MULTI_TURN))
    # Mistral writes a space before its end token, which has to be learned to get there.
    assert [text.strip().replace(" </s>", "</s>") for text in said] == [
        "It does, down to -20 °C." + end,
        "Rarely.\n\nIt helps on the coldest days." + end,
    ]


def test_everything_that_the_template_renders_is_read(family):
    tokenizer, _ = family
    encoded = encode(tokenizer, MULTI_TURN)
    assert len(encoded.input_ids) == len(encoded.supervised)
    assert encoded.input_ids == tokenizer.apply_chat_template(MULTI_TURN, return_dict=False)


@pytest.mark.parametrize(
    "answer", ["\nOn a new line.", "\n\n  Far away.", "Ends so.\n", "assistant", "(a) 漢字 🌍 é", "?", "a"]
)
def test_awkward_answers_are_found(family, answer):
    tokenizer, end = family
    messages = [{"role": "user", "content": answer}, {"role": "assistant", "content": answer}]
    (said,) = spoken(tokenizer, encode(tokenizer, messages))
    assert said.endswith(end)
    assert said.removesuffix(end).strip() == answer.strip()


def test_any_contents_decode_to_themselves(family):
    tokenizer, end = family
    draw = random.Random(7)
    pieces = [
        " ",
        "\n",
        "a",
        "Wh",
        "]",
        "[",
        ":",
        "é",
        "°",
        "漢",
        "🌍",
        "<",
        "|",
        ">",
        "user",
        "assistant",
        "system",
        "1",
    ]
    for _ in range(150):
        texts = ["x" + "".join(draw.choices(pieces, k=draw.randint(1, 12))) for _ in range(4)]
        messages = [
            {"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, texts, strict=True)
        ]
        said = spoken(tokenizer, encode(tokenizer, messages))
        assert [text.removesuffix(end).strip() for text in said] == [text.strip() for text in texts[1::2]]


def test_a_prompt_is_the_beginning_of_what_is_trained_on(make_tokenizer):
    for template in (SMOLLM2, QWEN, LLAMA3, NAMES):
        tokenizer = make_tokenizer(template)
        prompt = prompt_ids(tokenizer, MULTI_TURN[:3])
        assert encode(tokenizer, MULTI_TURN).input_ids[: len(prompt)] == prompt


def test_the_last_question_is_all_before_the_last_answer():
    assert last_question(MULTI_TURN) == MULTI_TURN[:3]
    assert last_question(MULTI_TURN[:3]) == MULTI_TURN[:1]


def test_a_default_system_message_is_read_and_not_learned(make_tokenizer):
    tokenizer = make_tokenizer(SMOLLM2)
    encoded = encode(tokenizer, MULTI_TURN)
    assert "You are a helpful assistant" in tokenizer.decode(encoded.input_ids)
    assert "helpful" not in "".join(spoken(tokenizer, encoded))
    own = [{"role": "system", "content": "Be plain."}, *MULTI_TURN]
    assert "helpful" not in tokenizer.decode(encode(tokenizer, own).input_ids)


def test_the_end_token_is_learned_although_it_pads(make_tokenizer):
    tokenizer = make_tokenizer(GPT2, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    encoded = encode(tokenizer, MULTI_TURN[:2])
    assert encoded.input_ids[-1] == tokenizer.pad_token_id
    assert encoded.supervised[-1]
    # the question's end has the same id, and is not learned
    ends = [s for t, s in zip(encoded.input_ids, encoded.supervised, strict=True) if t == tokenizer.eos_token_id]
    assert ends == [False, True]


def test_a_template_without_an_end_gets_the_end_of_text(make_tokenizer):
    tokenizer = make_tokenizer(NO_END, eos_token="<|endoftext|>")
    said = spoken(tokenizer, encode(tokenizer, MULTI_TURN))
    assert said[-1].endswith("coldest days.\n<|endoftext|>")
    assert end_token_ids(tokenizer) == [tokenizer.eos_token_id]


def test_end_tokens(make_tokenizer):
    tokenizer = make_tokenizer(LLAMA3, eos_token="<|endoftext|>")
    assert tokenizer.convert_ids_to_tokens(end_token_ids(tokenizer)) == ["<|eot_id|>", "<|endoftext|>"]
    assert len(end_token_ids(make_tokenizer(SMOLLM2))) == 1


def test_a_token_over_the_edge_is_cut_there(make_tokenizer):
    """`](` is one token of many vocabularies; a server tokenizes the prompt without the answer."""
    template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{{ eos_token }}{% endfor %}"
    tokenizer = make_tokenizer(template)
    tokenizer.add_tokens(["]("])
    messages = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "(a) is right."}]
    assert spoken(tokenizer, encode(tokenizer, messages)) == ["(a) is right.<|im_end|>"]


def test_a_generation_block_may_hold_a_header(make_tokenizer):
    template = GENERATION.replace("{% generation %}", "{% generation %}<think></think>\n")
    tokenizer = make_tokenizer(template)
    assert spoken(tokenizer, encode(tokenizer, MULTI_TURN[:2])) == [
        "<think></think>\nIt does, down to -20 °C.<|im_end|>"
    ]


def test_a_template_that_rewrites_answers_is_refused_with_the_example(make_tokenizer):
    template = SMOLLM2.replace("message['content'] +", "message['content'].split('</think>')[-1] +")
    tokenizer = make_tokenizer(template)
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "<think>Hm.</think>So."}]
    with pytest.raises(InputError, match=r"rewrites the answers.*<think>Hm\.</think>So\."):
        encode(tokenizer, messages)
    encode(tokenizer, MULTI_TURN)


def test_a_template_that_refuses_a_role_is_an_input_error(make_tokenizer):
    tokenizer = make_tokenizer(MISTRAL, eos_token="</s>")
    with pytest.raises(InputError, match="Only user and assistant roles are supported"):
        encode(tokenizer, [{"role": "system", "content": "Be plain."}, *MULTI_TURN])


def test_a_template_that_ends_a_turn_with_plain_text_is_refused(make_tokenizer):
    tokenizer = make_tokenizer(SMOLLM2.replace("<|im_end|>", "<STOP>"), eos_token="<|endoftext|>")
    with pytest.raises(InputError, match=r"ends an answer with '<STOP>', which is not a token"):
        encode(tokenizer, MULTI_TURN)


def test_a_template_without_answers_is_refused(make_tokenizer):
    template = "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(InputError, match="leaves the assistant's answers out"):
        encode(make_tokenizer(template), MULTI_TURN)


def test_a_conversation_without_an_answer_is_refused(make_tokenizer):
    with pytest.raises(InputError, match="no answer to train on"):
        encode(make_tokenizer(), MULTI_TURN[:1])


def test_a_prompt_needs_a_question(make_tokenizer):
    with pytest.raises(InputError, match="no question waits"):
        prompt_ids(make_tokenizer(), MULTI_TURN)


def test_many_are_encoded_in_order_and_a_refused_one_leaves_its_error(make_tokenizer):
    tokenizer = make_tokenizer()
    conversations = [MULTI_TURN[:2], MULTI_TURN[:1], MULTI_TURN] * 300  # more than one batch
    results = list(encode_each(tokenizer, conversations))
    assert len(results) == len(conversations)
    assert all(isinstance(result, InputError) for result in results[1::3])
    assert results[0::3] == [encode(tokenizer, MULTI_TURN[:2])] * 300
    assert results[2::3] == [encode(tokenizer, MULTI_TURN)] * 300


def test_control_tokens_are_the_special_ones(make_tokenizer):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["ordinary"])
    assert "<|im_start|>" in control_tokens(tokenizer)
    assert "ordinary" not in control_tokens(tokenizer)


def test_loading(make_tokenizer, tmp_path: Path):
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
    make_tokenizer(None).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"no chat template.*base\.chat_template_file"):
        load_tokenizer(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    encoded = encode(load_tokenizer(tmp_path), MULTI_TURN)
    assert json.loads(json.dumps(encoded.input_ids)) == encode(make_tokenizer(), MULTI_TURN).input_ids
