"""Does a server give the answers of its release, token by token?"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx

from components.rollout.target import CheckFailed
from serving.release import GoldenAnswer, read_golden, read_release

_EXACT_ENGINES = ("openvino",)
"""Engines that compute every token as at packaging; others round differently from machine to machine."""

_TRIES = 5
"""Times that a question may be lost on its way before that is its answer."""

_AGAIN_SECONDS = 0.2


@dataclass(frozen=True)
class GoldenCheck:
    """Compares a server's greedy answers with the golden ones of its release; a `machine.Check`."""

    http: Callable[[str, float], httpx.Client]
    """See Target.http."""

    model: str
    gap_bound: float
    """Another engine may first differ only where first and second choice are nearer than this (nats)."""

    answer_seconds: float
    """An answer that takes longer is none."""

    def __call__(self, url: str, digest: str, release: Path) -> None:
        """Raises CheckFailed that says which answer differs, where, and by what."""
        for number in range(len(_golden(release, digest))):
            self.replay(url, digest, release, number)

    def replay(self, url: str, digest: str, release: Path, turn: int) -> None:
        """Ask and compare one golden prompt; the turns go through them again and again."""
        exact = read_release(release).serving.engine in _EXACT_ENGINES
        answers = _golden(release, digest)
        number = turn % len(answers)
        where = f"golden answer {number + 1} at {url}"
        with self.http(url, self.answer_seconds) as client:
            self._compare(self._ask(client, answers[number], digest, where), answers[number], exact, where)

    def _ask(self, client: httpx.Client, golden: GoldenAnswer, digest: str, where: str) -> dict[str, Any]:
        request = {
            "model": self.model,
            "messages": golden.messages,
            "max_tokens": len(golden.token_ids),
            "temperature": 0,
            "return_token_ids": True,
        }
        deadline, lost = time.monotonic() + self.answer_seconds, 0
        while True:
            try:
                response = client.post("/v1/chat/completions", json=request)
            except httpx.TimeoutException as error:
                raise CheckFailed(f"{where}: no answer within {self.answer_seconds:g} s") from error
            except httpx.HTTPError as error:
                lost += 1
                if lost == _TRIES:
                    raise CheckFailed(f"{where}: {type(error).__name__}: {error}") from error
                time.sleep(_AGAIN_SECONDS)
                continue
            # A full queue is no wrong answer: live traffic may be ahead of this request. Nor is a fault of what lies
            # between: only our servers name a release.
            ours = "x-slipway-release" in response.headers
            between = not ours and response.status_code >= 400
            lost += between
            passing = response.status_code in (429, 503) or (between and lost < _TRIES)
            if not passing or time.monotonic() > deadline:
                break
            time.sleep(_AGAIN_SECONDS)
        if response.status_code != 200:
            raise CheckFailed(f"{where}: HTTP {response.status_code}: {response.text[:300]}")
        served = response.headers.get("x-slipway-release")
        if served != digest:
            raise CheckFailed(f"{where}: it was given by release {served}, not by {digest}")
        try:
            return cast("dict[str, Any]", response.json())
        except ValueError as error:
            raise CheckFailed(f"{where}: the reply is not JSON: {response.text[:300]}") from error

    def _compare(self, reply: dict[str, Any], golden: GoldenAnswer, exact: bool, where: str) -> None:
        try:
            prompt = cast("list[int]", reply["prompt_token_ids"])
            tokens = cast("list[int]", reply["choices"][0]["token_ids"])
        except (KeyError, IndexError, TypeError) as error:
            raise CheckFailed(f"{where}: the reply holds no token ids") from error
        if prompt != golden.prompt_token_ids:
            at = first_difference(prompt, golden.prompt_token_ids)
            raise CheckFailed(f"{where}: its prompt differs from token {at} on; tokenizer, template or system prompt")
        at = first_difference(tokens, golden.token_ids)
        if at is None:
            return
        expected, found = (dict(enumerate(ids)).get(at, "the end") for ids in (golden.token_ids, tokens))
        difference = f"{where}: token {at} is {found}, expected is {expected}"
        if exact:
            raise CheckFailed(difference)
        gap = golden.gaps[at] if at < len(golden.gaps) else float("inf")
        if gap >= self.gap_bound:
            raise CheckFailed(f"{difference}, where the gap is {gap:.3f} nats (gap_bound is {self.gap_bound:g})")


def _golden(release: Path, digest: str) -> list[GoldenAnswer]:
    answers = read_golden(release)
    if not answers:
        raise CheckFailed(f"{digest} has no golden answers, so nothing shows that its server is right")
    return answers


def first_difference(found: list[int], expected: list[int]) -> int | None:
    """First position at which two token sequences differ, the end of the shorter included; None when equal."""
    if found == expected:
        return None
    pairs = zip(found, expected, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(found), len(expected)))
