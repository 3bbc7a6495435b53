"""transformers' `generate` on a safetensors directory: the fallback for architectures that OpenVINO does not read.

One thread computes one request at a time, so that an answer never depends on its company and a seed means
something (torch's generator is global). Needs torch, which the base install of the server does not bring.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from serving.engine import Delta, EngineError, EngineOptions, FinishReason, Sampling
from serving.engine.requests import Request, ThreadedEngine
from serving.engine.weights import compute_device, load_weights
from serving.release import Release


class TransformersEngine(ThreadedEngine):
    """A release served by transformers, on a GPU where there is one."""

    def __init__(self, directory: Path, release: Release, options: EngineOptions):
        super().__init__("transformers-generate")
        if options.threads:
            torch.set_num_threads(options.threads)
        self._model: Any = load_weights(directory, release).to(compute_device())  # type: ignore[arg-type]
        # `generate` fills unset fields from the model's own settings; requests are complete without them.
        self._model.generation_config = GenerationConfig()
        self._end_token_ids = list(release.end_token_ids)
        self._thread.start()

    # Everything below runs on the computing thread.

    def _work(self) -> None:
        while not self._closing and (request := self._inbox.get()) is not None:
            if request.cancelled:
                continue
            try:
                self._answer(request)
            # Whatever torch raises belongs to this request; the next one may well succeed.
            except Exception as error:
                request.put(EngineError(f"{type(error).__name__}: {error}"))
        self._failure = "the engine is closed"
        while not self._inbox.empty():
            if (request := self._inbox.get()) is not None:
                request.put(EngineError(self._failure))
        del self._model

    @torch.inference_mode()
    def _answer(self, request: Request) -> None:
        streamer = _Streamer(request, self._end_token_ids)
        if request.sampling.temperature > 0:
            # Without a seed too: the generator would go on with the numbers of the last request that had one.
            seed = request.sampling.seed
            torch.manual_seed(secrets.randbits(63) if seed is None else seed)
        prompt_BT = torch.tensor([request.prompt_ids], device=self._model.device)  # (1, T)
        self._model.generate(
            input_ids=prompt_BT,
            attention_mask=torch.ones_like(prompt_BT),
            generation_config=self._config(request.sampling),
            streamer=streamer,
            stopping_criteria=[_Stopped(request, self)],
        )
        if self._closing and not streamer.finished:
            request.put(EngineError("the engine is closed"))

    def _config(self, sampling: Sampling) -> GenerationConfig:
        chosen: dict[str, Any] = {"do_sample": False}
        if sampling.temperature > 0:
            chosen = {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
                "repetition_penalty": sampling.repetition_penalty,
            }
        return GenerationConfig(
            max_new_tokens=sampling.max_tokens,
            eos_token_id=self._end_token_ids or None,
            pad_token_id=self._end_token_ids[0] if self._end_token_ids else 0,
            **chosen,
        )


class _Streamer(BaseStreamer):
    """Turns what `generate` puts, first the prompt and then one token at a time, into deltas."""

    def __init__(self, request: Request, end_token_ids: list[int]):
        self._request, self._end_token_ids = request, end_token_ids
        self._prompt_seen = False
        self.finished = False

    def put(self, value: torch.Tensor) -> None:
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        for token_id in value.flatten().tolist():
            self._request.generated += 1
            reason: FinishReason | None = None
            if token_id in self._end_token_ids:
                reason = "stop"
            elif self._request.generated == self._request.sampling.max_tokens:
                reason = "length"
            self.finished = reason is not None
            self._request.put(Delta([token_id], reason))

    def end(self) -> None:
        """`put` has already told the finish reason."""


class _Stopped(StoppingCriteria):
    """Ends `generate` after the current token when the caller has left or the engine closes."""

    def __init__(self, request: Request, engine: TransformersEngine):
        self._request, self._engine = request, engine

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        stop = self._request.cancelled or self._engine._closing
        return torch.full((input_ids.shape[0],), stop, dtype=torch.bool, device=input_ids.device)
