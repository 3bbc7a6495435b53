"""One stage: what is counted from when it begins, and what interrupts it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from components.rollout.target import CheckFailed, TargetError, Traffic
from components.rollout.watch import PATIENCE, Watch
from tests.components.rollout.world import LIMITS, Answers, World


def watch(world, goes_on=lambda seen: True):
    candidate = world.observe().candidate
    return Watch(world, Answers(world), LIMITS, lambda: world.now, candidate, "old", Path("new"), goes_on)


def sharing(**behaviour):
    return World(
        stable="old",
        candidate="new",
        instances={"old": "ready", "new": "ready"},
        routed={"old": 50, "new": 50},
        behaviour=behaviour,
    )


def test_only_what_is_counted_since_the_stage_began_decides():
    world = sharing()
    world.counted["new", "requests"], world.counted["new", "errors"] = 500, 400
    world.counted["old", "requests"] = 900
    assert watch(world).until_decided() == "0 of 4 requests failed, of the stable release's 0 of 2"


def test_golden_prompts_are_replayed_only_until_there_are_enough_requests():
    world, replays = sharing(), []
    answers = Answers(world)
    replay = answers.replay
    answers.replay = lambda url, digest, release, turn: (replays.append(turn), replay(url, digest, release, turn))
    one = watch(world)
    one.check = answers
    one.until_decided()
    assert replays == [0, 1]  # two more came through the public address meanwhile


def test_a_stable_release_that_restarts_is_counted_from_there():
    world = sharing()
    world.counted["old", "requests"] = 900
    world.on_wait = lambda world: world.counted.update({("old", "requests"): 7 - world.counted["old", "requests"]})
    assert watch(world).until_decided().endswith("of 7")


def counting(world, *readings):
    """The servers of `new` count so, reading by reading; the last one stays."""
    turns = iter(readings)
    now = {}

    def traffic():
        now.update(new=next(turns, now.get("new")))
        return {"new": {server: Traffic(*count) for server, count in now["new"].items()}}

    world.traffic = traffic


def test_a_server_that_is_gone_keeps_what_it_had_counted():
    """An autoscaler takes a pod away, or a node is drained: nothing has restarted."""
    world = sharing()
    counting(world, {"a": (10, 0), "b": (50, 0)}, {"a": (11, 0), "b": (52, 0)}, {"a": (12, 0)})
    assert watch(world).until_decided() == "0 of 4 requests failed"
    counting(world, {"a": (10, 0), "b": (50, 0)}, {"a": (10, 0), "b": (51, 1)}, {"a": (10, 0)})
    with pytest.raises(CheckFailed, match="1 of 1 requests failed"):
        watch(world).until_decided()


def test_a_server_that_restarts_is_seen_beside_busier_ones():
    world = sharing()
    counting(world, {"a": (10, 0), "b": (50, 0)}, {"a": (500, 0), "b": (3, 0)})
    with pytest.raises(CheckFailed, match="its server restarted: it has counted 3 requests after 50"):
        watch(world).until_decided()


def test_a_server_that_comes_meanwhile_is_counted_from_its_start():
    world = sharing()
    counting(world, {"a": (10, 0)}, {"a": (10, 0), "b": (4, 0)})
    assert watch(world).until_decided() == "0 of 4 requests failed"


@pytest.mark.parametrize("times", range(1, PATIENCE + 2))
def test_a_place_that_is_unreadable_a_few_times_is_read_again(times):
    world = sharing()
    one = watch(world)
    world.unreadable = times
    one.limits = replace(LIMITS, stage_seconds=60)
    if times < PATIENCE:
        assert one.until_decided()
    else:
        with pytest.raises(CheckFailed, match="cannot be counted: no route to host"):
            one.until_decided()


def test_a_candidate_without_a_server_cannot_be_counted():
    world = sharing()
    one = watch(world)
    world.instances.pop("new")
    with pytest.raises(CheckFailed, match="no server of it is there"):
        one.until_decided()


def test_a_stage_that_is_over_for_another_reason_is_left_undecided():
    world = sharing()
    assert watch(world, goes_on=lambda seen: False).until_decided() is None
    assert world.counted["new", "requests"] == 0


def test_a_golden_answer_that_differs_ends_the_stage():
    with pytest.raises(CheckFailed, match="token 7 differs"):
        watch(sharing(new="wrong_later")).until_decided()


def test_an_error_that_nobody_expects_is_not_swallowed():
    world = sharing()
    one = watch(world)
    world.traffic = lambda: {}["weights"]
    with pytest.raises(KeyError):
        one.until_decided()
    world.traffic = lambda: (_ for _ in ()).throw(TargetError("gone"))
    with pytest.raises(CheckFailed, match="gone"):
        one.until_decided()
