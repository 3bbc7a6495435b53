"""Conversations as tokens: which ids a model sees, and which of them its loss counts.

The loss counts what the assistant says and the token that ends its turn, nothing else. Where that is depends
on the base's chat template, and a template is any Jinja text, so it is found and not assumed:

1. A template with `{% generation %}` blocks says it itself.
2. Any other is rendered twice, with the real answers and with marks in their place. What stands between the
   marks is the template's own text; the answers are what is left, trimmed where the template trims.

Both give spans of characters, which the tokenizer's offsets turn into tokens, and every span is decoded again
and compared with its answer before anyone trains on it.

Whether a token is trained on is known by its position (`supervised`), never by its id: bases often pad with
the very token that ends a turn (SmolLM2, GPT-2), and masking by id would stop them learning to stop.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, cast

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from components.step_config import InputError

Message = dict[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}"""

_GENERATION_BLOCK = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_BATCH = 512


@dataclass(frozen=True)
class Encoded:
    """One conversation as the model reads it; both lists have one entry per token."""

    input_ids: list[int]
    supervised: list[bool]
    """True where the loss counts the token: assistant content and its end-of-turn token."""


@dataclass(frozen=True)
class _Turn:
    """Characters [start, end) of a rendered conversation that are one assistant turn, end token included."""

    start: int
    end: int


@dataclass(frozen=True)
class _Ending:
    """How a template ends an assistant's turn."""

    token: str
    written: bool
    """False when the template writes no end after the last answer, so that it has to be added."""


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model directory, which must be a fast one with a chat template.

    Raises InputError when there is none, it is slow (no character offsets), or it has no template.
    """
    if not (directory / "tokenizer.json").is_file():
        raise InputError(f"{directory} has no tokenizer.json; give a base model with a fast tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    if not tokenizer.is_fast:
        kind = type(tokenizer).__name__
        raise InputError(f"{directory}: {kind} gives no character offsets; give a base with a fast tokenizer")
    if not tokenizer.chat_template:
        raise InputError(f"{directory} has no chat template; name one in the run file: base.chat_template_file")
    return tokenizer


def encode(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> Encoded:
    """Token ids of a conversation and which of them are trained on.

    Raises InputError with the conversation when the template refuses it or its answers cannot be located.
    """
    (result,) = encode_each(tokenizer, [messages])
    if isinstance(result, InputError):
        raise result
    return result


def encode_each(
    tokenizer: PreTrainedTokenizerBase, conversations: Iterable[Sequence[Message]]
) -> Iterator[Encoded | InputError]:
    """`encode` of many conversations, in order, tokenized in batches; a refused one gives its error instead."""
    ending = _find_ending(tokenizer)
    rows = iter(conversations)
    while batch := list(islice(rows, _BATCH)):
        planned = [_plan(tokenizer, messages, ending) for messages in batch]
        texts = [plan[0] for plan in planned if not isinstance(plan, InputError)]
        tokens = iter(_tokenize(tokenizer, texts))
        for messages, plan in zip(batch, planned, strict=True):
            yield plan if isinstance(plan, InputError) else _mark(tokenizer, messages, *plan, *next(tokens))


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Token ids of a conversation up to where the assistant's next answer begins.

    Raises InputError when the conversation ends with an answer, or the template refuses it.
    """
    if not messages or messages[-1]["role"] == "assistant":
        raise InputError(f"no question waits for an answer in {_shorten(messages)}")
    text, _ = _render(tokenizer, messages, add_generation_prompt=True)
    return _tokenize(tokenizer, [text])[0][0]


def last_question(messages: Sequence[Message]) -> list[Message]:
    """A conversation up to its last answer, as `prompt_ids` takes it."""
    last = max(index for index, message in enumerate(messages) if message["role"] == "assistant")
    return list(messages[:last])


def end_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that end an answer: what the template writes after one, then the tokenizer's own end of text."""
    turn_end = tokenizer.convert_tokens_to_ids(_find_ending(tokenizer).token)
    ids = cast(list[int | None], [turn_end, tokenizer.eos_token_id])
    return list(dict.fromkeys(token_id for token_id in ids if token_id is not None))


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Texts that the tokenizer reads as one special token wherever they stand, longest first."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(added | set(tokenizer.all_special_tokens), key=lambda text: (-len(text), text))


