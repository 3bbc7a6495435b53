"""Target `kserve`: an InferenceService per release, and one HTTPRoute that says who gets the traffic and who is what.

    <service>-<10 digits>     InferenceService of a release: made, watched, deleted; only its settings may change
    <service>                 HTTPRoute: its rules hold the weights, its annotations the roles (objects.Record)
    slipway-<service>         Lease: held by the rollout that is at work
    <service>-<10 digits>-predictor
                              PodDisruptionBudget and gateway policies of a release; its InferenceService owns them

Every write of the route names the version that it was computed from, so nothing that a person does is lost unseen.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any, cast

import httpx
import yaml

from components.progress import say
from components.rollout import traffic
from components.rollout.config import RolloutConfig, as_recorded
from components.rollout.kserve import objects, readiness
from components.rollout.kserve.client import (
    API_SECONDS,
    CONFIG_MAP,
    DEPLOYMENT,
    DISRUPTION_BUDGET,
    ENDPOINT_SLICE,
    EVENT,
    GATEWAY,
    GCP_BACKEND_POLICY,
    HEALTH_CHECK_POLICY,
    HTTP_ROUTE,
    INFERENCE_SERVICE,
    LEASE,
    MANAGER,
    POD,
    RELEASE_HEADER,
    ApiError,
    Cluster,
    Conflict,
    Kind,
    Object,
)
from components.rollout.kserve.lease import Lock, holder_of, is_held, lease_name
from components.rollout.kserve.objects import (
    ISVC_LABEL,
    Address,
    Record,
    WentLive,
    backend_of,
    labels,
    name_of,
    read_record,
)
from components.rollout.kserve.publish import publish
from components.rollout.target import (
    UNKNOWN,
    Change,
    Instance,
    LockLost,
    NoAddress,
    Observation,
    Origin,
    TargetError,
    Traffic,
    live_release,
    read_config,
)
from components.step_config import InputError
from serving.release import read_release

_DELETE_SECONDS = 60.0
"""Beyond the grace that its pods have."""

_PROBE_SECONDS = 5.0
_ANSWERS = 12
"""So many answers in a row, at least, by the releases that a route names show that it is in force."""

_TRIES = 3
"""Probes before the public address counts as down: one that meets a pod at its end says nothing of the route."""

_UNSEEN_SECONDS = 90.0
"""A load balancer follows a route that it has accepted within a minute or so; behind a sign-in, nobody sees it."""

_IAP_HEADER = "x-goog-iap-generated-response"
"""On what Identity-Aware Proxy answers itself (https://cloud.google.com/iap/docs/query-parameters-and-headers-howto)."""

_ATTACH_SECONDS = 20.0
"""A controller that looks at a policy before a route needs it has said so by then."""

_WATCH_AGAIN_SECONDS = 5.0
_POLICIES = "backend-policies"
"""ConfigMap that says how the cluster's gateway is to treat every release: kind of a policy -> its spec as YAML."""

_POLICY_KINDS = {kind.name: kind for kind in (HEALTH_CHECK_POLICY, GCP_BACKEND_POLICY)}
UNREADABLE = "not readable"
"""State of a record that a person has made unreadable; see services."""

_CONDITIONS = ("Accepted", "ResolvedRefs", "Reconciled")
"""Of a route that its gateway follows; the last one is GKE's."""

_POD_PORT = 8080
_WATCHED = (INFERENCE_SERVICE, DEPLOYMENT, POD, ENDPOINT_SLICE, HTTP_ROUTE)


@dataclass(frozen=True)
class _Public:
    """How the public address is reached."""

    url: str
    """As people write it."""

    base: str
    headers: Mapping[str, str]


class KServeTarget:
    """One service on a cluster; implements `target.Target`."""

    def __init__(
        self,
        config: RolloutConfig,
        *,
        origin: Origin = UNKNOWN,
        cluster: Cluster | None = None,
    ):
        self._config, self._origin = config, origin
        self._cluster = cluster or Cluster.connect(config.kserve.namespace, API_SECONDS)
        self._service = config.service
        self._lock = Lock(self._cluster, config.service, origin.run)
        self._cluster.guard = self._lock.check
        self._watch: _Watch | None = None
        self._found_public: dict[Address, _Public] = {}
        self._said_sign_in: bool | None = None

    # ------------------------------------------------------------------------------------------ the lock

    @contextmanager
    def hold(self) -> Generator[None]:
        """See Target.hold. The Lease expires by itself when its process dies."""
        self._lock.acquire()
        self._watch = _Watch(self._cluster, labels(self._service))
        try:
            yield
        finally:
            self._watch.stop()
            self._watch = None
            self._lock.release()

    def held_by(self) -> Mapping[str, Any] | None:
        """See Target.held_by."""
        lease = self._cluster.get(LEASE, lease_name(self._service))
        if lease is None or not is_held(lease, self._cluster.now()):
            return None
        holder = holder_of(lease)
        return {"host": holder.host, "pid": holder.pid, "run": holder.run, "since": holder.since}

    # ------------------------------------------------------------------------------------------- looking

    @property
    def url(self) -> str:
        """The public address, as the Gateway's status tells it; see _door."""
        return self._door().url

    def _door(self) -> _Public:
        """Where a candidate with traffic is met, else what is live: a rollout may move the service."""
        route = self._route()
        record = self._record(route)
        return self._public(self._addresses(record, self._routed(route, record, ()))[-1])

    def observe(self) -> Observation:
        """See Target.observe."""
        route = self._route()
        record = self._record(route)
        seen = self._seen()
        digests = {_digest(one.isvc): one for one in seen.values()}
        routed = self._routed(route, record, digests.keys())

        def of(digest: str | None) -> Instance | None:
            return self._instance(digest, digests.get(digest), record) if digest else None

        others = sorted(digests.keys() - {record.stable, record.candidate})
        in_force = bool(routed) and routed.keys() <= digests.keys()
        met_at = self._addresses(record, routed)
        in_force = in_force and not self._open_to_all(routed, met_at)
        return Observation(
            stable=of(record.stable),
            candidate=of(record.candidate),
            retired=tuple(self._instance(digest, digests[digest], record) for digest in others),
            routed=routed,
            in_force=in_force and all(self._is_met_at(one, route, routed) for one in met_at),
            previous=record.previous,
            rejected=record.rejected,
            change=self._difference(record),
            noted={"state": record.state, "reason": record.reason, "since": record.since} if record.state else {},
        )

    def live(self) -> str | None:
        """See Target.live."""
        route = self._route()
        record = self._record(route)
        return live_release(record.stable, record.candidate, self._routed(route, record, ()))

    def settings(self, digest: str) -> RolloutConfig:
        """See Target.settings."""
        return self._settings_of(digest, self._record(self._route()))

    def history(self) -> Sequence[Mapping[str, str]]:
        """See Target.history."""
        entries = self._record(self._route()).history
        return [{"digest": one.digest, "since": one.since, "run_id": one.run_id} for one in entries]

    def traffic(self) -> Mapping[str, Mapping[str, Traffic]]:
        """See Target.traffic."""
        counted: dict[str, dict[str, Traffic]] = {}
        for one in self._seen(with_events=False).values():
            serving = [str(pod["metadata"]["name"]) for pod in one.pods if _serves(pod)]
            if serving:
                counted[_digest(one.isvc)] = {pod: self._count(pod) for pod in serving}
        return counted

    def http(self, url: str, seconds: float) -> httpx.Client:
        """See Target.http."""
        if any(one.url == url for one in self._found_public.values()):
            return self._ask(self._door(), seconds)
        name = url.removeprefix("http://").partition(".")[0]
        return self._cluster.http(f"services/{name}:{objects.PORT}", seconds)

    def _ask(self, door: _Public, seconds: float) -> httpx.Client:
        """A client of a public address, or of what is behind it where nobody is let in."""
        if self._asks_for_sign_in(door):
            return self._cluster.http(f"services/{self._busiest()}:{objects.PORT}", seconds)
        return self._at_the_door(door, seconds)

    def _at_the_door(self, door: _Public, seconds: float) -> httpx.Client:
        return httpx.Client(
            base_url=door.base,
            headers=door.headers,
            timeout=seconds,
            verify=door.base.startswith("https"),  # reading the certificates that are trusted takes a while
            trust_env=False,  # proxies of the environment are for the internet
            limits=httpx.Limits(max_keepalive_connections=0),  # a kept connection would stay with one server
        )

    def _asks_for_sign_in(self, door: _Public) -> bool:
        """Whether a public address lets nobody in without a Google account (Identity-Aware Proxy).

        Then its release is asked at its own address, and that the route is in force by the route's status alone.
        """
        with suppress(httpx.HTTPError), self._at_the_door(door, _PROBE_SECONDS) as client:
            return _IAP_HEADER in client.get("/health").headers
        return False

    def _signs_in(self) -> bool:
        """Whether the cluster wants a sign-in before every release.

        As it said last, while what it says cannot be read: a slip there opens no door, and holds up no way back.
        """
        try:
            self._said_sign_in = objects.asks_for_sign_in(self._policies().get(GCP_BACKEND_POLICY))
        except TargetError:
            if self._said_sign_in is None:
                raise
        return self._said_sign_in

    def _open_to_all(self, digests: Iterable[str], addresses: Iterable[Address]) -> str:
        """Why it is not shown that the sign-in which the cluster wants stands before releases; "" when it is."""
        if not self._signs_in():
            return ""
        for digest in digests:
            taken_up, words = self._attached(digest)
            if not taken_up:
                return words
        if all(self._asks_for_sign_in(self._public(one)) for one in addresses if self._is_there(one)):
            return ""
        return (
            f"nobody is asked to sign in, though ConfigMap {_POLICIES} wants Identity-Aware Proxy there: look whether "
            f"its OAuth client and the Secret of it in namespace {self._cluster.namespace} are right"
        )

    def _attached(self, digest: str) -> tuple[bool | None, str]:
        """See objects.sign_in_attached; the words name the policy."""
        name = backend_of(name_of(self._service, digest))
        taken_up, words = objects.sign_in_attached(self._cluster.get(GCP_BACKEND_POLICY, name))
        return taken_up, f"{GCP_BACKEND_POLICY.name} {name}: {words}"

    def _await_attached(self, digests: Iterable[str]) -> None:
        """Wait for the policies that ask for sign-in before anybody may come. Raises TargetError for one refused.

        When nothing is said of one in time, it goes on: GKE's controller works through a gateway's routes, and looks at
        the policy of a Service that a route names. `_await_in_force` insists on it.
        """
        deadline = time.monotonic() + min(_ATTACH_SECONDS, self._config.kserve.route_seconds / 2)
        for digest in digests:
            taken_up, words = self._attached(digest)
            while not taken_up and time.monotonic() < deadline:
                self.wait(0.2)
                taken_up, words = self._attached(digest)
            if taken_up is False:
                raise TargetError(f"{words}; {digest} gets no request, since nobody would be asked to sign in")

    def _busiest(self) -> str:
        """The Service that the route gives most."""
        weights = objects.weights_of(self._route())
        if not weights:
            raise TargetError(f"HTTPRoute {self._service} gives its requests to nobody")
        return max(weights, key=lambda name: weights[name])

    def wait(self, seconds: float) -> None:
        """See Target.wait. Raises LockLost: who may change nothing more waits for nothing either."""
        if self._watch is None:
            time.sleep(seconds)
        else:
            self._lock.check()
            self._watch.wait(seconds)

    def refuse_early(self) -> None:
        """See Target.refuse_early: namespace, kinds and gateway are there, the address is free, and we may look."""
        record = self._record(self._route())
        self._public(_address(self._config))
        self._policies()
        for kind in _WATCHED:
            self._cluster.list(kind, labels(self._service))
        self._refuse_taken([*self._addresses(record), _address(self._config)])

    def _refuse_taken(self, addresses: Collection[Address]) -> None:
        """Raises TargetError when another service answers at one of these, or their mixture: the older route wins."""
        gateways, hostnames = objects.together(addresses)
        for other in self._cluster.list(HTTP_ROUTE, {objects.MANAGED_BY: MANAGER}):
            name = other["metadata"]["name"]
            for gateway, host in product(gateways, hostnames or [""]):
                if name != self._service and objects.takes(other, Address(gateway, host)):
                    raise TargetError(
                        f"service {name} takes {host or 'every host'} of Gateway {gateway} already, so "
                        f"{self._service} would get no request; give each its own rollout.kserve.hostname, or remove "
                        "that HTTPRoute"
                    )

    def _route(self) -> Object | None:
        return self._cluster.get(HTTP_ROUTE, self._service)

    def _record(self, route: Object | None) -> Record:
        try:
            return read_record(route)
        except ValueError as error:
            raise TargetError(
                f"HTTPRoute {self._service} in namespace {self._cluster.namespace}: {error}; put it back, or remove it"
            ) from error

    def _settings_of(self, digest: str, record: Record) -> RolloutConfig:
        """The settings of a release: as it is live, is on its way, or was live; this rollout's where none are recorded.

        A new rollout's settings are not proven yet, so they are nothing to what is live.
        """
        past = {entry.digest: entry.config for entry in record.history if entry.config}
        now = {record.candidate: record.candidate_config, record.stable: record.config}
        recorded = now.get(digest) or past.get(digest)
        return as_recorded(recorded) if recorded else self._config

    def _difference(self, record: Record) -> Change | None:
        """See Observation.change."""
        if record.stable is None or not record.config:
            return None
        was, begun = as_recorded(record.config), bool(record.asked_config)
        words = objects.differences(was, self._config)
        outage = "replace" in (was.strategy, self._config.strategy) and objects.has_other_pods(was, self._config)
        return Change(words, begun, outage) if words or begun else None

    def _addresses(self, record: Record, digests: Iterable[str] = ()) -> list[Address]:
        """Where these releases are met, the candidate last; without any, where what is live is, or would be."""
        known = [one for one in (record.stable, record.candidate) if one and one in digests]
        asked = known or [record.stable or record.candidate or ""]
        return list(dict.fromkeys(_address(self._settings_of(one, record)) for one in asked))

    def _seen(self, with_events: bool = True) -> dict[str, readiness.Seen]:
        """InferenceService's name -> all that the cluster shows of it."""
        ours = labels(self._service)
        services = self._cluster.list(INFERENCE_SERVICE, ours)
        deployments = {one["metadata"]["name"]: one for one in self._cluster.list(DEPLOYMENT, ours)}
        pods, slices = self._cluster.list(POD, ours), self._cluster.list(ENDPOINT_SLICE, ours)
        events = self._cluster.list(EVENT, fields="type=Warning") if services and with_events else []
        events.sort(key=lambda one: str(one.get("lastTimestamp") or one.get("eventTime") or ""))
        found: dict[str, readiness.Seen] = {}
        for isvc in services:
            name = str(isvc["metadata"]["name"])
            made = str(isvc["metadata"]["creationTimestamp"])
            found[name] = readiness.Seen(
                isvc,
                deployments.get(backend_of(name)),
                [one for one in pods if one["metadata"]["labels"].get(ISVC_LABEL) == name],
                [one for one in slices if one["metadata"]["labels"].get(_SERVICE_LABEL) == backend_of(name)],
                [one for one in events if _is_about(one, name) and str(one.get("lastTimestamp") or made) >= made],
            )
        return found

    def _instance(self, digest: str, seen: readiness.Seen | None, record: Record) -> Instance:
        if seen is not None:
            found = self._state_of(digest, seen, self._settings_of(digest, record))
            leaving = seen.isvc["metadata"].get("deletionTimestamp")
            if digest == record.stable and found.state != "ready" and not leaving and _answers_for(seen):
                return replace(found, state="ready")  # by fewer or older pods, but it answers: nobody takes it down
            return found
        name = name_of(self._service, digest)
        url = self._url_of(digest)
        if record.stopped == digest:
            return Instance(digest, "stopped", url, "its servers were ended to make room", exists=False)
        why = f"InferenceService {name} does not exist: it was deleted, or never made"
        return Instance(digest, "failed", url, why, exists=False)

    def _state_of(self, digest: str, seen: readiness.Seen, settings: RolloutConfig) -> Instance:
        return readiness.instance(digest, self._url_of(digest), seen, settings.ready_seconds, self._cluster.now())

    def _url_of(self, digest: str) -> str:
        """The own address of a release."""
        return f"http://{backend_of(name_of(self._service, digest))}.{self._cluster.namespace}.svc"

    def _routed(self, route: Object | None, record: Record, digests: Iterable[str]) -> dict[str, int]:
        """Release digest -> weight. A backend that is none of ours stands by its Service's name."""
        known = {record.stable, record.candidate, *(entry.digest for entry in record.history), *digests} - {None}
        by_backend = {backend_of(name_of(self._service, digest)): digest for digest in cast("set[str]", known)}
        found = objects.weights_of(route) if objects.has_traffic(route) else {}
        return {by_backend.get(name, f"service {name}"): weight for name, weight in found.items()}

    def _is_met_at(self, address: Address, route: Object | None, routed: Collection[str]) -> bool:
        """Whether the gateway of an address follows the route, and one of these releases answers there."""
        followed = objects.carries(route, address) and not self._not_accepted(route, address.gateway)
        if not followed or not self._is_there(address):
            return False
        return any(self._answers(1, routed, self._public(address))[0] in routed for _ in range(_TRIES))

    def _is_there(self, address: Address) -> bool:
        """Whether the gateway of an address has one."""
        try:
            self._public(address)
        except NoAddress:
            return False
        return True

    def _not_accepted(self, route: Object | None, named: str) -> str:
        """Why a gateway does not follow the route in its newest form; "" when it does."""
        found = route or {}
        generation = found.get("metadata", {}).get("generation", 0)
        space, _, gateway = named.partition("/")
        parents = cast("list[Object]", found.get("status", {}).get("parents") or [])
        ours = [
            one
            for one in parents
            if one["parentRef"].get("name") == gateway and one["parentRef"].get("namespace", space) == space
        ]
        if not ours:
            return f"no controller has taken it up for gateway {named}"
        for condition in cast("list[Object]", ours[0].get("conditions") or []):
            words = (
                f"{condition['type']} is {condition['status']}: {condition.get('reason')}: {condition.get('message')}"
            )
            if condition["type"] in _CONDITIONS and condition["status"] != "True":
                return words
            if condition.get("observedGeneration", generation) < generation:
                return f"its generation {generation} is not yet taken up"
        return ""

    def _public(self, address: Address) -> _Public:
        """How an address is reached. Raises TargetError when its gateway has none."""
        if address not in self._found_public:
            self._found_public[address] = self._find_public(address)
        return self._found_public[address]

    def _find_public(self, wanted: Address) -> _Public:
        named = wanted.gateway
        space, _, name = named.partition("/")
        gateway = self._cluster.get(GATEWAY, name, space)
        if gateway is None:
            raise NoAddress(f"there is no Gateway {named}; apply manifests/, or set rollout.kserve.gateway")
        addresses = cast("list[Object]", gateway.get("status", {}).get("addresses") or [])
        listeners = cast("list[Object]", gateway["spec"].get("listeners") or [])
        spoken = [one for one in listeners if one.get("protocol") in ("HTTPS", "HTTP")]
        # beside one with TLS, the other only sends people there
        listener = max(spoken, key=lambda one: one["protocol"] == "HTTPS", default=None)
        if not addresses or listener is None:
            missing = "address in its status" if listener else "HTTP listener"
            raise NoAddress(f"Gateway {named} has no {missing}; see `kubectl describe gateway -n {space} {name}`")
        scheme = str(listener["protocol"]).lower()
        port = "" if int(listener["port"]) == {"http": 80, "https": 443}[scheme] else f":{listener['port']}"
        hostname = wanted.hostname or str(listener.get("hostname") or "").removeprefix("*.")
        address = str(addresses[0]["value"])
        if scheme == "https" and not hostname:
            raise NoAddress(f"Gateway {named} speaks TLS, so a name is needed; set rollout.kserve.hostname")
        url = f"{scheme}://{hostname or address}{port}"
        if hostname and scheme == "http":  # it works before the name does
            return _Public(url, f"http://{address}{port}", {"Host": f"{hostname}{port}"})
        return _Public(url, url, {})

    def _answers(self, count: int, wanted: Collection[str], door: _Public | None = None) -> list[str | None]:
        """Who answers at a public address, so often in a row; it ends with the first that must not.

        None stands for an answer of no release.
        """
        answered: list[str | None] = []
        with self._ask(door or self._door(), _PROBE_SECONDS) as client:
            while len(answered) < count and (not answered or _is_one_of(answered[-1], wanted)):
                answered.append(_release_that_answers(client))
        return answered

    def _count(self, pod: str) -> Traffic:
        """What one server has answered."""
        try:
            with self._cluster.http(f"pods/{pod}:{_POD_PORT}", _PROBE_SECONDS) as client:
                response = client.get("/metrics")
            response.raise_for_status()
            return traffic.count(response.text)
        except (httpx.HTTPError, ValueError) as error:
            raise TargetError(f"the metrics of pod {pod} cannot be read: {error}") from error

    # ------------------------------------------------------------------------------------------ changing

    def apply(self, digest: str, release: Path) -> None:
        """See Target.apply."""
        record = self._record(self._route())
        settings = self._settings_of(digest, record) if digest == record.stable else self._config
        self._refuse_taken([*self._addresses(record), _address(settings)])
        name = name_of(self._service, digest)
        found = self._cluster.get(INFERENCE_SERVICE, name)
        if found and _digest(found) != digest:
            raise TargetError(
                f"InferenceService {name} is of release {_digest(found)}; delete it, it is not of {digest}"
            )
        publish(release, settings.kserve.releases, digest)

        def take_role(record: Record) -> Record:
            if digest == record.stable:
                return replace(record, stopped=None)
            config = settings.model_dump(mode="json")
            return replace(record, candidate=digest, candidate_config=config, rejected="")

        self._change(take_role)
        if found:
            seen = self._seen()
            serves = name in seen and self._is_routed(digest) and _answers_for(seen[name])
            if serves or (name in seen and self._state_of(digest, seen[name], settings).state != "failed"):
                return
            self._delete(name)
        self._cluster.apply(INFERENCE_SERVICE, self._wanted(digest, release, self._record(self._route())))

    def route(self, weights: Mapping[str, int]) -> None:
        """See Target.route."""
        wanted = {digest: weight for digest, weight in weights.items() if weight}
        route = self._route()
        record = self._record(route)
        if wanted and not objects.has_traffic(route):
            self._refuse_taken([*self._addresses(record), *self._addresses(record, wanted)])
        seen = self._seen(with_events=False) if wanted else {}
        for digest in wanted:
            name = name_of(self._service, digest)
            if name not in seen or not readiness.ready_endpoints(seen[name].slices):
                raise TargetError(f"{digest} has no server that is ready; the gateway would answer its share with 503")
        before = self._routed(route, record, ())
        coming = wanted.keys() - before.keys()
        signs_in = bool(wanted) and self._signs_in()
        # A sign-in stands before all that get requests, or the route is not opened.
        shut = {digest for digest in wanted if signs_in and not self._attached(digest)[0]}
        first = shut | (coming - {record.stable})
        for digest in first:
            self._stand_beside(digest, seen[name_of(self._service, digest)].isvc)
        if shut:
            self._await_attached(shut)
        self._change(lambda record: record, wanted)
        for digest in coming - first:  # what is live has its traffic back first: a rollback waits for nothing
            self._stand_beside(digest, seen[name_of(self._service, digest)].isvc)
        self._await_in_force(wanted, before, self._addresses(record, wanted))

    def promote(self, digest: str) -> None:
        """See Target.promote."""
        # who finishes the rollout of a dead process did not bring the release
        isvc = self._cluster.get(INFERENCE_SERVICE, name_of(self._service, digest))
        run_id = readiness.origin_of(isvc).run_id if isvc else self._origin.run_id

        def promoted(record: Record) -> Record:
            if record.stable == digest:
                return record if record.candidate != digest else _without_candidate(record)
            config = record.candidate_config or self._config.model_dump(mode="json")
            return _without_candidate(record).replaced_by(WentLive(digest, _now(), run_id), config)

        self._leave_the_old_address(digest)
        self._change(promoted)

    def reject(self, digest: str, why: str) -> None:
        """See Target.reject."""
        self._change(lambda record: replace(record, rejected=why) if record.candidate == digest else record)

    def _leave_the_old_address(self, digest: str) -> None:
        """Have a candidate that has all the traffic met at its own address alone: that shows before it is live."""
        record = self._record(self._route())
        own = self._addresses(record, [digest])
        if record.candidate == digest and self._addresses(record) != own:
            self._move(digest, own)

    def _move(self, digest: str, addresses: Sequence[Address]) -> None:
        """Have a release that has all the traffic met at these addresses, and return when it is."""
        self._change(lambda record: record, {digest: 100}, addresses)
        self._await_in_force({digest: 100}, {digest: 100}, addresses)

    def change(self, digest: str, release: Path, check: Callable[[], None]) -> None:
        """See Target.change. The Deployment replaces its pods one by one, an old one when the new one serves."""
        was, asked = self._settings_of(digest, self._record(self._route())), self._config
        if (was.kserve.max_replicas is None) != (asked.kserve.max_replicas is None):
            raise TargetError(
                "kserve.max_replicas cannot be set or taken away while a release is live (KServe leaves the autoscaler "
                "that it made); change rollout.kserve.replicas for now, and bring it with another release"
            )
        here, there = _address(was), _address(asked)
        self._refuse_taken([here, there])
        publish(release, asked.kserve.releases, digest)
        self._change(lambda record: replace(record, asked_config=asked.model_dump(mode="json")))
        self._write_settings(digest, asked)
        self._await_settings(digest, asked, gives_up=True)
        check()
        if here != there:
            self._move(digest, [here, there])
            self._move(digest, [there])  # it must show itself alone
        self._change(lambda record: replace(record, config=record.asked_config or record.config, asked_config={}))

    def restore(self, digest: str) -> None:
        """See Target.restore."""
        route = self._route()
        record = self._record(route)
        if not record.asked_config:
            return
        settings = self._settings_of(digest, record)
        self._write_settings(digest, settings)
        if objects.has_traffic(route):
            self._change(lambda record: record, {digest: 100})
        self._change(lambda record: replace(record, asked_config={}))  # what is left is to wait
        self._await_settings(digest, settings, gives_up=False)
        if objects.has_traffic(route):
            self._await_in_force({digest: 100}, {digest: 100}, [_address(settings)])

    def _write_settings(self, digest: str, settings: RolloutConfig) -> None:
        isvc = self._cluster.get(INFERENCE_SERVICE, name_of(self._service, digest))
        if isvc is None:
            raise TargetError(f"InferenceService {name_of(self._service, digest)} was deleted by somebody else")
        facts = objects.facts_of(isvc)
        wanted = objects.inference_service(settings, self._cluster.namespace, digest, facts)
        self._stand_beside(digest, self._cluster.apply(INFERENCE_SERVICE, wanted))

    def _await_settings(self, digest: str, settings: RolloutConfig, gives_up: bool) -> None:
        """Return when a release is really ready by its InferenceService as it stands there.

        Pods of other settings say nothing. `gives_up` raises what will not mend itself before the deadline, which
        each pod that is made anew moves.
        """
        name, most = name_of(self._service, digest), 0
        patience = settings.ready_seconds + settings.kserve.grace_seconds
        deadline = time.monotonic() + patience
        while True:
            seen = self._seen().get(name)
            if seen is None:
                raise TargetError(f"InferenceService {name} was deleted by somebody else")
            pods = [one for one in seen.pods if objects.same_pods(seen.isvc, one)]
            found = readiness.instance(digest, "", replace(seen, pods=pods), math.inf, self._cluster.now())
            taken_up = objects.is_taken_up(seen.isvc, seen.deployment)
            if taken_up and found.state == "ready":
                return
            if taken_up and gives_up and found.state == "failed":
                raise TargetError(found.reason)
            made = objects.updated_pods(seen.deployment) if taken_up else 0
            if made > most:
                most, deadline = made, time.monotonic() + patience
            if time.monotonic() > deadline:
                why = found.reason if taken_up else "KServe has not changed the Deployment"
                raise TargetError(f"not ready within {patience:g} s: {why}")
            self.wait(0.5)

    def stop(self, digest: str) -> None:
        """See Target.stop."""
        self._refuse_routed(digest)
        self._change(
            lambda record: replace(record, stopped=digest, asked_config={}) if record.stable == digest else record
        )
        self._delete(name_of(self._service, digest))

    def remove(self, digest: str) -> None:
        """See Target.remove."""
        self._refuse_routed(digest)
        name = name_of(self._service, digest)
        found = self._cluster.get(INFERENCE_SERVICE, name)
        if found is None or _digest(found) == digest:  # else it is none of ours, whatever its name
            self._delete(name)
        if self._record(self._route()).candidate == digest:
            self._change(lambda record: _without_candidate(record) if record.candidate == digest else record)

    def note(self, state: str, reason: str = "") -> None:
        """See Target.note: annotations on the route, and a Kubernetes Event about it."""
        route = self._change(lambda record: replace(record, state=state, reason=reason, since=_now()))
        message = f"{state}: {reason}" if reason else state
        event = objects.event(route, _camel(state), message, _now(), secrets.token_hex(8), _is_bad(state))
        try:
            with suppress(Conflict):  # an earlier try was heard
                self._cluster.create(EVENT, event)
        except ApiError as error:  # a rollback must not fail because nobody could be told
            say("event_not_written", step="rollout", state=state, why=str(error))

    def _wanted(self, digest: str, release: Path, record: Record) -> Object:
        config, origin = self._settings_of(digest, record), self._origin
        if digest == record.stable and record.config:
            origin = Origin(run_id=next((one.run_id for one in reversed(record.history) if one.digest == digest), ""))
        facts = {
            "run": origin.run,
            "run-id": origin.run_id,
            "commit": origin.commit,
            "data-digest": origin.data_digest or read_release(release).data_digest,
            "created": _now(),
        }
        return objects.inference_service(config, self._cluster.namespace, digest, facts)

    def _change(
        self,
        change: Callable[[Record], Record],
        weights: Mapping[str, int] | None = None,
        addresses: Collection[Address] = (),
    ) -> Object:
        """Write the route as `change` makes its record, with new weights if given; computed from what is there.

        It is met where its releases are, what is live among them whatever it gets, or at `addresses`. Returns it. When
        somebody else writes it in between, it is read and computed again.
        """
        deadline, pause = time.monotonic() + self._cluster.api_seconds, 0.02
        while True:
            found = self._route()
            record = self._record(found)
            wanted = change(record)
            if found and wanted == record and weights is None:
                return found
            version = str(found["metadata"]["resourceVersion"]) if found else ""
            met = addresses or [*self._addresses(wanted), *self._addresses(wanted, weights or {})]
            route = objects.route(self._config, self._cluster.namespace, wanted, weights or {}, version, met)
            if found and weights is None:
                route["spec"] = found["spec"]  # who gets what is not this call's matter
            try:
                return self._cluster.apply(HTTP_ROUTE, route)
            except Conflict:
                if time.monotonic() > deadline:
                    raise
                time.sleep(pause)
                pause = min(2 * pause, 1.0)

    def _stand_beside(self, digest: str, isvc: Object) -> None:
        """What a release needs beside its servers before it gets requests; it goes when they go.

        The stable release comes back without it rather than not at all.
        """
        try:
            budget = objects.disruption_budget(isvc)
            if budget:
                self._cluster.apply(DISRUPTION_BUDGET, budget)
            policies = self._policies()
            if HEALTH_CHECK_POLICY in policies:
                policy = objects.backend_policy(HEALTH_CHECK_POLICY, isvc, policies[HEALTH_CHECK_POLICY])
                self._cluster.apply(HEALTH_CHECK_POLICY, policy)
            if GCP_BACKEND_POLICY in policies:
                policy = objects.backend_policy(GCP_BACKEND_POLICY, isvc, policies[GCP_BACKEND_POLICY])
                self._cluster.apply(GCP_BACKEND_POLICY, policy)
        except LockLost:
            raise
        except TargetError as error:
            if self._record(self._route()).stable != digest:
                raise
            say("not_protected", step="rollout", release=digest, why=str(error))

    def _policies(self) -> dict[Kind, Object]:
        """How the cluster's gateway is to treat a release. Raises TargetError for what is no such policy."""
        found = self._cluster.get(CONFIG_MAP, _POLICIES) or {}
        policies: dict[Kind, Object] = {}
        for name, text in cast("dict[str, str]", found.get("data") or {}).items():
            where = f"ConfigMap {_POLICIES} in namespace {self._cluster.namespace}: {name}"
            if name not in _POLICY_KINDS:
                raise TargetError(f"{where} is no policy that is known; known are {', '.join(sorted(_POLICY_KINDS))}")
            try:
                spec = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise TargetError(f"{where} is not YAML: {error}") from error
            if not isinstance(spec, dict) or "targetRef" in spec:
                raise TargetError(f"{where} is not the spec of a policy without its targetRef")
            if objects.asks_for_sign_in(cast("Object", spec)) and not objects.names_its_client(cast("Object", spec)):
                raise TargetError(f"{where}: default.iap needs clientID and oauth2ClientSecret.name (docs/deploy.md)")
            policies[_POLICY_KINDS[name]] = cast("Object", spec)
        return policies

    def _refuse_routed(self, digest: str) -> None:
        if self._is_routed(digest):
            raise TargetError(f"{digest} gets traffic and is not removed")

    def _is_routed(self, digest: str) -> bool:
        route = self._route()
        return objects.has_traffic(route) and backend_of(name_of(self._service, digest)) in objects.weights_of(route)

    def _await_in_force(
        self, wanted: Mapping[str, int], before: Mapping[str, int], addresses: Sequence[Address]
    ) -> None:
        """Return when the gateways of these addresses follow the route: its status says so, and answers show it."""
        limit = self._config.kserve.route_seconds
        deadline = time.monotonic() + limit
        smallest = min([*wanted.values(), *before.values()], default=100)
        total = max(sum(wanted.values()), sum(before.values()), 1)
        needed = max(_ANSWERS, math.ceil(1.5 * total / max(smallest, 1)))
        doors = [self._public(one) for one in addresses if wanted or self._is_there(one)]
        accepted = math.inf
        while True:
            route = self._route()
            if wanted and not objects.has_traffic(route):
                raise TargetError(f"HTTPRoute {self._service} was taken away by somebody else")
            refusals = [self._not_accepted(route, one.gateway) for one in addresses] if wanted else []
            why = next((words for words in refusals if words), "")
            why = why or (self._open_to_all(wanted, addresses) if wanted else "")
            accepted = math.inf if why else min(accepted, time.monotonic())
            closed = [] if why else [one for one in doors if self._asks_for_sign_in(one)]
            open_ones = [] if why else [one for one in doors if one not in closed]
            why = why or next((words for one in open_ones if (words := self._other_answers(one, needed, wanted))), "")
            if closed and not why and time.monotonic() - accepted < min(_UNSEEN_SECONDS, limit / 2):
                why = "it asks for sign-in, so that nobody sees who answers"
            if not why:
                return
            if time.monotonic() > deadline:
                shares = ", ".join(f"{digest} {weight}" for digest, weight in wanted.items()) or "nothing"
                raise TargetError(
                    f"the gateway at {' and '.join(one.url for one in doors)} does not route by {shares} after "
                    f"{limit:g} s: {why}; see `kubectl describe httproute -n {self._cluster.namespace} {self._service}`"
                )
            self.wait(0.2)

    def _other_answers(self, door: _Public, count: int, wanted: Collection[str]) -> str:
        """Who answers at a public address in place of those that are wanted; "" when they do, all of them."""
        answered = self._answers(count, wanted, door)
        shown = set(answered) == set(wanted) if wanted else not any(answered)
        return "" if shown else f"it answers by {', '.join(sorted(set(map(str, answered))))}"

    def _delete(self, name: str) -> None:
        """Delete an InferenceService and return when its pods are gone; they finish what they have begun."""
        found = self._cluster.get(INFERENCE_SERVICE, name)
        deadline = time.monotonic() + self._grace_seconds(found) + _DELETE_SECONDS
        while True:
            isvc = self._cluster.get(INFERENCE_SERVICE, name)
            ours = isvc is not None and found is not None and isvc["metadata"]["uid"] == found["metadata"]["uid"]
            if isvc and ours and not isvc["metadata"].get("deletionTimestamp"):
                self._cluster.delete(INFERENCE_SERVICE, isvc)
            pods = [one["metadata"]["name"] for one in self._cluster.list(POD, {ISVC_LABEL: name})]
            if not ours and not pods:
                return
            if time.monotonic() > deadline:
                left = f"pods {', '.join(pods)}" if pods else "the object itself (does the KServe controller run?)"
                raise TargetError(f"InferenceService {name} was deleted, but is not gone: {left}")
            self.wait(0.5)

    def _grace_seconds(self, isvc: Object | None) -> float:
        """How long the pods of a release may take to end: its own settings, whatever this rollout's are."""
        predictor = (isvc or {}).get("spec", {}).get("predictor", {})
        return float(predictor.get("terminationGracePeriodSeconds", self._config.kserve.grace_seconds))


class _Watch:
    """Watches all kinds that a rollout looks at; `wait` returns when any of them may have changed.

    A watch makes waiting shorter and nothing else: whoever waits looks for itself, and has a deadline of its own. So
    one that is refused, as by an API server that is starting, is told and tried again.
    """

    def __init__(self, cluster: Cluster, selected: Mapping[str, str]):
        self._cluster, self._selected = cluster, selected
        self._changed, self._stopped = threading.Event(), threading.Event()
        for kind in _WATCHED:
            threading.Thread(target=self._follow, args=(kind,), name=f"watch {kind.plural}", daemon=True).start()

    def stop(self) -> None:
        """End the watches; their threads end with their connections."""
        self._stopped.set()
        self._changed.set()

    def wait(self, seconds: float) -> None:
        """Return at a change, or after `seconds`."""
        self._changed.wait(seconds)
        self._changed.clear()

    def _follow(self, kind: Kind) -> None:
        while not self._stopped.is_set():
            try:
                for _ in self._cluster.changes(kind, self._selected, self._stopped):
                    self._changed.set()
            except ApiError as error:
                say("not_watched", step="rollout", kind=kind.plural, why=str(error))
                self._stopped.wait(_WATCH_AGAIN_SECONDS)


_SERVICE_LABEL = "kubernetes.io/service-name"


def services(cluster: Cluster) -> dict[str, Record]:
    """Name -> record of every service that rollouts have brought to a namespace."""
    found: dict[str, Record] = {}
    for one in cluster.list(HTTP_ROUTE, {objects.MANAGED_BY: MANAGER}):
        name = str(one["metadata"]["name"])
        try:
            found[name] = read_record(one)
        except ValueError as error:  # the others are no worse for it
            say("not_readable", step="rollout", service=name, why=str(error))
            found[name] = Record(state=UNREADABLE, reason=str(error))
    return found


def recorded_config(cluster: Cluster, service: str | None = None) -> RolloutConfig:
    """The configuration that a service was last rolled out with; the only service when none is named.

    Raises InputError when there is none, or several to choose from; TargetError when it cannot be read.
    """
    found = services(cluster)
    if service is None and len(found) == 1:
        service = next(iter(found))
    if service is None and found:
        raise InputError(f"there are several services ({', '.join(sorted(found))}); name one")
    if service is None or service not in found or not found[service].latest_config:
        known = f"; known are {', '.join(sorted(found))}" if found else ""
        raise InputError(f"no {service or 'service'} was rolled out to namespace {cluster.namespace}{known}")
    return read_config(found[service].latest_config, record_name(service))


def record_name(service: str) -> str:
    """What people are told when the configuration of a service's last rollout cannot be read."""
    return f"the configuration in the annotations of HTTPRoute {service}"


def _digest(isvc: Object) -> str:
    noted = cast("dict[str, str]", isvc["metadata"].get("annotations") or {})
    return noted.get(f"{objects.PREFIX}digest", f"unknown ({isvc['metadata']['name']})")


def _address(config: RolloutConfig) -> Address:
    return Address(config.kserve.gateway, config.kserve.hostname)


def _without_candidate(record: Record) -> Record:
    return replace(record, candidate=None, candidate_config={}, rejected="")


def _answers_for(seen: readiness.Seen) -> bool:
    """Whether its Service has a server that answers, be the newest of its pods as they may."""
    return bool(readiness.ready_endpoints(seen.slices))


def _release_that_answers(client: httpx.Client) -> str | None:
    with suppress(httpx.HTTPError):
        response = client.get("/health")
        if response.status_code == 200:
            return response.headers.get(RELEASE_HEADER)
    return None


def _is_one_of(answered: str | None, wanted: Collection[str]) -> bool:
    return answered in wanted if wanted else answered is None


def _serves(pod: Object) -> bool:
    """Whether its server runs; one that is ending is left out, since nothing new reaches it."""
    statuses = cast("list[Object]", pod.get("status", {}).get("containerStatuses") or [])
    server = objects.server_of([one["name"] for one in statuses])
    running = any(one["name"] == server and one.get("started") for one in statuses)
    return running and not pod["metadata"].get("deletionTimestamp")


def _is_about(event: Object, name: str) -> bool:
    about = str(event.get("involvedObject", {}).get("name", ""))
    return about == name or about.startswith(f"{backend_of(name)}")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _camel(state: str) -> str:
    """An Event's reason is one word: "watching 10 %" becomes Watching10."""
    words = ("".join(letter for letter in word if letter.isalnum()) for word in state.split())
    return "".join(word[:1].upper() + word[1:] for word in words)[:128] or "Changed"


def _is_bad(state: str) -> bool:
    return any(word in state for word in ("fail", "withdraw", "roll back", "rolled back"))
