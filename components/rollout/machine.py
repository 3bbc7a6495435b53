"""The rollout as a state machine that forgets nothing, because it remembers nothing.

Each step is computed from what is observed, so a rollout that was killed anywhere is continued by calling it
again, and whoever comes next with another release first finishes or cleans up what the killed one left.

    surge     apply ─▶ starting ─▶ ready ─▶ golden answers ─▶ 10 % ─▶ 50 % ─▶ 100 % ─▶ golden answers ─▶ promote
    replace   stop the old ─▶ apply ─▶ … ─▶ golden answers ─▶ 100 % ─▶ golden answers ─▶ promote     ─▶ remove
                                 │          (its own address)   (each watched, see watch.py)   (public address)
                                 └── on any failure: route back, remove the candidate, start the old one where
                                     it was stopped, RolloutFailed

    the release that is live, asked for with other settings:
        change its servers in place ─▶ really ready ─▶ golden answers ─▶ record the settings
                                 └── on any failure: restore the recorded settings, RolloutFailed

A candidate that has all the traffic is what is live, promoted or not. When its server is gone (the machine was
started anew, or memory ran out), it is started again, as a stable one is, and withdrawn only when that fails.
A stage that a killed rollout was in is watched from its beginning. A failure is written down before anything is
taken back, so that whoever comes next ends that rollback and does not try the candidate again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from components.rollout.decide import Limits
from components.rollout.target import (
    ChampionMoved,
    Instance,
    LockLost,
    NoAddress,
    Observation,
    RolloutFailed,
    Target,
    TargetError,
)
from components.rollout.watch import PATIENCE, Check, Watch

Kind = Literal[
    "stop", "apply", "wait", "open", "watch", "promote", "withdraw", "remove", "change", "restore", "fail", "done"
]

_INTERRUPTIONS = 5
"""Times that a stage may have to begin anew within one rollout."""


@dataclass(frozen=True)
class Plan:
    """How a candidate gets its traffic: the rollout settings of the same names."""

    limits: Limits
    strategy: Literal["surge", "replace"] = "surge"
    stages: tuple[int, ...] = (10, 50, 100)

    changes: bool = True
    """Whether the settings that are asked for are meant for the release that is wanted."""


@dataclass(frozen=True)
class Step:
    """What to do next, to which release, and why."""

    kind: Kind
    digest: str = ""
    reason: str = ""
    share: int = 0
    """Of "open" and "watch": the release's share of the traffic, in percent."""


@dataclass(frozen=True)
class Tried:
    """What this call has done itself."""

    started: frozenset[str] = frozenset()
    """Releases that it has started: a failure of these is news, any other is a leftover of a dead process."""

    stopped: frozenset[str] = frozenset()
    """Releases that it has stopped."""

    opened: int = 0
    """Share of the traffic that it has given to the candidate."""

    watched: int = 0
    """Share with which the candidate has passed its stage."""

    interruptions: int = 0
    """Times that a stage had to begin anew."""

    stable_given_up: bool = False
    """The live release cannot be started again, so it is left as it is."""

    stable_unchecked: bool = False
    """The live release is there, but its check or its route has failed: it gets its traffic without a check."""

    not_removed: frozenset[str] = frozenset()
    """Replaced releases that could not be removed; they are left to the next rollout."""


@dataclass
class Outage:
    """The time in which nothing was served, by strategy "replace"."""

    began: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """How a rollout ended."""

    digest: str
    action: Literal["rolled out", "settings changed", "started again", "already live"]
    previous: str | None
    """The release that was live before."""

    url: str
    outage_seconds: float = 0.0
    """How long nothing was served, as far as this call saw it; strategy "surge" has none."""


def next_step(seen: Observation, wanted: str, tried: Tried, plan: Plan) -> Step:
    """The one step that leads from what is seen towards `wanted` being live. Pure."""
    stable, candidate = seen.stable, seen.candidate
    broken = _broken(seen, tried)
    if candidate and broken:
        return Step("fail", candidate.digest, broken)
    if candidate and _other_rollout(seen, wanted):
        return _leftover(seen, candidate, tried)
    switched = candidate is not None and seen.live == candidate.digest
    if stable and not switched:
        step = _before_the_switch(seen, stable, wanted, tried, plan)
        if step:
            return step
    if candidate is None and wanted in tried.started:
        return Step("fail", wanted, "it was taken away by somebody else")
    if candidate is None:
        return Step("apply", wanted)
    return _through_the_stages(seen, candidate, tried, _stages(seen, tried, plan))


