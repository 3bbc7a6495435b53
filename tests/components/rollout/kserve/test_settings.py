"""Other settings for the release that is live: changed where it serves, or as they were, and never in silence."""

from __future__ import annotations

import pytest

from components.rollout.config import RolloutConfig
from components.rollout.kserve import janitor, objects
from components.rollout.target import RolloutFailed
from components.step_config import RunSettings
from components.store import Store
from tests.components.rollout.kserve.test_address import gateway, met_at, move
from tests.components.rollout.kserve.test_janitor import first_live
from tests.components.rollout.kserve.test_kill import bring, settled_on


@pytest.fixture
def one(place):
    place.releases = {"one": place.release("one"), "two": place.release("two")}
    first_live(place, place.releases["one"])
    return place.releases["one"]


def isvc(place, release):
    return place.api.one("inferenceservices", f"chat-{release[0][7:17]}")


def again(place, release):
    bring(place, release, release[0], place.cluster())


def recorded(place, release):
    return place.target().settings(release[0])


def without_moments(made):
    return {key: value for key, value in made["metadata"]["annotations"].items()}, made["spec"]


def test_other_settings_reach_what_is_live(place, one):
    before = isvc(place, one)
    uid, facts = before["metadata"]["uid"], objects.facts_of(before)
    move(place, memory="4Gi", replicas=2, node_selector={"pool": "models"})
    again(place, one)
    settled_on(place, one[0])
    changed = isvc(place, one)
    assert changed["metadata"]["uid"] == uid and objects.facts_of(changed) == facts
    predictor = changed["spec"]["predictor"]
    assert predictor["model"]["resources"]["limits"] == {"memory": "4Gi"}
    assert predictor["minReplicas"] == 2 and predictor["nodeSelector"] == {"pool": "models"}
    assert recorded(place, one) == place.config
    assert [budget["spec"]["maxUnavailable"] for budget in place.api.all("poddisruptionbudgets")] == [1]
    assert len(place.target().history()) == 1


def test_the_same_settings_again_write_nothing(place, one):
    before = isvc(place, one)["metadata"]["resourceVersion"]
    place.config = place.config.model_copy(update={"stages": [30, 100], "min_requests": 1})
    again(place, one)
    assert isvc(place, one)["metadata"]["resourceVersion"] == before


@pytest.mark.parametrize("how", ["no image", "crash", "slow", "wrong", "not reconciled"])
def test_settings_by_which_it_does_not_serve_are_taken_back(place, one, how):
    before, good = without_moments(isvc(place, one)), place.config
    place.config = good.model_copy(update={"ready_seconds": 1, "drain_seconds": 1})
    move(place, memory="4Gi", grace_seconds=8)
    place.world.behaviour[one[0][7:17]] = how
    place.world.reconciles = how != "not reconciled"
    with pytest.raises(RolloutFailed, match=r"kserve.memory 2Gi → 4Gi.* It is live as it was\.$"):
        again(place, one)
    place.world.behaviour.clear()
    settled_on(place, one[0])
    assert without_moments(isvc(place, one)) == before and recorded(place, one) == good
    assert "slipway.dev/asked-config" not in place.annotations()


def test_more_pods_are_not_other_pods(place, one):
    """More pods for a release that has too few: those that answer must not be made anew for it."""
    move(place, replicas=3)
    mark = objects.settings_of(isvc(place, one))
    again(place, one)
    settled_on(place, one[0])
    assert objects.settings_of(isvc(place, one)) == mark
    replace = place.config.model_copy(update={"strategy": "replace"})
    assert objects.differences(place.config, replace) == "strategy surge → replace"
    assert not objects.has_other_pods(place.config, replace)


@pytest.mark.parametrize("was", [None, 4])
def test_an_autoscaler_is_not_made_or_left_behind_in_place(place, was):
    place.releases = {"one": place.release("one")}
    scaled = {"max_replicas": 4, "prometheus": "http://prometheus:9090"}
    move(place, **(scaled if was else {}))
    first_live(place, place.releases["one"])
    move(place, **(dict.fromkeys(scaled, None) | {"prometheus": ""} if was else scaled))
    with pytest.raises(
        RolloutFailed, match=r"max_replicas cannot be set or taken away .* bring it with another release"
    ):
        again(place, place.releases["one"])
    settled_on(place, place.releases["one"][0])


def test_what_is_live_moves_to_another_address(place, one):
    gateway(place, "edge")
    move(place, gateway="slipway-system/edge", hostname="new.example")
    again(place, one)
    settled_on(place, one[0])
    assert met_at(place) == ({"edge"}, {"new.example"}) and recorded(place, one) == place.config


def test_an_address_that_does_not_answer_is_taken_back(place, one):
    move(place, hostname="old.example")
    again(place, one)
    gateway(place, "slipway", hostname="*.example")
    good = place.config
    move(place, hostname="new.another")
    with pytest.raises(RolloutFailed, match=r"hostname old.example → new.another.*does not route by"):
        again(place, one)
    settled_on(place, one[0])
    assert met_at(place) == ({"slipway"}, {"old.example"}) and recorded(place, one) == good


@pytest.mark.parametrize("good", [True, False])
def test_the_janitor_ends_a_change_whose_process_died(place, tmp_path, one, good):
    before = place.config
    move(place, memory="4Gi")

    class Gone(BaseException):
        pass

    def die():
        raise Gone

    target = place.target()
    with target.hold(), pytest.raises(Gone):
        target.change(*one, die)
    assert recorded(place, one) == before
    place.world.behaviour[one[0][7:17]] = "good" if good else "wrong"
    (told,) = janitor.run(Store(RunSettings(name="janitor", store=str(tmp_path / "store"))), "serving")
    assert told["did"] == ("finished" if good else "rolled back"), told
    settled_on(place, one[0])
    assert recorded(place, one) == (place.config if good else before)
    assert RolloutConfig.model_validate(recorded(place, one).model_dump()) == recorded(place, one)


def test_another_release_takes_a_change_back_that_died(place, one):
    two = place.releases["two"]
    target = place.target(kserve={"memory": "4Gi"})
    with target.hold(), pytest.raises(KeyError):
        target.change(*one, lambda: {}["dies"])
    place.world.behaviour[two[0][7:17]] = "crash"
    with pytest.raises(RolloutFailed):
        bring(place, two, one[0], place.cluster())
    settled_on(place, one[0])
    assert isvc(place, one)["spec"]["predictor"]["model"]["resources"]["limits"] == {"memory": "2Gi"}
    assert recorded(place, one) == place.config
