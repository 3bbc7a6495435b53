"""The OpenAI API under /v1 and /openai/v1: models, chat completions, completions.

`return_token_ids` is vLLM's extension: token ids beside the text. A field that would change the answer and is not
supported is refused in words; the few that change nothing are taken.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from starlette.datastructures import State
from starlette.exceptions import HTTPException
from starlette.requests import Request

from serving import logs
from serving.errors import RequestError, openai_error
from serving.generation import Answer, Generator, Options, Piece, Plan
from serving.streams import STREAM_FAILED, ClientLeft, EventStream, while_connected

_NO_EFFECT = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "echo": (False,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
"""Fields of the OpenAI API that are not supported -> values that ask for nothing."""
_ECHOED = ("refusal", "annotations", "audio", "function_call", "tool_calls")
"""What OpenAI's client shows in an answer, empty, and sends back with the conversation."""


def _asks_for_nothing(value: Any, neutral: tuple[Any, ...]) -> bool:
    # Python takes 0 for False, OpenAI does not: `logprobs: 0` asks for the chosen token's.
    return any(value == item and isinstance(value, bool) == isinstance(item, bool) for item in neutral)


def encodable(text: str) -> str:
    """JSON can write half a surrogate pair, which is no text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("is not a valid string: it holds half a surrogate pair") from error
    return text


Text = Annotated[str, AfterValidator(encodable)]
NonEmptyText = Annotated[str, Field(min_length=1), AfterValidator(encodable)]
_Stop = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(encodable)]


class TextPart(BaseModel):
    """One part of a message's content."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: Text


class ChatMessage(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]
    name: None = None

    @field_validator("name", mode="before")
    @classmethod
    def _no_name(cls, name: Any) -> None:
        if name is not None:
            raise ValueError("is not supported: the model is not told who speaks; leave it out")

    @model_validator(mode="before")
    @classmethod
    def _without_echo(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or fields.get("role") != "assistant":
            return fields
        empty = (None, "", [], {})
        return {name: value for name, value in fields.items() if name not in _ECHOED or value not in empty}

    def plain(self) -> dict[str, str]:
        """Role and text, as templates take them; "developer" is OpenAI's newer word for "system"."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class AnswerOptions(BaseModel):
    """What every route lets a request say about its answer."""

    model_config = ConfigDict(extra="forbid")

    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: _Stop | Annotated[list[_Stop], Field(max_length=4)] | None = None

    def options(self) -> Options:
        """The same for the generator."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Options(self.max_tokens, self.temperature, self.top_p, self.seed, tuple(stop))


class StreamOptions(BaseModel):
    """What a stream says besides text."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class _OpenAIRequest(AnswerOptions):
    model: str | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = False

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        for name, neutral in _NEUTRAL.items():
            value = fields.get(name)
            if value is not None and not _asks_for_nothing(value, neutral):
                raise ValueError(f"{name} is not supported with this value; leave it out")
        return {name: value for name, value in fields.items() if name not in _NEUTRAL and name not in _NO_EFFECT}

    @model_validator(mode="after")
    def _stream_options_need_stream(self) -> _OpenAIRequest:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream to be true")
        return self


class ChatRequest(_OpenAIRequest):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    """OpenAI's newer name of max_tokens."""

    @model_validator(mode="after")
    def _one_limit(self) -> ChatRequest:
        if self.max_completion_tokens is not None:
            if self.max_tokens not in (None, self.max_completion_tokens):
                raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
            self.max_tokens = self.max_completion_tokens
        return self


class CompletionRequest(_OpenAIRequest):
    """POST /v1/completions: the prompt goes to the model as it is, without template or system prompt."""

    prompt: Text | list[int] | Annotated[list[Text], Field(min_length=1, max_length=1)]


def openai_router(generator: Generator) -> APIRouter:
    """The routes, under both prefixes that clients use."""
    routes = _Routes(generator)
    router = APIRouter()
    for prefix in ("/v1", "/openai/v1"):
        router.add_api_route(f"{prefix}/models", routes.models, methods=["GET"])
        router.add_api_route(f"{prefix}/models/{{model}}", routes.model, methods=["GET"])
        router.add_api_route(f"{prefix}/chat/completions", routes.chat, methods=["POST"], response_model=None)
        router.add_api_route(f"{prefix}/completions", routes.complete, methods=["POST"], response_model=None)
    return router


class _Routes:
    def __init__(self, generator: Generator):
        self._generator = generator
        self._started = int(time.time())

    async def models(self) -> dict[str, Any]:
        """OpenAI's list; KServe's V1 list has the same path, and its key stands beside."""
        return {"object": "list", "data": [self._card()], "models": [self._generator.name]}

    async def model(self, model: str) -> dict[str, Any]:
        """One model, for OpenAI's clients and KServe's."""
        if ":" in model:  # /v1/models/NAME:predict, which takes POST
            raise HTTPException(405, "Method Not Allowed", {"Allow": "POST"})
        self._check_model(model)
        self._generator.check_engine()
        return self._card() | {"name": model, "ready": True}

    async def chat(self, body: ChatRequest, request: Request) -> dict[str, Any] | EventStream:
        """Answer a conversation."""
        self._check_model(body.model)
        plan = await self._generator.plan_chat([message.plain() for message in body.messages], body.options())
        return await self._reply(body, plan, request, _ChatShape(self._generator))

    async def complete(self, body: CompletionRequest, request: Request) -> dict[str, Any] | EventStream:
        """Continue a text."""
        self._check_model(body.model)
        plan = await self._plan(body.prompt, body.options())
        return await self._reply(body, plan, request, _CompletionShape(self._generator))

    async def _plan(self, prompt: str | list[int] | list[str], options: Options) -> Plan:
        if isinstance(prompt, str):
            return await self._generator.plan_text(prompt, options)
        if prompt and isinstance(prompt[0], str):
            return await self._generator.plan_text(prompt[0], options)
        token_ids = [token for token in prompt if isinstance(token, int)]
        self._generator.tokenizer.check_ids(token_ids)
        return self._generator.plan(token_ids, options)

    def _check_model(self, name: str | None) -> None:
        if name not in (None, self._generator.name):
            raise RequestError(
                404,
                f"the model {name!r} does not exist here; this server serves {self._generator.name!r}",
                param="model",
                code="model_not_found",
            )

    def _card(self) -> dict[str, Any]:
        name, release = self._generator.name, self._generator.release
        return {
            "id": name,
            "object": "model",
            "created": self._started,
            "owned_by": "slipway",
            "release": release.digest,
            "max_model_len": release.context_length,
        }

    async def _reply(
        self, body: _OpenAIRequest, plan: Plan, request: Request, shape: _Shape
    ) -> dict[str, Any] | EventStream:
        with_ids = bool(body.return_token_ids)
        if not body.stream:
            answer = await while_connected(request, self._generator.answer(plan))
            return shape.whole(answer, plan, with_ids)
        pieces = self._generator.stream(plan)
        # The first piece is awaited here, so that a full queue still becomes a 429 and not a broken stream.
        try:
            first = await while_connected(request, anext(pieces))
        except ClientLeft:
            await pieces.aclose()
            raise
        usage = body.stream_options is not None and body.stream_options.include_usage
        events = _events(shape, plan, first, pieces, request.state, usage=usage, with_ids=with_ids)
        return EventStream(events, pieces)


class _Shape(ABC):
    """How answers look on a route: the parts that chat and completions have in common."""

    prefix: str
    kind: str
    chunk_kind: str

    def __init__(self, generator: Generator):
        self._head = {
            "id": f"{self.prefix}-{logs.request_id.get()}",
            "created": int(time.time()),
            "model": generator.name,
            "system_fingerprint": generator.release.digest,
        }

    def whole(self, answer: Answer, plan: Plan, with_ids: bool) -> dict[str, Any]:
        """The reply without streaming."""
        choice = {"index": 0, "logprobs": None, "finish_reason": answer.finish_reason} | self.text(answer.text)
        reply = self._head | {
            "object": self.kind,
            "choices": [choice],
            "usage": _usage(plan, len(answer.token_ids)),
        }
        if with_ids:
            choice["token_ids"] = answer.token_ids
            reply["prompt_token_ids"] = plan.prompt_ids
        return reply

    def chunk(self, piece: Piece | None, with_ids: bool, **fields: Any) -> dict[str, Any]:
        """One event of a stream; None opens it."""
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": piece and piece.finish_reason}
        choice |= self.delta(piece)
        if with_ids and piece is not None:
            choice["token_ids"] = piece.token_ids
        return self._head | {"object": self.chunk_kind, "choices": [choice]} | fields

    def usage_chunk(self, usage: dict[str, int]) -> dict[str, Any]:
        """The last event when usage was asked for."""
        return self._head | {"object": self.chunk_kind, "choices": [], "usage": usage}

    @abstractmethod
    def text(self, text: str) -> dict[str, Any]:
        """The part of a whole answer's choice that holds its text."""

    @abstractmethod
    def delta(self, piece: Piece | None) -> dict[str, Any]:
        """The part of a streamed choice that holds a piece; None begins the stream."""


class _ChatShape(_Shape):
    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def text(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text}}

    def delta(self, piece: Piece | None) -> dict[str, Any]:
        if piece is None:
            return {"delta": {"role": "assistant", "content": ""}}
        return {"delta": {"content": piece.text} if piece.text else {}}


