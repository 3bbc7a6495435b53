"""Text from streamed token ids."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from serving.release import ReleaseError
from serving.tokenizer import Detokenizer, ReleaseTokenizer


@pytest.fixture(scope="module")
def tokenizer(releases: dict[str, Path]) -> ReleaseTokenizer:
    return ReleaseTokenizer(releases["openvino"])


def pieces(tokenizer: ReleaseTokenizer, token_ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*(detokenizer.push([token_id]) for token_id in token_ids), detokenizer.finish()]


def test_text_comes_whole_and_never_with_half_a_character(tokenizer: ReleaseTokenizer) -> None:
    draw = random.Random(7)
    for _ in range(200):
        text = "".join(draw.choices(["heat ", "pump", "😀", "é", "電気", " 20 °C", "\n", "👩‍🚒", " "], k=20))
        token_ids = tokenizer.encode(text)
        assert len(token_ids) > len(text) // 3
        given = pieces(tokenizer, token_ids)
        assert "".join(given) == text
        assert not any("\ufffd" in piece for piece in given)


def test_text_comes_as_soon_as_it_is_certain(tokenizer: ReleaseTokenizer) -> None:
    token_ids = tokenizer.encode("house")
    given = pieces(tokenizer, token_ids)
    assert given[:-1] == [tokenizer.decode([token_id]) for token_id in token_ids] and given[-1] == ""


def test_bytes_that_are_no_text(tokenizer: ReleaseTokenizer) -> None:
    """Random ids are mostly broken UTF-8; the stream says what decoding all at once says, its open end left out."""
    draw = random.Random(3)
    for _ in range(200):
        token_ids = draw.choices(range(3, 300), k=40)
        whole = tokenizer.decode(token_ids)
        given = "".join(pieces(tokenizer, token_ids))
        assert given.rstrip("\ufffd") == whole.rstrip("\ufffd")


def test_special_tokens_are_not_text(tokenizer: ReleaseTokenizer) -> None:
    assert "".join(pieces(tokenizer, [*tokenizer.encode("yes"), 2])) == "yes"


def test_several_ids_at_once(tokenizer: ReleaseTokenizer) -> None:
    detokenizer = Detokenizer(tokenizer)
    token_ids = tokenizer.encode("naïve café 😀!")
    assert detokenizer.push(token_ids[:5]) + detokenizer.push(token_ids[5:]) + detokenizer.finish() == "naïve café 😀!"


def test_a_release_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="tokenizer, template or system prompt cannot be read"):
        ReleaseTokenizer(tmp_path)
