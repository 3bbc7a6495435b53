"""What the janitor does about each service, by what a dead rollout has left."""

from __future__ import annotations

import pytest

from components.rollout.kserve import janitor


def first_live(place, one):
    target = place.target()
    with target.hold():
        target.apply(*one)
        target.route({one[0]: 100})
        target.promote(one[0])


def test_an_orderly_service_is_left_alone(place, store, one):
    first_live(place, one)
    before = place.annotations()
    assert janitor.run(store, "serving") == [{"service": "chat", "did": "nothing", "why": "nothing was left"}]
    assert place.annotations() == before


def test_a_rollout_at_work_is_left_alone(place, store, one, two):
    first_live(place, one)
    target = place.target()
    with target.hold():
        target.apply(*two)
        (told,) = janitor.run(store, "serving")
    assert told["did"] == "nothing" and "is at work since" in told["why"]
    assert place.target().observe().candidate is not None


@pytest.mark.parametrize("left", ["applied", "split", "switched", "promoted"])
def test_what_a_dead_rollout_has_left_is_finished(place, store, one, two, left):
    first_live(place, one)
    target = place.target("run-2")
    with target.hold():
        target.apply(*two)
        if left == "split":
            target.route({one[0]: 50, two[0]: 50})
        if left in ("switched", "promoted"):
            target.route({two[0]: 100})
        if left == "promoted":
            target.promote(two[0])
    (told,) = janitor.run(store, "serving")
    assert told == {"service": "chat", "did": "finished", "why": f"{two[0]} is live"}
    seen = place.target().observe()
    assert seen.live == seen.stable.digest == two[0] and seen.candidate is None and seen.retired == ()
    assert seen.in_force and seen.routed == {two[0]: 100}
    assert place.target().history()[-1] | {"since": ""} == {"digest": two[0], "since": "", "run_id": "run-2-1"}
    assert place.target().held_by() is None


def test_what_cannot_be_finished_is_rolled_back(place, store, one, two):
    first_live(place, one)
    target = place.target()
    with target.hold():
        target.apply(*two)
    place.world.behaviour[two[0][7:17]] = "wrong"
    (told,) = janitor.run(store, "serving")
    assert told["did"] == "rolled back" and "golden answer 1" in told["why"] and f"{one[0]} is live" in told["why"]
    assert place.names() == {f"chat-{one[0][7:17]}"}
    assert place.target().observe().live == one[0]


@pytest.mark.parametrize("share", [0, 50, 100])
def test_what_a_dead_rollout_has_rejected_is_taken_out(place, store, one, two, share):
    first_live(place, one)
    target = place.target()
    with target.hold():
        target.apply(*two)
        target.route({one[0]: 100 - share, two[0]: share})
        target.reject(two[0], "5 of 6 requests failed")
    (told,) = janitor.run(store, "serving")
    assert told["did"] == "rolled back"
    assert "did not go live: 5 of 6 requests failed" in told["why"] and f"{one[0]} is live" in told["why"]
    assert place.names() == {f"chat-{one[0][7:17]}"} and "slipway.dev/rejected" not in place.annotations()
    assert place.target().observe().live == one[0]


def test_a_release_that_was_rejected_may_be_tried_again(place, store, one, two):
    first_live(place, one)
    target = place.target()
    with target.hold():
        target.apply(*two)
        target.reject(two[0], "5 of 6 requests failed")
        target.remove(two[0])
        target.apply(*two)
        assert target.observe().rejected == ""
    (told,) = janitor.run(store, "serving")
    assert told["did"] == "finished" and place.target().observe().live == two[0]


def test_one_service_that_is_broken_holds_up_no_other(place, store, one, two):
    first_live(place, one)
    target = place.target()
    with target.hold():
        target.apply(*two)
    broken = place.target(service="another")
    with broken.hold():
        broken.note("starting")
    route = place.api.one("httproutes", "another")
    route["metadata"]["annotations"]["slipway.dev/config"] = '{"service": "?"}'
    place.api.put("httproutes", route)
    first, second = janitor.run(store, "serving")
    assert first["did"] == "failed" and "not valid" in first["why"]
    assert second["did"] == "finished"
