"""Renders a release's chat template as transformers' `apply_chat_template` does, without transformers.

A template comes with a base model from outside, so it runs in Jinja's sandbox and sees plain strings only.
tests/serving/test_chat_template.py compares the token ids with transformers' own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

Message = Mapping[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}"""


class TemplateRefused(ValueError):
    """The template does not take this conversation; the message is the template's own."""


class ChatTemplate:
    """A compiled template together with the tokenizer's special tokens, which templates write out."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]):
        self._template = _environment().from_string(source)
        self._special_tokens = dict(special_tokens)
        self.source = source

    def render(self, messages: Sequence[Message]) -> str:
        """The conversation as text, up to where the assistant's next answer begins.

        Raises TemplateRefused when the template raises, on an unknown order of roles for example.
        """
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **self._special_tokens,
            )
        except jinja2.TemplateError as error:
            raise TemplateRefused(f"the model's chat template refuses the conversation: {error}") from error


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationBlock]
    )
    environment.filters["tojson"] = _tojson
    environment.globals.update(raise_exception=_raise, strftime_now=_now, namespace=_SafeNamespace)
    return environment


class _GenerationBlock(Extension):
    """`{% generation %}` marks what the assistant says, for training; here its content is simply rendered."""

    tags: ClassVar[set[str]] = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _SafeNamespace(Namespace):
    """Refuses underscored names, which lead out of the sandbox (as in transformers)."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, positional = args[0], args[1:]
        attributes = dict(*positional, **kwargs)
        for name in attributes:
            _SafeNamespace._check(name)
        Namespace.__init__(self, attributes)  # pyright: ignore[reportArgumentType]

    def __setitem__(self, name: str, value: Any) -> None:
        _SafeNamespace._check(name)
        Namespace.__setitem__(self, name, value)

    @staticmethod
    def _check(name: str) -> None:
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a chat template cannot store {name!r} on a namespace")


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _now(format: str) -> str:
    return datetime.now().strftime(format)


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    """Jinja's own filter escapes HTML, which would change the prompt."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def special_tokens(tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    """bos_token, eos_token and their kind, from the content of tokenizer_config.json."""
    tokens: dict[str, str] = {}
    for name, value in tokenizer_config.items():
        content = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(content, str):
            tokens[name] = content
    return tokens
