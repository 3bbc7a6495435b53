"""One stage of a rollout: a candidate has its share of the traffic, and is watched until that is decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from components.rollout.decide import Limits, StageObservation, decide
from components.rollout.target import CheckFailed, Instance, LockLost, Observation, Target, TargetError, Traffic
from components.rollout.traffic import total

Counts = dict[str, Mapping[str, Traffic]]
"""See Target.traffic."""

PATIENCE = 5
"""Times in a row that a place may fail to be read before that is its answer."""

_BETWEEN_REPLAYS_SECONDS = 0.5
"""Leaves the candidate to real requests for a while."""


class Check(Protocol):
    """Compares a server's answers with the release's golden answers. Raises CheckFailed."""

    def __call__(self, url: str, digest: str, release: Path) -> None:
        """All of them."""
        ...

    def replay(self, url: str, digest: str, release: Path, turn: int) -> None:
        """One of them; the turns go through them again and again."""
        ...


@dataclass
class Watch:
    """Watches one candidate in one stage, which begins when this is made."""

    target: Target
    check: Check
    limits: Limits
    clock: Callable[[], float]
    candidate: Instance
    stable: str | None
    release: Path
    """The candidate's directory."""

    goes_on: Callable[[Observation], bool]
    """Whether what is seen is still this stage."""

    _first: Counts = field(default_factory=dict[str, Mapping[str, Traffic]], init=False)
    """What had been counted when the stage began."""

    _last: Counts = field(default_factory=dict[str, Mapping[str, Traffic]], init=False)
    """What was counted last at each server; one that is gone since keeps its count."""

    def until_decided(self) -> str | None:
        """The counts by which the stage is passed; None when it was interrupted, and what is next must be seen anew.

        Raises CheckFailed that says why the candidate is to be rolled back.
        """
        began, turn = self.clock(), 0
        while True:
            if not self._read():
                return None
            decision = decide(self._since_it_began(self.clock() - began), self.limits)
            if decision.verdict == "roll back":
                raise CheckFailed(decision.reason)
            if decision.verdict == "advance":
                return decision.reason
            self.check.replay(self.candidate.url, self.candidate.digest, self.release, turn)
            turn += 1
            self.target.wait(_BETWEEN_REPLAYS_SECONDS)

    def _read(self) -> bool:
        """Count; False when this is not the stage any more.

        Raises CheckFailed when the place cannot be read several times in a row, or a candidate's server went back.
        """
        attempt, counted = 1, Counts()
        while self.candidate.digest not in counted:
            try:
                if not self.goes_on(self.target.observe()):
                    return False
                counted = dict(self.target.traffic())
                if self.candidate.digest not in counted:
                    raise TargetError("no server of it is there to be counted")
            except LockLost:
                raise
            except TargetError as error:
                if attempt == PATIENCE:
                    raise CheckFailed(f"its requests cannot be counted: {error}") from error
                attempt += 1
                self.target.wait(1)
        last = self._last.get(self.candidate.digest, {})
        for server, now in counted[self.candidate.digest].items():
            if _restarted(last.get(server, Traffic()), now):
                went_back = f"it has counted {now.requests} requests after {last[server].requests}"
                raise CheckFailed(f"its server restarted: {went_back}")
        self._first = self._first or counted
        self._last |= {digest: {**self._last.get(digest, {}), **servers} for digest, servers in counted.items()}
        return True

    def _since_it_began(self, seconds: float) -> StageObservation:
        def more(digest: str | None) -> Traffic:
            first, last = (some.get(digest or "", {}) for some in (self._first, self._last))
            return total(_since(first.get(server, Traffic()), now) for server, now in last.items())

        own, other = more(self.candidate.digest), more(self.stable)
        return StageObservation(own.requests, own.errors, other.requests, other.errors, seconds)


def _restarted(before: Traffic, now: Traffic) -> bool:
    return now.requests < before.requests or now.errors < before.errors


def _since(first: Traffic, now: Traffic) -> Traffic:
    """What a server has counted more; of one of the stable release that restarted, all since then is what is known."""
    return now if _restarted(first, now) else Traffic(now.requests - first.requests, now.errors - first.errors)
