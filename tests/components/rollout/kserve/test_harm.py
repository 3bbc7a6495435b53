"""What a rollout and its janitor must not do: take down what answers, or trust what does not."""

from __future__ import annotations

import json
import time

import pytest

from components.rollout.kserve import janitor
from components.rollout.kserve.lease import _SURE_SECONDS, Lock
from components.rollout.kserve.publish import publish
from components.rollout.kserve.target import recorded_config
from components.rollout.target import LockLost, RolloutFailed, TargetError
from tests.components.rollout.kserve.fake_api import Fault, _pod_status
from tests.components.rollout.kserve.test_janitor import first_live
from tests.components.rollout.kserve.test_kill import bring, settled_on


@pytest.fixture
def releases(place):
    place.releases = {name: place.release(name) for name in ("one", "two")}
    first_live(place, place.releases["one"])
    return place.releases["one"], place.releases["two"]


def degrade(place, digest):
    """After an edit of the runtime: KServe makes a second pod that cannot be pulled, and the old one still answers."""
    backend = f"chat-{digest[7:17]}-predictor"
    deployment = place.api.one("deployments", backend)
    deployment["status"] |= {"replicas": 2, "updatedReplicas": 1, "availableReplicas": 1}
    place.api.put("deployments", deployment, deployment["status"])
    old = place.api.one("pods", f"{backend}-x")
    pod = {"kind": "Pod", "metadata": {"name": f"{backend}-y", "labels": old["metadata"]["labels"]}}
    place.api.put("pods", pod, _pod_status("no image"))
    place.world.behaviour[digest[7:17]] = "no image"  # what would become of it if it were made anew


def test_a_live_release_that_answers_is_never_made_anew(place, releases):
    one, two = releases
    made = place.api.one("inferenceservices", f"chat-{one[0][7:17]}")["metadata"]["uid"]
    degrade(place, one[0])
    target = place.target()
    assert target.observe().stable.state == "ready"
    with target.hold():
        target.apply(*one)
    assert place.api.one("inferenceservices", f"chat-{one[0][7:17]}")["metadata"]["uid"] == made
    bring(place, two, one[0], place.cluster())
    settled_on(place, two[0])


@pytest.mark.parametrize("killed", ["when the route was empty", "when the old one was starting again"])
def test_the_janitor_ends_an_outage_of_strategy_replace(place, store, releases, killed):
    one, _ = releases
    place.config = place.config.model_copy(update={"strategy": "replace"})
    target = place.target()
    with target.hold():
        target.route({})
        if killed != "when the route was empty":
            target.stop(one[0])
            target.apply(*one)
    (told,) = janitor.run(store, "serving")
    assert told["did"] == "finished", told
    settled_on(place, one[0])


def test_the_janitor_makes_a_live_release_again_that_nothing_is_left_of(place, store, releases):
    """Its rollout died between the deletion of its failed servers and their making; the route leads there still."""
    one, _ = releases
    place.world._end(f"chat-{one[0][7:17]}")
    assert place.target().observe().routed == {one[0]: 100}
    (told,) = janitor.run(store, "serving")
    assert told["did"] == "finished", told
    settled_on(place, one[0])


def test_the_janitor_leaves_a_live_release_alone_whose_pods_fail(place, store, releases):
    """The cluster goes on trying; to make it anew could only take what is left of it."""
    one, _ = releases
    backend = f"chat-{one[0][7:17]}-predictor"
    pod = place.api.one("pods", f"{backend}-x")
    place.api.put("pods", pod, _pod_status("crash"))
    place.api.drop("endpointslices", f"{backend}-s")
    assert place.target().observe().stable.state == "failed"
    (told,) = janitor.run(store, "serving")
    assert told["why"] == "nothing was left"


def test_one_unreadable_service_holds_up_no_other(place, store, releases):
    _, two = releases
    target = place.target()
    with target.hold():
        target.apply(*two)
    other = place.target(service="another", kserve={"hostname": "another.test"})
    with other.hold():
        other.note("starting")
    route = place.api.one("httproutes", "another")
    route["metadata"]["annotations"]["slipway.dev/history"] = "[oops"
    place.api.put("httproutes", route)
    told = {one["service"]: one for one in janitor.run(store, "serving")}
    assert told["another"]["did"] == "failed" and "slipway.dev/history is not JSON" in told["another"]["why"]
    assert told["chat"]["did"] == "finished"


def test_a_watch_that_is_refused_once_costs_nothing(place, releases):
    one, two = releases
    refused = Fault(lambda method, path: "watch=true" in path and "/pods" in path, status=403, times=1)
    place.api.faults.append(refused)
    bring(place, two, one[0], place.cluster())
    assert refused.times == 0
    settled_on(place, two[0])


