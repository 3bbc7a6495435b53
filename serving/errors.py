"""What a refused request gets: a status, words, and the shape that its route's clients expect."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.exceptions import HTTPException

_KSERVE_PATH = re.compile(r"^/v2(/|$)|^/v1/models/[^/]*:")
_OWN_GENERATION_PATH = re.compile(r"^(/openai)?/v1/(chat/)?completions$|^/generate$")
_INFERENCE_PATH = re.compile(r"^/v2/models/[^/]+/infer$|^/v1/models/[^/]*:[a-z]+$")


class RequestError(HTTPException):
    """A request that is refused. `param` names the field at fault, `code` is OpenAI's word for the kind."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(status, message, dict(headers or {}))
        self.param = param
        self.code = code


def asks_kserve(path: str) -> bool:
    """Whether KServe's own routes read the body of a POST to this path: V1 predict and explain, V2 infer."""
    return _INFERENCE_PATH.search(path) is not None


def asks_for_an_answer(method: str, path: str) -> bool:
    """Whether the model is to write something: the requests by which a release is judged."""
    return method == "POST" and (_OWN_GENERATION_PATH.search(path) is not None or asks_kserve(path))


def error_body(
    path: str, status: int, message: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """KServe's shape on its V1 and V2 routes, OpenAI's on all others."""
    if _KSERVE_PATH.search(path):
        return {"error": message}
    return openai_error(status, message, param, code)


def openai_error(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """OpenAI's error object."""
    kinds = {404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def describe_validation(errors: Sequence[Any]) -> tuple[str, str | None]:
    """Words and field name for pydantic's errors. The values sent are left out: they may be private."""
    sentences: list[str] = []
    for error in errors[:3]:
        # The first part only says "body"; a union's branches are named in between, which no client asked about.
        place = ".".join(str(part) for part in error["loc"][1:] if not re.search(r"[\[\]\(\) ]", str(part)))
        message = str(error["msg"]).removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            message = "is not a known field; leave it out"
        elif error["type"] in ("model_attributes_type", "missing") and not place:
            message = "the body must be a JSON object, sent with the header Content-Type: application/json"
        elif error["type"] == "json_invalid":
            place, message = "", f"the body is not valid JSON: {error.get('ctx', {}).get('error', message)}"
        sentences.append(f"{place}: {message}" if place else message)
    more = f" (and {len(errors) - 3} more)" if len(errors) > 3 else ""
    location = [str(part) for part in errors[0]["loc"][1:2] if isinstance(part, str)]
    return "; ".join(sentences) + more, location[0] if location else None
