"""The record shapes in which people keep conversations, each turned into messages.

| shape | fields |
|---|---|
| messages | `messages`: a list of `role`, `content` (OpenAI, Hugging Face) |
| ShareGPT | `conversations`: a list of `from`, `value` |
| prompt and completion | `prompt`, `completion`: texts, or lists of messages (TRL) |
| instruction | `instruction`, `output`, optionally `input` and `system` (Alpaca) |
| question and answer | `question`, `answer` |
| R1-Distill-SFT | `problem`, `reannotated_assistant_content`, or `reannotated_messages` (ServiceNow-AI) |
| text | `text`, with marks that say who speaks: `User: …`, `Assistant: …`, ChatML, `### Instruction:` |

`text` without such marks is refused: nothing says which part a model should learn to answer with, and a guess
would train it to continue questions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from components.prepare_data.validate import Message, Reason, Refused

Record = dict[str, Any]

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
}
_SPOKEN = {
    **_ROLES,
    "question": "user",
    "q": "user",
    "instruction": "user",
    "answer": "assistant",
    "a": "assistant",
    "response": "assistant",
}
_MARK = re.compile(
    r"^[ \t]*(?:#{2,3}[ \t]*)?(system|user|human|question|q|instruction|assistant|ai|answer|a|response)[ \t]*:[ \t]*",
    re.IGNORECASE | re.MULTILINE,
)
_CHATML = re.compile(r"<\|im_start\|>(\w+)\n(.*?)(?:<\|im_end\|>|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Conversation:
    """A record as messages, its text as it was read."""

    messages: list[Message]
    shape: str
    id: str = ""
    """Empty when the record has none."""

    topic: str = ""

    @property
    def first_question(self) -> str:
        return next((message["content"] for message in self.messages if message["role"] == "user"), "")


def to_conversation(record: Any) -> Conversation:
    """Recognise a record's shape and give its messages.

    Raises Refused when it has no known shape, lacks a field of its shape, or holds something else than text.
    """
    if not isinstance(record, dict):
        raise Refused(Reason.UNKNOWN_SHAPE, f"a row must be an object with named fields, this is a {_kind(record)}")
    for shape, (fields, read) in _SHAPES.items():
        if any(record.get(field) is not None for field in fields):
            return Conversation(read(record), shape, _label(record, "id"), _label(record, "topic"))
    for shape, (fields, _) in _SHAPES.items():
        if any(field in record for field in fields):
            raise Refused(Reason.MISSING_FIELD, f"{shape}: {', '.join(fields)} is null")
    raise Refused(Reason.UNKNOWN_SHAPE, f"its fields are {', '.join(map(ascii, record)) or 'none'}")


def _read_r1(record: Record) -> list[Message]:
    if record.get("reannotated_messages"):
        return _messages(record["reannotated_messages"], "role", "content", "reannotated_messages")
    return _pair(record, "problem", "reannotated_assistant_content")


def _read_messages(record: Record) -> list[Message]:
    return _messages(record["messages"], "role", "content", "messages")


def _read_sharegpt(record: Record) -> list[Message]:
    turns = _listed(record["conversations"], "conversations")
    names = (
        ("from", "value") if any(isinstance(turn, dict) and "from" in turn for turn in turns) else ("role", "content")
    )
    system = _field(record, "system") if record.get("system") else ""
    own = [{"role": "system", "content": system}] if system else []
    return own + _messages(turns, *names, "conversations")


def _read_prompt(record: Record) -> list[Message]:
    prompt, completion = record.get("prompt"), record.get("completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        return _messages(prompt + completion, "role", "content", "prompt")
    return _pair(record, "prompt", "completion")


def _read_instruction(record: Record) -> list[Message]:
    messages = _pair(record, "instruction", "output")
    extra = _field(record, "input") if record.get("input") else ""
    if extra.strip():
        messages[0]["content"] += "\n\n" + extra
    system = _field(record, "system") if record.get("system") else ""
    return [{"role": "system", "content": system}, *messages] if system else messages


def _read_question(record: Record) -> list[Message]:
    return _pair(record, "question", "answer")


def _read_text(record: Record) -> list[Message]:
    """Split a text at the marks that say who speaks; a mark begins a line."""
    text = _field(record, "text")
    if turns := _CHATML.findall(text):
        return [{"role": _role(role), "content": content.strip()} for role, content in turns]
    marks = list(_MARK.finditer(text))
    if not marks or text[: marks[0].start()].strip():
        raise Refused(Reason.NO_ROLES, f"the text does not begin with who speaks: {text[:60]!r}")
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [
        {"role": _SPOKEN[mark[1].lower()], "content": text[mark.end() : end].strip()}
        for mark, end in zip(marks, ends, strict=True)
    ]


_SHAPES: dict[str, tuple[tuple[str, ...], Callable[[Record], list[Message]]]] = {
    # R1-Distill-SFT comes first: its rows have `messages` as well, with the answers before they were annotated.
    "R1-Distill-SFT": (("reannotated_messages", "reannotated_assistant_content"), _read_r1),
    "messages": (("messages",), _read_messages),
    "ShareGPT": (("conversations",), _read_sharegpt),
    "prompt/completion": (("prompt", "completion"), _read_prompt),
    "instruction/output": (("instruction", "output"), _read_instruction),
    "question/answer": (("question", "answer"), _read_question),
    "text": (("text",), _read_text),
}


def _pair(record: Record, question: str, answer: str) -> list[Message]:
    return [
        {"role": "user", "content": _field(record, question)},
        {"role": "assistant", "content": _field(record, answer)},
    ]


def _messages(value: Any, role: str, content: str, where: str) -> list[Message]:
    messages: list[Message] = []
    for number, turn in enumerate(_listed(value, where), 1):
        if not isinstance(turn, dict):
            raise Refused(Reason.WRONG_TYPE, f"{where}: turn {number} is a {_kind(turn)}, not an object")
        if role not in turn:
            raise Refused(Reason.MISSING_FIELD, f"{where}: turn {number} has no {role}")
        messages.append({"role": _role(turn[role]), "content": _field(turn, content, f"{where}: turn {number}: ")})
    return messages


def _listed(value: Any, where: str) -> list[Any]:
    """A list of turns; a CSV cell holds it as JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise Refused(Reason.WRONG_TYPE, f"{where} is text, not a list of turns") from error
    if not isinstance(value, list):
        raise Refused(Reason.WRONG_TYPE, f"{where} is a {_kind(value)}, not a list of turns")
    return value


def _field(record: Record, name: str, where: str = "") -> str:
    if name not in record:
        raise Refused(Reason.MISSING_FIELD, f"{where}there is no {name}")
    value = record[name]
    if value is None:
        return ""  # an empty question or answer, which validation names
    if isinstance(value, list) and value and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in value):
        return "".join(part["text"] for part in value)
    if not isinstance(value, str):
        raise Refused(Reason.WRONG_TYPE, f"{where}{name} is a {_kind(value)}, not text")
    return value


def _role(value: Any) -> str:
    if not isinstance(value, str):
        raise Refused(Reason.WRONG_TYPE, f"a role is a {_kind(value)}, not text")
    if value.strip().lower() not in _ROLES:
        raise Refused(Reason.UNKNOWN_ROLE, f"{value[:40]!r} is none of system, user, assistant")
    return _ROLES[value.strip().lower()]


def _label(record: Record, name: str) -> str:
    value = record.get(name)
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _kind(value: Any) -> str:
    names = {
        type(None): "null",
        dict: "object",
        list: "list",
        str: "text",
        bool: "boolean",
        int: "number",
        float: "number",
    }
    return names.get(type(value), type(value).__name__)
