"""A place in memory where releases are served: it can lose its caller at every call, and fail in every way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from components.rollout.decide import Limits
from components.rollout.machine import Outcome, Plan, Rollout, Step
from components.rollout.target import Change, CheckFailed, Instance, LockLost, Observation, TargetError, Traffic

LIMITS = Limits(min_requests=4, max_error_rate=0.1, stage_seconds=3)


class Killed(BaseException):
    """The process is gone: nothing of it may run any more."""


@dataclass
class World:
    """Implements target.Target, and machine.Check by `answers`.

    `behaviour` of a release: good; crash (never ready); wrong (a golden answer differs); sick (does so at the public
    address); failing (requests through the public address get 500); wrong_later (replays differ); silent (nothing is
    counted); forgets (its counters begin anew); hidden (its counters cannot be read); stuck (starts for ever).
    """

    stable: str | None = None
    candidate: str | None = None
    instances: dict[str, str] = field(default_factory=dict)  # digest -> state
    routed: dict[str, int] = field(default_factory=dict)
    open: bool = True
    behaviour: dict[str, str] = field(default_factory=dict)
    strategy: str = "surge"
    stays: set[str] = field(default_factory=set)  # what cannot be removed
    dies_at: int | None = None  # the moment that its caller does not survive
    loses_lock_at: int | None = None
    on_wait: Callable[[World], None] = lambda world: None  # what somebody else does meanwhile
    unreadable: int = 0  # times that it cannot be observed from now on
    previous: str | None = None
    rejected: str = ""
    settings: str = "old"  # by which the stable release serves
    asked: str = "old"
    changing: bool = False
    refuses: set[str] = field(default_factory=set)  # settings by which no server becomes ready
    url: str = "public"

    calls: list[str] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    said: list[Step] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    counted: Counter = field(default_factory=Counter)  # (digest, "requests" or "errors") -> count
    moments: int = 0
    outages: int = 0
    now: float = 1000.0

    @contextmanager
    def hold(self):
        yield

    def moment(self):
        serves = self.routed and all(self.instances.get(digest) == "ready" for digest in self.routed)
        self.outages += self.stable is not None and not serves
        self.moments += 1
        if self.moments == self.dies_at:
            raise Killed
        if self.loses_lock_at is not None and self.moments >= self.loses_lock_at:
            raise LockLost("the lock was lost")

    @contextmanager
    def call(self, words):
        self.calls.append(words)
        self.moment()
        yield
        self.moment()

    def observe(self):
        if self.unreadable:
            self.unreadable -= 1
            raise TargetError("no route to host")

        def seen(digest):
            state = self.instances.get(digest, "failed")
            return Instance(digest, state, f"at {digest}", "" if state == "ready" else f"it is {state}")

        others = tuple(seen(one) for one in self.instances if one not in (self.stable, self.candidate))
        stable, candidate = (seen(one) if one else None for one in (self.stable, self.candidate))
        for digest, state in self.instances.items():  # time passes
            if state == "starting" and self.behaviour.get(digest) != "stuck":
                self.instances[digest] = "failed" if self.behaviour.get(digest) == "crash" else "ready"
        words = f"settings {self.settings} → {self.asked}" if self.asked != self.settings else ""
        change = Change(words, self.changing, self.strategy == "replace") if words or self.changing else None
        seen = (stable, candidate, others, dict(self.routed), self.open, self.previous, self.rejected)
        return Observation(*seen, change=change)

    def traffic(self):
        for digest, state in self.instances.items():
            if state == "ready" and self.behaviour.get(digest) == "hidden":
                raise TargetError(f"{digest} does not show its metrics")
        ready = [digest for digest, state in self.instances.items() if state == "ready"]
        return {one: {f"{one}-1": Traffic(self.counted[one, "requests"], self.counted[one, "errors"])} for one in ready}

    def wait(self, seconds):
        """Time passes, and one request comes for every half of the traffic."""
        self.moment()
        self.now += seconds
        for digest, share in self.routed.items():
            self.answer(digest, share // 50, failed=self.behaviour.get(digest) == "failing")
        self.on_wait(self)

    def answer(self, digest, requests, failed=False):
        if self.behaviour.get(digest) == "silent" or not requests:
            return
        self.counted[digest, "requests"] += requests
        self.counted[digest, "errors"] += requests * failed
        self.counted[digest, "times"] += 1
        if self.behaviour.get(digest) == "forgets" and self.counted[digest, "times"] == 3:
            self.counted[digest, "requests"] = 0

    def note(self, state, reason=""):
        self.moment()
        self.notes.append((state, reason))

    def apply(self, digest, release):
        with self.call(f"apply {digest}"):
            self.instances[digest] = "starting"
            self.open = self.open and digest not in self.routed  # the route leads to where it was
            for kind in ("requests", "errors", "times"):
                self.counted[digest, kind] = 0
            if digest != self.stable:
                self.candidate, self.rejected = digest, ""

    def route(self, weights):
        with self.call(f"route {dict(weights)}"):
            assert all(self.instances.get(digest) in ("ready", "starting") for digest in weights)
            self.routed, self.open = dict(weights), True

    def promote(self, digest):
        with self.call(f"promote {digest}"):
            self.previous = self.stable if self.stable != digest else self.previous
            self.stable, self.candidate, self.rejected, self.changing = digest, None, "", False

    def reject(self, digest, why):
        with self.call(f"reject {digest}"):
            if self.candidate == digest:
                self.rejected = why

    def change(self, digest, release, check):
        with self.call(f"change {digest}"):
            self.changing = True
        self.now += 2
        if self.asked in self.refuses:
            raise TargetError("not ready within 2 s")
        check()
        self.settings, self.changing = self.asked, False
        self.moment()

    def restore(self, digest):
        with self.call(f"restore {digest}"):
            if "restore" in self.refuses:
                raise TargetError("no node has room")
            self.changing = False
        self.now += 3

    def stop(self, digest):
        with self.call(f"stop {digest}"):
            if digest in self.routed:
                raise TargetError(f"{digest} gets traffic")
            self.instances[digest], self.changing = "stopped", False

    def remove(self, digest):
        with self.call(f"remove {digest}"):
            if digest in self.routed:
                raise TargetError(f"{digest} gets traffic")
            if digest in self.stays:
                raise TargetError(f"{digest} does not end")
            self.instances.pop(digest, None)
            if self.candidate == digest:
                self.candidate, self.rejected = None, ""

    def lose(self, *digests):
        """The processes of these releases, and that of the public address when it sends requests to one, are gone."""
        for digest in digests:
            if self.instances.get(digest) in ("ready", "starting"):
                self.instances[digest] = "failed"
        self.open = self.open and not set(digests) & set(self.routed)

    def roll(self, digest, expected, strategy=None) -> Outcome:
        return Rollout(
            self,
            digest,
            expected,
            Path,
            Answers(self),
            self.said.append,
            Plan(LIMITS, strategy or self.strategy),
            on_the_way=lambda seen: self.passed.append(seen.stable.digest),
            clock=lambda: self.now,
        ).run()


@dataclass
class Answers:
    """The golden answers of the world's releases."""

    world: World

    def __call__(self, url, digest, release):
        with self.world.call(f"check {url}"):
            behaviour = self.world.behaviour.get(digest, "good")
            if behaviour == "wrong" or (behaviour == "sick" and url == "public"):
                raise CheckFailed("token 3 differs")

    def replay(self, url, digest, release, turn):
        assert url == f"at {digest}"
        self.world.moment()
        self.world.answer(digest, 1)
        if self.world.behaviour.get(digest) == "wrong_later":
            raise CheckFailed("token 7 differs")


def serving(live, strategy="surge", **behaviour):
    """A world in which a release is live, and others will behave as told."""
    return World(stable=live, instances={live: "ready"}, routed={live: 100}, behaviour=behaviour, strategy=strategy)


def settled(world, digest):
    return (
        (world.stable, world.candidate, world.routed) == (digest, None, {digest: 100})
        and world.instances == {digest: "ready"}
        and world.open
    )