class _CompletionShape(_Shape):
    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def text(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def delta(self, piece: Piece | None) -> dict[str, Any]:
        return {"text": piece.text if piece else ""}


def _usage(plan: Plan, completion_tokens: int) -> dict[str, int]:
    prompt_tokens = len(plan.prompt_ids)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


async def _events(
    shape: _Shape,
    plan: Plan,
    first: Piece,
    rest: AsyncGenerator[Piece, None],
    state: State,
    *,
    usage: bool,
    with_ids: bool,
) -> AsyncGenerator[str, None]:
    """The events of a stream. A fault in the middle becomes an error event, and [DONE] is then missing."""
    count = 0
    # a client that asked for usage finds the field in every event, filled in the last
    open_usage = {"usage": None} if usage else {}
    prompt = {"prompt_token_ids": plan.prompt_ids} if with_ids else {}
    try:
        yield _event(shape.chunk(None, with_ids, **prompt, **open_usage))
        async for piece in _chain(first, rest):
            count += len(piece.token_ids)
            if piece.text or piece.finish_reason or with_ids:
                yield _event(shape.chunk(piece, with_ids, **open_usage))
        if usage:
            yield _event(shape.usage_chunk(_usage(plan, count)))
        yield "data: [DONE]\n\n"
    except RequestError as error:
        setattr(state, STREAM_FAILED, True)
        yield _event(openai_error(error.status_code, error.detail, error.param, error.code))


async def _chain(first: Piece, rest: AsyncGenerator[Piece, None]) -> AsyncIterator[Piece]:
    yield first
    async for piece in rest:
        yield piece


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"
