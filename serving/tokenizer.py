"""Text to token ids and back, with a release's own tokenizer and chat template."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from serving.chat_template import ChatTemplate, Message, special_tokens
from serving.errors import RequestError
from serving.release import SYSTEM_PROMPT_FILE, ReleaseError

_REPLACEMENT = "\ufffd"
_UNCERTAIN = 3  # a UTF-8 character has at most four bytes, so at most three can wait for the next token
_START, _END = "\U000f0000", "\U000f0001"  # private-use characters, taken out of what users send


class PromptTooLong(ValueError):
    """A text that cannot fit into the model's context, however it is cut into tokens."""


class ReleaseTokenizer:
    """What turns requests into prompts for one release."""

    def __init__(self, directory: Path):
        try:
            self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
            config = json.loads((directory / "tokenizer_config.json").read_bytes())
            template = (directory / "chat_template.jinja").read_text(encoding="utf-8")
            self.system_prompt = (directory / SYSTEM_PROMPT_FILE).read_text(encoding="utf-8").strip()
        # The tokenizers library raises plain Exception for an unreadable file.
        except Exception as error:
            raise ReleaseError(f"{directory}: tokenizer, template or system prompt cannot be read: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # An added token may also swallow the spaces around it; no text of any sense is mostly that.
        self._longest = max(map(len, self._tokenizer.get_vocab(with_added_tokens=True)), default=1)
        self._template = ChatTemplate(template, special_tokens(config))
        control = [
            token.content
            for token in self._tokenizer.get_added_tokens_decoder().values()
            if token.special or (token.content in template and not token.content.isspace())
        ]
        longest_first = sorted(control, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._marked = re.compile(f"{_START}({self._control.pattern}){_END}|[{_START}{_END}]")

    def prompt_ids(self, messages: Sequence[Message], context: int | None = None) -> list[int]:
        """Token ids of a conversation up to the assistant's next answer.

        The release's system prompt is put first when no message is a system message. Control tokens in a
        message's text are encoded as ordinary text: a user cannot end her turn and speak as the system.
        Raises PromptTooLong, before the costly part, for what cannot be `context` tokens or fewer.
        """
        if self.system_prompt and not any(message["role"] == "system" for message in messages):
            messages = [{"role": "system", "content": self.system_prompt}, *messages]
        marked = [{**message, "content": self._mark(message["content"])} for message in messages]
        # split() of one group gives [text, control token, text, …, text]; None stands for a lone mark
        pieces = self._marked.split(self._template.render(marked))
        self._check_length(sum(len(piece) for piece in pieces if piece), context)
        token_ids = self.encode(pieces[0])
        for index, piece in enumerate(pieces[1:], start=1):
            if piece:
                token_ids += self._encode_as_text(piece) if index % 2 else self.encode(piece)
        return token_ids

    def encode(self, text: str) -> list[int]:
        """Token ids of raw text; nothing is added."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_prompt(self, text: str, context: int) -> list[int]:
        """Token ids of raw text. Raises PromptTooLong as `prompt_ids`."""
        self._check_length(len(text), context)
        return self.encode(text)

    def check_ids(self, token_ids: Sequence[int]) -> None:
        """Raises RequestError 400 for an id that is not in the vocabulary."""
        size = self._tokenizer.get_vocab_size()
        for token_id in token_ids:
            if not 0 <= token_id < size:
                raise RequestError(400, f"token id {token_id} is not between 0 and {size - 1}", param="prompt")

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids; special tokens are left out."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=True)

    def _check_length(self, characters: int, context: int | None) -> None:
        if context is not None and characters > context * self._longest:
            raise PromptTooLong(
                f"the prompt has {characters} characters, more than the model's context of {context} tokens can hold"
            )

    def _mark(self, text: str) -> str:
        text = text.replace(_START, "").replace(_END, "")
        return self._control.sub(f"{_START}\\g<0>{_END}", text)

    def _encode_as_text(self, text: str) -> list[int]:
        """Encode through the tokenizer's pipeline without its added tokens."""
        if self._tokenizer.normalizer is not None:
            text = self._tokenizer.normalizer.normalize_str(text)
        parts = [text]
        if self._tokenizer.pre_tokenizer is not None:
            parts = [part for part, _ in self._tokenizer.pre_tokenizer.pre_tokenize_str(text)]
        return [token.id for part in parts for token in self._tokenizer.model.tokenize(part)]


class Detokenizer:
    """Token ids in, text out, never half a character.

    Ids are decoded together with those of the text before, since some tokenizers write a word's leading space
    only inside a text. What ends in a replacement character may be a character still coming, so it is held back.
    """

    def __init__(self, tokenizer: ReleaseTokenizer):
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._context = 0  # ids of the window whose text has been given out completely
        self._given = 0  # characters of the window's text that have been given out

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that these ids complete."""
        self._window += token_ids
        text = self._tokenizer.decode(self._window)
        certain = text.rstrip(_REPLACEMENT)
        held = min(len(text) - len(certain), _UNCERTAIN)
        return self._give(text, len(text) - held)

    def finish(self) -> str:
        """The text that was held back; bytes that never became a character are dropped."""
        text = self._tokenizer.decode(self._window)
        return self._give(text, len(text.rstrip(_REPLACEMENT)))

    def _give(self, text: str, end: int) -> str:
        given, self._given = text[self._given : end], max(end, self._given)
        if end == len(text):
            # What was new becomes the context of the next ids, and the old context is forgotten.
            self._window = self._window[self._context :]
            self._context = len(self._window)
            self._given = len(self._tokenizer.decode(self._window))
        return given
