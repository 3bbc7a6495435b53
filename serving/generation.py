"""From a conversation to streamed text: the part that all routes share."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving import metrics
from serving.chat_template import Message, TemplateRefused
from serving.engine import Engine, EngineError, FinishReason, Sampling
from serving.errors import RequestError
from serving.limits import Admission
from serving.release import Release
from serving.settings import Settings
from serving.tokenizer import Detokenizer, PromptTooLong, ReleaseTokenizer

_LOG = logging.getLogger("serving")
# Engines divide by the temperature and sum up probabilities in float32: below these they overflow or choose nothing.
_LEAST_TEMPERATURE = 1e-4
_LEAST_TOP_P = 1e-6
_QUICK_CHARACTERS = 4096  # tokenized in a few milliseconds; more would hold up everybody's streams


@dataclass(frozen=True)
class Options:
    """What a request may say about its answer; None takes the release's or the server's default."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A request that has passed all checks."""

    prompt_ids: list[int]
    sampling: Sampling
    stop: tuple[str, ...]


@dataclass(frozen=True)
class Piece:
    """A part of an answer. Its text may be empty while a character or a stop string is still open."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None


@dataclass
class Answer:
    """A whole answer."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason = "length"


class Generator:
    """Answers prompts with one release."""

    def __init__(self, name: str, directory: Path, release: Release, engine: Engine, settings: Settings):
        self.name = name
        self.release = release
        self.engine = engine
        self.tokenizer = ReleaseTokenizer(directory)
        self.admission = Admission(settings)
        self._settings = settings
        self._defaults = _read_defaults(directory)
        metrics.RUNNING.set_function(lambda: self.admission.running)
        metrics.WAITING.set_function(lambda: self.admission.waiting)
        metrics.RELEASE.labels(model=name, release=release.digest).set(1)

    def check_engine(self) -> None:
        """Raises RequestError 503 when the engine has failed: it will not answer again."""
        if self.engine.failure:
            raise RequestError(503, f"the engine has failed: {self.engine.failure}")

    async def plan_chat(self, messages: Sequence[Message], options: Options) -> Plan:
        """Check a conversation. Raises RequestError 400 for what the model cannot take, 429 as `stream`."""
        self.admission.check()  # before the tokens are counted, which is what costs
        characters = sum(len(message["content"]) for message in messages)
        context = self.release.context_length
        try:
            prompt_ids = await _tokenize(lambda: self.tokenizer.prompt_ids(messages, context), characters)
        except TemplateRefused as error:
            raise RequestError(400, str(error), param="messages") from error
        except PromptTooLong as error:
            raise _too_long(str(error), "messages") from error
        return self.plan(prompt_ids, options, "messages")

    async def plan_text(self, text: str, options: Options) -> Plan:
        """Check a text that the model is to continue. Raises RequestError 400 as `plan`, 429 as `stream`."""
        self.admission.check()
        context = self.release.context_length
        try:
            prompt_ids = await _tokenize(lambda: self.tokenizer.encode_prompt(text, context), len(text))
        except PromptTooLong as error:
            raise _too_long(str(error), "prompt") from error
        return self.plan(prompt_ids, options)

    def plan(self, prompt_ids: list[int], options: Options, field_name: str = "prompt") -> Plan:
        """Check a prompt and complete the options. Raises RequestError 400 when it does not fit the context."""
        context = self.release.context_length
        room = context - len(prompt_ids)
        if not prompt_ids:
            raise RequestError(400, f"{field_name} is empty; write at least one character", param=field_name)
        if room < 1:
            tokens = f"the prompt has {len(prompt_ids)} tokens"
            raise _too_long(f"{tokens}, and the model's context holds {context} with the answer", field_name)
        return Plan(prompt_ids, self._sampling(options, room), options.stop)

    def _sampling(self, options: Options, room: int) -> Sampling:
        largest = min(room, self._settings.max_output_tokens)
        if options.max_tokens is not None and options.max_tokens > largest:
            raise RequestError(
                400,
                f"max_tokens is {options.max_tokens}; this prompt leaves {room} tokens of the model's context, "
                f"and the server writes at most {self._settings.max_output_tokens}: ask for at most {largest}",
                param="max_tokens",
                # A shorter prompt mends it only when the context is what is exceeded.
                code="context_length_exceeded" if options.max_tokens > room else None,
            )
        asked = {name: value for name in ("temperature", "top_p") if (value := getattr(options, name)) is not None}
        fields = self._defaults | asked
        if fields["temperature"] < _LEAST_TEMPERATURE:
            fields["temperature"] = 0.0
        if "top_p" in fields:
            fields["top_p"] = max(fields["top_p"], _LEAST_TOP_P)
        return Sampling(
            max_tokens=options.max_tokens or min(largest, self._settings.default_output_tokens),
            seed=None if options.seed is None else options.seed % 2**32,
            **fields,
        )

    async def stream(self, plan: Plan) -> AsyncGenerator[Piece, None]:
        """The answer in pieces, as they are made. Closing the iterator cancels it and frees its place.

        Raises RequestError 429 before the first piece when the queue is full, 503 when the engine has failed.
        """
        watch = _Stopwatch(len(plan.prompt_ids))
        text = _Text(self.tokenizer, plan.stop)
        async with self.admission.place():
            try:
                async with aclosing(self.engine.generate(plan.prompt_ids, plan.sampling)) as deltas:
                    async for delta in deltas:
                        watch.tokens(len(delta.token_ids))
                        piece = text.push(delta.token_ids, delta.finish_reason)
                        if piece.finish_reason is not None:
                            watch.finished(piece.finish_reason)
                        yield piece
                        if piece.finish_reason is not None:
                            return
            except EngineError as error:
                watch.finished("error")
                _LOG.error("the engine failed: %s", error)
                raise RequestError(503, f"the engine failed: {error}", headers={"Retry-After": "5"}) from error
            except Exception:
                watch.finished("error")
                raise
            finally:
                watch.finished("cancelled")

    async def answer(self, plan: Plan) -> Answer:
        """The whole answer. Raises as `stream`."""
        answer = Answer()
        async with aclosing(self.stream(plan)) as pieces:
            async for piece in pieces:
                answer.text += piece.text
                answer.token_ids += piece.token_ids
                answer.finish_reason = piece.finish_reason or answer.finish_reason
        return answer


