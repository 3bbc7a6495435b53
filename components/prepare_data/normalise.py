"""One spelling for the same text: NFC, `\\n`, plain white space, no control characters.

Only what can be mended without guessing is mended, and every kind of change is counted. Text that went
through a wrong encoding is refused: what it said can only be guessed.
"""

from __future__ import annotations

import html
import re
import unicodedata
from enum import StrEnum

from components.prepare_data.validate import Reason, Refused


class Change(StrEnum):
    """What was done to a text; counted once per row."""

    BYTE_ORDER_MARK = "byte_order_mark"
    LINE_ENDS = "line_ends"
    CONTROL_CHARACTERS = "control_characters"
    HTML_ENTITIES = "html_entities"
    NFC = "nfc"
    WHITE_SPACE = "white_space"
    OWN_SYSTEM_PROMPT = "own_system_prompt"
    UNIQUE_ID = "unique_id"


MEANING: dict[Change, str] = {
    Change.BYTE_ORDER_MARK: "a byte order mark was removed",
    Change.LINE_ENDS: "line ends became \\n",
    Change.CONTROL_CHARACTERS: "control and invisible characters were removed",
    Change.HTML_ENTITIES: "entities such as &amp; became the characters that they name",
    Change.NFC: "characters were composed (Unicode NFC)",
    Change.WHITE_SPACE: "white space was trimmed or made plain",
    Change.OWN_SYSTEM_PROMPT: "the row keeps its own system message",
    Change.UNIQUE_ID: "the row's id was used by another row, too, and was extended",
}

_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
# C0 and C1 without tab and newline, zero-width space, word joiner, soft hyphen, byte order mark, bidirectional
# controls, non-characters. Joiners (U+200C, U+200D) stay: Persian, Hindi and emoji are spelled with them.
_CONTROL = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ufffe\uffff]"
)
_SPACES = re.compile("[\xa0\u1680\u2000-\u200a\u202f\u205f]")
_CODE = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]*`)", re.DOTALL)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
# UTF-8 that was read as cp1252 or latin-1 turns é into Ã©, ° into Â°, a curly quote into â€™, emoji into ðŸ….
_MOJIBAKE = re.compile("[ÂÃ][\x80-\xff€‚ƒ„…†‡ˆ‰Š‹Œ‘’“”•–—˜™š›œžŸŽ]|[âð][^\x00-\x7f]{2,3}")
_MOST_CONTROL_SHARE = 0.02


def normalise(text: str) -> tuple[str, set[Change]]:
    """The text in its one spelling, and what was changed.

    Raises Refused for text that is damaged beyond mending: replacement characters, lone surrogates, UTF-8
    read as another encoding, or so many control characters that it is not text.
    """
    _refuse_damage(text)
    changes: set[Change] = set()

    def step(change: Change, changed: str) -> None:
        nonlocal text
        if changed != text:
            changes.add(change)
            text = changed

    step(Change.LINE_ENDS, _LINE_ENDS.sub("\n", text))
    step(Change.HTML_ENTITIES, _unescape_prose(text))
    step(Change.CONTROL_CHARACTERS, _CONTROL.sub("", text))
    step(Change.NFC, unicodedata.normalize("NFC", text))
    step(Change.WHITE_SPACE, _plain_white_space(text))
    return text, changes


def _refuse_damage(text: str) -> None:
    if "\ufffd" in text:
        raise Refused(Reason.WRONG_ENCODING, "a replacement character stands where a character was lost")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise Refused(Reason.WRONG_ENCODING, "half of a surrogate pair stands alone")
    for match in _MOJIBAKE.finditer(text):
        if _is_misread_utf8(match[0]):
            raise Refused(Reason.WRONG_ENCODING, f"{match[0]!r} is UTF-8 that was read in another encoding")
    control = len(_CONTROL.findall(text))
    if control > max(3, _MOST_CONTROL_SHARE * len(text)):
        raise Refused(Reason.CONTROL_CHARACTERS, f"{control} of {len(text)} characters are control characters")


def _is_misread_utf8(characters: str) -> bool:
    """Whether the bytes that these characters were read from are UTF-8 for fewer characters."""
    raw = bytearray()
    for character in characters:
        try:
            raw += character.encode("cp1252")
        except UnicodeEncodeError:  # cp1252 has five holes, which many readers fill as latin-1 does
            if ord(character) > 0xFF:
                return False
            raw.append(ord(character))
    for end in (4, 3, 2):  # the match may have taken more than the one character
        try:
            raw[:end].decode("utf-8")
            return True
        except UnicodeDecodeError:
            continue
    return False


def _unescape_prose(text: str) -> str:
    """HTML entities resolved, except in code, where they may be the matter."""
    if "&" not in text:
        return text
    pieces = _CODE.split(text)
    return "".join(
        piece if index % 2 else _ENTITY.sub(lambda match: html.unescape(match[0]), piece)
        for index, piece in enumerate(pieces)
    )


def _plain_white_space(text: str) -> str:
    """Plain spaces, no space at line ends, at most one empty line in a row; indentation stays (code)."""
    text = _SPACES.sub(" ", text)
    text = re.sub(r"[ \t]+(?=\n|\Z)", "", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()
