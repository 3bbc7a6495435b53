from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.prepare_data.config import DataConfig
from components.prepare_data.validate import MEANING, Reason, Refused, check_conversation

CONFIG = DataConfig(sources=["x.jsonl"], max_answer_chars=400)
TOKENS = ["<|im_end|>", "</s>"]
ENERGY = Path(__file__).parents[3] / "data" / "energy" / "energy.jsonl"


def reason(answer: str, question: str = "Why is that?") -> Reason | None:
    return reason_of([("user", question), ("assistant", answer)])


def reason_of(turns: list[tuple[str, str]]) -> Reason | None:
    try:
        check_conversation([{"role": role, "content": content} for role, content in turns], CONFIG, TOKENS)
    except Refused as refused:
        return refused.reason
    return None


@pytest.mark.parametrize(
    "answer",
    [
        "Because it is warm.",
        "42",
        "Paris",
        "Yes",
        "It is 5 kWh",
        "- one thing\n- another thing that is longer than most of them",
        "1. first do this one thing\n2. then do that other thing slowly",
        "The sum. It follows that x = 3 and y = \\frac{1}{2}",
        "Use this. It is short:\n```\nprint(1)\n```",
        'He said it. "It is a good thing to have done."',
        "See the page. It is at https://example.org/a/b/c",
        "これは良いことです。",
        "A long sentence that ends (as some do).",
        "Compare a < b and b > a.",
        "Write `<b>` for bold text.",
        "```\n<p>markup in code</p>\n```",
    ],
)
def test_good_answers_pass(answer: str):
    assert reason(answer) is None


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", Reason.EMPTY_ANSWER),
        ("-", Reason.EMPTY_ANSWER),
        ("...", Reason.EMPTY_ANSWER),
        ("N/A", Reason.EMPTY_ANSWER),
        ("null", Reason.EMPTY_ANSWER),
        ("x" * 401, Reason.ANSWER_TOO_LONG),
        ("You should insulate the loft before the", Reason.CUT_ANSWER),
        ("Because of the cold, the wind,", Reason.CUT_ANSWER),
        ("Because of the…", Reason.CUT_ANSWER),
        ("Three things matter. Read more...", Reason.CUT_ANSWER),
        ("It is warm. The heat pump takes its heat from outdoor air and brings", Reason.CUT_ANSWER),
        ("Like so:\n```\nprint(1)", Reason.CUT_ANSWER),
        ("It is <b>very</b> warm.", Reason.HTML),
        ("It is warm.<br/>And dry.", Reason.HTML),
        ('See <a href="http://example.org">this</a>.', Reason.HTML),
        ("It ends.<|im_end|>", Reason.SPECIAL_TOKEN),
        ("It ends.</s>", Reason.SPECIAL_TOKEN),
    ],
)
def test_bad_answers_are_refused(answer: str, expected: Reason):
    assert reason(answer) is expected


def test_bad_questions_are_refused():
    assert reason("So it is.", question="") is Reason.EMPTY_QUESTION
    assert reason("So it is.", question="?!") is Reason.EMPTY_QUESTION
    assert reason("So it is.", question="</s> Hi?") is Reason.SPECIAL_TOKEN
    assert reason("So it is.", question="<p>Hi?</p>") is Reason.HTML


@pytest.mark.parametrize(
    ("roles", "good"),
    [
        ("user assistant", True),
        ("system user assistant", True),
        ("user assistant user assistant", True),
        ("", False),
        ("system", False),
        ("user", False),
        ("assistant user", False),
        ("assistant user assistant", False),
        ("user user assistant", False),
        ("user assistant assistant", False),
        ("user assistant user", False),
        ("user system assistant", False),
        ("system system user assistant", False),
    ],
)
def test_role_order(roles: str, good: bool):
    assert (reason_of([(role, "Word.") for role in roles.split()]) is None) == good
    if not good:
        assert reason_of([(role, "Word.") for role in roles.split()]) is Reason.ROLE_ORDER


def test_an_earlier_answer_counts_as_well():
    turns = [("user", "A?"), ("assistant", ""), ("user", "B?"), ("assistant", "So.")]
    assert reason_of(turns) is Reason.EMPTY_ANSWER


def test_no_bundled_answer_is_refused():
    config = DataConfig(sources=["x.jsonl"])
    for line in ENERGY.read_text(encoding="utf-8").splitlines():
        check_conversation(json.loads(line)["messages"], config, TOKENS)


def test_every_reason_has_a_meaning():
    assert set(MEANING) == set(Reason)
