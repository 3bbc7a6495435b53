from __future__ import annotations

import random

import pytest

from components.prepare_data.normalise import MEANING, Change, normalise
from components.prepare_data.validate import Reason, Refused


@pytest.mark.parametrize(
    ("text", "expected", "changes"),
    [
        ("plain é 漢字 🌍", "plain é 漢字 🌍", set()),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd", {Change.LINE_ENDS}),
        ("a\x00b\x07\u200b", "ab", {Change.CONTROL_CHARACTERS}),
        ("\ufeffa\u202eb", "ab", {Change.CONTROL_CHARACTERS}),
        ("e\u0301", "é", {Change.NFC}),
        ("20\u00a0°C", "20 °C", {Change.WHITE_SPACE}),
        ("  a  \n\n\n\n  b\t\n", "a\n\n  b", {Change.WHITE_SPACE}),
        ("Tom &amp; Jo&#39;s &lt;3", "Tom & Jo's <3", {Change.HTML_ENTITIES}),
        ("AT&T; R&D", "AT&T; R&D", set()),
        ("use `&amp;` here", "use `&amp;` here", set()),
        ("```\n&lt;b&gt;\n```", "```\n&lt;b&gt;\n```", set()),
        ("👩\u200d🔧 می\u200cخواهم", "👩\u200d🔧 می\u200cخواهم", set()),  # joiners are spelling
        ("a\tb\n    c", "a\tb\n    c", set()),
    ],
)
def test_what_is_mended(text: str, expected: str, changes: set[Change]):
    assert normalise(text) == (expected, changes)


@pytest.mark.parametrize("text", ["cafÃ©", "20 Â°C", "donâ€™t", "ðŸ˜€ hi", "grÃ¶ÃŸer", "naÃ¯ve", "Ã\xa0 la carte"])
def test_utf8_that_was_read_otherwise_is_refused(text: str):
    with pytest.raises(Refused, match="read in another encoding") as refused:
        normalise(text)
    assert refused.value.reason is Reason.WRONG_ENCODING


@pytest.mark.parametrize(
    "text", ["«CAFÉ»", "São Paulo", "Â", "Ã la", "Âme", "âge", "5 €", "façade—naïve", "THÉÂTRE", "ð is a letter"]
)
def test_rightly_read_text_passes(text: str):
    assert normalise(text)[0] == text


def test_every_misread_letter_is_seen():
    for letter in "éèêëàâäçñöüßåøæÉÖÜ°²³½£€–—’“”…":
        for encoding in ("latin-1", "cp1252"):
            try:
                misread = letter.encode().decode(encoding)
            except UnicodeDecodeError:
                continue
            with pytest.raises(Refused):
                normalise(f"word {misread} word")


def test_lost_characters_are_refused():
    for text in ("a \ufffd b", "a \ud83d b"):
        with pytest.raises(Refused) as refused:
            normalise(text)
        assert refused.value.reason is Reason.WRONG_ENCODING


def test_binary_is_refused():
    with pytest.raises(Refused) as refused:
        normalise("PK\x03\x04\x14\x00\x06\x00 text")
    assert refused.value.reason is Reason.CONTROL_CHARACTERS


def test_a_second_time_changes_nothing():
    draw = random.Random(3)
    pieces = [
        "a",
        " ",
        "\n",
        "\r",
        "\t",
        "\u00a0",
        "e\u0301",
        "&amp;",
        "&amp;amp;",
        "\x01",
        "`",
        "\u200b",
        "ſ",
        "ﬁ",
        "b ",
    ]
    for _ in range(500):
        text = "word " * 200 + "".join(draw.choices(pieces, k=15))
        once, _ = normalise(text)
        if "&amp;" not in once:  # &amp;amp; names &amp;, which is what was meant
            assert normalise(once) == (once, set())


def test_every_change_has_a_meaning():
    assert set(MEANING) == set(Change)
