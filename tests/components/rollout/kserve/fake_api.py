"""A Kubernetes API server in memory: versions, conflicts, server-side apply, watches, refusals, faults.

Beside it a `World` plays KServe, the kubelet and the gateway: it makes Deployments and pods, marks routes as accepted,
and answers the public address by the route's weights.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from components.rollout.kserve.objects import NOBODY

NAMESPACE = "serving"
KINDS = {
    "inferenceservices": "serving.kserve.io/v1beta1",
    "httproutes": "gateway.networking.k8s.io/v1",
    "gateways": "gateway.networking.k8s.io/v1",
    "deployments": "apps/v1",
    "pods": "v1",
    "endpointslices": "discovery.k8s.io/v1",
    "events": "v1",
    "leases": "coordination.k8s.io/v1",
    "configmaps": "v1",
    "poddisruptionbudgets": "policy/v1",
    "healthcheckpolicies": "networking.gke.io/v1",
    "gcpbackendpolicies": "networking.gke.io/v1",
}
Object = dict[str, Any]


def moment(seconds: float | None = None) -> str:
    return datetime.fromtimestamp(time.time() if seconds is None else seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Fault:
    """What happens to the next `times` requests that match."""

    matches: Callable[[str, str], bool]
    """(method, path with query) -> whether it is meant."""

    status: int = 0
    """Answered instead; 0 breaks the connection."""

    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "injected"
    after: bool = False
    """The request is carried out, and its answer is lost."""


class FakeApi:
    """The server; objects by (plural, namespace, name)."""

    def __init__(self):
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.missing_kinds: set[str] = set()
        self.denied: set[tuple[str, str]] = set()
        """(verb, plural) that the account lacks."""

        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.on_change: Callable[[str, str, Object], None] = lambda what, plural, found: None
        """Told of ("ADDED" | "MODIFIED" | "DELETED", plural, object) after every change."""

        self.refuse: Callable[[str, Object], str] = lambda plural, found: ""
        """An admission webhook: its words refuse an object."""

        self.proxied: Callable[[str, str, str, bytes], tuple[int, dict[str, str], bytes]] | None = None
        """(kind/name:port, method, path, body) -> status, headers, body."""

        self._version = 100
        self._changed = threading.Condition()
        self._log: list[tuple[str, str, Object]] = []
        self._server = _serve(_handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    # -------------------------------------------------------------------------- for tests and the world

    def put(self, plural: str, found: Object, status: Object | None = None) -> Object:
        """Write an object as it is, past every check."""
        metadata = found["metadata"]
        metadata.setdefault("namespace", NAMESPACE)
        key = (plural, metadata["namespace"], metadata["name"])
        with self._changed:
            before = self.objects.get(key)
            metadata.setdefault("uid", str(uuid.uuid4()))
            metadata.setdefault("creationTimestamp", moment())
            same_spec = before is not None and before.get("spec") == found.get("spec")
            generation = before["metadata"].get("generation", 0) if before else 0
            metadata["generation"] = generation if same_spec else generation + 1
            self._version += 1
            metadata["resourceVersion"] = str(self._version)
            found.setdefault("apiVersion", KINDS[plural])
            if status is not None:
                found["status"] = status
            self.objects[key] = found
            self._note("MODIFIED" if before else "ADDED", plural, found)
        self.on_change("MODIFIED" if before else "ADDED", plural, found)
        return found

    def drop(self, plural: str, name: str, namespace: str = NAMESPACE) -> None:
        with self._changed:
            found = self.objects.pop((plural, namespace, name), None)
            if found is None:
                return
            self._version += 1
            self._note("DELETED", plural, found)
        self.on_change("DELETED", plural, found)

    def one(self, plural: str, name: str, namespace: str = NAMESPACE) -> Object | None:
        return self.objects.get((plural, namespace, name))

    def all(self, plural: str) -> list[Object]:
        with self._changed:
            return [found for (kind, _, _), found in self.objects.items() if kind == plural]

    def _note(self, what: str, plural: str, found: Object) -> None:
        self._log.append((what, plural, json.loads(json.dumps(found))))
        self._changed.notify_all()

    # ---------------------------------------------------------------------------------------- requests

    def answer(self, method: str, path: str, body: Object | None) -> tuple[int, Object]:
        """One request that is no watch and no proxy."""
        parts = urlsplit(path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        namespace, plural, name = _address(parts.path)
        if plural not in KINDS or plural in self.missing_kinds:
            return 404, {"text": "404 page not found"}
        verb = {"GET": "get" if name else "list", "POST": "create", "PATCH": "patch", "PUT": "update"}.get(
            method, "delete"
        )
        if (verb, plural) in self.denied:
            words = f'{plural} "{name}" is forbidden: User "test" cannot {verb} resource "{plural}" in the namespace'
            return 403, _status(403, "Forbidden", words)
        with self._changed:
            found = self.objects.get((plural, namespace, name))
            if method == "GET" and not name:
                return 200, {"items": [one for one in self._selected(plural, namespace, query)]}
            if method == "POST":
                name = (body or {})["metadata"]["name"]
                if (plural, namespace, name) in self.objects:
                    return 409, _status(409, "AlreadyExists", f'{plural} "{name}" already exists')
            elif method != "PATCH" and found is None:
                return 404, _status(404, "NotFound", f'{plural} "{name}" not found', plural)
        if method == "GET":
            return 200, found or {}
        if method == "DELETE":
            return self._deleted(plural, found or {}, body or {})
        return self._written(method, plural, found, body or {})

    def _selected(self, plural: str, namespace: str, query: dict[str, str]) -> list[Object]:
        wanted = [part.split("=", 1) for part in query.get("labelSelector", "").split(",") if part]
        return [
            found
            for (kind, space, _), found in self.objects.items()
            if kind == plural
            and space == namespace
            and all(found["metadata"].get("labels", {}).get(key) == value for key, value in wanted)
        ]

    def _deleted(self, plural: str, found: Object, body: Object) -> tuple[int, Object]:
        metadata = found["metadata"]
        if body.get("preconditions", {}).get("uid", metadata["uid"]) != metadata["uid"]:
            return 409, _status(409, "Conflict", "the UID in the precondition does not match")
        metadata["deletionTimestamp"] = moment()
        self.put(plural, found)
        return 200, {"kind": "Status", "status": "Success"}

    def _written(self, method: str, plural: str, found: Object | None, body: Object) -> tuple[int, Object]:
        words = self.refuse(plural, body)
        if words:
            return 403, _status(403, "Forbidden", f'admission webhook "test.kserve" denied the request: {words}')
        version = body["metadata"].get("resourceVersion")
        if found and version and version != found["metadata"]["resourceVersion"]:
            return 409, _status(409, "Conflict", "the object has been modified; please apply your changes again")
        if found is None and version:
            return 409, _status(409, "Conflict", "resourceVersion must not be set on a new object")
        written = json.loads(json.dumps(body))
        metadata = written["metadata"]
        if found:
            kept = {key: found["metadata"][key] for key in ("uid", "creationTimestamp", "generation")}
            metadata |= kept
            written.setdefault("status", found.get("status", {}))
            if method == "PATCH":  # what others have written besides stays
                mine = set(found["metadata"].get("applied", []))
                for part in ("annotations", "labels"):
                    others = {k: v for k, v in found["metadata"].get(part, {}).items() if k not in mine}
                    metadata[part] = others | metadata.get(part, {})
        if method == "PATCH":
            metadata["applied"] = sorted(
                {*body["metadata"].get("annotations", {}), *body["metadata"].get("labels", {})}
            )
        return (200 if found else 201), self.put(plural, written)

    def watch(self, path: str, alive: Callable[[], bool]) -> Iterator[bytes]:
        """Events of a kind as JSON lines, what is there already first."""
        parts = urlsplit(path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        namespace, plural, _ = _address(parts.path)
        until = time.monotonic() + min(float(query.get("timeoutSeconds", 1)), 5)
        with self._changed:
            seen = len(self._log)
            first = self._selected(plural, namespace, query)
        for found in first:
            yield _line("ADDED", found)
        while time.monotonic() < until and alive():
            with self._changed:
                self._changed.wait(0.1)
                news, seen = self._log[seen:], len(self._log)
            for what, of, found in news:
                if of == plural:
                    yield _line(what, found)

    def fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and fault.matches(method, path):
                fault.times -= 1
                return fault
        return None


def _line(what: str, found: Object) -> bytes:
    return json.dumps({"type": what, "object": found}).encode() + b"\n"


def _address(path: str) -> tuple[str, str, str]:
    """/apis/g/v/namespaces/n/plural/name -> (n, plural, name)"""
    parts = path.strip("/").split("/")
    at = parts.index("namespaces") if "namespaces" in parts else len(parts)
    rest = [*parts[at + 1 :], "", "", ""]
    return rest[0], rest[1], rest[2]


def _status(code: int, reason: str, message: str, kind: str = "") -> Object:
    details = {"kind": kind} if kind else {}
    return {
        "kind": "Status",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
        "details": details,
    }


def _serve(handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server


def _handler(api: FakeApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            api.requests.append((self.command, self.path))
            fault = api.fault(self.command, self.path)
            if fault and not fault.after:
                return self._fail(fault)
            if "/proxy" in self.path and api.proxied:
                kind, _, rest = self.path.partition(f"/namespaces/{NAMESPACE}/")[2].partition("/proxy")
                status, headers, content = api.proxied(kind, self.command, rest, body)
                return self._send(status, content, headers)
            if "watch=true" in self.path:
                return self._stream()
            status, found = api.answer(self.command, self.path, json.loads(body) if body else None)
            if fault:
                return self._fail(fault)
            content = found["text"].encode() if "text" in found else json.dumps(found).encode()
            self._send(status, content, {})

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any

        def _fail(self, fault: Fault) -> None:
            if not fault.status:
                self.close_connection = True
                self.connection.close()
                return
            self._send(fault.status, json.dumps(_status(fault.status, "Fault", fault.message)).encode(), fault.headers)

        def _stream(self) -> None:
            _, plural, _ = _address(urlsplit(self.path).path)
            if ("watch", plural) in api.denied:
                words = f'{plural} is forbidden: User "test" cannot watch resource "{plural}" in the namespace'
                return self._send(403, json.dumps(_status(403, "Forbidden", words)).encode(), {})
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            with suppress(OSError):
                for line in api.watch(self.path, lambda: not self.wfile.closed):
                    self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
                    self.wfile.flush()
                self.wfile.write(b"0\r\n\r\n")

        def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            with suppress(OSError):
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

    return Handler


class World:
    """KServe, the kubelet and the gateway, as far as a rollout meets them.

    `behaviour` says how pods of a release (by the digest's first digits) turn out: "good" (the default), "slow" (never
    ready), "no image", "crash", "stuck" (it does not go away), "wrong" (another answer than the golden one).
    """

    def __init__(self, api: FakeApi):
        self.api = api
        self.behaviour: dict[str, str] = {}
        self.counts: dict[str, tuple[int, int]] = {}
        """Release's digits -> answered, failed."""

        self.follows = True
        """Whether the gateway takes up new routes."""

        self.reconciles = True
        """Whether KServe carries changes of InferenceServices over to their Deployments."""

        self.signs_in = False
        """Whether the gateway's own answers are those of an Identity-Aware Proxy."""

        self.attaches = "at once"
        """When the gateway takes up a GCPBackendPolicy: "at once", "when routed", "never"; or it says "refused"."""

        self.served: dict[str, int] = {}
        """Name of a backend Service -> weight, as the gateway has it in force."""

        self.hostnames: list[str] = []
        """Those of the route that the gateway has in force; none is every host."""

        self._turn = 0
        self._gateway = _serve(_public(self))
        api.on_change = self._changed
        api.proxied = self._proxied
        status = {"addresses": [{"type": "IPAddress", "value": "127.0.0.1"}]}
        listener = {"name": "http", "protocol": "HTTP", "port": self._gateway.server_port}
        gateway = {"kind": "Gateway", "metadata": {"name": "slipway", "namespace": "slipway-system"}}
        api.put("gateways", {**gateway, "spec": {"listeners": [listener]}}, status)

    def close(self) -> None:
        self._gateway.shutdown()
        self._gateway.server_close()

    def _changed(self, what: str, plural: str, found: Object) -> None:
        name = found["metadata"]["name"]
        if plural == "inferenceservices" and what == "ADDED":
            self._start(found)
        elif plural == "inferenceservices" and found["metadata"].get("deletionTimestamp") and what != "DELETED":
            if self.behaviour.get(name[-10:]) != "stuck":
                self._end(name)
        elif plural == "inferenceservices" and what == "MODIFIED" and self.reconciles:
            self._reconcile(found)
        elif plural == "httproutes" and self.follows:
            self._follow(found)
            self._attach()
        elif plural == "gcpbackendpolicies":
            self._attach()

    def _attach(self) -> None:
        """Say of policies whether they are taken up."""
        for policy in self.api.all("gcpbackendpolicies"):
            waits = self.attaches == "when routed" and policy["metadata"]["name"] not in self.served
            if self.attaches == "never" or waits:
                continue
            good, generation = self.attaches != "refused", policy["metadata"]["generation"]
            said = {"reason": "Attached"} if good else {"reason": "Invalid", "message": "no Secret slipway-iap"}
            condition = {"type": "Attached", "status": str(good), "observedGeneration": generation, **said}
            if policy.get("status", {}).get("conditions") != [condition]:
                self.api.put("gcpbackendpolicies", policy, {"conditions": [condition]})

    def _start(self, isvc: Object) -> None:
        name = isvc["metadata"]["name"]
        how = self.behaviour.get(name[-10:], "good")
        labels = {**isvc["metadata"]["labels"], "serving.kserve.io/inferenceservice": name}
        ready = how in ("good", "stuck", "wrong")
        predictor = isvc.get("spec", {}).get("predictor", {})
        replicas = predictor.get("minReplicas", 1)
        spec = {"replicas": replicas, "template": {"metadata": {"annotations": _made_by(isvc)}}}
        progress = {"type": "Progressing", "status": "True"} | ({"reason": "NewReplicaSetAvailable"} if ready else {})
        count = {"replicas": replicas, "updatedReplicas": replicas, "availableReplicas": replicas * ready}
        count["observedGeneration"] = 1
        backend = f"{name}-predictor"
        self.api.put(
            "deployments",
            {"kind": "Deployment", "metadata": {"name": backend, "labels": labels}, "spec": spec}
            | {"taken_up": {**predictor, **_made_by(isvc)}},
            {**count, "conditions": [progress]},
        )
        pod = {"name": f"{backend}-x", "labels": labels, "annotations": _made_by(isvc)}
        self.api.put("pods", {"kind": "Pod", "metadata": pod}, _pod_status(how))
        service = {**labels, "kubernetes.io/service-name": backend}
        ends = [{"addresses": ["10.0.0.1"] * replicas, "conditions": {"ready": ready}}]
        self.api.put("endpointslices", {"metadata": {"name": f"{backend}-s", "labels": service}, "endpoints": ends})
        predictor = {"type": "PredictorReady", "status": str(ready), "reason": "NewReplicaSetAvailable"}
        self.api.put("inferenceservices", isvc, {"conditions": [predictor], "modelStatus": {"transitionStatus": ""}})

    def _reconcile(self, isvc: Object) -> None:
        """Take over a change. Pods of other settings come beside the old one, which goes once they are ready."""
        backend = f"{isvc['metadata']['name']}-predictor"
        deployment = self.api.one("deployments", backend)
        wanted = {**isvc.get("spec", {}).get("predictor", {}), **_made_by(isvc)}
        if deployment is None or deployment["taken_up"] == wanted:
            return
        pod, ends = self.api.one("pods", f"{backend}-x"), self.api.one("endpointslices", f"{backend}-s")
        replicas, how = wanted["minReplicas"], self.behaviour.get(isvc["metadata"]["name"][-10:], "good")
        anew = pod["metadata"]["annotations"] != _made_by(isvc)
        ready = not anew or how in ("good", "stuck", "wrong")
        self.api.drop("pods", f"{backend}-y")
        if anew and ready:
            pod["metadata"]["annotations"] = _made_by(isvc)
            self.api.put("pods", pod)
        elif anew:
            metadata = pod["metadata"] | {"name": f"{backend}-y", "annotations": _made_by(isvc), "uid": "y"}
            self.api.put("pods", {"kind": "Pod", "metadata": metadata}, _pod_status(how))
        ends["endpoints"][0]["addresses"] = ["10.0.0.1"] * replicas
        self.api.put("endpointslices", ends)
        spec = {"replicas": replicas, "template": {"metadata": {"annotations": _made_by(isvc)}}}
        count = {"replicas": replicas + (not ready), "updatedReplicas": replicas, "availableReplicas": replicas}
        changed = {**deployment, "spec": spec, "taken_up": wanted}
        generation = deployment["metadata"]["generation"] + (deployment["spec"] != spec)
        status = {"conditions": deployment["status"]["conditions"], "observedGeneration": generation}
        self.api.put("deployments", changed, status | count)

    def _end(self, name: str) -> None:
        backend = f"{name}-predictor"
        for plural, of in (("endpointslices", f"{backend}-s"), ("pods", f"{backend}-x"), ("deployments", backend)):
            self.api.drop(plural, of)
        self.api.drop("pods", f"{backend}-y")
        self.api.drop("inferenceservices", name)

    def _follow(self, route: Object) -> None:
        spec, metadata = route["spec"], route["metadata"]
        backends = [one for rule in spec["rules"] for one in rule.get("backendRefs", [])]
        attached = any(self.api.one("gateways", one["name"], one["namespace"]) for one in spec.get("parentRefs", []))
        self.served = {one["name"]: one["weight"] for one in backends if one["name"] != NOBODY} if attached else {}
        self.hostnames = spec.get("hostnames", [])
        good = [{"type": kind, "status": "True", "reason": kind, "observedGeneration": metadata["generation"]}
                for kind in ("Accepted", "ResolvedRefs")]  # fmt: skip
        there = [one for one in spec.get("parentRefs", []) if self.api.one("gateways", one["name"], one["namespace"])]
        parents = [{"parentRef": one, "conditions": good} for one in there]
        if route.get("status", {}).get("parents") != parents:
            self.api.put("httproutes", route, {"parents": parents})

    def listens_to(self, host: str) -> bool:
        """Whether a listener of any gateway, and the route, take a host."""
        listeners = [one for gateway in self.api.all("gateways") for one in gateway["spec"]["listeners"]]
        named = host.partition(":")[0]
        takes = any(named.endswith(one.get("hostname", "").removeprefix("*")) for one in listeners)
        return takes and (not self.hostnames or named in self.hostnames)

    def turn(self) -> str | None:
        """The backend that gets the next request, by weighted turns."""
        shares = [name for name, weight in sorted(self.served.items()) for _ in range(weight)]
        if not shares:
            return None
        self._turn += 37  # goes round a hundred places without a pattern
        return shares[self._turn % len(shares)]

    def digest(self, backend: str) -> str:
        found = self.api.one("inferenceservices", backend.removesuffix("-predictor"))
        return found["metadata"]["annotations"]["slipway.dev/digest"] if found else ""

    def _proxied(self, kind: str, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        name = kind.partition("/")[2].partition(":")[0]
        backend = name.removesuffix("-x")
        digest = self.digest(backend)
        if not digest:
            return 503, {}, json.dumps(_status(503, "ServiceUnavailable", "no endpoints available")).encode()
        headers = {"x-slipway-release": digest}
        if path == "/metrics":
            answered, failed = self.counts.get(digest[7:17], (0, 0))
            counter = "slipway_generations_total"
            lines = [f'{counter}{{outcome="answered"}} {answered}', f'{counter}{{outcome="failed"}} {failed}']
            return 200, headers, "\n".join([f"# TYPE {counter} counter", *lines, ""]).encode()
        if path == "/v1/chat/completions":
            return self._answered(digest[7:17], headers)
        return 200, headers, json.dumps({"path": path, "method": method, "body": body.decode()}).encode()

    def _answered(self, digits: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        """The golden answer, counted; of a "wrong" release another one."""
        answered, failed = self.counts.get(digits, (0, 0))
        self.counts[digits] = (answered + 1, failed)
        tokens = [9] if self.behaviour.get(digits) == "wrong" else [2]
        return 200, headers, json.dumps({"prompt_token_ids": [1], "choices": [{"token_ids": tokens}]}).encode()


def _made_by(isvc: Object) -> dict[str, str]:
    """The annotation that KServe hands down to a Deployment's template, and so to the pods."""
    noted = isvc["metadata"].get("annotations", {})
    return {key: noted[key] for key in ("slipway.dev/settings",) if key in noted}


def _pod_status(how: str) -> Object:
    status: Object = {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}
    container: Object = {"name": "kserve-container", "image": "registry/serving@sha256:0", "restartCount": 0}
    if how in ("good", "stuck", "wrong"):
        status["conditions"] = [{"type": "Ready", "status": "True"}]
        container |= {"ready": True, "started": True, "state": {"running": {}}}
    elif how == "slow":
        container |= {"ready": False, "started": True, "state": {"running": {}}}
    elif how == "no image":
        container["state"] = {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}
    else:
        ended = {"reason": "Error", "exitCode": 3, "message": "it broke"}
        container |= {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": ended}}
    return status | {"containerStatuses": [container]}


def _public(world: World) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            if world.signs_in:
                return self._sign_in()
            backend = (world.turn() if world.listens_to(self.headers["Host"]) else "") or ""
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, content = world._proxied(f"services/{backend}:80", "POST", self.path, content)
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content)

        def _sign_in(self) -> None:
            self.send_response(302)
            self.send_header("Location", "https://accounts.google.com/")
            self.send_header("X-Goog-IAP-Generated-Response", "true")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            if world.signs_in and world.served:
                return self._sign_in()
            backend = world.turn() if world.listens_to(self.headers["Host"]) else None
            digest = world.digest(backend) if backend else ""
            content = json.dumps({"status": "ok", "release": digest, "host": self.headers["Host"]}).encode()
            self.send_response(200 if digest else 503 if backend else 404)
            if digest:
                self.send_header("x-slipway-release", digest)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler


@contextmanager
def running() -> Iterator[tuple[FakeApi, World]]:
    api = FakeApi()
    world = World(api)
    try:
        yield api, world
    finally:
        world.close()
        api.close()
