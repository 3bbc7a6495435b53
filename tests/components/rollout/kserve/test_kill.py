"""A rollout that is killed at any write to the cluster, and whoever comes next: exactly old or new, and orderly."""

from __future__ import annotations

import dataclasses

import httpx
import pytest

from components.rollout.deliver import plan
from components.rollout.golden import GoldenCheck
from components.rollout.kserve.client import Cluster
from components.rollout.kserve.target import KServeTarget
from components.rollout.machine import Rollout
from components.rollout.target import Origin, RolloutFailed
from tests.components.rollout.kserve.fake_api import NAMESPACE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


class Killed(BaseException):
    """The process is gone: nothing of it may reach the cluster any more."""


class Dying(Cluster):
    """Dies at a write: before it is heard, or before its answer is."""

    at, heard, writes, dead = 0, False, 0, False

    def _send(self, method, path, *rest, **more):
        if self.dead:
            raise Killed
        if method == "GET" or "leases" in path:
            return super()._send(method, path, *rest, **more)
        self.writes += 1
        if self.writes != self.at:
            return super()._send(method, path, *rest, **more)
        if self.heard:
            super()._send(method, path, *rest, **more)
        self.dead = True
        raise Killed


def bring(place, release, expected, cluster):
    """One rollout by the machine, with the checks of a real one."""
    target = KServeTarget(place.config, origin=Origin("run", "run-1"), cluster=cluster)
    check = GoldenCheck(target.http, "chat", 0.05, 2)
    directories = {digest: directory for digest, directory in place.releases.values()}
    Rollout(target, release[0], expected, directories.__getitem__, check, lambda step: None, plan(place.config)).run()


def expire(place):
    """The lock of the dead runs out."""
    lease = place.api.one("leases", "slipway-chat")
    if lease and lease["spec"]["holderIdentity"]:
        lease["spec"] |= {"renewTime": "2020-01-01T00:00:00.000000Z", "holderIdentity": "a dead one"}
        lease["metadata"]["annotations"] = {}


def settled_on(place, digest):
    seen = place.target().observe()
    assert seen.live == seen.stable.digest == digest and seen.stable.state == "ready"
    assert seen.candidate is None and seen.retired == () and seen.in_force and dict(seen.routed) == {digest: 100}
    assert place.names() == {f"chat-{digest[7:17]}"}
    history = [entry["digest"] for entry in place.target().history()]
    assert len(history) == len(set(history)), "a release went live twice"


@pytest.fixture
def place(place):
    place.releases = {name: place.release(name) for name in ("one", "two", "three")}
    place.config = place.config.model_copy(update={"stages": [50, 100], "min_requests": 1})
    bring(place, place.releases["one"], None, place.cluster())
    return place


def dying(place, at, heard):
    made = Dying(place.cluster()._api, NAMESPACE, 2)
    made.at, made.heard = at, heard
    return made


def killed_at(place, at, heard) -> bool:
    """A rollout of "two" that dies at its write number `at`; False when it ended before that."""
    one, two = place.releases["one"], place.releases["two"]
    try:
        bring(place, two, one[0], dying(place, at, heard))
    except Killed:
        expire(place)
        return True
    return False


WRITES = range(1, 40)


@pytest.mark.parametrize("heard", [False, True], ids=["before it is heard", "after it is heard"])
def test_the_same_command_finishes_what_was_killed_at_any_write(place, heard):
    for at in WRITES:
        if not killed_at(place, at, heard):
            assert at > 15, "hardly a write was met"
            settled_on(place, place.releases["two"][0])
            return
        one, two = place.releases["one"][0], place.releases["two"]
        live = place.target().live()
        assert live in (one, two[0])
        bring(place, two, one, place.cluster())
        settled_on(place, two[0])
        bring(place, place.releases["one"], two[0], place.cluster())  # and back, for the next turn
        _forget_history(place)
    pytest.fail("it never ended")


