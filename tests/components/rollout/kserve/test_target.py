"""The target against a cluster in memory: what it makes, sees, refuses, and leaves behind when it is cut off."""

from __future__ import annotations

import json
import threading
import time

import pytest

from components.rollout.kserve.target import recorded_config, services
from components.rollout.target import TargetError, Traffic
from components.step_config import InputError
from tests.components.rollout.kserve.fake_api import Fault


def name(digest):
    return f"chat-{digest[7:17]}"


def roll(target, release):
    """All that a rollout does to a target when everything goes well."""
    digest, directory = release
    target.apply(digest, directory)
    target.route({digest: 100})
    old = target.live() if target.observe().stable is None else target.observe().stable.digest
    target.promote(digest)
    if old and old != digest:
        target.remove(old)


@pytest.fixture
def target(place):
    made = place.target()
    with made.hold():
        yield made


@pytest.fixture
def served(target, one):
    """A target where release `one` is live."""
    roll(target, one)
    return target


HEALTH = "default: {config: {type: HTTP, httpHealthCheck: {requestPath: /health}}}"
TIMEOUT = "default: {timeoutSec: 600}"
SIGN_IN = "default: {iap: {enabled: true, clientID: c.apps.googleusercontent.com, oauth2ClientSecret: {name: s}}}"


def treats_backends(place, **policies):
    """The ConfigMap by which a cluster says how its gateway is to treat every release."""
    place.api.put("configmaps", {"metadata": {"name": "backend-policies"}, "data": policies})


# ----------------------------------------------------------------------------------------------- rollouts


def test_nothing_is_there_at_first(target):
    seen = target.observe()
    assert (seen.live, seen.stable, seen.candidate, seen.retired) == (None, None, None, ())
    assert target.live() is None and not seen.in_force and not seen.routed


def test_a_candidate_gets_no_traffic(place, target, one):
    target.apply(*one)
    seen = target.observe()
    assert seen.candidate.digest == one[0] and seen.candidate.state == "ready"
    assert seen.live is None and seen.routed == {} and place.world.served == {}


def test_a_first_release_goes_live(place, served, one):
    seen = served.observe()
    assert seen.live == seen.stable.digest == served.live() == one[0]
    assert seen.candidate is None and seen.in_force and seen.routed == {one[0]: 100}
    assert [entry["digest"] for entry in served.history()] == [one[0]]
    assert seen.stable.origin.run_id == "test-1"
    assert place.names() == {name(one[0])}


def test_traffic_is_split_by_weight(place, served, one, two):
    served.apply(*two)
    for share in (10, 50):
        served.route({one[0]: 100 - share, two[0]: share})
        seen = served.observe()
        assert seen.routed == {one[0]: 100 - share, two[0]: share} and seen.in_force and seen.live == one[0]
        assert served._answers(100, {one[0], two[0]}).count(two[0]) == share


def test_a_second_release_replaces_the_first(place, served, one, two):
    roll(served, two)
    seen = served.observe()
    assert seen.live == two[0] and seen.previous == one[0] and seen.retired == ()
    assert place.names() == {name(two[0])}
    assert [entry["digest"] for entry in served.history()] == [one[0], two[0]]


def test_a_replaced_release_is_seen_until_it_is_removed(served, one, two):
    served.apply(*two)
    served.route({two[0]: 100})
    assert served.observe().live == two[0]  # switched, and not yet promoted
    served.promote(two[0])
    assert [old.digest for old in served.observe().retired] == [one[0]]
    served.remove(one[0])
    assert served.observe().retired == ()


def test_every_step_may_be_repeated(place, served, two):
    for _ in range(2):
        served.apply(*two)
    for _ in range(2):
        served.route({two[0]: 100})
    for _ in range(2):
        served.promote(two[0])
    assert len(served.history()) == 2
    old = served.observe().retired[0].digest
    for _ in range(2):
        served.remove(old)
    assert place.names() == {name(two[0])}


def test_a_release_is_never_changed_where_it_serves(place, served, one):
    before = place.api.one("inferenceservices", name(one[0]))["metadata"]["resourceVersion"]
    served.apply(*one)
    served.note("live")
    assert place.api.one("inferenceservices", name(one[0]))["metadata"]["resourceVersion"] == before


