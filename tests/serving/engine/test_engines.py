"""Every engine on tiny real models, through the one interface; vLLM's is a stand-in that computes with transformers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch

from serving.engine import Engine, EngineError, EngineOptions, Sampling, open_engine
from serving.engine.weights import compute_device, load_weights
from serving.release import GGUF_FILE, ReleaseError, read_release
from tests.serving.engine import fake_vllm
from tests.serving.tiny import make_release

PROMPTS = [[1, 30 + index, 60, 2 * index + 5] for index in range(8)]


@pytest.fixture(scope="module", params=["openvino", "transformers", "vllm"])
def engine(request: pytest.FixtureRequest, releases: dict[str, Path]) -> Iterator[Engine]:
    with opened(releases[request.param]) as engine:
        yield engine


@contextmanager
def opened(directory: Path) -> Iterator[Engine]:
    """The engine of a release, as a server has it."""
    release = read_release(directory)
    with ExitStack() as stack:
        engine = open_engine(directory)
        stack.callback(engine.close)
        if release.serving.engine == "vllm":
            url = stack.enter_context(fake_vllm.running(fake_vllm.FakeVllm(engine, release.context_length)))
            engine = open_engine(directory, EngineOptions(url=url))
            stack.callback(engine.close)
        yield engine


async def answer(engine: Engine, prompt: list[int], **sampling: object) -> tuple[list[int], str | None]:
    """Token ids and finish reason of one answer."""
    token_ids: list[int] = []
    reason = None
    async for delta in engine.generate(prompt, Sampling(**{"max_tokens": 40, **sampling})):
        token_ids += delta.token_ids
        reason = delta.finish_reason
    return token_ids, reason


def test_company_does_not_change_greedy_tokens(engine: Engine) -> None:
    alone = [engine.greedy([prompt], 40)[0] for prompt in PROMPTS]
    assert engine.greedy(PROMPTS, 40) == alone
    assert engine.greedy(PROMPTS[::-1], 40) == alone[::-1]

    async def join_one_after_the_other() -> list[list[int]]:
        tasks = []
        for prompt in PROMPTS:
            tasks.append(asyncio.create_task(answer(engine, prompt)))
            await asyncio.sleep(0.004)  # while the others are in the middle of theirs
        return [(await task)[0] for task in tasks]

    assert asyncio.run(join_one_after_the_other()) == alone


@pytest.mark.parametrize(("gpu", "device"), [(True, "cuda"), (False, "cpu")])
def test_torch_computes_on_a_gpu_where_there_is_one(gpu: bool, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert compute_device().type == device


def test_weights_prompt_and_stop_signal_are_where_torch_computes(
    releases: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's "meta" device stands for a GPU: nothing can be computed there, but what goes there can be seen."""
    monkeypatch.setattr("serving.engine.transformers.compute_device", lambda: torch.device("meta"))
    engine = open_engine(releases["transformers"])
    seen: list[torch.Tensor] = [*engine._model.parameters()]

    def generate(*, input_ids, attention_mask, streamer, stopping_criteria, **_: object) -> None:
        seen.extend((input_ids, attention_mask, stopping_criteria[0](input_ids, None)))
        for tokens in (PROMPTS[0], [2]):
            streamer.put(torch.tensor(tokens))

    monkeypatch.setattr(engine._model, "generate", generate)
    try:
        assert engine.greedy(PROMPTS[:1], 5) == [[2]]
    finally:
        engine.close()
    assert {tensor.device.type for tensor in seen} == {"meta"}


def test_greedy_is_the_most_likely_token_of_the_served_weights(releases: dict[str, Path]) -> None:
    """As served = as evaluated: the engine on the GGUF agrees with transformers on its dequantized weights."""
    directory = releases["openvino"]
    model = load_weights(directory, read_release(directory))
    engine = open_engine(directory)
    try:
        for prompt, token_ids in zip(PROMPTS, engine.greedy(PROMPTS, 30), strict=True):
            with torch.inference_mode():
                logits_BTV = model(torch.tensor([prompt + token_ids])).logits
            assert logits_BTV[0, len(prompt) - 1 : -1].argmax(-1).tolist() == token_ids
    finally:
        engine.close()