def _before_the_switch(seen: Observation, stable: Instance, wanted: str, tried: Tried, plan: Plan) -> Step | None:
    """What the live release needs before its successor may go on; None when nothing."""
    if stable.digest == wanted:
        step = _have_it_serve(seen, stable, tried)
        left = [one.digest for one in seen.retired if one.digest not in tried.not_removed]
        step = step or (Step("remove", left[0]) if left else None)
        return step or _have_its_settings(seen, stable, plan) or Step("done", wanted)
    if tried.stable_given_up:
        return None
    if plan.strategy == "surge":
        # Whatever is wanted, what is live serves first: a rollout that fails must leave it serving.
        alone = replace(plan, changes=False)  # what is asked for is meant for the wanted one
        return _have_it_serve(seen, stable, tried) or _have_its_settings(seen, stable, alone)
    if stable.state != "stopped" and stable.digest not in tried.stopped:
        return Step("stop", stable.digest, "strategy is replace: nothing is served until the new release is")
    return None


def _have_it_serve(seen: Observation, stable: Instance, tried: Tried) -> Step | None:
    """The step that leads to the stable release with the traffic that is not its candidate's; None when it has it."""
    step = _have_it_ready(stable, tried)
    if step:
        return step
    candidate = seen.candidate
    if candidate and candidate.state == "ready" and candidate.digest in seen.routed:
        return None  # how the traffic is split is the candidate's matter
    if dict(seen.routed) != {stable.digest: 100} or not seen.in_force:
        return Step("open", stable.digest, share=100)
    return None


def _have_its_settings(seen: Observation, stable: Instance, plan: Plan) -> Step | None:
    """The step that leads to the stable release with the settings that it is to have; None when it has them."""
    change = seen.change
    if change is None or seen.candidate:
        return None
    if change.words and plan.changes:
        outage = "; strategy is replace: nothing is served until its servers have started anew" if change.outage else ""
        return Step("change", stable.digest, f"{change.words}{outage}")
    return Step("restore", stable.digest, "a change of its settings was interrupted") if change.begun else None


def _have_it_ready(instance: Instance, tried: Tried) -> Step | None:
    if instance.state in ("failed", "stopped"):
        return Step("fail" if instance.digest in tried.started else "apply", instance.digest, instance.reason)
    if instance.state == "starting":
        return Step("wait", instance.digest, instance.reason)
    return None


def _through_the_stages(seen: Observation, candidate: Instance, tried: Tried, stages: tuple[int, ...]) -> Step:
    """The next step of a candidate; a share that another process gave it counts, but is watched here."""
    step = _have_it_ready(candidate, tried)
    if step:
        return step
    share = seen.routed.get(candidate.digest, 0)
    given = share if seen.in_force and dict(seen.routed) == split(seen, share) else 0
    if given in stages and given > tried.watched:
        return Step("watch", candidate.digest, share=given)
    if given == tried.watched == 100:
        return Step("promote", candidate.digest)
    return Step("open", candidate.digest, share=next((stage for stage in stages if stage > tried.watched), 100))


def split(seen: Observation, share: int) -> dict[str, int]:
    """The weights that give the candidate its share, and the rest to the stable release."""
    weights = {seen.stable.digest: 100 - share} if seen.stable else {}
    weights |= {seen.candidate.digest: share} if seen.candidate else {}
    return {digest: weight for digest, weight in weights.items() if weight}


def _stages(seen: Observation, tried: Tried, plan: Plan) -> tuple[int, ...]:
    """A candidate that is alone gets everything at once, and one that has everything shares no more."""
    alone = seen.stable is None or tried.stable_given_up or plan.strategy == "replace"
    switched = seen.candidate is not None and seen.live == seen.candidate.digest
    return (100,) if alone or switched else plan.stages


def _broken(seen: Observation, tried: Tried) -> str:
    """Why a candidate cannot go on that was rejected, or that this call has brought so far; "" when it can."""
    candidate = seen.candidate
    if candidate is None:
        return ""
    if seen.rejected:  # by a process that died before it was gone
        return seen.rejected
    if candidate.state in ("failed", "stopped") and candidate.digest in tried.started:
        return candidate.reason or f"it is {candidate.state}"
    if tried.interruptions > _INTERRUPTIONS:
        return f"it had to begin a stage anew {tried.interruptions} times"
    if not tried.opened:
        return ""
    if candidate.state != "ready":
        return f"it is not ready any more: {candidate.reason}"
    if dict(seen.routed) != split(seen, tried.opened):
        return f"somebody else has changed the route: it gives {dict(seen.routed)}, this rollout gave {tried.opened} %"
    return ""


