"""Whether a candidate may have more of the traffic: one pure function of what was counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class StageObservation:
    """What was counted since a stage began."""

    candidate_requests: int
    """Answered and failed ones, the replayed golden prompts among them."""

    candidate_errors: int
    stable_requests: int
    stable_errors: int
    seconds: float


@dataclass(frozen=True)
class Limits:
    """The rollout settings of the same names."""

    min_requests: int
    max_error_rate: float
    stage_seconds: float


@dataclass(frozen=True)
class Decision:
    """What to do with the candidate, and the counts that say so."""

    verdict: Literal["wait", "advance", "roll back"]
    reason: str


def decide(seen: StageObservation, limits: Limits) -> Decision:
    """Errors above the rate end the rollout, enough requests without them end the stage, its deadline ends it too.

    Fewer requests than min_requests never advance. A rollout does not wait for them when the errors are already
    more than the rate allows among min_requests. The stable release's counts decide nothing; a reader compares.
    """
    counts = _words(seen)
    allowed = limits.max_error_rate * max(seen.candidate_requests, limits.min_requests)
    if seen.candidate_errors > allowed + 1e-9:  # 0.29 * 100 is a little less than 29
        return Decision("roll back", f"{counts}; the rate that may fail is {limits.max_error_rate:.2%}")
    if seen.candidate_requests >= limits.min_requests:
        return Decision("advance", counts)
    progress = f"{seen.candidate_requests} of {limits.min_requests} requests"
    if seen.seconds >= limits.stage_seconds:
        return Decision("roll back", f"it answered {progress} within {limits.stage_seconds:g} s")
    return Decision("wait", progress)


def _words(seen: StageObservation) -> str:
    own = f"{seen.candidate_errors} of {seen.candidate_requests} requests failed"
    other = f", of the stable release's {seen.stable_errors} of {seen.stable_requests}"
    return own + (other if seen.stable_requests else "")