def test_finish_reasons_and_the_end_token(engine: Engine) -> None:
    token_ids, reason = asyncio.run(answer(engine, PROMPTS[0], max_tokens=7))
    assert (len(token_ids), reason) == (7, "length")

    async def until_stopped() -> list[int]:
        for seed in range(100):
            token_ids, reason = await answer(engine, PROMPTS[0], max_tokens=200, temperature=2.0, seed=seed)
            if reason == "stop":
                return token_ids
        raise AssertionError("no answer ended by itself")

    token_ids = asyncio.run(until_stopped())
    assert token_ids[-1] == 2 and 2 not in token_ids[:-1]


def test_a_seed_gives_the_same_answer_again(engine: Engine) -> None:
    async def draw(seed: int | None) -> list[int]:
        return (await answer(engine, PROMPTS[0], temperature=1.0, seed=seed))[0]

    first, second, third = (asyncio.run(draw(seed)) for seed in (5, 6, 5))
    assert first == third != second
    assert asyncio.run(draw(None)) != asyncio.run(draw(None))
    # A seed is its own request's: what is drawn after it does not go on from it.
    after = []
    for _ in range(2):
        asyncio.run(draw(5))
        after.append(asyncio.run(draw(None)))
    assert after[0] != after[1]


def test_top_k_of_one_is_greedy(engine: Engine) -> None:
    token_ids, _ = asyncio.run(answer(engine, PROMPTS[1], temperature=1.5, top_k=1))
    assert token_ids == engine.greedy([PROMPTS[1]], 40)[0]


@pytest.mark.parametrize("kind", ["openvino", "transformers", "vllm"])
def test_leaving_early_frees_the_engine(kind: str, tmp_path: Path) -> None:
    make_release(tmp_path / "endless", kind, endless=True)
    with opened(tmp_path / "endless") as engine:
        leave_early(engine)


def leave_early(engine: Engine) -> None:
    async def leave_after_three() -> int:
        deltas = engine.generate(PROMPTS[0], Sampling(max_tokens=16_000))
        seen = 0
        async for delta in deltas:
            seen += len(delta.token_ids)
            if seen >= 3:
                break
        await deltas.aclose()
        return seen

    start = time.monotonic()
    assert asyncio.run(leave_after_three()) < 10
    # The transformers engine computes one request at a time: this would wait for all 16,000 tokens.
    assert len(engine.greedy([PROMPTS[1]], 5)[0]) == 5
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("kind", ["openvino", "transformers", "vllm"])
def test_closing_ends_what_runs(kind: str, tmp_path: Path) -> None:
    make_release(tmp_path / "endless", kind, endless=True)
    with opened(tmp_path / "endless") as engine:
        close_early(engine)


def close_early(engine: Engine) -> None:
    async def close_in_the_middle() -> None:
        deltas = engine.generate(PROMPTS[0], Sampling(max_tokens=16_000))
        await anext(deltas)
        await asyncio.to_thread(engine.close)
        with pytest.raises(EngineError, match="closed"):
            async for _ in deltas:
                pass

    asyncio.run(close_in_the_middle())
    engine.close()
    assert engine.failure
    with pytest.raises(EngineError, match="closed"):
        engine.greedy([PROMPTS[0]], 1)


class LateInbox:
    """An inbox in which a request arrives just after the engine has looked for the last time."""

    def __init__(self, engine: Engine):
        self._engine, self._inbox = engine, engine._inbox  # type: ignore[attr-defined]

    def put(self, request: object) -> None:
        self._inbox.put(None)
        self._engine._thread.join()  # type: ignore[attr-defined]
        self._inbox.put(request)

    def __getattr__(self, name: str) -> object:
        return getattr(self._inbox, name)


@pytest.mark.parametrize("kind", ["openvino", "transformers"])
def test_a_request_that_comes_while_the_engine_ends_is_told_so(kind: str, releases: dict[str, Path]) -> None:
    engine = open_engine(releases[kind])
    engine._inbox = LateInbox(engine)  # type: ignore[attr-defined]

    async def ask() -> None:
        await asyncio.wait_for(anext(engine.generate(PROMPTS[0], Sampling(max_tokens=3))), 5)

    with pytest.raises(EngineError, match="closed"):
        asyncio.run(ask())


def test_a_gguf_that_is_none_is_refused_in_words(tmp_path: Path) -> None:
    make_release(tmp_path / "broken")
    (tmp_path / "broken" / GGUF_FILE).write_bytes(b"GGUF but not really")
    with pytest.raises(EngineError, match=r"cannot read .*model\.gguf"):
        open_engine(tmp_path / "broken")


def test_a_directory_that_is_no_release_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"has no release\.json"):
        open_engine(tmp_path)
