"""One small interface to whatever generates tokens: token ids in, token ids out.

    engine = open_engine(release_directory)
    async for delta in engine.generate(prompt_ids, Sampling(max_tokens=60)): ...
    answers = engine.greedy([prompt_ids, ...], max_tokens=60)      # synchronous, for offline steps

An engine knows nothing of text, HTTP or queues. Leaving the `async for` early cancels the request.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from serving.release import read_release

FinishReason = Literal["stop", "length"]


class EngineError(RuntimeError):
    """The engine cannot generate: a fault of the server, not of the request."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Ranges are checked by whoever takes requests from outside."""

    max_tokens: int
    temperature: float = 0.0
    """0 is greedy: the most likely token, whatever the other fields say."""
    top_p: float = 1.0
    top_k: int = 0
    """Choose among this many most likely tokens; 0 means all."""
    repetition_penalty: float = 1.0
    seed: int | None = None
    """The same seed gives the same answer, None draws one. In OpenVINO's batches the last bit of a logit depends
    on the batch: greedy choice was never seen to notice, drawing may, once in hundreds of tokens."""


class Delta(NamedTuple):
    """What one step added to an answer."""

    token_ids: list[int]
    """The end token is among them when the model wrote one."""
    finish_reason: FinishReason | None
    """Set in the last delta only: "stop" at an end token, "length" at max_tokens."""


@dataclass(frozen=True)
class EngineOptions:
    """What a server may set; offline steps take the defaults."""

    max_running: int = 64
    """Sequences that are computed together."""
    kv_cache_gib: int = 1
    """Memory for keys and values; when it is full, the youngest sequences are recomputed later."""
    threads: int = 0
    """CPU threads of one step; 0 lets the engine choose."""
    url: str = ""
    """Address of the vLLM that serves the release; "" computes here."""


class Engine(Protocol):
    """A loaded release."""

    @property
    def failure(self) -> str | None:
        """Why the engine does not answer; None while it works."""
        ...

    def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> AsyncGenerator[Delta, None]:
        """Stream the answer to one prompt. Closing the iterator cancels the request and frees its slot.

        Raises EngineError when the engine has failed or the prompt does not fit into its memory.
        """
        ...

    def greedy(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
        """Most likely answers of at most `max_tokens` ids each, end token included; same order as the prompts."""
        ...

    def close(self) -> None:
        """End running requests and free the memory; calling it again does nothing."""
        ...


def open_engine(directory: Path, options: EngineOptions | None = None) -> Engine:
    """Load a release directory into the engine that it names, and warm it up.

    A release for "vllm" is computed by transformers where there is no vLLM: offline steps need no GPU server, and
    golden answers allow for the rounding between the two.

    Raises ReleaseError for a directory that is no release, EngineError for a vLLM that does not serve it. An engine's
    library is imported only when it is used.
    """
    release = read_release(directory)
    options = options or EngineOptions()
    if options.url:
        from serving.engine.vllm import VllmEngine

        return VllmEngine(release, options)
    if release.serving.engine == "openvino":
        from serving.engine.openvino import OpenVinoEngine

        return OpenVinoEngine(directory, release, options)
    from serving.engine.transformers import TransformersEngine

    return TransformersEngine(directory, release, options)