def _cause(candidate: Instance | None, digest: str, why: str) -> str:
    """What became of the candidate, where that is seen, before the step that failed for it."""
    if candidate and candidate.digest == digest and candidate.state == "failed" and candidate.reason not in why:
        return f"{candidate.reason} ({why})"
    return why


def _other_rollout(seen: Observation, wanted: str) -> bool:
    """Whether a killed rollout of another release has left its candidate."""
    return seen.candidate is not None and seen.candidate.digest != wanted


def _leftover(seen: Observation, candidate: Instance, tried: Tried) -> Step:
    """What a killed rollout of another release needs: its end when it had switched, else its removal."""
    if candidate.digest not in seen.routed:
        return Step("remove", candidate.digest, "a rollout that was interrupted left it")
    if seen.live != candidate.digest:
        return Step("withdraw", candidate.digest, "its rollout was interrupted")
    step = _through_the_stages(seen, candidate, tried, (100,))
    return replace(step, reason=step.reason or "its rollout was interrupted after the switch")


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

    plan: Plan
    on_the_way: Callable[[Observation], None] = lambda seen: None
    """Told once of every other stable release that is seen before this one is live, so that none lacks a record."""

    clock: Callable[[], float] = time.monotonic
    outage: Outage = field(default_factory=Outage)

    def run(self) -> Outcome:
        """Make the release live, or leave what was live.

        Raises RolloutBusy, ChampionMoved, RolloutFailed, LockLost, or TargetError when the target does not do what it
        must. Each but the first says what is live then.
        """
        with self.target.hold():
            try:
                taken = self._work()
            except ChampionMoved:
                raise
            except (TargetError, OSError) as error:
                kind = LockLost if isinstance(error, LockLost) else TargetError
                raise kind(f"{error}; {self._live_words()}") from error
            seen = self._look()
        action = "already live"
        if any((step.kind, step.digest) == ("promote", self.digest) for step in taken):
            action = "rolled out"
        elif any(step.kind == "change" for step in taken):
            action = "settings changed"
        elif any(step.digest == self.digest for step in taken):
            action = "started again"
        return Outcome(self.digest, action, seen.previous, self.target.url, self.outage.seconds)

    def _work(self) -> list[Step]:
        """The steps that were taken until the release was live, without the last, which says that it is."""
        tried, taken, waiting = Tried(), list[Step](), ""
        before: set[str] = set()
        while True:
            seen = self._look()
            if seen.stable and seen.stable.digest not in (self.digest, *before):
                before.add(seen.stable.digest)
                self.on_the_way(seen)
            if seen.stable and seen.stable.state == "stopped" and seen.live == seen.stable.digest:
                self.outage.began = self.outage.began or self.clock()  # another call may have begun it
            step = next_step(seen, self.digest, tried, self.plan)
            if not _other_rollout(seen, self.digest):
                self._refuse_when_moved(seen)
            if step.kind != "wait" or waiting != step.digest:
                self._tell(step)
            waiting = step.digest if step.kind == "wait" else ""
            if step.kind == "done":
                return taken
            try:
                passed = self._take(step, seen, tried)
            except LockLost:
                raise
            except Exception as error:
                tried = self._after_failure(step, seen, tried, error)
            else:
                if passed:
                    tried = _noted(step, seen, tried)
                    taken.append(step)
                else:
                    tried = replace(tried, interruptions=tried.interruptions + 1)

    def _look(self) -> Observation:
        """What is there. Raises TargetError when it cannot be seen several times in a row."""
        for _ in range(PATIENCE - 1):
            try:
                return self.target.observe()
            except LockLost:
                raise
            except TargetError:
                self.target.wait(1)
        return self.target.observe()

    def _tell(self, step: Step) -> None:
        """Say a step, and make it readable at the place, which changes nothing when it fails."""
        self.announce(step)
        try:
            self.target.note(_state(step), step.reason)
        except LockLost:
            raise
        except (TargetError, OSError) as error:
            self.announce(Step("fail", step.digest, f"its state is not noted: {error}"))

    def _refuse_when_moved(self, seen: Observation) -> None:
        if seen.live in (self.expected, self.digest):
            return
        if seen.candidate:
            self._withdraw(seen, self.digest)
        raise ChampionMoved(
            f"{seen.live or 'nothing'} is live now, but the gate compared {self.digest} with "
            f"{self.expected or 'nothing live'}; run the pipeline again"
        )

    def _take(self, step: Step, seen: Observation, tried: Tried) -> bool:
        """Take a step; False when it was interrupted, and what is next must be seen anew."""
        if step.kind == "apply":
            self.target.apply(step.digest, self.release_of(step.digest))
        elif step.kind == "wait":
            self.target.wait(5)
        elif step.kind == "stop":
            self._stop(step.digest)
        elif step.kind == "open":
            self._open(step, seen, tried)
        elif step.kind == "watch":
            return self._watch(step, seen, tried)
        elif step.kind == "promote":
            self.check(self.target.url, step.digest, self.release_of(step.digest))
            self.target.promote(step.digest)
        elif step.kind == "withdraw":
            self._withdraw(seen, step.digest)
        elif step.kind == "remove":
            self.target.remove(step.digest)
        elif step.kind == "change":
            self._change(step, seen)
        elif step.kind == "restore":
            self.target.restore(step.digest)
        else:
            raise RolloutFailed(step.reason)
        return True

    def _stop(self, digest: str) -> None:
        self.outage.began = self.clock()
        self.target.route({})
        self.target.stop(digest)

    def _open(self, step: Step, seen: Observation, tried: Tried) -> None:
        own = next(one for one in (seen.stable, seen.candidate) if one and one.digest == step.digest)
        is_candidate = own is seen.candidate
        # a watched candidate's answers have just been checked
        if not (tried.watched if is_candidate else tried.stable_unchecked):
            self.check(own.url, step.digest, self.release_of(step.digest))
        self.target.route(split(seen, step.share) if is_candidate else {step.digest: 100})
        self._serves_again(step)

    def _serves_again(self, step: Step) -> None:
        """End the outage, if there was one, and say how long it was."""
        if self.outage.began is not None:
            self.outage.seconds += self.clock() - self.outage.began
            self.outage.began = None
            self._tell(replace(step, reason=f"served again after {self.outage.seconds:.1f} s"))

    def _change(self, step: Step, seen: Observation) -> None:
        assert seen.stable is not None and seen.change is not None
        url, release = seen.stable.url, self.release_of(step.digest)
        if seen.change.outage:
            self.outage.began = self.clock()
        self.target.change(step.digest, release, lambda: self.check(url, step.digest, release))
        self._serves_again(step)

    def _watch(self, step: Step, seen: Observation, tried: Tried) -> bool:
        assert seen.candidate is not None
        counts = Watch(
            self.target,
            self.check,
            self.plan.limits,
            self.clock,
            seen.candidate,
            seen.stable.digest if seen.stable else None,
            self.release_of(step.digest),
            goes_on=lambda now: next_step(now, self.digest, tried, self.plan) == step,
        ).until_decided()
        if counts is None:
            return False
        self._tell(replace(step, reason=f"passed: {counts}"))
        return True

    def _after_failure(self, step: Step, seen: Observation, tried: Tried, error: Exception) -> Tried:
        """What a failed step means: another try without the stable release, or the end with the old one serving."""
        if step.kind == "stop":
            raise self._failed(str(error), seen.stable, tried) from error
        if step.kind == "change":
            raise self._unchanged(step, error) from error
        if step.kind == "restore":
            raise RolloutFailed(f"{step.digest} is live, but not as it was, its settings changed: {error}") from error
        if seen.stable and step.digest == seen.stable.digest:
            if step.digest == self.digest:
                raise RolloutFailed(f"{step.digest} is live, but does not serve: {error}") from error
            if step.kind == "open":
                return self._after_failed_return(step, seen.stable, tried, error)
            # It does not serve, so there is nothing to lose; the candidate may mend it.
            self._tell(Step("fail", step.digest, f"the live release cannot be started again: {error}"))
            return replace(tried, stable_given_up=True)
        if step.kind == "remove":
            if seen.candidate and step.digest == seen.candidate.digest:
                raise error
            # Traffic is where it should be; a replaced release that lingers costs memory and nothing else.
            self._tell(Step("fail", step.digest, f"it is not removed: {error}; the next rollout tries again"))
            return replace(tried, not_removed=tried.not_removed | {step.digest})
        why = self._rejected(step.digest, error, made=step.kind != "apply")
        if step.digest != self.digest:
            return replace(tried, opened=0, watched=0)  # a leftover is gone; the wanted release still has its chance
        raise self._failed(why, seen.stable, tried) from error

    def _after_failed_return(self, step: Step, stable: Instance, tried: Tried, error: Exception) -> Tried:
        """The live release is there, but did not get its traffic: another try without its check, or the end.

        It may serve all the same, so its successor never takes its traffic for that: it goes through every stage. Only
        where nobody can reach it is there nothing to lose.
        """
        if isinstance(error, NoAddress):
            self._tell(Step("fail", step.digest, f"nobody reaches the live release: {error}"))
            return replace(tried, stable_given_up=True)
        if not tried.stable_unchecked:
            self._tell(Step("fail", step.digest, f"{error}; it is live, and gets its traffic without a check"))
            return replace(tried, stable_unchecked=True)
        why = f"the live release {step.digest} does not get its traffic: {error}"
        raise self._failed(self._rejected(self.digest, RolloutFailed(why)), stable, tried) from error

    def _rejected(self, digest: str, error: Exception, made: bool = True) -> str:
        """Withdraw a candidate for an error; returns why. Raises TargetError when that fails too.

        One that was made is looked at for what became of it; of another only the error tells.
        """
        why = str(error)
        try:
            now = self._look()
            why = now.rejected or (_cause(now.candidate, digest, why) if made else why)
            self.target.reject(digest, why)
            self._tell(Step("withdraw", digest, why))
            self._withdraw(now, digest)
        except LockLost:
            raise
        except (TargetError, OSError) as second:
            raise TargetError(f"{digest} failed ({why}) and could not be withdrawn: {second}") from error
        return why

    def _unchanged(self, step: Step, error: Exception) -> RolloutFailed:
        """The end of a change that failed, once the release serves by its recorded settings again."""
        undo = Step("restore", step.digest, str(error))
        self._tell(undo)
        try:
            self.target.restore(step.digest)
        except LockLost:
            raise
        except (TargetError, OSError) as second:
            raise TargetError(
                f"the settings of {step.digest} could not be changed ({step.reason}: {error}), nor restored: {second}"
            ) from error
        self._serves_again(undo)
        outage = f" Nothing was served for {self.outage.seconds:.1f} s." if self.outage.seconds else ""
        words = f"the settings of {step.digest} are not changed ({step.reason}): {error}.{outage} It is live as it was."
        self._tell(Step("fail", step.digest, words))
        return RolloutFailed(words)

    def _failed(self, why: str, stable: Instance | None, tried: Tried) -> RolloutFailed:
        """The end of a rollout whose candidate is gone, once the old release serves again where it can."""
        kept = self._kept(stable, tried)
        outage = f" Nothing was served for {self.outage.seconds:.1f} s." if self.outage.seconds else ""
        with_outage = f"{self.digest} did not go live: {why}.{outage} {kept}."
        self._tell(Step("fail", self.digest, with_outage))
        return RolloutFailed(with_outage)

    def _withdraw(self, seen: Observation, digest: str) -> None:
        """Take a candidate out: traffic back to the stable release first, then remove it."""
        if digest in seen.routed:
            serves = seen.stable and seen.stable.state not in ("failed", "stopped")
            if seen.stable and seen.stable.state == "stopped":
                self.outage.began = self.clock()
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
            as_it_was = replace(self.plan, changes=False)
            replace(self, digest=stable.digest, expected=stable.digest, plan=as_it_was)._work()
        except LockLost:
            raise
        except RolloutFailed as error:
            return str(error)
        except (TargetError, OSError) as error:  # what the candidate failed by is told all the same
            return f"{stable.digest} was not seen to serve again: {error}; {self._live_words()}"
        return f"{stable.digest} is live"

    def _live_words(self) -> str:
        try:
            return f"{self.target.observe().live or 'nothing'} is live"
        except (TargetError, OSError) as error:
            return f"what is live cannot be read: {error}"


