"""OpenVINO GenAI's continuous batching on a GGUF file, in its exact mode.

One thread owns the pipeline and steps it; requests join between two steps. With the three properties below, the
greedy tokens of a request do not depend on its company, and equal those of transformers in float32 on the
dequantized weights, as far as no two tokens are equally likely up to rounding. The defaults of the library are
faster and keep neither promise.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai
from openvino_genai.py_openvino_genai import GenerationHandle

from serving.engine import Delta, EngineError, EngineOptions, Sampling
from serving.engine.requests import Request, ThreadedEngine
from serving.release import GGUF_FILE, Release

_EXACT = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0", "INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
_LOOP_TURNS = 12
_LOOP_PATIENCE_SECONDS = 0.25


@contextmanager
def _openable(file: Path) -> Iterator[Path]:
    """The file itself, or a copy while the library reads it where the file may not be written.

    The library opens a GGUF for writing and maps it so, though it never writes (openvino_genai 2026.4): a release on a
    read-only volume, or write-protected by the store, would not load for anybody but root.
    """
    if os.access(file, os.W_OK):
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="slipway-gguf-") as folder:
        yield Path(shutil.copyfile(file, Path(folder, file.name)))


class OpenVinoEngine(ThreadedEngine):
    """A release served by openvino_genai.ContinuousBatchingPipeline."""

    def __init__(self, directory: Path, release: Release, options: EngineOptions):
        super().__init__("openvino-steps")
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = options.kv_cache_gib
        scheduler.max_num_seqs = options.max_running
        # Blocks kept for prefix caching are not given back, and the cache could then not tell its load.
        scheduler.enable_prefix_caching = False
        properties = _EXACT | ({"INFERENCE_NUM_THREADS": str(options.threads)} if options.threads else {})
        try:
            with _openable(directory / GGUF_FILE) as file:
                self._pipeline = openvino_genai.ContinuousBatchingPipeline(str(file), scheduler, "CPU", properties)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot read {directory / GGUF_FILE}: {error}") from error
        self._end_token_ids = set(release.end_token_ids)
        self._running: dict[Request, GenerationHandle] = {}
        self._next_id = 0
        self._thread.start()
        self.greedy([[release.end_token_ids[0] if release.end_token_ids else 0]], 2)  # compiles the kernels

    # Everything below runs on the stepping thread.

    def _work(self) -> None:
        try:
            while self._admit():
                self._pipeline.step()
                self._deliver()
            self._fail("the engine is closed")
        # A fault of the library is told to every caller and to /health; the process owner decides about a restart.
        except Exception as error:
            self._fail(f"{type(error).__name__}: {error}")

    def _fail(self, reason: str) -> None:
        self._failure = reason
        waiting = list(self._running)
        while not self._inbox.empty():
            if (request := self._inbox.get()) is not None:
                waiting.append(request)
        for request in waiting:
            request.put(EngineError(reason))
        self._running.clear()
        # The last reference: the weights and the cache are freed here.
        del self._pipeline

    def _admit(self) -> bool:
        """Take what waits, sleep while there is nothing to compute, drop what was cancelled; False means close."""
        idle = not self._running and not self._pipeline.has_non_finished_requests()
        while idle or not self._inbox.empty():
            request = self._inbox.get()
            if request is None:
                return False
            if not request.cancelled:
                self._add(request)
                idle = False
        for request in [request for request in self._running if request.cancelled]:
            self._running.pop(request).cancel()  # the next step frees its blocks
        return True

    def _add(self, request: Request) -> None:
        self._next_id += 1
        prompt = openvino.Tensor(np.array([request.prompt_ids], dtype=np.int64))  # (1, T)
        try:
            handle = self._pipeline.add_request(self._next_id, prompt, self._config(request.sampling))
        except RuntimeError as error:  # the library refused the request; it has not entered the pipeline
            request.put(EngineError(f"OpenVINO refused the request: {error}"))
            return
        self._running[request] = handle

    def _config(self, sampling: Sampling) -> openvino_genai.GenerationConfig:
        config = openvino_genai.GenerationConfig()
        config.apply_chat_template = False
        config.max_new_tokens = sampling.max_tokens
        # The end tokens are the release's, whatever the GGUF says: without this the library adds its own.
        config.stop_token_ids = self._end_token_ids or {0}
        config.eos_token_id = min(config.stop_token_ids)
        config.ignore_eos = not self._end_token_ids
        if sampling.temperature > 0:
            config.do_sample = True
            config.temperature = sampling.temperature
            config.top_p = sampling.top_p
            config.repetition_penalty = sampling.repetition_penalty
            if sampling.top_k:
                config.top_k = sampling.top_k
            config.rng_seed = secrets.randbits(32) if sampling.seed is None else sampling.seed
        return config

    def _deliver(self) -> None:
        """Give every running request what the step has made, then let the event loops pass it on."""
        loops: set[asyncio.AbstractEventLoop] = set()
        for request, handle in list(self._running.items()):
            if request.cancelled:
                continue
            for delta in self._read(request, handle):
                request.put(delta)
                if isinstance(delta, EngineError) or delta.finish_reason is not None:
                    del self._running[request]
            if request.loop is not None:
                loops.add(request.loop)
        for loop in loops:
            _let_turn(loop)

    def _read(self, request: Request, handle: GenerationHandle) -> list[Delta | EngineError]:
        deltas: list[Delta | EngineError] = []
        while handle.can_read():
            for output in handle.read().values():
                token_ids = list(output.generated_ids)
                request.generated += len(token_ids)
                deltas.append(Delta(token_ids, _REASONS[output.finish_reason]))
        if handle.get_status() == openvino_genai.GenerationStatus.IGNORED:
            return [EngineError("the request does not fit into the key-value cache; raise SLIPWAY_KV_CACHE_GIB")]
        return deltas


_REASONS: dict[Any, Any] = {
    openvino_genai.GenerationFinishReason.NONE: None,
    openvino_genai.GenerationFinishReason.STOP: "stop",
    openvino_genai.GenerationFinishReason.LENGTH: "length",
}


def _let_turn(loop: asyncio.AbstractEventLoop) -> None:
    """Wait until an event loop has gone round a few times.

    `step()` holds Python's global lock. Without this pause the loop would get the lock for an instant between two
    steps, and lose it again at its first system call, so that sockets and new requests would starve.
    """
    turned = threading.Event()

    def turn(left: int) -> None:
        if left:
            loop.call_soon(turn, left - 1)
        else:
            turned.set()

    # A loop that was closed meanwhile has nobody left to serve; one that has stopped never turns.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(turn, _LOOP_TURNS)
        turned.wait(_LOOP_PATIENCE_SECONDS)
