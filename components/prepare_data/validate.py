"""Which conversations are fit to train on, and the reasons for which the others are refused.

A rule refuses only what a reader of the row would refuse as well; what can be mended without guessing is
mended before (normalise.py). A refused row is written to quarantine.jsonl with its reason, never dropped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum

from components.prepare_data.config import DataConfig

Message = dict[str, str]


class Reason(StrEnum):
    """Why a row was refused; the value stands in quarantine.jsonl, data.json and the report."""

    BROKEN_JSON = "broken_json"
    WRONG_ENCODING = "wrong_encoding"
    WRONG_COLUMNS = "wrong_columns"
    UNKNOWN_SHAPE = "unknown_shape"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    NO_ROLES = "no_roles"
    UNKNOWN_ROLE = "unknown_role"
    ROLE_ORDER = "role_order"
    EMPTY_QUESTION = "empty_question"
    EMPTY_ANSWER = "empty_answer"
    CUT_ANSWER = "cut_answer"
    ANSWER_TOO_LONG = "answer_too_long"
    TOO_MANY_TOKENS = "too_many_tokens"
    CONTROL_CHARACTERS = "control_characters"
    HTML = "html"
    SPECIAL_TOKEN = "special_token"
    TEMPLATE = "template"


MEANING: dict[Reason, str] = {
    Reason.BROKEN_JSON: "the line is not JSON",
    Reason.WRONG_ENCODING: "not UTF-8, or text that went through a wrong encoding",
    Reason.WRONG_COLUMNS: "a CSV row with more cells than the header",
    Reason.UNKNOWN_SHAPE: "none of the known record shapes",
    Reason.MISSING_FIELD: "a known shape without one of its fields",
    Reason.WRONG_TYPE: "a field that should be text is something else",
    Reason.NO_ROLES: "plain text that does not say who speaks (User: …, Assistant: …)",
    Reason.UNKNOWN_ROLE: "a speaker other than system, user and assistant",
    Reason.ROLE_ORDER: "not user and assistant in turn, ending with the assistant",
    Reason.EMPTY_QUESTION: "a user's message without a letter or digit",
    Reason.EMPTY_ANSWER: "an answer without content, or a placeholder",
    Reason.CUT_ANSWER: "an answer that stops in the middle",
    Reason.ANSWER_TOO_LONG: "an answer above data.max_answer_chars",
    Reason.TOO_MANY_TOKENS: "a conversation above data.max_tokens",
    Reason.CONTROL_CHARACTERS: "more than 2 % control characters: not text",
    Reason.HTML: "HTML markup outside code",
    Reason.SPECIAL_TOKEN: "text that the tokenizer would read as a special token",
    Reason.TEMPLATE: "the base's chat template refuses or rewrites it",
}


class Refused(ValueError):
    """A row that is not trained on, and why."""

    def __init__(self, reason: Reason, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


_PLACEHOLDERS = {"n/a", "na", "nan", "null", "undefined", "tbd", "todo", "none", "-", "test", "[deleted]", "[removed]"}

# No sentence ends with these.
_OPEN_WORD = re.compile(
    r"\b(a|an|the|and|or|but|nor|of|to|from|with|without|into|onto|between|because|although|while|whereas|if|than|that"
    r"|which|whose|is|are|was|were|be|been|has|have|had|will|would|can|could|should|must|may|might|its|their|your|our"
    r"|my|such|as|at|by|for|per)$"
)
_LAST_WORD = re.compile(r"(\w+)\s*$")
_SENTENCE_END = re.compile(r"[.!?。！？]['\")\]”’»]*(?:\s|$)")
_NOT_PROSE = re.compile(r"^\s*(?:[-*•+|#>]|\d+[.)]|[A-Za-z][.)]\s)|[=\\{}<>`$]|https?://")

_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_TAGS = (
    "a|abbr|b|blockquote|body|br|button|center|div|em|font|form|h[1-6]|head|hr|html|i|iframe|img|input|li|link|meta|"
    "ol|p|pre|script|small|span|strong|style|sub|sup|svg|table|tbody|td|th|thead|title|tr|u|ul"
)
_MARKUP = re.compile(rf"</(?:{_TAGS})\s*>|<(?:{_TAGS})(?:\s+[a-z-]+\s*=[^<>]*)?\s*/?>|<!--|<!doctype", re.IGNORECASE)


def check_conversation(messages: Sequence[Message], config: DataConfig, control_tokens: Sequence[str]) -> None:
    """Raise Refused with the first reason that a normalised conversation gives.

    `control_tokens` are the texts that the base's tokenizer reads as one special token.
    """
    _check_order([message["role"] for message in messages])
    for message in messages:
        role, content = message["role"], message["content"]
        if role == "user" and not _says_something(content):
            raise Refused(Reason.EMPTY_QUESTION, f"a question is {content!r}")
        if role == "assistant":
            _check_answer(content, config)
        _check_text(content, control_tokens)


def _check_order(roles: list[str]) -> None:
    turns = roles[1:] if roles[:1] == ["system"] else roles
    expected = ["user", "assistant"] * ((len(turns) + 1) // 2)
    if not turns or turns != expected:
        raise Refused(Reason.ROLE_ORDER, "the roles are " + (", ".join(roles) or "missing"))


def _check_answer(answer: str, config: DataConfig) -> None:
    if not _says_something(answer) or answer.strip().lower() in _PLACEHOLDERS:
        raise Refused(Reason.EMPTY_ANSWER, f"an answer is {answer!r}")
    if len(answer) > config.max_answer_chars:
        raise Refused(
            Reason.ANSWER_TOO_LONG,
            f"an answer has {len(answer):,} characters, max_answer_chars is {config.max_answer_chars:,}",
        )
    if sign := _sign_of_a_cut(answer):
        raise Refused(Reason.CUT_ANSWER, f"{sign}: … {answer[-60:]!r}")


def _check_text(text: str, control_tokens: Sequence[str]) -> None:
    for token in control_tokens:
        if token in text:
            raise Refused(Reason.SPECIAL_TOKEN, f"{token!r} would be read as a special token")
    if markup := _MARKUP.search(_CODE.sub(" ", text)):
        raise Refused(Reason.HTML, f"markup outside code: {markup[0][:60]!r}")


def _says_something(text: str) -> bool:
    return any(character.isalnum() for character in text)


def _sign_of_a_cut(answer: str) -> str:
    """What shows that an answer stops in the middle; empty when nothing does.

    A short answer, a list, a formula or code may end without a full stop. Prose that ends its other sentences
    with one may not.
    """
    if answer.count("```") % 2:
        return "a code block is not closed"
    if answer.endswith(("…", "...")):
        return "it ends in dots"
    if answer.endswith((",", ";", "(", "[", " -", "–", "—")):
        return "it ends in a mark that opens or continues"
    last_line = answer.rsplit("\n", 1)[-1]
    word = _LAST_WORD.search(answer)
    if not word or _NOT_PROSE.search(last_line):
        return ""
    if _OPEN_WORD.search(answer) and len(answer.split()) > 3:
        return f"its last word is {word[1]!r}"
    is_prose = len(last_line.split()) >= 5 and _SENTENCE_END.search(answer) is not None
    return "its last sentence has no end" if is_prose and word[1][-1].islower() else ""
