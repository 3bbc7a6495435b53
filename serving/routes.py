"""Our own routes: /generate and /health for scripts, the chat page at /."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter
from pydantic import Field, model_validator
from starlette.requests import Request
from starlette.responses import FileResponse

from serving.errors import RequestError
from serving.generation import Answer, Generator, Plan
from serving.openai import AnswerOptions, ChatMessage, NonEmptyText
from serving.streams import while_connected

_PAGE = Path(__file__).parent / "page"
_MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class GenerateRequest(AnswerOptions):
    """POST /generate: a question or a whole conversation."""

    prompt: NonEmptyText | None = None
    """A question; it becomes the user's message."""

    messages: list[ChatMessage] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _one_of_both(self) -> GenerateRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self

    async def plan(self, generator: Generator) -> Plan:
        """Checked against the model. Raises RequestError."""
        if self.messages is None:
            return await generator.plan_chat([{"role": "user", "content": self.prompt or ""}], self.options())
        return await generator.plan_chat([message.plain() for message in self.messages], self.options())


def generate_reply(generator: Generator, plan: Plan, answer: Answer) -> dict[str, Any]:
    """The reply of /generate, and each prediction of V1."""
    return {
        "text": answer.text,
        "release": generator.release.digest,
        "prompt_tokens": len(plan.prompt_ids),
        "completion_tokens": len(answer.token_ids),
        "finish_reason": answer.finish_reason,
    }


def own_router(generator: Generator) -> APIRouter:
    """The routes that are neither OpenAI's nor KServe's."""
    router = APIRouter()

    @router.post("/generate")
    async def generate(body: GenerateRequest, request: Request) -> dict[str, Any]:
        plan = await body.plan(generator)
        answer = await while_connected(request, generator.answer(plan))
        return generate_reply(generator, plan, answer)

    @router.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> dict[str, Any]:
        generator.check_engine()
        return {"status": "ok", "release": generator.release.digest, "model": generator.name}

    @router.api_route("/", methods=["GET", "HEAD"])
    async def page() -> FileResponse:
        return _file("index.html")

    @router.api_route("/page/{name}", methods=["GET", "HEAD"])
    async def part(name: str) -> FileResponse:
        return _file(name)

    return router


def _file(name: str) -> FileResponse:
    # The names come from the folder, so no path of a client ever reaches the file system.
    if name not in {path.name for path in _PAGE.iterdir()}:
        raise RequestError(404, "there is no such page")
    return FileResponse(_PAGE / name, media_type=_MEDIA_TYPES[Path(name).suffix], headers=_PAGE_HEADERS)
