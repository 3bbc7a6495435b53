"""Which split a conversation belongs to: decided by its first question alone.

A row never moves when others are added, and rows that ask the same question first stay together, so that
nothing of the test split is trained on. The question is taken as it was read, before any cleaning: a new
cleaning rule cannot move a row.
"""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Literal

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def question_digest(question: str) -> str:
    """Hexadecimal sha256 of a question's NFKC, case-folded form with white space collapsed."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", question).casefold())
    # A lone surrogate has no UTF-8; such a row is refused later, and must not stop the others here.
    return hashlib.sha256(" ".join(folded.split()).encode("utf-8", "surrogatepass")).hexdigest()


def assign_split(digest: str, *, test_share: float, validation_share: float) -> Split:
    """The split of a question digest: the hash read as a number in [0, 1), test first, then validation."""
    position = int(digest[:16], 16) / 2**64
    if position < test_share:
        return "test"
    return "validation" if position < test_share + validation_share else "train"
