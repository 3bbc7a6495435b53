"""The engine that asks a vLLM: what it demands, and what it makes of faults. test_engines.py looks at its answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.responses import JSONResponse, Response

from serving.engine import EngineError, EngineOptions, Sampling, open_engine, vllm
from serving.engine.vllm import VllmEngine
from serving.release import read_release
from tests.serving.engine.fake_vllm import FakeVllm, running
from tests.serving.tiny import CONTEXT

PROMPT = [1, 30, 60, 5]


@pytest.fixture(scope="module")
def computing(releases: dict[str, Path]) -> Iterator[FakeVllm]:
    engine = open_engine(releases["vllm"])  # without an address: transformers
    yield FakeVllm(engine, CONTEXT)
    engine.close()


@pytest.fixture
def fake(computing: FakeVllm) -> Iterator[FakeVllm]:
    fake = FakeVllm(computing.engine, CONTEXT)
    with running(fake) as fake.url:
        yield fake


@pytest.fixture
def open_it(fake: FakeVllm, releases: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vllm, "_LOOK_SECONDS", 0.05)
    opened: list[VllmEngine] = []

    def open_it(start_seconds: float = 30) -> VllmEngine:
        opened.append(VllmEngine(read_release(releases["vllm"]), EngineOptions(url=fake.url), start_seconds))
        return opened[-1]

    yield open_it
    for engine in opened:
        engine.close()


def answer(engine: VllmEngine, **sampling) -> list[int]:
    async def everything() -> list[int]:
        deltas = engine.generate(PROMPT, Sampling(**{"max_tokens": 4, **sampling}))
        return [token_id async for delta in deltas for token_id in delta.token_ids]

    return asyncio.run(everything())


def soon(condition, seconds: float = 20) -> bool:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    return bool(condition())


def test_it_is_asked_for_tokens_with_everything_said(fake, open_it):
    engine = open_it()
    assert len(answer(engine)) == 4
    (asked,) = fake.requests
    assert asked == {
        "model": "release",
        "prompt": PROMPT,
        "max_tokens": 4,
        "temperature": 0.0,
        "return_token_ids": True,
        "ignore_eos": True,
        "stop_token_ids": [2],
        "stream": True,
    }


def test_sampling_is_passed_on_whole(fake, open_it):
    answer(open_it(), temperature=0.7, top_p=0.9, top_k=5, repetition_penalty=1.1, seed=3)
    asked = fake.requests[0]
    names = ("temperature", "top_p", "top_k", "repetition_penalty", "seed")
    assert [asked[name] for name in names] == [0.7, 0.9, 5, 1.1, 3]


def test_it_is_waited_for_until_it_is_ready(fake, open_it):
    fake.healthy = False
    with pytest.raises(EngineError, match=r"not ready after 0\.3 s: /health answers 503"):
        open_it(0.3)


def test_one_that_serves_another_model_is_refused(fake, open_it):
    fake.name = "/mnt/models"
    with pytest.raises(EngineError, match="serves /mnt/models; start it with --served-model-name release"):
        open_it()


def test_one_that_takes_too_little_is_refused(fake, open_it):
    fake.context = CONTEXT - 1
    with pytest.raises(EngineError, match=rf"takes {CONTEXT - 1} tokens, the release {CONTEXT}"):
        open_it()


@pytest.mark.parametrize(
    ("models", "words"),
    [
        (Response("starting", 500), "vLLM answers 500: starting"),
        (JSONResponse({"error": "no"}), "/v1/models does not list models as vLLM does .*; look whether it is vLLM"),
        (JSONResponse({"data": ["release"]}), "does not list models"),
        (Response("text"), "does not list models"),
    ],
)
def test_one_that_lists_no_models_is_refused(fake, open_it, models, words):
    fake.models = models
    with pytest.raises(EngineError, match=words):
        open_it()


def test_a_vllm_that_dies_is_a_failure_until_it_is_back(fake, open_it):
    engine = open_it()
    assert engine.failure is None
    fake.healthy = False
    assert soon(lambda: engine.failure) and "/health answers 503" in str(engine.failure)
    fake.healthy = True
    assert soon(lambda: engine.failure is None)


@pytest.mark.parametrize(
    ("chunk", "words"),
    [
        ({"error": {"message": "out of memory"}}, "out of memory"),
        ({"choices": [{"text": "a", "finish_reason": "stop"}]}, "no token ids; it must be 0.10.2 or newer"),
        ({"choices": [{"token_ids": [1], "finish_reason": "abort"}]}, "ended an answer with abort"),
        ({"choices": [{"token_ids": [1], "finish_reason": None}]}, "ended an answer without a reason"),
    ],
)
def test_a_fault_in_a_stream_is_no_answer(fake, open_it, chunk, words):
    engine = open_it()
    fake.chunk = chunk
    with pytest.raises(EngineError, match=words):
        answer(engine)


def test_a_refusal_is_told(fake, open_it):
    engine = open_it()
    fake.status = 500
    with pytest.raises(EngineError, match=r"vLLM answers 500: .*no such model"):
        answer(engine)


def test_leaving_aborts_the_request_there(fake, open_it):
    engine = open_it()
    fake.endless = True

    async def leave_after_one() -> None:
        deltas = engine.generate(PROMPT, Sampling(max_tokens=200))
        await anext(deltas)
        assert fake.aborted == 0
        await deltas.aclose()

    asyncio.run(leave_after_one())
    assert soon(lambda: fake.aborted == 1)


def test_nobody_there_is_a_fault_of_the_server(open_it, fake):
    engine = open_it()
    engine._url = "http://127.0.0.1:9"
    with pytest.raises(EngineError, match="ConnectError"):
        answer(engine)