def test_a_renewal_that_somebody_has_overtaken_is_none(place):
    lock = Lock(place.cluster(), "chat", "run", renew_seconds=100)
    lock.acquire()
    lock._renewed = (lock._renewed[0] - 29, lock._renewed[1] - 29)
    cluster = lock._cluster
    read = cluster.get

    def overtaken(kind, name, *rest):
        found = read(kind, name, *rest)
        theirs = json.loads(json.dumps(found))
        theirs["spec"]["holderIdentity"] = "other/1/x"
        place.api.put("leases", theirs)
        cluster.get = read
        return found

    cluster.get = overtaken
    lock._renew()
    with pytest.raises(LockLost):
        lock.check()
    lock.release()


@pytest.mark.parametrize(
    ("method", "act"),
    [("DELETE", lambda target, two: target.remove(two[0])), ("PATCH", lambda target, two: target.apply(*two))],
    ids=["delete", "apply"],
)
def test_a_change_that_is_tried_again_asks_again_for_the_lock(place, releases, method, act):
    """Another rollout may have made live, by then, what this one wanted to delete."""
    _, two = releases
    target = place.target()
    with target.hold():
        if method == "DELETE":
            target.apply(*two)
        meant = Fault(lambda how, path: how == method and "inferenceservices" in path, 503, times=1000)
        place.api.faults.append(meant)
        almost = _SURE_SECONDS - 0.5
        target._lock._renewed = (time.monotonic() - almost, time.time() - almost)
        with pytest.raises(LockLost, match="could not be renewed"):
            act(target, two)
    assert 0 < 1000 - meant.times < 8


def test_who_has_lost_the_lock_waits_for_nothing(place, releases):
    target = place.target()
    with target.hold():
        target.wait(0.01)
        target._lock._renewed = (time.monotonic() - _SURE_SECONDS, time.time() - _SURE_SECONDS)
        with pytest.raises(LockLost, match="could not be renewed"):
            target.wait(0.01)


def test_a_damaged_file_replaces_no_good_one(place, releases):
    (digest, directory), _ = releases
    uri = place.config.kserve.releases
    published = place.root / "published" / digest[7:] / "weights"
    (directory / "weights").write_text("damaged")
    assert publish(directory, uri, digest) == [] and published.read_text() == "one"
    published.unlink()
    with pytest.raises(TargetError, match="weights is damaged and not at"):
        publish(directory, uri, digest)


def test_what_is_none_of_ours_is_not_deleted(place, releases):
    _, two = releases
    name = f"chat-{two[0][7:17]}"
    place.api.put("inferenceservices", {"kind": "InferenceService", "metadata": {"name": name, "labels": {}}})
    target = place.target()
    with target.hold():
        with pytest.raises(TargetError, match="it is not of"):
            target.apply(*two)
        target.remove(two[0])
    assert place.api.one("inferenceservices", name)


def test_an_address_in_an_outage_is_still_taken(place, releases):
    target = place.target()
    with target.hold():
        target.route({})
    with pytest.raises(TargetError, match="service chat takes every host"):
        place.target(service="other").refuse_early()


@pytest.mark.parametrize("strategy", ["surge", "replace"])
def test_a_failed_rollouts_settings_do_not_outlive_it(place, store, releases, strategy):
    """The live release is started again, and returned to, as it went live."""
    one, two = releases
    place.world.behaviour[two[0][7:17]] = "no image"
    kserve = place.config.kserve.model_copy(update={"image": f"registry.example/bad@sha256:{'0' * 64}"})
    good, place.config = place.config, place.config.model_copy(update={"kserve": kserve, "strategy": strategy})
    with pytest.raises(RolloutFailed):
        bring(place, two, one[0], place.cluster())
    settled_on(place, one[0])
    assert "image" not in place.api.one("inferenceservices", f"chat-{one[0][7:17]}")["spec"]["predictor"]["model"]
    assert recorded_config(place.cluster(), "chat") == good


def test_who_finishes_a_rollout_or_starts_a_release_again_has_not_brought_it(place, store, releases):
    _, two = releases
    dead = place.target("run-2")
    with dead.hold():
        dead.apply(*two)
        dead.route({two[0]: 100})
    other = place.target("run-3")
    with other.hold():
        other.promote(two[0])
        other.route({})
        other.stop(two[0])
        other.apply(*two)
    assert other.history()[-1]["digest"] == two[0] and other.history()[-1]["run_id"] == "run-2-1"
    assert other.observe().stable.origin.run_id == "run-2-1"


def test_why_a_release_was_never_made_is_told_first(place, releases):
    """That there is none is no news then."""
    one, two = releases
    place.api.refuse = lambda plural, _: "no such runtime" if plural == "inferenceservices" else ""
    with pytest.raises(RolloutFailed, match=r"did not go live: cannot apply InferenceService .*: no such runtime"):
        bring(place, two, one[0], place.cluster())
    settled_on(place, one[0])