def test_what_is_routed_is_not_removed(served, one):
    for end in (served.remove, served.stop):
        with pytest.raises(TargetError, match="gets traffic and is not removed"):
            end(one[0])


def test_nothing_is_routed_to_servers_that_are_not_ready(place, served, one, two):
    place.world.behaviour[two[0][7:17]] = "slow"
    served.apply(*two)
    with pytest.raises(TargetError, match="no server that is ready"):
        served.route({one[0]: 90, two[0]: 10})
    assert served.observe().routed == {one[0]: 100}


def test_without_weights_nothing_is_served(place, served):
    served.route({})
    assert place.world.served == {} and served._answers(1, ()) == [None]
    assert served.observe().routed == {}


def test_a_gateway_that_does_not_follow_is_told(place, served, one, two):
    served.apply(*two)
    place.world.follows = False
    with pytest.raises(TargetError, match=r"does not route by sha256:\w+ 100 after 2 s: its generation \d+ is not yet"):
        served.route({two[0]: 100})


def test_a_gateway_whose_status_runs_ahead_is_not_believed(place, served, one, two):
    """It says that it has taken up the route, and still answers by the old one."""
    served.apply(*two)
    served_before = dict(place.world.served)
    follow = place.world._follow

    def only_says(route):
        follow(route)
        place.world.served = served_before

    place.world._follow = only_says
    with pytest.raises(TargetError, match=rf"it answers by {one[0]}"):
        served.route({two[0]: 100})


def test_the_stable_release_makes_room_and_comes_back(place, served, one):
    served.route({})
    served.stop(one[0])
    seen = served.observe()
    assert seen.stable.state == "stopped" and seen.live == one[0] and place.names() == set()
    served.apply(*one)
    assert served.observe().stable.state == "ready" and served.observe().candidate is None


# ------------------------------------------------------------------------------------------------ failures


@pytest.mark.parametrize(("how", "words"), [("no image", "cannot be pulled"), ("crash", "it broke")])
def test_a_release_that_cannot_start_has_failed(place, target, one, how, words):
    place.world.behaviour[one[0][7:17]] = how
    target.apply(*one)
    candidate = target.observe().candidate
    assert candidate.state == "failed" and words in candidate.reason


def test_a_release_that_is_late_has_failed(place, one):
    place.world.behaviour[one[0][7:17]] = "slow"
    target = place.target(ready_seconds=1)
    with target.hold():
        target.apply(*one)
        time.sleep(2.1)  # the API tells moments in whole seconds
        candidate = target.observe().candidate
    assert candidate.state == "failed" and candidate.reason.startswith("not ready within 1 s")


def test_a_failed_release_is_made_anew(place, target, one):
    place.world.behaviour[one[0][7:17]] = "crash"
    target.apply(*one)
    first = place.api.one("inferenceservices", name(one[0]))["metadata"]["uid"]
    place.world.behaviour.clear()
    target.apply(*one)
    assert target.observe().candidate.state == "ready"
    assert place.api.one("inferenceservices", name(one[0]))["metadata"]["uid"] != first


def test_a_candidate_that_a_person_deletes_has_failed(place, target, one):
    target.apply(*one)
    place.world._end(name(one[0]))
    candidate = target.observe().candidate
    assert candidate.state == "failed" and "was deleted, or never made" in candidate.reason


def test_an_edited_route_is_seen(place, served, one):
    route = json.loads(json.dumps(place.api.one("httproutes", "chat")))
    route["spec"]["rules"][0]["backendRefs"][0]["name"] = "a-stranger"
    place.api.put("httproutes", route)
    seen = served.observe()
    assert seen.routed == {"service a-stranger": 100} and not seen.in_force
    served.note("live")  # a remark changes nobody's weights
    assert served.observe().routed == {"service a-stranger": 100}
    served.route({one[0]: 100})
    assert served.observe().in_force


def test_what_a_webhook_refuses_is_told_and_can_be_taken_back(place, target, one):
    place.api.refuse = lambda plural, found: "no such runtime" if plural == "inferenceservices" else ""
    with pytest.raises(TargetError, match="denied the request: no such runtime"):
        target.apply(*one)
    assert target.observe().candidate.state == "failed"
    target.remove(one[0])
    assert target.observe().candidate is None


