"""The state machine against a world in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.rollout import machine
from components.rollout.machine import Plan, Rollout, Step, Tried, next_step
from components.rollout.target import (
    ChampionMoved,
    Instance,
    LockLost,
    Observation,
    RolloutFailed,
    TargetError,
)
from tests.components.rollout.world import LIMITS, Answers, Killed, World, serving, settled

SURGE, REPLACE = Plan(LIMITS), Plan(LIMITS, "replace")


def test_the_steps_of_a_rollout():
    world = serving("old")
    outcome = world.roll("new", "old")
    assert (outcome.action, outcome.previous, outcome.outage_seconds) == ("rolled out", "old", 0)
    assert world.calls == [
        "apply new",
        "check at new",
        "route {'old': 90, 'new': 10}",
        "route {'old': 50, 'new': 50}",
        "route {'new': 100}",
        "check public",
        "promote new",
        "remove old",
    ]
    assert world.outages == 0 and settled(world, "new")
    assert [state for state, _ in world.notes] == [
        "starting",
        "waiting until it is ready",
        *(state for share in (10, 50, 100) for state in (f"giving {share} %", *[f"watching {share} %"] * 2)),
        "promoting",
        "removing",
        "live",
    ]


def test_the_steps_of_a_replacement_whose_outage_is_announced_and_measured():
    world = serving("old", strategy="replace")
    outcome = world.roll("new", "old")
    assert world.calls == [
        "route {}",
        "stop old",
        "apply new",
        "check at new",
        "route {'new': 100}",
        "check public",
        "promote new",
        "remove old",
    ]
    assert settled(world, "new") and outcome.outage_seconds == 5  # one wait until it was ready
    assert world.notes[0] == (
        "outage: the old release is stopped",
        "strategy is replace: nothing is served until the new release is",
    )
    assert ("giving 100 %", "served again after 5.0 s") in world.notes


def test_a_first_rollout_shares_with_nobody_and_is_watched_all_the_same():
    world = World()
    world.roll("new", None)
    assert [call for call in world.calls if call.startswith("route")] == ["route {'new': 100}"]
    assert ("watching 100 %", "passed: 0 of 6 requests failed") in world.notes and settled(world, "new")


def test_a_live_release_is_left_alone():
    world = serving("old")
    assert world.roll("old", "old").action == "already live"
    assert world.calls == []


def test_a_live_release_that_does_not_serve_is_started_again_and_checked_before_it_gets_traffic():
    world = serving("old")
    world.instances["old"] = "failed"
    world.open = False
    assert world.roll("old", "old").action == "started again"
    assert world.calls == ["apply old", "check at old", "route {'old': 100}"]


BAD = {
    "crash": "it is failed",
    "wrong": "token 3 differs",
    "sick": "token 3 differs",
    "failing": r"1 of 2 requests failed, of the stable release's 0 of 1; the rate that may fail is 10\.00%",
    "wrong_later": "token 7 differs",
    "silent": "it answered 0 of 4 requests within 3 s",
    "forgets": "its server restarted: it has counted . requests after",
    "hidden": "its requests cannot be counted: new does not show its metrics",
}


@pytest.mark.parametrize("behaviour", BAD)
@pytest.mark.parametrize("strategy", ["surge", "replace"])
def test_a_bad_candidate_leaves_the_old_one_serving(behaviour, strategy):
    world = serving("old", strategy, new=behaviour)
    why = "" if (behaviour, strategy) == ("failing", "replace") else BAD[behaviour]
    with pytest.raises(RolloutFailed, match=rf"^new did not go live: .*{why}.* old is live\.$") as failure:
        world.roll("new", "old")
    assert settled(world, "old") and world.notes[-1] == ("failed", str(failure.value))
    if strategy == "surge":
        assert world.outages == 0
    else:
        assert "Nothing was served for " in str(failure.value)


@pytest.mark.parametrize("behaviour", BAD)
def test_after_a_bad_first_candidate_nothing_is_live(behaviour):
    world = World(behaviour={"new": behaviour})
    with pytest.raises(RolloutFailed, match="nothing is live"):
        world.roll("new", None)
    assert (world.stable, world.candidate, world.instances, world.routed) == (None, None, {}, {})


def at_share(share, act):
    """Somebody else acts once, as soon as the candidate has this share of the traffic."""

    def on_wait(world):
        if world.routed.get("new") == share:
            world.on_wait = lambda world: None
            act(world)

    return on_wait


@pytest.mark.parametrize("share", [10, 50, 100])
@pytest.mark.parametrize("edited", [{"old": 100}, {"old": 80, "new": 20}, {}, {"old": 10, "new": 90}], ids=str)
def test_a_route_that_somebody_edits_meanwhile_ends_the_rollout(share, edited):
    world = serving("old")
    world.on_wait = at_share(share, lambda world: world.routed.update({"new": 0}) or setattr(world, "routed", edited))
    with pytest.raises(RolloutFailed, match=rf"somebody else has changed the route: .* gave {share} %.* old is live"):
        world.roll("new", "old")
    assert settled(world, "old")


@pytest.mark.parametrize("share", [10, 50, 100])
def test_a_candidate_that_somebody_deletes_meanwhile_ends_the_rollout(share):
    world = serving("old")
    world.on_wait = at_share(share, lambda world: world.instances.pop("new"))
    with pytest.raises(RolloutFailed, match=r"it is failed.*old is live"):
        world.roll("new", "old")
    assert settled(world, "old")


def test_a_candidate_that_somebody_takes_away_before_it_has_traffic_is_not_brought_again():
    world = serving("old")

    def take_away(world):
        world.instances.pop("new", None)
        world.candidate = None

    world.on_wait = take_away
    with pytest.raises(RolloutFailed, match="taken away by somebody else"):
        world.roll("new", "old")
    assert settled(world, "old") and world.calls.count("apply new") == 1


def test_a_candidate_that_is_not_ready_any_more_is_rolled_back():
    world = serving("old")

    def hang(world):
        world.instances["new"], world.behaviour["new"] = "starting", "stuck"

    world.on_wait = at_share(50, hang)
    with pytest.raises(RolloutFailed, match="it is not ready any more"):
        world.roll("new", "old")
    assert settled(world, "old")


def test_a_stable_release_that_dies_meanwhile_is_started_again_and_the_stage_begins_anew():
    world = serving("old")
    world.on_wait = at_share(10, lambda world: world.lose("old"))
    world.roll("new", "old")
    share = "route {'old': 90, 'new': 10}"
    assert world.calls[2:6] == [share, "apply old", "check at new", share]
    assert settled(world, "new")


def test_a_route_that_does_not_stay_in_force_ends_the_rollout():
    world = serving("old")
    world.on_wait = lambda world: setattr(world, "open", "new" not in world.routed)
    with pytest.raises(RolloutFailed, match="begin a stage anew 6 times"):
        world.roll("new", "old")
    assert settled(world, "old")


def test_a_place_that_cannot_be_read_for_a_moment_is_read_again():
    world = serving("old")
    world.on_wait = at_share(10, lambda world: setattr(world, "unreadable", 1))
    world.roll("new", "old")
    assert settled(world, "new")


def test_a_place_that_cannot_be_read_any_more_is_said():
    world = serving("old")
    world.unreadable = 1000
    with pytest.raises(TargetError, match="no route to host; what is live cannot be read: no route to host"):
        world.roll("new", "old")


@pytest.mark.parametrize("strategy", ["surge", "replace"])
def test_whoever_has_lost_the_lock_touches_nothing_more(strategy):
    reference = serving("old", strategy)
    reference.roll("new", "old")
    for at in range(1, reference.moments + 1):
        world = serving("old", strategy)
        world.loses_lock_at = at
        with pytest.raises(LockLost, match=r"the lock was lost; (old|new) is live"):
            world.roll("new", "old")
        assert world.moments == at


def test_a_state_that_cannot_be_noted_is_said_and_changes_nothing():
    class Mute(World):
        def note(self, state, reason=""):
            raise TargetError("annotations are forbidden")

    world = Mute(stable="old", instances={"old": "ready"}, routed={"old": 100})
    world.roll("new", "old")
    assert settled(world, "new")
    assert Step("fail", "new", "its state is not noted: annotations are forbidden") in world.said


def test_an_old_release_that_cannot_be_stopped_serves_on():
    class Stubborn(World):
        def stop(self, digest):
            raise TargetError("it does not end")

    world = Stubborn(stable="old", instances={"old": "ready"}, routed={"old": 100}, strategy="replace")
    with pytest.raises(RolloutFailed, match=r"new did not go live: it does not end\..* old is live"):
        world.roll("new", "old")
    assert settled(world, "old")


def test_a_place_that_fails_while_the_old_one_is_started_again_does_not_hide_why_the_new_one_failed():
    class Away(World):
        def remove(self, digest):
            super().remove(digest)
            self.unreadable = machine.PATIENCE

    world = Away(stable="old", instances={"old": "ready"}, routed={"old": 100}, behaviour={"new": "wrong"})
    world.strategy = "replace"
    words = r"^new did not go live: token 3 differs\. old was not seen to serve again: no route to host; old is live\.$"
    with pytest.raises(RolloutFailed, match=words):
        world.roll("new", "old")


def test_an_outage_that_a_killed_rollout_began_is_measured_from_when_it_is_seen():
    world = World(stable="old", instances={"old": "stopped"}, strategy="replace")
    outcome = world.roll("new", "old")
    assert "stop old" not in world.calls and outcome.outage_seconds == 5 and settled(world, "new")


def test_every_other_release_that_is_live_on_the_way_is_told():
    world = switched()
    world.roll("third", "new")
    assert world.passed == ["old", "new"] and settled(world, "third")


@pytest.mark.parametrize("share", [10, 50, 100])
def test_a_stage_that_a_killed_rollout_was_in_begins_anew(share):
    world = switched()
    world.routed = {"old": 100 - share, "new": share} if share < 100 else {"new": 100}
    world.counted["new", "requests"] = 1000  # those of before do not count
    world.roll("new", world.observe().live)
    watched = [step.share for step in world.said if step.kind == "watch" and not step.reason]
    assert watched == [stage for stage in (10, 50, 100) if stage >= share] and settled(world, "new")


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


def routes(world):
    return [call for call in world.calls if call.startswith("route")]


STAGES = ["route {'old': 90, 'new': 10}", "route {'old': 50, 'new': 50}", "route {'new': 100}"]


def test_a_live_release_that_serves_and_fails_its_check_shares_its_traffic_stage_by_stage():
    world = serving("old", old="wrong")
    world.open = False  # its route's status lags
    world.roll("new", "old")
    assert routes(world) == ["route {'old': 100}", *STAGES] and settled(world, "new")
    assert Step("fail", "old", "token 3 differs; it is live, and gets its traffic without a check") in world.said


def test_a_live_release_whose_route_lagged_only_is_not_given_up():
    class Late(World):
        def route(self, weights):
            first = not routes(self)
            super().route(weights)
            if first:
                raise TargetError("the gateway does not route by old 100 after 60 s")

    world = Late(stable="old", instances={"old": "ready"}, routed={"old": 100}, open=False)
    world.roll("new", "old")
    assert routes(world) == ["route {'old': 100}", *STAGES] and settled(world, "new")


def test_a_live_release_that_cannot_get_its_traffic_is_not_replaced_unwatched():
    class Deaf(World):
        def route(self, weights):
            super().route(weights)
            self.open = False
            raise TargetError("the gateway does not follow")

    world = Deaf(stable="old", instances={"old": "ready"}, routed={"old": 100}, open=False)
    words = "new did not go live: the live release old does not get its traffic: the gateway does not follow"
    with pytest.raises(RolloutFailed, match=words):
        world.roll("new", "old")
    assert set(routes(world)) == {"route {'old': 100}"}
    assert (world.stable, world.candidate, world.instances) == ("old", None, {"old": "ready"})


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
    outcome = Rollout(world, "new", "old", Path, Answers(world), said.append, SURGE).run()
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
@pytest.mark.parametrize("behaviour", ["good", *sorted(BAD.keys() - {"forgets"})])  # that it does once
@pytest.mark.parametrize("strategy", ["surge", "replace"])
@pytest.mark.parametrize("next_wanted", ["new", "old", "third"])
@pytest.mark.parametrize("lost", [(), ("new",), ("old",), ("new", "old")], ids=lambda lost: "+".join(lost) or "none")
@pytest.mark.parametrize("gone", [False, True], ids=["comes back", "gone"])
def test_killed_at_every_moment_whoever_comes_next_makes_it_whole(first, behaviour, strategy, next_wanted, lost, gone):
    """`lost`: servers that die with the rollout; when `gone`, that of the new release never starts again."""

    def fresh():
        return (
            World(behaviour={"new": behaviour}, strategy=strategy) if first else serving("old", strategy, new=behaviour)
        )

    def attempt(world, digest, expected):
        try:
            world.roll(digest, expected, next_strategy)
        except (RolloutFailed, ChampionMoved):
            return False
        return True

    old = None if first else "old"
    reference, next_strategy = fresh(), strategy
    attempt(reference, "new", old)
    for at in range(1, reference.moments + 1):
        world, next_strategy = fresh(), strategy
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
        next_strategy = ("surge", "replace")[at % 2]  # whoever comes next may have other settings
        if next_wanted == "new":
            attempt(world, "new", live)  # as a new run reads it
            assert settled(world, "new") if world.behaviour["new"] == "good" or promoted else world.stable == old
        else:
            assert attempt(world, next_wanted, live)
            assert settled(world, next_wanted)
        assert world.candidate is None and set(world.instances) <= {world.stable}
        if not first:
            assert settled(world, world.stable)
            assert lost or world.outages == 0 or "replace" in (strategy, next_strategy)


@pytest.mark.parametrize("next_wanted", ["new", "old", "third"])
@pytest.mark.parametrize("first", [True, False], ids=["first rollout", "replacement"])
@pytest.mark.parametrize("strategy", ["surge", "replace"])
def test_a_rejection_outlives_the_process_that_decided_it(strategy, first, next_wanted):
    """Its candidate would pass the second time: what it failed by is a matter of chance, or of the load."""

    def fresh():
        bad = {"new": "failing"}
        return World(behaviour=bad, strategy=strategy) if first else serving("old", strategy, **bad)

    old = None if first else "old"
    reference, rejected = fresh(), 0
    with pytest.raises(RolloutFailed):
        reference.roll("new", old)
    for at in range(1, reference.moments + 1):
        world = fresh()
        world.dies_at = at
        with pytest.raises(Killed):
            world.roll("new", old)
        world.dies_at, world.behaviour = None, {}
        if not world.rejected:
            continue
        rejected += 1
        live = world.observe().live
        if next_wanted == "new":
            with pytest.raises(RolloutFailed, match=r"new did not go live: .* of . requests failed"):
                world.roll("new", live)
        else:
            world.roll(next_wanted, live)
            assert settled(world, next_wanted)
        assert "promote new" not in world.calls and "new" not in world.instances and not world.rejected
        assert world.stable == (old if next_wanted == "new" else next_wanted)
    assert rejected >= 3


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
    mine = frozenset({"new"})

    def step(candidate=None, routed=None, plan=SURGE, stable=stable, in_force=True, **tried):
        seen = Observation(stable, candidate, (), routed or {"old": 100}, in_force)
        return next_step(seen, "new", Tried(**tried), plan)

    assert step() == Step("apply", "new")
    assert step(started=mine) == Step("fail", "new", "it was taken away by somebody else")
    assert step(starting, started=mine) == Step("wait", "new", "loading")
    assert step(failed, started=mine) == Step("fail", "new", "gone")
    assert step(failed) == Step("apply", "new", "gone")  # left by a dead process: another try
    assert step(ready) == Step("open", "new", share=10)
    ten = {"old": 90, "new": 10}
    assert step(ready, ten) == Step("watch", "new", share=10)
    assert step(ready, ten, opened=10) == Step("watch", "new", share=10)
    assert step(ready, ten, opened=10, in_force=False) == Step("open", "new", share=10)
    assert step(ready, ten, opened=10, watched=10) == Step("open", "new", share=50)
    assert step(ready, {"old": 75, "new": 25}) == Step("open", "new", share=10)  # no stage of ours
    assert step(ready, {"new": 100}) == Step("watch", "new", share=100)
    assert step(ready, {"new": 100}, opened=100, watched=100) == Step("promote", "new")
    assert step(failed, {"new": 100}, started=mine) == Step("fail", "new", "gone")
    assert step(failed, {"new": 100}) == Step("apply", "new", "gone")  # it is what is live

    assert step(plan=REPLACE).kind == "stop"
    stopped = Instance("old", "stopped", "")
    assert step(stable=stopped, routed={"x": 0}, plan=REPLACE) == Step("apply", "new")
    assert step(ready, stable=stopped, plan=REPLACE) == Step("open", "new", share=100)
    assert step(stable=stopped) == Step("apply", "old", "")  # with room for two, the old one serves meanwhile


def test_the_decision_about_the_next_step_is_total():
    """Whatever is seen, there is one step, and a release that gets traffic is never removed."""
    states = ["starting", "ready", "failed", "stopped"]
    for stable_state in [None, *states]:
        for candidate_state in [None, *states]:
            stable = Instance("old", stable_state, "a") if stable_state else None
            candidate = Instance("new", candidate_state, "b") if candidate_state else None
            for routed in ({}, {"old": 100}, {"new": 100}, {"old": 50, "new": 50}, {"old": 1, "new": 2}):
                for wanted in ("old", "new", "third"):
                    for plan in (SURGE, REPLACE):
                        seen = Observation(stable, candidate, (), routed, True)
                        step = next_step(seen, wanted, Tried(), plan)
                        assert step.kind != "fail"
                        assert not (step.kind == "remove" and step.digest in routed)


@pytest.mark.parametrize(
    ("candidate", "told"),
    [
        (None, "no answer"),
        (Instance("new", "ready", "http://new"), "no answer"),
        (Instance("other", "failed", "http://other", "it was deleted"), "no answer"),
        (Instance("new", "failed", "http://new", "it was deleted"), "it was deleted (no answer)"),
        (Instance("new", "failed", "http://new", "no answer"), "no answer"),
    ],
)
def test_what_became_of_a_candidate_is_told_before_what_failed_for_it(candidate, told):
    assert machine._cause(candidate, "new", "no answer") == told


# --------------------------------------------------------------------------------- settings of what is live


def test_other_settings_of_what_is_live_are_changed_in_place():
    world = serving("old")
    world.asked = "new"
    outcome = world.roll("old", "old")
    assert (outcome.action, outcome.outage_seconds, world.settings) == ("settings changed", 0, "new")
    assert world.calls == ["change old", "check at old"] and settled(world, "old")
    assert world.notes == [("changing its settings", "settings old → new"), ("live", "")]
    assert world.roll("old", "old").action == "already live"


@pytest.mark.parametrize("why", ["not ready within 2 s", "token 3 differs"])
def test_settings_by_which_it_does_not_serve_are_taken_back(why):
    world = serving("old")
    world.asked = "new"
    if why.startswith("token"):
        world.behaviour["old"] = "wrong"
    else:
        world.refuses = {"new"}
    words = rf"^the settings of old are not changed \(settings old → new\): {why}\. It is live as it was\.$"
    with pytest.raises(RolloutFailed, match=words) as failure:
        world.roll("old", "old")
    assert world.calls[-1] == "restore old" and (world.settings, world.changing) == ("old", False)
    assert settled(world, "old") and world.notes[-1] == ("failed", str(failure.value))


def test_what_cannot_be_taken_back_is_told():
    world = serving("old")
    world.asked, world.refuses = "new", {"new", "restore"}
    with pytest.raises(TargetError, match=r"not ready within 2 s\), nor restored: no node has room; old is live"):
        world.roll("old", "old")


def test_without_room_for_both_the_outage_of_a_change_is_announced_and_measured():
    world = serving("old", "replace")
    world.asked = "new"
    assert world.roll("old", "old").outage_seconds == 2
    assert "nothing is served until its servers have started anew" in world.notes[0][1]
    assert world.notes[1] == ("changing its settings", "served again after 2.0 s")
    world.asked, world.refuses = "newer", {"newer"}
    with pytest.raises(RolloutFailed, match=r"Nothing was served for 5\.0 s\. It is live as it was\.$"):
        world.roll("old", "old")


def test_a_rollouts_settings_are_not_for_the_release_that_it_fails_to_replace():
    world = serving("old", new="crash")
    world.asked = "new"
    with pytest.raises(RolloutFailed):
        world.roll("new", "old")
    assert "change old" not in world.calls and settled(world, "old")


@pytest.mark.parametrize("strategy", ["surge", "replace"])
def test_a_change_that_was_interrupted_is_taken_back_before_another_release_comes(strategy):
    world = serving("old", strategy)
    world.changing = True
    world.roll("new", "old")
    assert settled(world, "new")
    assert ("restore old" in world.calls) == (strategy == "surge")  # else it makes room


def test_a_change_that_nobody_asks_for_any_more_is_taken_back():
    world = serving("old")
    world.changing = True
    world.roll("old", "old")
    assert world.calls == ["restore old"] and not world.changing


@pytest.mark.parametrize("settings", ["new", "bad"])
def test_a_change_that_dies_at_any_moment_is_finished_by_whoever_comes_next(settings):
    for moment in range(1, 100):
        world = serving("old")
        world.asked, world.refuses, world.dies_at = settings, {"bad"}, moment
        try:
            world.roll("old", "old")
        except RolloutFailed:
            assert settings == "bad" and settled(world, "old")
            return
        except Killed:
            world.dies_at = None
            try:
                world.roll("old", "old")
            except RolloutFailed:
                assert settings == "bad"
        else:
            assert settings == "new"
        assert settled(world, "old") and not world.changing
        assert world.settings == ("new" if settings == "new" else "old")
        if settings == "new" and world.dies_at is not None:
            return
    pytest.fail("it never ended")
