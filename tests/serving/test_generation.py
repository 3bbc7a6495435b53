"""What all routes share, with a hand-written engine in place of a model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest

from serving.engine import Delta, EngineError, Sampling
from serving.errors import RequestError
from serving.generation import Generator, Options, Plan
from serving.release import read_release
from serving.settings import Settings, read_settings
from tests.serving.tiny import CONTEXT, make_release

QUESTION = [{"role": "user", "content": "Why?"}]


class ScriptedEngine:
    """Gives the deltas that it is told to give; an error ends them."""

    failure: str | None = None

    def __init__(self, *script: Delta | EngineError):
        self.script = script
        self.asked: list[Sampling] = []
        self.closed_early = 0

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> AsyncGenerator[Delta, None]:
        self.asked.append(sampling)
        try:
            for item in self.script:
                await asyncio.sleep(0)
                if isinstance(item, EngineError):
                    raise item
                yield item
        except GeneratorExit:
            self.closed_early += 1
            raise

    def greedy(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
        raise NotImplementedError

    def close(self) -> None: ...


def make(directory: Path, engine: ScriptedEngine, settings: Settings | None = None) -> Generator:
    return Generator("energy-chat", directory, read_release(directory), engine, settings or read_settings({}))


def plan_question(generator: Generator, options: Options | None = None) -> Plan:
    return asyncio.run(generator.plan_chat(QUESTION, options or Options()))


@pytest.fixture(scope="module")
def directory(releases: dict[str, Path]) -> Path:
    return releases["openvino"]


def test_an_engine_that_fails_is_a_503_with_its_words(directory: Path) -> None:
    generator = make(directory, ScriptedEngine(Delta([300], None), EngineError("out of memory")))
    with pytest.raises(RequestError, match="the engine failed: out of memory") as caught:
        asyncio.run(generator.answer(plan_question(generator)))
    assert caught.value.status_code == 503
    assert generator.admission.running == generator.admission.waiting == 0


def test_a_stop_string_split_over_tokens_closes_the_engine_early(directory: Path) -> None:
    tokenizer = make(directory, ScriptedEngine()).tokenizer
    deltas = [Delta([token_id], None) for token_id in tokenizer.encode("warm air END more")]
    engine = ScriptedEngine(*deltas, Delta([2], "stop"))
    generator = make(directory, engine)

    async def texts(*stop: str) -> list[str]:
        plan = await generator.plan_chat(QUESTION, Options(stop=stop))
        return [piece.text async for piece in generator.stream(plan)]

    assert len(tokenizer.encode("END")) > 1
    assert "".join(asyncio.run(texts("END"))) == "warm air "
    assert engine.closed_early == 1
    # What looked like a beginning of the stop string and was none is given out after all.
    assert "".join(asyncio.run(texts("ENDLESS", "warmth"))) == "warm air END more"


@pytest.mark.parametrize(
    ("config", "asked", "expected"),
    [
        ({}, Options(), {"temperature": 0.0, "top_p": 1.0, "top_k": 0}),
        ({"temperature": 0.6}, Options(), {"temperature": 0.0}),
        ({"do_sample": True}, Options(), {"temperature": 1.0}),
        (
            {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.1},
            Options(),
            {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.1},
        ),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, Options(temperature=0), {"temperature": 0}),
        ({"do_sample": True, "top_p": 0.9}, Options(top_p=0.5, seed=-1), {"top_p": 0.5, "seed": 2**32 - 1}),
        ({"do_sample": True, "temperature": 1e-9}, Options(top_p=1e-320), {"temperature": 0.0, "top_p": 1e-6}),
        ({"do_sample": True}, Options(temperature=1e-4, top_p=1e-6), {"temperature": 1e-4, "top_p": 1e-6}),
        ({}, Options(temperature=9e-5), {"temperature": 0.0}),
    ],
)
def test_defaults_come_from_the_release(
    config: dict[str, object], asked: Options, expected: dict[str, float], tmp_path: Path
) -> None:
    make_release(tmp_path / "release", **config)
    sampling = plan_question(make(tmp_path / "release", ScriptedEngine()), asked).sampling
    assert {name: getattr(sampling, name) for name in expected} == expected


def test_an_answer_without_max_tokens_gets_the_room_there_is(directory: Path) -> None:
    generator = make(directory, ScriptedEngine())
    prompt = [5] * (CONTEXT - 10)
    assert generator.plan(prompt, Options()).sampling.max_tokens == 10
    assert generator.plan([5], Options()).sampling.max_tokens == read_settings({}).default_output_tokens - 1
    with pytest.raises(RequestError, match="ask for at most 10") as refused:
        generator.plan(prompt, Options(max_tokens=11))
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(RequestError, match=f"the prompt has {CONTEXT} tokens"):
        generator.plan([5] * CONTEXT, Options())


def test_one_more_than_may_wait_is_refused_and_leaving_makes_room(directory: Path) -> None:
    settings = read_settings({"SLIPWAY_MAX_RUNNING": "2", "SLIPWAY_MAX_WAITING": "1"})
    endless = [Delta([300], None)] * 10_000
    generator = make(directory, ScriptedEngine(*endless), settings)
    plan = plan_question(generator)

    async def crowd() -> None:
        streams = [generator.stream(plan) for _ in range(4)]
        await asyncio.gather(anext(streams[0]), anext(streams[1]))
        waiting = asyncio.ensure_future(anext(streams[2]))
        await asyncio.sleep(0.01)
        assert (generator.admission.running, generator.admission.waiting) == (2, 1)
        with pytest.raises(RequestError) as refused:
            await anext(streams[3])
        assert refused.value.status_code == 429 and refused.value.headers == {"Retry-After": "1"}
        await streams[0].aclose()
        assert (await waiting).token_ids == [300]
        await streams[1].aclose()
        await streams[2].aclose()
        assert (generator.admission.running, generator.admission.waiting) == (0, 0)

    asyncio.run(crowd())


def test_the_servers_own_limit_is_not_the_models_context(directory: Path) -> None:
    """A client that drops old turns when the context is exceeded would drop them in vain."""
    generator = make(directory, ScriptedEngine(), read_settings({"SLIPWAY_MAX_OUTPUT_TOKENS": "20"}))
    with pytest.raises(RequestError, match="ask for at most 20") as refused:
        generator.plan([5], Options(max_tokens=21))
    assert (refused.value.param, refused.value.code) == ("max_tokens", None)


def test_a_text_that_cannot_fit_is_refused_before_it_is_tokenized(directory: Path) -> None:
    generator = make(directory, ScriptedEngine())
    encoded: list[int] = []
    encode = generator.tokenizer.encode
    generator.tokenizer.encode = lambda text: encoded.append(len(text)) or encode(text)  # type: ignore[method-assign]
    text = "warm " * 200_000
    for plan in (
        generator.plan_chat([{"role": "user", "content": text}], Options()),
        generator.plan_text(text, Options()),
    ):
        with pytest.raises(RequestError, match=r"the prompt has 1000\d\d\d characters.*; shorten it") as refused:
            asyncio.run(plan)
        assert refused.value.status_code == 400 and refused.value.code == "context_length_exceeded"
    assert encoded == []
    # What fits in the best case is counted exactly.
    with pytest.raises(RequestError, match=r"the prompt has \d+ tokens"):
        asyncio.run(generator.plan_text("warm " * CONTEXT, Options()))


def test_a_full_server_says_so_before_it_tokenizes(directory: Path) -> None:
    settings = read_settings({"SLIPWAY_MAX_RUNNING": "1", "SLIPWAY_MAX_WAITING": "0"})
    generator = make(directory, ScriptedEngine(Delta([300], None)), settings)
    plan = plan_question(generator)
    generator.tokenizer.encode = lambda text: pytest.fail("tokenized")  # type: ignore[method-assign]

    async def ask() -> None:
        pieces = generator.stream(plan)
        await anext(pieces)
        for asked in (generator.plan_chat(QUESTION, Options()), generator.plan_text("Why?", Options())):
            with pytest.raises(RequestError) as refused:
                await asked
            assert refused.value.status_code == 429 and refused.value.headers
        await pieces.aclose()

    asyncio.run(ask())


def test_a_long_prompt_is_tokenized_beside_the_event_loop(directory: Path) -> None:
    """Everybody's streams are written by the loop, which must not stand still meanwhile."""
    generator = make(directory, ScriptedEngine())
    threads: list[str] = []

    def encode(text: str) -> list[int]:
        threads.append(threading.current_thread().name)
        return [5]

    generator.tokenizer.encode = encode  # type: ignore[method-assign]
    generator.tokenizer._longest = 10_000
    for text in ("short", "long " * 2000):
        asyncio.run(generator.plan_text(text, Options()))
        asyncio.run(generator.plan_chat([{"role": "user", "content": text}], Options()))
    assert {name == "MainThread" for name in threads[: len(threads) // 2]} == {True}
    assert {name == "MainThread" for name in threads[len(threads) // 2 :]} == {False}