def test_pods_that_do_not_end_are_named(place, monkeypatch, one):
    monkeypatch.setattr("components.rollout.kserve.target._DELETE_SECONDS", 0.5)
    place.world.behaviour[one[0][7:17]] = "stuck"
    target = place.target(kserve={"grace_seconds": 1})
    with target.hold():
        target.apply(*one)
        with pytest.raises(TargetError, match=rf"was deleted, but is not gone: pods {name(one[0])}-predictor-x"):
            target.remove(one[0])
        assert target.observe().candidate is not None  # whoever comes next tries again


@pytest.mark.parametrize("status", [429, 500, 503, 0])
@pytest.mark.parametrize("after", [False, True], ids=["lost on the way", "answer lost"])
def test_a_rollout_gets_through_a_failing_server(place, served, two, status, after):
    """Every fourth write fails, whether it was carried out or not."""
    writes = iter(range(10_000))
    fails = Fault(lambda method, path: method != "GET" and next(writes) % 4 == 0, status, times=1000, after=after)
    place.api.faults.append(fails)
    roll(served, two)
    assert fails.times < 1000
    place.api.faults.clear()
    assert served.observe().live == two[0] and place.names() == {name(two[0])}
    assert len(served.history()) == 2


def test_somebody_else_writing_the_route_costs_a_second_try_only(place, served, one):
    """A controller writes its status between our reading and our writing."""
    before = place.api.answer
    times = iter(range(1000))

    def busy(method, path, body):
        if method == "PATCH" and "httproutes" in path and next(times) < 2:
            route = place.api.one("httproutes", "chat")
            route["metadata"]["labels"]["touched"] = "yes"
            place.api.put("httproutes", route)
        return before(method, path, body)

    place.api.answer = busy
    served.note("busy")
    assert place.annotations()["slipway.dev/state"] == "busy"
    assert place.api.one("httproutes", "chat")["metadata"]["labels"]["touched"] == "yes"


@pytest.mark.parametrize(
    ("verb", "plural", "act"),
    [
        ("create", "leases", lambda target, release: target.hold().__enter__()),
        ("patch", "inferenceservices", lambda target, release: with_lock(target, lambda: target.apply(*release))),
        ("patch", "httproutes", lambda target, release: with_lock(target, lambda: target.apply(*release))),
        ("list", "pods", lambda target, release: target.observe()),
        ("get", "gateways", lambda target, release: target.url),
    ],
)
def test_a_missing_right_is_told_with_its_verb(place, one, verb, plural, act):
    place.api.denied = {(verb, plural)}
    with pytest.raises(TargetError, match=f'cannot {verb} resource "{plural}".*give this account that right'):
        act(place.target(), one)


def with_lock(target, act):
    with target.hold():
        act()


def test_a_missing_right_to_watch_is_told_and_costs_time_alone(place, served, capsys):
    place.api.denied = {("watch", "pods")}
    other = place.target(service="other")
    told, deadline = "", time.monotonic() + 30
    with other.hold():
        # another thread watches
        while (missing := 'cannot watch resource \\"pods\\"' not in told) and time.monotonic() < deadline:
            other.wait(0.2)
            told += capsys.readouterr().out
    assert not missing, told


def test_an_event_that_cannot_be_written_stops_nothing(place, served, capsys):
    place.api.denied = {("create", "events")}
    served.note("live")
    assert "event_not_written" in capsys.readouterr().out
    assert place.annotations()["slipway.dev/state"] == "live"


# -------------------------------------------------------------------------------------------- what is told


def test_everything_can_be_read_from_the_cluster(place, served, one):
    served.note("watching 10 %", "as planned")
    noted = place.annotations()
    assert noted["slipway.dev/stable"] == one[0] and noted["slipway.dev/state"] == "watching 10 %"
    assert noted["slipway.dev/since"] and json.loads(noted["slipway.dev/history"])[0]["run_id"] == "test-1"
    facts = place.api.one("inferenceservices", name(one[0]))["metadata"]["annotations"]
    assert {facts[f"slipway.dev/{key}"] for key in ("run", "commit", "data-digest")} == {
        "test",
        "c0ffee",
        "sha256:data",
    }
    assert served.observe().noted["state"] == "watching 10 %"
    event = place.api.all("events")[-1]
    assert event["reason"] == "Watching10" and event["message"] == "watching 10 %: as planned"
    assert event["involvedObject"]["kind"] == "HTTPRoute" and event["type"] == "Normal"