# --- where the answers are -------------------------------------------------------------------------------------


def _render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = False,
    track_generation: bool = False,
) -> tuple[str, list[tuple[int, int]]]:
    """The conversation as text, and the spans of its `{% generation %}` blocks when they are asked for."""
    try:
        texts, spans = render_jinja_template(
            conversations=[list(messages)],
            chat_template=tokenizer.get_chat_template(),
            add_generation_prompt=add_generation_prompt,
            return_assistant_tokens_mask=track_generation,
            **cast(dict[str, Any], tokenizer.special_tokens_map),
        )
    except TemplateError as error:
        raise InputError(f"the chat template refuses {_shorten(messages)}: {error}") from error
    return texts[0], cast(list[tuple[int, int]], spans[0]) if track_generation else []


def _find_ending(tokenizer: PreTrainedTokenizerBase) -> _Ending:
    """What follows the last answer of a conversation, seen by rendering one.

    Raises InputError when the template ends a turn with text that is no token, since a model cannot be
    stopped by it, or when there is no end at all.
    """
    mark = "MARKED-ANSWER"
    text, _ = _render(tokenizer, [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": mark}])
    if mark not in text:
        raise InputError("the chat template leaves the assistant's answers out; give another: base.chat_template_file")
    tail = text.rpartition(mark)[2].strip()
    # Every added token, special or not: some bases forget to flag theirs.
    added = {token.content for token in tokenizer.added_tokens_decoder.values()} | set(tokenizer.all_special_tokens)
    for token in sorted(added, key=lambda text: (-len(text), text)):
        if token.strip() and tail.startswith(token):
            return _Ending(token, written=True)
    if tail:
        raise InputError(
            f"the chat template ends an answer with {tail[:40]!r}, which is not a token of this tokenizer; "
            "give a template that ends it with one: base.chat_template_file"
        )
    if tokenizer.eos_token is None:
        raise InputError("neither the chat template nor the tokenizer ends an answer; give a template that does")
    return _Ending(str(tokenizer.eos_token), written=False)


def _plan(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], ending: _Ending
) -> tuple[str, list[_Turn]] | InputError:
    """The rendered conversation and its assistant turns, or why they cannot be told apart."""
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    if not answers:
        return InputError(f"no answer to train on in {_shorten(messages)}")
    try:
        marked_by_template = bool(_GENERATION_BLOCK.search(tokenizer.get_chat_template()))
        text, spans = _render(tokenizer, messages, track_generation=marked_by_template)
        if not marked_by_template:
            spans = _spans_by_marks(tokenizer, messages, text, answers)
        if not ending.written and messages[-1]["role"] == "assistant":
            text += ending.token
        return text, _turns(tokenizer, text, spans, answers, ending)
    except InputError as error:
        return error


def _spans_by_marks(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], text: str, answers: list[str]
) -> list[tuple[int, int]]:
    """Spans of the answers in `text`, found with a second rendering that has a mark for each answer."""
    everything = "\n".join(message["content"] for message in messages)
    stem = "MARKED-ANSWER"
    while stem in everything:
        stem += "X"
    marks = iter(f"{stem}-{number}-" for number in range(len(answers)))
    marked, _ = _render(
        tokenizer,
        [
            {**message, "content": next(marks)} if message["role"] == "assistant" else dict(message)
            for message in messages
        ],
    )
    pieces = re.split(re.escape(stem) + r"-\d+-", marked)  # the template's own text: before, between and after
    spans: list[tuple[int, int]] = []
    position = len(pieces[0])
    if len(pieces) != len(answers) + 1 or not text.startswith(pieces[0]):
        raise _not_found(tokenizer, messages)
    for answer, after in zip(answers, pieces[1:], strict=True):
        for candidate in (answer, answer.rstrip(), answer.lstrip(), answer.strip()):
            end = position + len(candidate)
            if text.startswith(candidate, position) and text.startswith(after, end):
                break
        else:
            raise _not_found(tokenizer, messages)
        spans.append((position, end))
        position = end + len(after)
    if position != len(text):
        raise _not_found(tokenizer, messages)
    return spans