def _noted(step: Step, seen: Observation, tried: Tried) -> Tried:
    """What was tried, with a step that was taken."""
    own = seen.candidate is not None and step.digest == seen.candidate.digest
    if step.kind == "apply":
        return replace(tried, started=tried.started | {step.digest})
    if step.kind == "stop":
        return replace(tried, stopped=tried.stopped | {step.digest})
    if step.kind == "open" and own:
        again = step.share == tried.opened  # it did not stay in force
        return replace(tried, opened=step.share, interruptions=tried.interruptions + again)
    if step.kind == "watch":
        return replace(tried, opened=step.share, watched=step.share)
    if step.kind == "promote":  # a stable release whose server ends has a try of its own
        return replace(tried, started=tried.started - {step.digest}, opened=0, watched=0)
    if step.kind in ("withdraw", "remove") and own:
        return replace(tried, opened=0, watched=0)
    return tried


def _state(step: Step) -> str:
    """What a step makes of the service, for those who read it at its place."""
    words: dict[Kind, str] = {
        "stop": "outage: the old release is stopped",
        "apply": "starting",
        "wait": "waiting until it is ready",
        "open": f"giving {step.share} %",
        "watch": f"watching {step.share} %",
        "promote": "promoting",
        "withdraw": "failed: rolling back",
        "remove": "removing",
        "change": "changing its settings",
        "restore": "failed: restoring its settings",
        "fail": "failed",
        "done": "live",
    }
    return words[step.kind]