async def _tokenize(work: Callable[[], list[int]], characters: int) -> list[int]:
    """Token ids, made in a thread when the text is long: the event loop writes everybody's streams meanwhile."""
    return work() if characters <= _QUICK_CHARACTERS else await asyncio.to_thread(work)


def _too_long(message: str, field_name: str) -> RequestError:
    return RequestError(400, f"{message}; shorten it", param=field_name, code="context_length_exceeded")


def _read_defaults(directory: Path) -> dict[str, Any]:
    """Sampling fields from generation_config.json; greedy unless it says `do_sample`."""
    config = json.loads((directory / "generation_config.json").read_bytes())
    if not config.get("do_sample"):
        defaults: dict[str, Any] = {"temperature": 0.0}
    else:
        defaults = {"temperature": config.get("temperature") or 1.0}
    for name in ("top_p", "top_k", "repetition_penalty"):
        if config.get(name) is not None:
            defaults[name] = config[name]
    return defaults


class _Stopwatch:
    """Tells the metrics how an answer went; ends once, whatever ends it first."""

    def __init__(self, prompt_tokens: int):
        self._prompt_tokens = prompt_tokens
        self._start = time.monotonic()
        self._first: float | None = None
        self._count = 0
        self._ended = False

    def tokens(self, count: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
            metrics.PROMPT_TOKENS.inc(self._prompt_tokens)
            metrics.FIRST_TOKEN_SECONDS.observe(now - self._start)
        self._count += count
        metrics.COMPLETION_TOKENS.inc(count)

    def finished(self, reason: str) -> None:
        if self._ended:
            return
        self._ended = True
        metrics.FINISHED.labels(reason=reason).inc()
        if self._first is not None and self._count > 1:
            metrics.TOKEN_SECONDS.observe((time.monotonic() - self._first) / (self._count - 1))


class _Text:
    """Token ids to text that ends before the first stop string."""

    def __init__(self, tokenizer: ReleaseTokenizer, stop: tuple[str, ...]):
        self._detokenizer = Detokenizer(tokenizer)
        self._stop = stop
        self._held = ""

    def push(self, token_ids: list[int], reason: FinishReason | None) -> Piece:
        text = self._held + self._detokenizer.push(token_ids)
        if reason is not None:
            text += self._detokenizer.finish()
        ends = [index for stop in self._stop if (index := text.find(stop)) >= 0]
        if ends:
            return Piece(text[: min(ends)], token_ids, "stop")
        held = 0 if reason else max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - held :]
        return Piece(text[: len(text) - held], token_ids, reason)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
