from __future__ import annotations

import hashlib
import random
from collections import Counter

from components.prepare_data.split import SPLITS, assign_split, question_digest


def split_of(question: str, test_share: float = 0.1, validation_share: float = 0.05) -> str:
    return assign_split(question_digest(question), test_share=test_share, validation_share=validation_share)


def test_the_key_is_the_folded_question():
    assert question_digest("Why?") == hashlib.sha256(b"why?").hexdigest()
    same = ["How much is ﬁve km²?", "how  much IS five\tkm2?", "\nHow much is five km2? ", "HOW MUCH IS\u00a0FIVE KM²?"]
    assert len({question_digest(question) for question in same}) == 1
    assert question_digest("STRASSE") == question_digest("Straße")
    assert question_digest("e\u0301") == question_digest("é")
    assert question_digest("five") != question_digest("four")


def test_folding_twice_is_folding_once():
    # U+0345 and U+1E9E are where NFKC and case folding disturb each other
    for text in ("\u0345", "ẞ", "ǰ", "\u1fb3", "ΐ"):
        folded = question_digest(text)
        assert question_digest(text.casefold()) == folded


def test_a_lone_surrogate_has_a_digest():
    assert len(question_digest("\ud83d")) == 64


def test_shares_are_kept():
    counts = Counter(split_of(f"question {number}") for number in range(20_000))
    assert abs(counts["test"] / 20_000 - 0.1) < 0.01
    assert abs(counts["validation"] / 20_000 - 0.05) < 0.01
    assert set(counts) == set(SPLITS)


def test_a_larger_test_share_keeps_the_test_rows():
    draw = random.Random(1)
    for _ in range(2000):
        question = str(draw.random())
        if split_of(question, test_share=0.1) == "test":
            assert split_of(question, test_share=0.2) == "test"