def test_the_configuration_stands_in_the_cluster(place, served):
    assert recorded_config(place.cluster()) == place.config
    assert recorded_config(place.cluster(), "chat") == place.config
    assert services(place.cluster()).keys() == {"chat"}
    with pytest.raises(InputError, match=r"no other was rolled out to namespace serving; known are chat"):
        recorded_config(place.cluster(), "other")


def test_a_configuration_of_another_version_is_no_traceback(place, served, one):
    written = json.loads(place.annotations()["slipway.dev/config"])
    place.annotations()["slipway.dev/config"] = json.dumps({**written, "kserve": {**written["kserve"], "zone": "b"}})
    words = r"HTTPRoute chat is not valid for this Slipway \(kserve\.zone: .*\); use the version .* or roll out"
    with pytest.raises(TargetError, match=words):
        recorded_config(place.cluster(), "chat")
    # what is live stays as it went live, whatever today's checks say of that
    place.api.drop("inferenceservices", name(one[0]))
    served.apply(*one)
    assert place.api.all("inferenceservices")


def test_two_services_must_be_named(place, served, two):
    other = place.target(service="other", kserve={"hostname": "other.test"})
    with other.hold():
        other.apply(*two)
    with pytest.raises(InputError, match="there are several services"):
        recorded_config(place.cluster())
    assert served.observe().candidate is None


def test_a_state_may_be_noted_before_anything_is_there(place, target):
    target.note("starting")
    assert place.annotations()["slipway.dev/state"] == "starting" and place.world.served == {}


def test_requests_are_counted_at_every_server(place, served, one, two):
    served.apply(*two)
    place.world.counts = {one[0][7:17]: (90, 1), two[0][7:17]: (10, 2)}
    pods = {digest: f"{name(digest)}-predictor-x" for digest in (one[0], two[0])}
    assert served.traffic() == {one[0]: {pods[one[0]]: Traffic(91, 1)}, two[0]: {pods[two[0]]: Traffic(12, 2)}}


def test_half_a_count_is_none(place, served, one):
    place.api.proxied = lambda *_: (500, {"x-slipway-release": one[0]}, b"")
    with pytest.raises(TargetError, match=rf"metrics of pod {name(one[0])}-predictor-x cannot be read"):
        served.traffic()


def test_an_instance_is_asked_at_its_own_address(served, one):
    url = served.observe().stable.url
    with served.http(url, 2) as client:
        reply = client.post("/generate", json={})
    assert reply.headers["x-slipway-release"] == one[0] and reply.json()["path"] == "/generate"


def test_the_public_address_is_the_gateways(place, served, one):
    assert served.url == f"http://127.0.0.1:{place.world._gateway.server_port}"
    with served.http(served.url, 2) as client:
        assert client.get("/health").json()["release"] == one[0]


def test_behind_a_sign_in_the_routes_status_is_believed(place, served, one, two):
    """Nobody sees who answers there, so that a release is asked at its own address, and a while is waited."""
    place.world.signs_in = True
    began = time.monotonic()
    roll(served, two)
    assert time.monotonic() - began >= 1  # half of route_seconds
    seen = served.observe()
    assert seen.in_force and seen.live == two[0]
    with served.http(served.url, 5) as client:
        assert client.get("/health").headers["x-slipway-release"] == two[0]


def test_behind_a_sign_in_a_route_that_is_not_taken_up_is_told(place, served, one, two):
    place.world.signs_in, place.world.follows = True, False
    served.apply(*two)
    with pytest.raises(TargetError, match=r"does not route by .* generation 3 is not yet taken up"):
        served.route({one[0]: 50, two[0]: 50})


