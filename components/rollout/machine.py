"""The rollout as a state machine that forgets nothing, because it remembers nothing.

Each step is computed from what is observed, so a rollout that was killed anywhere is continued by calling it
again, and whoever comes next with another release first finishes or cleans up what the killed one left.

    nothing ─▶ apply ─▶ starting ─▶ ready ─▶ golden answers ─▶ route ─▶ golden answers ─▶ promote ─▶ remove the old
                            │          (its own address)          (public address)
                            └── on any failure: route back, remove the candidate, RolloutFailed
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from components.rollout.target import ChampionMoved, Instance, Observation, RolloutFailed, Target

Kind = Literal["apply", "wait", "open", "promote", "withdraw", "remove", "fail", "done"]


class Check(Protocol):
    """Compares a server's answers with the release's golden answers. Raises CheckFailed."""

    def __call__(self, url: str, digest: str, release: Path) -> None: ...


@dataclass(frozen=True)
class Step:
    """What to do next, to which release, and why."""

    kind: Kind
    digest: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Tried:
    """What this call has started itself: a failure of these is news, any other is a leftover of a dead process."""

    candidate: bool = False
    stable: bool = False
    stable_given_up: bool = False
    """The live release cannot be started again, so it is left as it is."""


@dataclass(frozen=True)
class Outcome:
    """How a rollout ended."""

    digest: str
    action: Literal["rolled out", "started again", "already live"]
    previous: str | None
    """The release that was live before."""

    url: str


def next_step(seen: Observation, wanted: str, tried: Tried) -> Step:
    """The one step that leads from what is seen towards `wanted` being live. Pure."""
    leftover = _leftover(seen, wanted)
    if leftover:
        return leftover
    stable, candidate = seen.stable, seen.candidate
    switched = candidate is not None and set(seen.routed) == {candidate.digest}
    if stable and not switched and not (stable.digest != wanted and tried.stable_given_up):
        # Whatever is wanted, what is live serves first: a rollout that fails must leave it serving.
        step = _bring_up(seen, stable, tried.stable)
        if step:
            return step
        if stable.digest == wanted:
            return Step("remove", seen.retired[0].digest) if seen.retired else Step("done", wanted)
    if candidate is None:
        return Step("apply", wanted)
    if candidate.digest in seen.routed and candidate.state != "ready":
        return Step("fail" if tried.candidate else "withdraw", wanted, candidate.reason)
    return _bring_up(seen, candidate, tried.candidate) or Step("promote", wanted)


def _leftover(seen: Observation, wanted: str) -> Step | None:
    """What a killed rollout of another release needs: its promotion when it had switched, else its removal."""
    candidate = seen.candidate
    if candidate is None or candidate.digest == wanted:
        return None
    if candidate.digest not in seen.routed:
        return Step("remove", candidate.digest, "a rollout that was interrupted left it")
    if set(seen.routed) == {candidate.digest} and candidate.state == "ready":
        return Step("promote", candidate.digest, "its rollout was interrupted after the switch")
    return Step("withdraw", candidate.digest, "its rollout was interrupted")


def _bring_up(seen: Observation, instance: Instance, tried: bool) -> Step | None:
    """The step that leads to an instance with all the traffic; None when it is there."""
    if instance.state == "failed":
        return Step("fail" if tried else "apply", instance.digest, instance.reason)
    if instance.state == "starting":
        return Step("wait", instance.digest, instance.reason)
    if set(seen.routed) != {instance.digest} or not seen.in_force:
        return Step("open", instance.digest)
    return None


@dataclass
class Rollout:
    """One attempt to make a release live."""

    target: Target
    digest: str
    expected: str | None
    """What was live when the gate compared; None when nothing was."""

    release_of: Callable[[str], Path]
    """Release digest -> its directory."""

    check: Check
    announce: Callable[[Step], None]
    """Told of every step before it is taken."""

    poll_seconds: float = 0.1

    def run(self) -> Outcome:
        """Make the release live, or leave what was live. Raises RolloutBusy, ChampionMoved or RolloutFailed."""
        with self.target.hold():
            taken = self._work()
            seen = self.target.observe()
        action = "already live"
        if Step("promote", self.digest) in taken:
            action = "rolled out"
        elif any(step.digest == self.digest for step in taken):
            action = "started again"
        return Outcome(self.digest, action, seen.previous, self.target.url)

    def _work(self) -> list[Step]:
        """The steps that were taken until the release was live, without the last, which says that it is."""
        tried, taken, waiting = Tried(), list[Step](), ""
        while True:
            seen = self.target.observe()
            step = next_step(seen, self.digest, tried)
            if _leftover(seen, self.digest) is None:
                self._refuse_when_moved(seen)
            if step.kind != "wait" or waiting != step.digest:
                self.announce(step)
            waiting = step.digest if step.kind == "wait" else ""
            if step.kind == "done":
                return taken
            try:
                self._take(step, seen)
            except Exception as error:
                tried = self._after_failure(step, seen, tried, error)
            else:
                tried = _noted(step, seen, tried)
                taken.append(step)

    def _refuse_when_moved(self, seen: Observation) -> None:
        if seen.live in (self.expected, self.digest):
            return
        if seen.candidate:
            self._withdraw(seen, self.digest)
        raise ChampionMoved(
            f"{seen.live or 'nothing'} is live now, but the gate compared {self.digest} with "
            f"{self.expected or 'nothing live'}; run the pipeline again"
        )

    def _take(self, step: Step, seen: Observation) -> None:
        if step.kind == "apply":
            self.target.apply(step.digest, self.release_of(step.digest))
        elif step.kind == "wait":
            time.sleep(self.poll_seconds)
        elif step.kind == "open":
            own = next(one for one in (seen.stable, seen.candidate) if one and one.digest == step.digest)
            self.check(own.url, step.digest, self.release_of(step.digest))
            self.target.route({step.digest: 100})
        elif step.kind == "promote":
            self.check(self.target.url, step.digest, self.release_of(step.digest))
            self.target.promote(step.digest)
        elif step.kind == "withdraw":
            self._withdraw(seen, step.digest)
        elif step.kind == "remove":
            self.target.remove(step.digest)
        else:
            raise RolloutFailed(step.reason)

    def _after_failure(self, step: Step, seen: Observation, tried: Tried, error: Exception) -> Tried:
        """What a failed step means: another try without the stable release, or the end with the old one serving."""
        if seen.stable and step.digest == seen.stable.digest:
            if step.digest == self.digest:
                raise RolloutFailed(f"{step.digest} is live, but does not serve: {error}") from error
            # It does not serve, so there is nothing to lose; the candidate may mend it.
            self.announce(Step("fail", step.digest, f"the live release cannot be started again: {error}"))
            return Tried(tried.candidate, stable=True, stable_given_up=True)
        if step.kind == "remove":  # of a retired or left-over release: traffic is where it should be
            raise error
        self.announce(Step("withdraw", step.digest, str(error)))
        self._withdraw(self.target.observe(), step.digest)
        if step.digest != self.digest:
            return tried  # a leftover was withdrawn; the wanted release still has its chance
        kept = seen.stable.digest if seen.stable else None
        ending = f"{kept} stays live" if kept and not tried.stable_given_up else "nothing is live"
        raise RolloutFailed(f"{self.digest} did not go live: {error}. {ending}.") from error

    def _withdraw(self, seen: Observation, digest: str) -> None:
        """Take a candidate out: traffic back to the stable release first, then remove it."""
        if digest in seen.routed:
            serves = seen.stable and seen.stable.state != "failed"
            self.target.route({seen.stable.digest: 100} if seen.stable and serves else {})
        self.target.remove(digest)


def _noted(step: Step, seen: Observation, tried: Tried) -> Tried:
    if step.kind != "apply":
        return tried
    is_stable = seen.stable is not None and step.digest == seen.stable.digest
    return Tried(tried.candidate or not is_stable, tried.stable or is_stable, tried.stable_given_up)
