from __future__ import annotations

import json
from typing import Any

import pytest

from components.prepare_data.records import to_conversation
from components.prepare_data.validate import Reason, Refused

PAIR = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
SYSTEM = {"role": "system", "content": "Be plain."}


@pytest.mark.parametrize(
    ("record", "messages"),
    [
        ({"messages": PAIR}, PAIR),
        ({"messages": json.dumps(PAIR)}, PAIR),  # a CSV cell
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}, PAIR[1]]}, PAIR),
        ({"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]}, PAIR),
        ({"conversations": PAIR}, PAIR),
        (
            {
                "system": "Be plain.",
                "conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}],
            },
            [SYSTEM, *PAIR],
        ),
        ({"prompt": "Why?", "completion": "So."}, PAIR),
        ({"prompt": [SYSTEM, PAIR[0]], "completion": [PAIR[1]]}, [SYSTEM, *PAIR]),
        ({"instruction": "Why?", "input": "", "output": "So."}, PAIR),
        ({"instruction": "Why?", "output": "So.", "system": "Be plain."}, [SYSTEM, *PAIR]),
        (
            {"instruction": "Translate.", "input": "Haus", "output": "House"},
            [{"role": "user", "content": "Translate.\n\nHaus"}, {"role": "assistant", "content": "House"}],
        ),
        ({"question": "Why?", "answer": "So."}, PAIR),
        ({"text": "User: Why?\nAssistant: So."}, PAIR),
        (
            {"text": "### Instruction:\nWhy?\n### Response:\nSo."},
            PAIR,
        ),
        ({"text": "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|>\n"}, PAIR),
    ],
)
def test_shapes(record: dict[str, Any], messages: list[dict[str, str]]):
    assert to_conversation(record).messages == messages


def test_r1_distill_sft_has_its_annotated_answers_in_columns_of_their_own():
    annotated = "<think>\nHalf of 4.\n</think>\n\n2"
    row = {
        "id": "numina_1",
        "problem": "What is half of 4?",
        "reannotated_assistant_content": annotated,
        "source": "numina_math",
        "solution": "2",
        "verified": None,
        "quality_metrics": None,
    }
    expected = [{"role": "user", "content": "What is half of 4?"}, {"role": "assistant", "content": annotated}]
    assert to_conversation(row).messages == expected
    assert to_conversation(row).id == "numina_1"
    before = [expected[0], {"role": "assistant", "content": "2"}]
    chat = {"id": "1", "messages": before, "reannotated_messages": expected, "source": "lmsys"}
    assert to_conversation(chat).messages == expected


@pytest.mark.parametrize(
    ("record", "reason", "detail"),
    [
        ([1], Reason.UNKNOWN_SHAPE, "this is a list"),
        ("hello", Reason.UNKNOWN_SHAPE, "this is a text"),
        (None, Reason.UNKNOWN_SHAPE, "this is a null"),
        ({}, Reason.UNKNOWN_SHAPE, "its fields are none"),
        ({"frage": "?", "antwort": "!"}, Reason.UNKNOWN_SHAPE, "'frage', 'antwort'"),
        ({"messages": None}, Reason.MISSING_FIELD, "messages is null"),
        ({"question": "Why?"}, Reason.MISSING_FIELD, "there is no answer"),
        ({"output": "So."}, Reason.MISSING_FIELD, "there is no instruction"),
        ({"messages": [{"content": "Why?"}]}, Reason.MISSING_FIELD, "turn 1 has no role"),
        ({"messages": [{"role": "user"}]}, Reason.MISSING_FIELD, "turn 1: there is no content"),
        ({"messages": "hello"}, Reason.WRONG_TYPE, "messages is text, not a list"),
        ({"messages": {"role": "user"}}, Reason.WRONG_TYPE, "messages is a object, not a list"),
        ({"messages": ["Why?"]}, Reason.WRONG_TYPE, "turn 1 is a text"),
        ({"messages": [{"role": 1, "content": "Why?"}]}, Reason.WRONG_TYPE, "a role is a number"),
        ({"question": "Why?", "answer": 42}, Reason.WRONG_TYPE, "answer is a number"),
        ({"question": "Why?", "answer": [{"type": "image"}]}, Reason.WRONG_TYPE, "answer is a list"),
        ({"messages": [{"role": "tool", "content": "{}"}]}, Reason.UNKNOWN_ROLE, "'tool'"),
        ({"text": "Heat rises."}, Reason.NO_ROLES, "Heat rises."),
        ({"text": "Heat rises.\nUser: Why?\nAssistant: So."}, Reason.NO_ROLES, "Heat rises."),
    ],
)
def test_what_is_refused(record: Any, reason: Reason, detail: str):
    with pytest.raises(Refused, match=detail) as refused:
        to_conversation(record)
    assert refused.value.reason is reason


def test_null_content_is_empty_text_for_validation_to_name():
    assert to_conversation({"question": "Why?", "answer": None}).messages[1]["content"] == ""


def test_labels():
    assert to_conversation({"id": 7, "topic": "wind", "messages": PAIR}).id == "7"
    assert to_conversation({"id": None, "topic": ["x"], "messages": PAIR}).topic == ""