def test_a_route_that_somebody_takes_away_is_not_waited_for(place, served, one, two):
    served.apply(*two)
    place.world.follows = False

    def take_away(what, plural, found):
        if (what, plural) == ("MODIFIED", "httproutes"):
            place.api.drop(plural, found["metadata"]["name"])

    place.api.on_change = take_away
    with pytest.raises(TargetError, match="HTTPRoute chat was taken away by somebody else"):
        served.route({one[0]: 50, two[0]: 50})


@pytest.mark.parametrize(
    ("listeners", "hostname", "url"),
    [
        ([("HTTP", 80, None), ("HTTPS", 443, "chat.example")], "", "https://chat.example"),
        ([("HTTPS", 443, "*.example"), ("HTTP", 80, None)], "chat.example", "https://chat.example"),
        ([("HTTPS", 8443, None)], "chat.example", "https://chat.example:8443"),
    ],
)
def test_a_door_with_tls_has_a_name(place, listeners, hostname, url):
    gateway = place.api.one("gateways", "slipway", "slipway-system")
    gateway["spec"]["listeners"] = [
        {"name": protocol.lower(), "protocol": protocol, "port": port} | ({"hostname": name} if name else {})
        for protocol, port, name in listeners
    ]
    assert place.target(kserve={"hostname": hostname}).url == url


def test_a_door_with_tls_and_no_name_is_refused_early(place):
    gateway = place.api.one("gateways", "slipway", "slipway-system")
    gateway["spec"]["listeners"] = [{"name": "https", "protocol": "HTTPS", "port": 443}]
    with pytest.raises(TargetError, match=r"speaks TLS, so a name is needed; set rollout\.kserve\.hostname"):
        place.target().refuse_early()


def test_a_hostname_is_served_before_its_name_resolves(place, one):
    port = place.world._gateway.server_port
    named = place.target(kserve={"hostname": "chat.test"})
    with named.hold():
        roll(named, one)
    assert named.url == f"http://chat.test:{port}"
    with named.http(named.url, 2) as client:
        assert client.get("/health").json()["host"] == f"chat.test:{port}"


def test_a_gateway_that_is_not_there_is_named(place):
    place.api.drop("gateways", "slipway", "slipway-system")
    with pytest.raises(TargetError, match=r"there is no Gateway slipway-system/slipway; apply manifests/"):
        place.target().refuse_early()


def test_a_gateway_without_an_address_is_named(place):
    gateway = place.api.one("gateways", "slipway", "slipway-system")
    place.api.put("gateways", gateway, {})
    with pytest.raises(TargetError, match="has no address in its status"):
        place.target().refuse_early()


def test_a_cluster_that_lacks_kserve_is_refused_early(place):
    place.api.missing_kinds = {"inferenceservices"}
    with pytest.raises(TargetError, match=r"inferenceservices\.serving\.kserve\.io.*CustomResourceDefinition"):
        place.target().refuse_early()
    place.api.missing_kinds = set()
    place.target().refuse_early()


@pytest.mark.parametrize(
    ("theirs", "ours", "taken"), [("", "", True), ("a.test", "a.test", True), ("a.test", "", False)]
)
def test_an_address_of_another_service_is_refused_early(place, one, theirs, ours, taken):
    other = place.target(service="other", kserve={"hostname": theirs})
    with other.hold():
        roll(other, one)
    target = place.target(kserve={"hostname": ours})
    if not taken:
        target.refuse_early()
        return
    with pytest.raises(TargetError, match=r"service other takes .* of Gateway slipway-system/slipway already"):
        target.refuse_early()
    with target.hold(), pytest.raises(TargetError, match="remove that HTTPRoute"):
        target.apply(*one)
    assert place.names() == {f"other-{one[0].removeprefix('sha256:')[:10]}"}


def test_a_change_ends_a_wait(place, target, one):
    target.wait(1)  # the watches stand
    timer = threading.Timer(0.2, lambda: target.apply(*one))
    began = time.monotonic()
    timer.start()
    target.wait(10)
    assert time.monotonic() - began < 5
    timer.join()


def test_who_is_at_work_is_told(place, target):
    holder = place.target().held_by()
    assert holder["run"] == "test" and holder["since"]


def test_after_the_work_nobody_is(place):
    with place.target().hold():
        pass
    assert place.target().held_by() is None