def test_another_release_cleans_up_what_was_killed_at_any_write(place):
    for at in WRITES:
        if not killed_at(place, at, heard=True):
            assert at > 15, "hardly a write was met"
            return
        live = place.target().live()
        bring(place, place.releases["three"], live, place.cluster())
        settled_on(place, place.releases["three"][0])
        bring(place, place.releases["one"], place.releases["three"][0], place.cluster())
        _forget_history(place)
    pytest.fail("it never ended")


def test_a_rollback_that_was_killed_at_any_write_is_ended_and_not_taken_back(place):
    """The candidate would pass the next time."""
    one, two = place.releases["one"], place.releases["two"]
    ended = 0
    for at in WRITES:
        place.world.behaviour[two[0][7:17]] = "wrong"
        try:
            killed = killed_at(place, at, heard=True)
        except RolloutFailed:
            killed = False
        place.world.behaviour.clear()
        place.world.counts.clear()
        if not killed:
            assert ended > 1
            return
        if "slipway.dev/rejected" in place.annotations():
            ended += 1
            with pytest.raises(RolloutFailed, match="did not go live: golden answer 1"):
                bring(place, two, one[0], place.cluster())
        else:
            bring(place, one, one[0], place.cluster())
        settled_on(place, one[0])


@pytest.mark.parametrize("heard", [False, True], ids=["before it is heard", "after it is heard"])
def test_a_move_to_another_address_that_was_killed_at_any_write(place, heard):
    """Until the candidate has all the traffic, the old address answers."""
    here = place.config
    there = here.model_copy(update={"kserve": here.kserve.model_copy(update={"hostname": "new.example"})})
    one, two = place.releases["one"], place.releases["two"]
    for at in WRITES:
        place.config = there
        killed = killed_at(place, at, heard)
        seen = place.target().observe()
        if seen.live == one[0]:
            door = httpx.get(f"http://127.0.0.1:{place.world._gateway.server_port}/health")
            assert door.headers["x-slipway-release"] in seen.routed
        bring(place, two, seen.live, place.cluster())
        settled_on(place, two[0])
        assert place.world.hostnames == ["new.example"]
        if not killed:
            return
        place.config = here
        bring(place, one, two[0], place.cluster())
        assert place.world.hostnames == []
        _forget_history(place)
    pytest.fail("it never ended")


@pytest.mark.parametrize("heard", [False, True], ids=["before it is heard", "after it is heard"])
@pytest.mark.parametrize("ends", ["finished", "taken back"])
def test_a_change_of_settings_that_was_killed_at_any_write(place, ends, heard):
    """By the same command, or by another release that comes and fails: as asked for, or as it was."""
    here = place.config
    one, two = place.releases["one"], place.releases["two"]
    there = here.model_copy(
        update={"kserve": here.kserve.model_copy(update={"memory": "4Gi", "hostname": "new.example"})}
    )
    for at in WRITES:
        place.config = there
        try:
            bring(place, one, one[0], dying(place, at, heard))
        except Killed:
            expire(place)
        else:
            assert at > 6, "hardly a write was met"
            return
        assert place.target().live() == one[0] and place.world.served
        if ends == "finished":
            bring(place, one, one[0], place.cluster())
        elif recorded(place, one) == here:
            place.config, place.world.behaviour = here, {two[0][7:17]: "crash"}
            with pytest.raises(RolloutFailed):
                bring(place, two, one[0], place.cluster())
        settled_on(place, one[0])
        assert recorded(place, one) == place.config
        isvc = place.api.one("inferenceservices", f"chat-{one[0][7:17]}")
        assert isvc["spec"]["predictor"]["model"]["resources"]["limits"]["memory"] == place.config.kserve.memory
        assert place.world.hostnames == [name for name in [place.config.kserve.hostname] if name]
        place.config = here
        bring(place, one, one[0], place.cluster())  # and back, for the next turn
    pytest.fail("it never ended")


def recorded(place, release):
    return place.target().settings(release[0])


def _forget_history(place):
    """Going to and fro is this test's doing."""
    target = place.target()
    with target.hold():
        target._change(lambda record: dataclasses.replace(record, history=record.history[-1:]))
