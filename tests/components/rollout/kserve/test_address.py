"""A service moves to another gateway or hostname: only a new release that is proven takes it there."""

from __future__ import annotations

import pytest

from components.rollout.kserve import janitor
from components.rollout.target import RolloutFailed, TargetError
from components.step_config import RunSettings
from components.store import Store
from tests.components.rollout.kserve.test_janitor import first_live
from tests.components.rollout.kserve.test_kill import bring, settled_on

OLD, NEW = "old.example", "new.example"
INSIDE, EDGE = "slipway-system/slipway", "slipway-system/edge"


def move(place, **address):
    """What the run file asks for from now on."""
    place.config = place.config.model_copy(update={"kserve": place.config.kserve.model_copy(update=address)})


def gateway(place, name, **listener):
    made = {"name": "http", "protocol": "HTTP", "port": place.world._gateway.server_port} | listener
    status = {"addresses": [{"type": "IPAddress", "value": "127.0.0.1"}]}
    metadata = {"name": name, "namespace": "slipway-system"}
    place.api.put("gateways", {"kind": "Gateway", "metadata": metadata, "spec": {"listeners": [made]}}, status)


def met_at(place):
    """Gateways and hostnames of the route."""
    spec = place.api.one("httproutes", "chat")["spec"]
    return {one["name"] for one in spec.get("parentRefs", [])}, set(spec.get("hostnames", []))


@pytest.fixture
def releases(place):
    place.releases = {name: place.release(name) for name in ("one", "two")}
    move(place, hostname=OLD)
    first_live(place, place.releases["one"])
    return place.releases["one"], place.releases["two"]


@pytest.fixture
def seen(place):
    """Gateways and hostnames of the route, in the order in which they were written, and its weights."""
    written = []
    follow = place.world._follow

    def noting(route):
        now = (*met_at(place), len(place.world.served))
        if not written or written[-1] != now:
            written.append(now)
        follow(route)

    place.world._follow = noting
    return written


def test_a_rollout_moves_a_service_to_another_hostname(place, releases, seen):
    one, two = releases
    move(place, hostname=NEW)
    bring(place, two, one[0], place.cluster())
    settled_on(place, two[0])
    assert met_at(place) == ({"slipway"}, {NEW})
    assert [names for _, names, _ in seen if names] == sorted(
        (names for _, names, _ in seen), key=[{OLD}, {OLD, NEW}, {NEW}].index
    ), "the old one, then both, then the new one"
    assert {OLD, NEW} in [names for _, names, _ in seen]
    assert place.target().url.startswith(f"http://{NEW}:")


def test_a_rollout_moves_a_service_to_another_gateway(place, releases):
    one, two = releases
    gateway(place, "edge")
    move(place, gateway=EDGE, hostname="")
    bring(place, two, one[0], place.cluster())
    settled_on(place, two[0])
    assert met_at(place) == ({"edge"}, set())


@pytest.mark.parametrize("how", ["no image", "crash", "wrong"])
@pytest.mark.parametrize("strategy", ["surge", "replace"])
def test_a_release_that_fails_moves_nothing(place, releases, seen, how, strategy):
    one, two = releases
    place.world.behaviour[two[0][7:17]] = how
    move(place, hostname=NEW)
    place.config = place.config.model_copy(update={"strategy": strategy})
    with pytest.raises(RolloutFailed, match=f"{one[0]} is live"):
        bring(place, two, one[0], place.cluster())
    settled_on(place, one[0])
    assert {frozenset(names) for _, names, _ in seen} == {frozenset({OLD})}
    assert place.target().url.startswith(f"http://{OLD}:")


@pytest.mark.parametrize("listener", [OLD, "*.example"])
def test_a_hostname_that_the_gateway_does_not_take_is_given_up(place, releases, listener):
    one, two = releases
    gateway(place, "slipway", hostname=listener)
    move(place, hostname="new.another")
    with pytest.raises(RolloutFailed, match=rf"http://new.another:\d+ does not route by .* None.* {one[0]} is live"):
        bring(place, two, one[0], place.cluster())
    settled_on(place, one[0])
    assert met_at(place) == ({"slipway"}, {OLD})


def test_a_new_address_must_show_itself_alone_before_the_old_one_goes(place, releases):
    """Beside a side without a hostname the route names none, so that the gateway's refusal shows at the end only."""
    one, two = releases
    target = place.target(kserve={"hostname": ""})
    with target.hold():
        target.apply(*two)
        target.route({one[0]: 50, two[0]: 50})
        assert met_at(place) == ({"slipway"}, set())
        target.route({two[0]: 100})
        follow = place.world._follow

        def refuse(route):
            follow(route)
            if place.world.served:
                place.world.hostnames = ["nobody.example"]

        place.world._follow = refuse
        with pytest.raises(TargetError, match="does not route by"):
            target.promote(two[0])
        place.world._follow = follow
        assert target.observe().stable.digest == one[0]
        target.route({one[0]: 100})
        assert met_at(place) == ({"slipway"}, {OLD}) and target.observe().in_force


def test_the_janitor_takes_a_dead_move_back(place, tmp_path, releases):
    one, two = releases
    gateway(place, "slipway", hostname=OLD)
    dead = place.target(kserve={"hostname": NEW})
    with dead.hold():
        dead.apply(*two)
    store = Store(RunSettings(name="janitor", store=str(tmp_path / "store")))
    (told,) = janitor.run(store, "serving")
    assert told["did"] == "rolled back" and f"{one[0]} is live" in told["why"]
    settled_on(place, one[0])
    (told,) = janitor.run(store, "serving")
    assert told["did"] == "nothing"


def test_what_is_live_at_a_gateway_that_is_gone_can_be_moved(place, releases):
    one, two = releases
    gateway(place, "edge")
    place.api.drop("gateways", "slipway", "slipway-system")
    move(place, gateway=EDGE)
    bring(place, two, one[0], place.cluster())
    settled_on(place, two[0])
    assert met_at(place) == ({"edge"}, {OLD})


@pytest.mark.parametrize("theirs", [NEW, OLD])
def test_an_address_of_another_service_is_not_taken_on_the_way(place, releases, theirs):
    """Old gateway and new hostname make an address too, while the route has both."""
    gateway(place, "edge")
    other = place.target(service="other", kserve={"gateway": EDGE if theirs == OLD else INSIDE, "hostname": theirs})
    with other.hold():
        other.apply(*releases[1])
        other.route({releases[1][0]: 100})
    move(place, gateway=EDGE, hostname=NEW)
    with pytest.raises(TargetError, match=rf"service other takes {theirs} of Gateway slipway-system/\w+ already"):
        place.target().refuse_early()


def test_what_is_live_is_made_again_as_it_went_live(place, releases):
    """Fetched from where it was published, whatever a new run file says."""
    one, _ = releases
    other = place.target(kserve={"releases": (place.root / "elsewhere").as_uri(), "grace_seconds": 7})
    with other.hold():
        other.route({})
        other.stop(one[0])
        other.apply(*one)
    predictor = place.api.one("inferenceservices", f"chat-{one[0][7:17]}")["spec"]["predictor"]
    assert predictor["model"]["storageUri"].startswith(place.config.kserve.releases)
    assert predictor["terminationGracePeriodSeconds"] == 9 and not (place.root / "elsewhere").exists()
    assert other.settings(one[0]) == place.config