def test_nothing_is_changed_without_the_lock(place, one):
    target = place.target()
    for act in (lambda: target.apply(*one), lambda: target.route({}), lambda: target.promote(one[0])):
        with pytest.raises(TargetError, match="is not held"):
            act()


# ------------------------------------------------------------------------------- what stands beside a release


def asked(place):
    """(method, path without its query) of every request."""
    return [(method, path.partition("?")[0]) for method, path in place.api.requests]


def test_the_gateways_policies_are_there_before_the_first_request(place, served, two):
    treats_backends(place, HealthCheckPolicy=HEALTH, GCPBackendPolicy=TIMEOUT)
    roll(served, two)
    isvc, backend = place.api.one("inferenceservices", name(two[0])), f"{name(two[0])}-predictor"
    for plural, spec in (("healthcheckpolicies", {"config": {"type": "HTTP"}}), ("gcpbackendpolicies", {})):
        (policy,) = place.api.all(plural)
        assert policy["spec"]["targetRef"] == {"group": "", "kind": "Service", "name": backend}
        assert policy["spec"]["default"] and spec.keys() <= policy["spec"]["default"].keys()
        assert policy["metadata"]["ownerReferences"][0]["uid"] == isvc["metadata"]["uid"]
    kinds = [path.split("/")[-2] for method, path in asked(place) if method == "PATCH"]
    weights = place.api.one("httproutes", "chat")["spec"]["rules"][0]["backendRefs"]
    assert [one["name"] for one in weights] == [backend]
    assert kinds[-4:] == ["healthcheckpolicies", "gcpbackendpolicies", "httproutes", "httproutes"]  # weights, roles


def test_a_cluster_that_says_nothing_gets_no_policies(place, served):
    assert [place.api.all(plural) for plural in ("healthcheckpolicies", "gcpbackendpolicies")] == [[], []]


@pytest.mark.parametrize(("replicas", "budgets"), [(1, []), (2, [1])])
def test_pods_are_evicted_one_at_a_time_where_others_serve_on(place, one, replicas, budgets):
    made = place.target(kserve={"replicas": replicas})
    with made.hold():
        roll(made, one)
    found = place.api.all("poddisruptionbudgets")
    assert [budget["spec"]["maxUnavailable"] for budget in found] == budgets
    pods = {"serving.kserve.io/inferenceservice": name(one[0])}
    assert all(budget["spec"]["selector"] == {"matchLabels": pods} for budget in found)


@pytest.mark.parametrize(
    ("policies", "words"),
    [
        ({"HealtCheckPolicy": HEALTH}, "HealtCheckPolicy is no policy that is known; known are GCPBackendPolicy, Hea"),
        ({"HealthCheckPolicy": "default: {"}, "HealthCheckPolicy is not YAML"),
        ({"HealthCheckPolicy": "true"}, "is not the spec of a policy"),
        ({"GCPBackendPolicy": "targetRef: {name: all}"}, "is not the spec of a policy without its targetRef"),
        ({"GCPBackendPolicy": "default: {iap: {enabled: true}}"}, "needs clientID and oauth2ClientSecret.name"),
        ({"GCPBackendPolicy": SIGN_IN.replace("name: s", "name: ''")}, "needs clientID and oauth2ClientSecret.name"),
    ],
)
def test_a_policy_that_is_none_is_refused_early(place, target, policies, words):
    treats_backends(place, **policies)
    with pytest.raises(TargetError, match=words):
        target.refuse_early()


def test_a_candidate_without_its_policies_gets_no_request(place, served, one, two):
    treats_backends(place, HealthCheckPolicy=HEALTH)
    place.api.missing_kinds.add("healthcheckpolicies")
    served.apply(*two)
    with pytest.raises(TargetError, match=r"it does not know healthcheckpolicies\.networking\.gke\.io"):
        served.route({one[0]: 50, two[0]: 50})
    assert served.observe().routed == {one[0]: 100}


