"""The rollout as a state machine that forgets nothing, because it remembers nothing.

Each step is computed from what is observed, so a rollout that was killed anywhere is continued by calling it
again, and whoever comes next with another release first finishes or cleans up what the killed one left.

    nothing ─▶ apply ─▶ starting ─▶ ready ─▶ golden answers ─▶ route ─▶ golden answers ─▶ promote ─▶ remove the old
                            │          (its own address)          (public address)
                            └── on any failure: route back, remove the candidate, RolloutFailed

A candidate that has all the traffic is what is live, promoted or not. When its server is gone (the machine was
started anew, or memory ran out), it is started again, as a stable one is, and withdrawn only when that fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from components.rollout.target import ChampionMoved, Instance, Observation, RolloutFailed, Target, TargetError

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
    """What this call has tried itself."""

    started: frozenset[str] = frozenset()
    """Releases that it has started: a failure of these is news, any other is a leftover of a dead process."""

    stable_given_up: bool = False
    """The live release cannot be started again, so it is left as it is."""

    not_removed: frozenset[str] = frozenset()
    """Replaced releases that could not be removed; they are left to the next rollout."""


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
    if _other_rollout(seen, wanted) and seen.candidate:
        return _leftover(seen, seen.candidate, tried)
    stable, candidate = seen.stable, seen.candidate
    switched = candidate is not None and seen.live == candidate.digest
    if stable and not switched and not (stable.digest != wanted and tried.stable_given_up):
        # Whatever is wanted, what is live serves first: a rollout that fails must leave it serving.
        step = _bring_up(seen, stable, tried)
        if step:
            return step
        if stable.digest == wanted:
            left = [one.digest for one in seen.retired if one.digest not in tried.not_removed]
            return Step("remove", left[0]) if left else Step("done", wanted)
    if candidate is None:
        return Step("apply", wanted)
    return _bring_up(seen, candidate, tried) or Step("promote", wanted)


def _other_rollout(seen: Observation, wanted: str) -> bool:
    """Whether a killed rollout of another release has left its candidate."""
    return seen.candidate is not None and seen.candidate.digest != wanted


def _leftover(seen: Observation, candidate: Instance, tried: Tried) -> Step:
    """What a killed rollout of another release needs: its promotion when it had switched, else its removal."""
    if candidate.digest not in seen.routed:
        return Step("remove", candidate.digest, "a rollout that was interrupted left it")
    if seen.live != candidate.digest:
        return Step("withdraw", candidate.digest, "its rollout was interrupted")
    finished = Step("promote", candidate.digest, "its rollout was interrupted after the switch")
    return _bring_up(seen, candidate, tried) or finished


def _bring_up(seen: Observation, instance: Instance, tried: Tried) -> Step | None:
    """The step that leads to an instance with all the traffic; None when it is there."""
    if instance.state == "failed":
        return Step("fail" if instance.digest in tried.started else "apply", instance.digest, instance.reason)
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
    """What was live when the gate compared, None when nothing was; what it had replaced, once it is withdrawn here."""

    release_of: Callable[[str], Path]
    """Release digest -> its directory."""

    check: Check
    announce: Callable[[Step], None]
    """Told of every step before it is taken."""

    poll_seconds: float = 0.1

    def run(self) -> Outcome:
        """Make the release live, or leave what was live.

        Raises RolloutBusy, ChampionMoved, RolloutFailed, or TargetError when the target does not do what it must.
        Each but the first says what is live then.
        """
        with self.target.hold():
            try:
                taken = self._work()
            except ChampionMoved:
                raise
            except (TargetError, OSError) as error:
                raise TargetError(f"{error}; {self._live_words()}") from error
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
            if not _other_rollout(seen, self.digest):
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
                tried = _noted(step, tried)
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
            return replace(tried, stable_given_up=True)
        if step.kind == "remove":
            if seen.candidate and step.digest == seen.candidate.digest:
                raise error
            # Traffic is where it should be; a replaced release that lingers costs memory and nothing else.
            self.announce(Step("fail", step.digest, f"it is not removed: {error}; the next rollout tries again"))
            return replace(tried, not_removed=tried.not_removed | {step.digest})
        self.announce(Step("withdraw", step.digest, str(error)))
        try:
            self._withdraw(self.target.observe(), step.digest)
        except (TargetError, OSError) as second:
            raise TargetError(f"{step.digest} failed ({error}) and could not be withdrawn: {second}") from error
        if step.digest != self.digest:
            return tried  # a leftover was withdrawn; the wanted release still has its chance
        raise RolloutFailed(f"{self.digest} did not go live: {error}. {self._kept(seen.stable, tried)}.") from error

    def _withdraw(self, seen: Observation, digest: str) -> None:
        """Take a candidate out: traffic back to the stable release first, then remove it."""
        if digest in seen.routed:
            serves = seen.stable and seen.stable.state != "failed"
            self.target.route({seen.stable.digest: 100} if seen.stable and serves else {})
        self.target.remove(digest)
        if seen.live == digest == self.expected:
            # It cannot serve, and what it had replaced is live again: nobody else has moved it.
            self.expected = seen.stable.digest if seen.stable else None

    def _kept(self, stable: Instance | None, tried: Tried) -> str:
        """Have the stable release serve after the wanted one was withdrawn; what is live then, in words."""
        if stable is None:
            return "nothing is live"
        if tried.stable_given_up:
            return f"{stable.digest} is live, but does not serve"
        try:
            replace(self, digest=stable.digest, expected=stable.digest)._work()
        except RolloutFailed as error:
            return str(error)
        return f"{stable.digest} is live"

    def _live_words(self) -> str:
        try:
            return f"{self.target.observe().live or 'nothing'} is live"
        except (TargetError, OSError) as error:
            return f"what is live cannot be read: {error}"


def _noted(step: Step, tried: Tried) -> Tried:
    if step.kind == "apply":
        return replace(tried, started=tried.started | {step.digest})
    if step.kind == "promote":  # a stable release whose server ends has a try of its own
        return replace(tried, started=tried.started - {step.digest})
    return tried
