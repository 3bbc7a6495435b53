"""The state machine against a target in memory that can lose its caller at every call, and fail in every way."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from components.rollout.machine import Rollout, Step, Tried, next_step
from components.rollout.target import ChampionMoved, CheckFailed, Instance, Observation, RolloutFailed, TargetError


class Killed(BaseException):
    """The process is gone: nothing of it may run any more."""


@dataclass
class World:
    """A place where releases are served. `dies_at`: the call to it that its caller does not survive."""

    stable: str | None = None
    candidate: str | None = None
    instances: dict[str, str] = field(default_factory=dict)  # digest -> state
    routed: dict[str, int] = field(default_factory=dict)
    open: bool = True
    behaviour: dict[str, str] = field(default_factory=dict)  # digest -> good, crash, wrong, sick
    stays: set[str] = field(default_factory=set)  # what cannot be removed
    calls: list[str] = field(default_factory=list)
    outages: int = 0
    dies_at: int | None = None
    previous: str | None = None
    url: str = "public"

    @contextmanager
    def hold(self):
        yield

    def note(self, call):
        self.calls.append(call)
        serves = self.routed and all(self.instances.get(digest) == "ready" for digest in self.routed)
        self.outages += self.stable is not None and not serves
        if self.dies_at is not None and len(self.calls) == self.dies_at:
            raise Killed

    def observe(self):
        def seen(digest):
            return Instance(digest, self.instances.get(digest, "failed"), f"at {digest}")

        others = tuple(seen(one) for one in self.instances if one not in (self.stable, self.candidate))
        stable, candidate = (seen(one) if one else None for one in (self.stable, self.candidate))
        for digest, state in self.instances.items():  # time passes
            if state == "starting":
                self.instances[digest] = "failed" if self.behaviour.get(digest) == "crash" else "ready"
        return Observation(stable, candidate, others, dict(self.routed), self.open, self.previous)

    def apply(self, digest, release):
        self.note(f"apply {digest}")
        self.instances[digest] = "starting"
        self.open = self.open and digest not in self.routed  # the route leads to where it was
        if digest != self.stable:
            self.candidate = digest
        self.note("applied")

    def route(self, weights):
        self.note(f"route {dict(weights)}")
        assert all(self.instances.get(digest) for digest in weights)
        self.routed, self.open = dict(weights), True
        self.note("routed")

    def promote(self, digest):
        self.note(f"promote {digest}")
        self.previous = self.stable if self.stable != digest else self.previous
        self.stable, self.candidate = digest, None
        self.note("promoted")

    def remove(self, digest):
        self.note(f"remove {digest}")
        if digest in self.routed:
            raise TargetError(f"{digest} gets traffic")
        if digest in self.stays:
            raise TargetError(f"{digest} does not end")
        self.instances.pop(digest, None)
        if self.candidate == digest:
            self.candidate = None
        self.note("removed")

    def check(self, url, digest, release):
        self.note(f"check {url}")
        behaviour = self.behaviour.get(digest, "good")
        if behaviour == "wrong" or (behaviour == "sick" and url == "public"):
            raise CheckFailed("token 3 differs")

    def lose(self, *digests):
        """The processes of these releases, and that of the public address when it sends requests to one, are gone."""
        for digest in digests:
            if digest in self.instances:
                self.instances[digest] = "failed"
        self.open = self.open and not set(digests) & set(self.routed)

    def roll(self, digest, expected):
        return Rollout(self, digest, expected, Path, self.check, lambda step: None, poll_seconds=0).run()


def serving(live, **behaviour):
    return World(stable=live, instances={live: "ready"}, routed={live: 100}, behaviour=behaviour)


def settled(world, digest):
    return (
        (world.stable, world.candidate, world.routed) == (digest, None, {digest: 100})
        and world.instances == {digest: "ready"}
        and world.open
    )


def test_the_steps_of_a_rollout():
    world = serving("old")
    outcome = world.roll("new", "old")
    assert (outcome.action, outcome.previous) == ("rolled out", "old")
    assert [call for call in world.calls if " " in call] == [
        "apply new",
        "check at new",
        "route {'new': 100}",
        "check public",
        "promote new",
        "remove old",
    ]
    assert world.outages == 0 and settled(world, "new")


def test_a_live_release_is_left_alone():
    world = serving("old")
    assert world.roll("old", "old").action == "already live"
    assert world.calls == []


def test_a_live_release_that_does_not_serve_is_started_again_and_checked_before_it_gets_traffic():
    world = serving("old")
    world.instances["old"] = "failed"
    world.open = False
    assert world.roll("old", "old").action == "started again"
    assert [call for call in world.calls if " " in call] == ["apply old", "check at old", "route {'old': 100}"]


@pytest.mark.parametrize("behaviour", ["crash", "wrong", "sick"])
def test_a_bad_candidate_leaves_the_old_one_serving(behaviour):
    world = serving("old", new=behaviour)
    with pytest.raises(RolloutFailed, match=r"new did not go live: .*old is live"):
        world.roll("new", "old")
    assert settled(world, "old") and world.outages == 0


@pytest.mark.parametrize("behaviour", ["crash", "wrong", "sick"])
def test_a_bad_first_release_leaves_nothing(behaviour):
    world = World(behaviour={"new": behaviour})
    with pytest.raises(RolloutFailed, match="nothing is live"):
        world.roll("new", None)
    assert (world.stable, world.candidate, world.instances, world.routed) == (None, None, {}, {})


def test_a_live_release_that_cannot_be_started_again_says_so():
    world = serving("old", old="crash")
    world.instances["old"] = "failed"
    with pytest.raises(RolloutFailed, match="old is live, but does not serve"):
        world.roll("old", "old")


def test_a_live_release_that_cannot_be_started_again_gives_way_to_a_good_one():
    world = serving("old", old="crash")
    world.instances["old"] = "failed"
    world.roll("new", "old")
    assert settled(world, "new")


def test_neither_the_old_nor_the_new_one_serves():
    world = serving("old", old="crash", new="wrong")
    world.instances["old"] = "failed"
    with pytest.raises(RolloutFailed, match="old is live, but does not serve"):
        world.roll("new", "old")
    assert world.candidate is None and "new" not in world.instances and world.stable == "old"


def switched(**behaviour):
    """A rollout of `new` over `old` that was killed between the switch and the promotion."""
    world = World(stable="old", candidate="new", instances={"old": "ready", "new": "ready"}, routed={"new": 100})
    world.behaviour = behaviour
    return world


@pytest.mark.parametrize("lost", [{"new"}, {"old"}, {"old", "new"}], ids=["candidate", "stable", "both"])
@pytest.mark.parametrize("wanted", ["new", "old", "third"])
def test_a_switched_candidate_that_died_is_started_again(lost, wanted):
    world = switched()
    world.lose(*lost)
    world.roll(wanted, world.observe().live)
    assert settled(world, wanted)
    assert world.calls[0] == ("apply new" if "new" in lost else "check public")


@pytest.mark.parametrize("lost", [{"new"}, {"old", "new"}], ids=["candidate", "both"])
@pytest.mark.parametrize("wanted", ["new", "old", "third"])
def test_a_switched_candidate_that_cannot_start_again_leaves_the_old_one_serving(lost, wanted):
    world = switched(new="crash")
    world.lose(*lost)
    if wanted == "new":
        with pytest.raises(RolloutFailed, match=r"new did not go live: .*\. old is live\.$"):
            world.roll("new", "new")
        assert settled(world, "old")
    else:
        world.roll(wanted, "new")
        assert settled(world, wanted)


def test_neither_of_an_interrupted_rollout_starts_again():
    world = switched(new="crash", old="crash")
    world.lose("new", "old")
    with pytest.raises(RolloutFailed, match=r"new did not go live: .*old is live, but does not serve"):
        world.roll("new", "new")
    world.roll("third", world.observe().live)
    assert settled(world, "third")


def test_a_release_that_was_compared_with_another_is_refused_after_an_interrupted_rollout_was_undone():
    world = switched(new="crash")
    world.lose("new")
    with pytest.raises(ChampionMoved, match="old is live now, but the gate compared third with another"):
        world.roll("third", "another")


def test_a_replaced_release_that_cannot_be_removed_is_said_and_left_to_the_next_rollout():
    world, said = serving("old"), []
    world.stays = {"old"}
    outcome = Rollout(world, "new", "old", Path, world.check, said.append, poll_seconds=0).run()
    assert outcome.action == "rolled out" and world.stable == "new"
    failure = Step("fail", "old", "it is not removed: old does not end; the next rollout tries again")
    assert said[-2:] == [failure, Step("done", "new")]
    world.stays = set()
    assert world.roll("new", "new").action == "already live" and settled(world, "new")


def test_an_error_of_the_target_ends_with_what_is_live():
    world = serving("old")
    world.candidate, world.instances["left"], world.stays = "left", "ready", {"left"}
    with pytest.raises(TargetError, match=r"left does not end; old is live$"):
        world.roll("new", "old")
    world = serving("old", new="sick")
    world.stays = {"new"}
    with pytest.raises(TargetError, match=r"new failed \(.*\) and could not be withdrawn: .*; old is live$"):
        world.roll("new", "old")


def test_an_error_after_the_promotion_says_that_the_new_one_is_live():
    class Full(World):
        def promote(self, digest):
            super().promote(digest)
            raise OSError("no space left on device")

    world = Full(stable="old", instances={"old": "ready"}, routed={"old": 100})
    with pytest.raises(TargetError, match=r"no space left on device.*; new is live$"):
        world.roll("new", "old")


def test_a_moved_champion_is_refused_and_an_own_leftover_removed():
    world = serving("other")
    with pytest.raises(ChampionMoved, match="other is live now, but the gate compared new with old"):
        world.roll("new", "old")
    world.candidate, world.instances["new"] = "new", "ready"
    with pytest.raises(ChampionMoved):
        world.roll("new", "old")
    assert settled(world, "other")


@pytest.mark.parametrize("first", [True, False], ids=["first rollout", "replacement"])
@pytest.mark.parametrize("behaviour", ["good", "crash", "wrong", "sick"])
@pytest.mark.parametrize("next_wanted", ["new", "old", "third"])
@pytest.mark.parametrize("lost", [(), ("new",), ("old",), ("new", "old")], ids=lambda lost: "+".join(lost) or "none")
@pytest.mark.parametrize("gone", [False, True], ids=["comes back", "gone"])
def test_killed_at_every_call_whoever_comes_next_makes_it_whole(first, behaviour, next_wanted, lost, gone):
    """`lost`: servers that die with the rollout; when `gone`, that of the new release never starts again."""

    def fresh():
        return World(behaviour={"new": behaviour}) if first else serving("old", new=behaviour)

    def attempt(world, digest, expected):
        try:
            world.roll(digest, expected)
        except (RolloutFailed, ChampionMoved):
            return False
        return True

    old = None if first else "old"
    reference = fresh()
    attempt(reference, "new", old)
    for at in range(1, len(reference.calls) + 1):
        world = fresh()
        world.dies_at = at
        with pytest.raises(Killed):
            attempt(world, "new", old)
        world.dies_at = None
        live, promoted = world.observe().live, world.stable == "new"
        assert live in (old, "new")
        world.lose(*lost)
        if gone and "new" in lost and promoted:
            continue  # no rollout any more: a live release that cannot be started again
        if gone and "new" in lost:
            world.behaviour["new"] = "crash"
        if next_wanted == "new":
            attempt(world, "new", live)  # as a new run reads it
            assert settled(world, "new") if world.behaviour["new"] == "good" else world.stable == old
        else:
            assert attempt(world, next_wanted, live)
            assert settled(world, next_wanted)
        assert world.candidate is None and set(world.instances) <= {world.stable}
        if not first:
            assert settled(world, world.stable) and (lost or world.outages == 0)


def test_a_share_of_traffic_that_a_dead_rollout_left_is_taken_back_first():
    world = serving("old")
    world.candidate, world.instances["half"], world.routed = "half", "ready", {"old": 90, "half": 10}
    world.roll("new", "old")
    assert world.calls[0] == "route {'old': 100}" and settled(world, "new")


def test_what_is_done_depends_only_on_what_is_seen():
    stable = Instance("old", "ready", "at old")
    starting = Instance("new", "starting", "at new", "loading")
    failed = Instance("new", "failed", "at new", "gone")
    ready = Instance("new", "ready", "at new")

    def step(candidate=None, routed=None, tried=None):
        seen = Observation(stable, candidate, (), routed or {"old": 100}, True)
        return next_step(seen, "new", tried or Tried(started=frozenset({"new"})))

    assert step() == Step("apply", "new")
    assert step(starting) == Step("wait", "new", "loading")
    assert step(failed) == Step("fail", "new", "gone")
    assert step(failed, tried=Tried()) == Step("apply", "new", "gone")  # left by a dead process: another try
    assert step(ready) == Step("open", "new")
    assert step(ready, {"new": 100}) == Step("promote", "new")
    assert step(failed, {"new": 100}) == Step("fail", "new", "gone")
    assert step(failed, {"new": 100}, Tried()) == Step("apply", "new", "gone")  # it is what is live