@pytest.mark.parametrize("share", [50, 100])
def test_a_rollback_does_not_wait_for_policies(place, served, one, two, share):
    """A webhook before them is down, and each of them is tried again until its deadline."""
    treats_backends(place, HealthCheckPolicy=HEALTH)
    served.apply(*two)
    served.route({one[0]: 100 - share, two[0]: share})
    place.api.faults.append(Fault(lambda method, path: "healthcheckpolicies" in path, 503, times=1000))
    place.api.requests.clear()
    served.route({one[0]: 100})
    written = [path.split("/")[-2] for method, path in asked(place) if method == "PATCH"]
    assert written[0] == "httproutes" and set(written[1:]) == (set() if share == 50 else {"healthcheckpolicies"})
    assert served.observe().routed == {one[0]: 100}


def test_the_stable_release_comes_back_without_its_policies_rather_than_not_at_all(place, served, one, capsys):
    treats_backends(place, HealthCheckPolicy=HEALTH)
    served.route({})
    place.api.missing_kinds.add("healthcheckpolicies")
    served.route({one[0]: 100})
    assert served.live() == one[0]
    assert "not_protected" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------- a door with a sign-in


@pytest.fixture
def guarded(place, served):
    """`served`, where the cluster wants a sign-in and the gateway asks for it."""
    treats_backends(place, GCPBackendPolicy=SIGN_IN)
    place.world.signs_in = True
    return served


@pytest.mark.parametrize("when", ["at once", "when routed"])
def test_a_release_stands_behind_the_sign_in(place, guarded, one, two, when):
    place.world.attaches = when
    roll(guarded, two)

    assert guarded.observe().in_force and guarded.live() == two[0]


def test_a_policy_that_the_gateway_refuses_keeps_the_route_shut(place, guarded, one, two):
    place.world.attaches = "refused"
    guarded.apply(*two)

    with pytest.raises(TargetError, match=r"GCPBackendPolicy chat-.*Attached is False: Invalid: no Secret slipway-iap"):
        guarded.route({one[0]: 50, two[0]: 50})
    assert guarded.observe().routed == {one[0]: 100}


def test_a_policy_that_is_never_taken_up_ends_the_rollout(place, guarded, one, two):
    place.world.attaches = "never"
    guarded.apply(*two)

    with pytest.raises(TargetError, match=r"GCPBackendPolicy chat-.* the gateway has not taken it up"):
        guarded.route({two[0]: 100})


def test_a_door_that_lets_in_everybody_though_it_should_not_ends_the_rollout(place, guarded, one, two):
    place.world.signs_in = False
    guarded.apply(*two)

    with pytest.raises(TargetError, match=r"nobody is asked to sign in, though ConfigMap backend-policies wants"):
        guarded.route({two[0]: 100})
    assert not guarded.observe().in_force, "whoever takes over must not take it for done"


def test_a_release_that_was_open_gets_the_policy_with_its_next_route(place, guarded, one, two):
    """The live one went live before the cluster wanted a sign-in."""
    guarded.apply(*two)
    guarded.route({one[0]: 50, two[0]: 50})

    policies = {policy["metadata"]["name"]: policy["spec"] for policy in place.api.all("gcpbackendpolicies")}
    assert set(policies) == {f"{name(one[0])}-predictor", f"{name(two[0])}-predictor"}
    assert all(spec["default"]["iap"]["enabled"] for spec in policies.values())


def test_what_went_live_without_a_sign_in_is_not_taken_for_well_served(place, guarded, one):
    assert not guarded.observe().in_force

    guarded.route({one[0]: 100})
    assert guarded.observe().in_force


def test_the_stable_release_stays_away_rather_than_without_the_sign_in(place, guarded, one):
    guarded.route({})
    place.api.denied.add(("patch", "gcpbackendpolicies"))

    with pytest.raises(TargetError, match=r"GCPBackendPolicy chat-.*-predictor: it is not there, or asks nobody"):
        guarded.route({one[0]: 100})
    assert place.world.served == {}


def test_a_slip_in_the_policies_holds_up_no_way_back(place, guarded, one, two):
    guarded.apply(*two)
    guarded.route({one[0]: 50, two[0]: 50})
    treats_backends(place, GCPBackendPolicy="default: {")

    assert guarded.observe().in_force
    guarded.route({one[0]: 100})
    assert set(place.world.served) == {f"{name(one[0])}-predictor"}