def _turns(
    tokenizer: PreTrainedTokenizerBase, text: str, spans: list[tuple[int, int]], answers: list[str], ending: _Ending
) -> list[_Turn]:
    """Give each span its end token: the one inside it, else the one that follows it."""
    tokens = sorted({ending.token, str(tokenizer.eos_token or ending.token)}, key=len, reverse=True)
    ends = "|".join(map(re.escape, tokens))
    inside, follows = re.compile(rf"({ends})\s*$"), re.compile(rf"\s*({ends})")
    turns: list[_Turn] = []
    for start, end in spans:
        if within := inside.search(text[start:end]):
            body, end = text[start : start + within.start()], start + within.end(1)
        elif after := follows.match(text, end):
            body, end = text[start:end], after.end()
        else:
            body = text[start:end]
        # A generation block may hold more than the answer (a think header, say), never less.
        if not any(body.strip().endswith(answer.strip()) for answer in answers):
            raise InputError(f"the chat template trains on {body[:80]!r}, which ends in none of the answers")
        turns.append(_Turn(start, end))
    if not turns:
        raise InputError("the chat template marks no answer for training in a conversation that has one")
    return turns


def _not_found(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> InputError:
    return InputError(
        f"the chat template of {tokenizer.name_or_path or 'the base'} rewrites the answers, so that they cannot be "
        f"found in what it renders; put them in {{% generation %}} blocks. The conversation: {_shorten(messages)}"
    )


# --- which tokens they are -------------------------------------------------------------------------------------


def _tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Ids and character offsets of each text."""
    if not texts:
        return []
    # The template writes the special tokens, so the tokenizer must not add its own.
    batch = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return list(zip(batch["input_ids"], batch["offset_mapping"], strict=True))


def _mark(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    text: str,
    turns: list[_Turn],
    input_ids: list[int],
    offsets: list[tuple[int, int]],
) -> Encoded | InputError:
    """Mark the tokens of each turn, when they decode to it; cut the text at the turns first where they do not.

    A token may reach over a turn's edge (`](` is one token of GPT-2). A server tokenizes the prompt without
    the answer, so such a text is tokenized in pieces, as it would be there.
    """
    encoded = _mark_once(tokenizer, text, turns, input_ids, offsets)
    if encoded is None:
        encoded = _mark_once(tokenizer, text, turns, *_tokenize_pieces(tokenizer, text, turns))
    if encoded is None:
        return InputError(f"the tokens of the answers do not decode to the answers in {_shorten(messages)}")
    return encoded


def _mark_once(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    turns: list[_Turn],
    input_ids: list[int],
    offsets: list[tuple[int, int]],
) -> Encoded | None:
    """Mark what lies in the turns; None when a turn's tokens decode to something else than its text."""
    supervised = [False] * len(input_ids)
    position = 0
    for turn in turns:
        while position < len(offsets) and offsets[position][1] <= turn.start:
            position += 1
        first = position
        last = first  # one past the last token that begins inside the turn
        while last < len(offsets) and offsets[last][0] < turn.end:
            last += 1
        supervised[first:last] = [True] * (last - first)
        position = last
        said = tokenizer.decode(input_ids[first:last], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if _comparable(str(said)) != _comparable(text[turn.start : turn.end]):
            return None
    return Encoded(input_ids, supervised)


def _tokenize_pieces(
    tokenizer: PreTrainedTokenizerBase, text: str, turns: list[_Turn]
) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids and offsets of a text whose turns are tokenized apart from what surrounds them."""
    edges = [0, *(edge for turn in turns for edge in (turn.start, turn.end)), len(text)]
    pieces = [(start, text[start:end]) for start, end in pairwise(edges) if end > start]
    input_ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    tokens = _tokenize(tokenizer, [piece for _, piece in pieces])
    for (base, _), (piece_ids, piece_offsets) in zip(pieces, tokens, strict=True):
        input_ids += piece_ids
        offsets += [(base + start, base + end) for start, end in piece_offsets]
    return input_ids, offsets


def _comparable(text: str) -> str:
    """In NFC, as Qwen's tokenizer reads, and without the white space that a turn's first token may bring along."""
    return unicodedata.normalize("NFC", text).strip()


def _shorten(messages: Sequence[Message]) -> str:
    text = json.dumps(list(messages), ensure_ascii=False)
    return text if len(text) <= 300 else text[:300] + " …"
