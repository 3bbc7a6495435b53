"""vLLM beside this server, by its OpenAI API on a loopback address: token ids in, token ids out.

vLLM gets tokens, never text, so that prompt, template, limits, stop strings and metrics are the same for every engine.
It is started with `--generation-config vllm`, or it would fill what a request leaves out from the model's own settings.
Leaving a stream closes its connection, at which vLLM aborts the request.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import httpx

from serving.engine import Delta, EngineError, EngineOptions, FinishReason, Sampling
from serving.release import Release

SERVED_NAME = "release"
"""What vLLM calls the model (--served-model-name); callers never see it."""

_START_SECONDS = 1800.0
"""vLLM loads and compiles for minutes; the startup probe of the pod ends a longer wait."""

_CLOSED = "the engine is closed"
_LOOK_SECONDS = 2.0
_ANSWER_SECONDS = 5.0
_MISSES = 3
"""Probes without an answer, one after the other, before it counts as gone."""


class VllmEngine:
    """A release served by vLLM; `url` is its address."""

    def __init__(self, release: Release, options: EngineOptions, start_seconds: float = _START_SECONDS):
        self._url = options.url
        self._end_token_ids = list(release.end_token_ids)
        self._failure: str | None = None
        self._closed = threading.Event()
        self._await_ready(start_seconds)
        self._check_context(release.context_length)
        threading.Thread(target=self._watch, name="vllm-health", daemon=True).start()

    @property
    def failure(self) -> str | None:
        """Why vLLM does not answer; None again when it has been started anew."""
        return _CLOSED if self._closed.is_set() else self._failure

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> AsyncGenerator[Delta, None]:
        if self._closed.is_set():
            raise EngineError(_CLOSED)
        body = self._body(prompt_ids, sampling) | {"stream": True}
        timeout = httpx.Timeout(None, connect=_ANSWER_SECONDS)
        try:
            # a connection of its own: to leave it is to cancel, and a loop that has ended leaves none behind
            async with (
                httpx.AsyncClient(timeout=timeout, verify=False, trust_env=False) as client,
                client.stream("POST", f"{self._url}/v1/completions", json=body) as response,
            ):
                if response.status_code != 200:
                    raise EngineError(_refused(response.status_code, await response.aread()))
                async for event in _events(response):
                    if self._closed.is_set():
                        raise EngineError(_CLOSED)
                    delta = _delta(event)
                    yield delta
                    if delta.finish_reason is not None:
                        return
        except httpx.HTTPError as error:
            raise EngineError(f"vLLM at {self._url}: {type(error).__name__}: {error}") from error
        raise EngineError(f"vLLM at {self._url} ended an answer without a reason")

    def greedy(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
        async def one(prompt_ids: Sequence[int]) -> list[int]:
            stream = self.generate(prompt_ids, Sampling(max_tokens=max_tokens))
            return [token_id async for delta in stream for token_id in delta.token_ids]

        async def everything() -> list[list[int]]:
            return list(await asyncio.gather(*(one(prompt_ids) for prompt_ids in prompts)))

        return asyncio.run(everything())

    def close(self) -> None:
        """Leave every stream at its next token, and take no more requests; vLLM itself is the pod's to end."""
        self._closed.set()

    def _body(self, prompt_ids: Sequence[int], sampling: Sampling) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": SERVED_NAME,
            "prompt": list(prompt_ids),
            "max_tokens": sampling.max_tokens,
            "temperature": 0.0,
            "return_token_ids": True,
            # the end tokens are the release's, whatever the model's files say
            "ignore_eos": True,
            "stop_token_ids": self._end_token_ids,
        }
        if sampling.temperature > 0:
            body |= {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
                "repetition_penalty": sampling.repetition_penalty,
                "seed": sampling.seed,
            }
        return body

    # ------------------------------------------------------------------------------------------- its health

    def _await_ready(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while why := self._missing():
            if time.monotonic() > deadline:
                raise EngineError(f"vLLM at {self._url} is not ready after {seconds:g} s: {why}")
            self._closed.wait(_LOOK_SECONDS)

    def _missing(self) -> str:
        """Why its /health is not good; "" when it is."""
        try:
            response = httpx.get(f"{self._url}/health", timeout=_ANSWER_SECONDS, trust_env=False)
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {error}"
        return "" if response.status_code == 200 else f"/health answers {response.status_code}"

    def _check_context(self, context_length: int) -> None:
        served = self._served()
        if SERVED_NAME not in served:
            names = ", ".join(sorted(served)) or "nothing"
            raise EngineError(f"vLLM at {self._url} serves {names}; start it with --served-model-name {SERVED_NAME}")
        longest = served[SERVED_NAME].get("max_model_len") or 0
        if longest < context_length:
            raise EngineError(
                f"vLLM at {self._url} takes {longest} tokens, the release {context_length}; "
                f"start it with --max-model-len {context_length}, or more memory"
            )

    def _served(self) -> dict[str, dict[str, Any]]:
        """The models that it lists, by name. Raises EngineError for an answer that is none of vLLM's."""
        try:
            response = httpx.get(f"{self._url}/v1/models", timeout=_ANSWER_SECONDS, trust_env=False)
            if response.status_code != 200:
                raise EngineError(_refused(response.status_code, response.content))
            return {model["id"]: model for model in response.json()["data"]}
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise EngineError(
                f"{self._url}/v1/models does not list models as vLLM does ({type(error).__name__}: {error}); "
                "look whether it is vLLM that listens there, and at its log"
            ) from error

    def _watch(self) -> None:
        """Keep `failure` true to what /health says."""
        misses = 0
        while not self._closed.wait(_LOOK_SECONDS):
            why = self._missing()
            misses = misses + 1 if why else 0
            if not misses:
                self._failure = None
            elif misses >= _MISSES:
                self._failure = f"vLLM at {self._url} does not answer: {why}"


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The JSON of each server-sent event."""
    async for line in response.aiter_lines():
        data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
        if data and data != "[DONE]":
            yield json.loads(data)


def _delta(event: dict[str, Any]) -> Delta:
    """One event as a delta. Raises EngineError for one that tells of a fault, or bears no token ids."""
    if "error" in event:
        raise EngineError(f"vLLM: {event['error']}")
    choice = event["choices"][0]
    reason = choice.get("finish_reason")
    if reason not in (None, "stop", "length"):
        raise EngineError(f"vLLM ended an answer with {reason}")
    if "token_ids" not in choice:
        raise EngineError("vLLM gives no token ids; it must be 0.10.2 or newer")
    finish: FinishReason | None = reason
    return Delta(list(choice["token_ids"] or []), finish)


def _refused(status: int, body: bytes) -> str:
    return f"vLLM answers {status}: {body[:300].decode(errors='replace')}"
