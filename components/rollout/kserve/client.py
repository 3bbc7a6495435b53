"""The cluster's API as the rollout uses it: credentials, paths, retries, watches, and errors in words.

Credentials and connections come from the `kubernetes` package, which is loaded when a cluster is first asked for.
"""

from __future__ import annotations

import importlib
import json
import os
import ssl
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, cast

import httpx

from components.rollout.target import TargetError

MANAGER = "slipway"
"""The one field manager of everything that the rollout applies."""

API_SECONDS = 30.0
RELEASE_HEADER = "x-slipway-release"
_REQUEST_SECONDS = 10.0
_CONNECT_SECONDS = 5.0
ATTEMPT_SECONDS = _CONNECT_SECONDS + _REQUEST_SECONDS
"""The longest that one try of a request takes: by then it has been heard, or is given up."""

_PROXY_SECONDS = 10.0
"""How long the way through the API server may fail; a server that is gone looks the same from here."""

_WATCH_SECONDS = 30
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 3.0
_AGAIN = frozenset({429, 500, 502, 503, 504})
"""What an API server, or a proxy before it, answers when the same request may succeed in a moment."""

Object = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A kind of object, and where the API keeps it."""

    name: str
    version: str
    """As in apiVersion: "v1", "apps/v1"."""

    plural: str

    @property
    def root(self) -> str:
        """The path of its API group."""
        return f"/apis/{self.version}" if "/" in self.version else f"/api/{self.version}"

    @property
    def resource(self) -> str:
        """As `kubectl` and Roles name it: "deployments.apps"."""
        group = self.version.rpartition("/")[0]
        return f"{self.plural}.{group}" if group else self.plural


INFERENCE_SERVICE = Kind("InferenceService", "serving.kserve.io/v1beta1", "inferenceservices")
HTTP_ROUTE = Kind("HTTPRoute", "gateway.networking.k8s.io/v1", "httproutes")
GATEWAY = Kind("Gateway", "gateway.networking.k8s.io/v1", "gateways")
DEPLOYMENT = Kind("Deployment", "apps/v1", "deployments")
POD = Kind("Pod", "v1", "pods")
ENDPOINT_SLICE = Kind("EndpointSlice", "discovery.k8s.io/v1", "endpointslices")
EVENT = Kind("Event", "v1", "events")
LEASE = Kind("Lease", "coordination.k8s.io/v1", "leases")
CONFIG_MAP = Kind("ConfigMap", "v1", "configmaps")
DISRUPTION_BUDGET = Kind("PodDisruptionBudget", "policy/v1", "poddisruptionbudgets")
HEALTH_CHECK_POLICY = Kind("HealthCheckPolicy", "networking.gke.io/v1", "healthcheckpolicies")
GCP_BACKEND_POLICY = Kind("GCPBackendPolicy", "networking.gke.io/v1", "gcpbackendpolicies")


class ApiError(TargetError):
    """The API server refused, or was not to be had."""

    def __init__(self, message: str, status: int = 0):
        super().__init__(message)
        self.status = status


class Conflict(ApiError):
    """The object has been changed, or made, since it was read: read it again."""


class Gone(ApiError):
    """There is no such object."""


class Cluster:
    """One namespace of a cluster. Every call is tried again within `api_seconds` while that may help.

    Not found is None where a caller asks for one object; everything else that fails raises ApiError.
    """

    def __init__(self, api: Any, namespace: str, api_seconds: float = API_SECONDS):
        self._api, self.namespace, self.api_seconds = api, namespace, api_seconds
        self._clock_ahead = 0.0
        self.guard: Callable[[], None] = lambda: None
        """Asked before every try of a write but a Lease's; raises TargetError when nothing may be changed any more."""

    @classmethod
    def connect(cls, namespace: str, api_seconds: float = API_SECONDS) -> Cluster:
        """The cluster of KUBECONFIG (~/.kube/config), or the one that this pod runs in.

        Raises TargetError when there is neither.
        """
        kubernetes: Any = importlib.import_module("kubernetes")
        settings = kubernetes.client.Configuration()
        try:
            try:
                # named here, since the package reads the variable once, when it is imported
                named = os.environ.get("KUBECONFIG", "~/.kube/config")
                kubernetes.config.load_kube_config(named, client_configuration=settings)
            except kubernetes.config.ConfigException as outside:
                try:
                    kubernetes.config.load_incluster_config(client_configuration=settings)
                except kubernetes.config.ConfigException:
                    raise TargetError(
                        f"no cluster to speak to ({outside}): set KUBECONFIG to a kubeconfig file, or run in a pod "
                        "that has a service account"
                    ) from outside
        except OSError as error:
            raise TargetError(f"the kubeconfig cannot be read ({error}); set KUBECONFIG to one that can") from error
        settings.retries = False  # they are ours to make, within one deadline
        settings.connection_pool_maxsize = 16
        return cls(kubernetes.client.ApiClient(settings), namespace, api_seconds)

    @property
    def server(self) -> str:
        """Address of the API server."""
        return cast("str", self._api.configuration.host)

    def now(self) -> float:
        """Seconds since the epoch by the API server's clock, which everybody who reads a Lease shares."""
        return time.time() + self._clock_ahead

    # ---------------------------------------------------------------------------------------- objects

    def get(self, kind: Kind, name: str, namespace: str = "") -> Object | None:
        """One object; None when there is none."""
        with suppress(Gone):
            return self._call("GET", kind, name, namespace=namespace)
        return None

    def list(self, kind: Kind, labels: Mapping[str, str] | None = None, fields: str = "") -> list[Object]:
        """All objects of a kind that bear these labels."""
        query = {"labelSelector": _selector(labels), "fieldSelector": fields}
        return cast("list[Object]", self._call("GET", kind, query=query).get("items") or [])

    def apply(self, kind: Kind, wanted: Object) -> Object:
        """Server-side apply: the object has exactly these of our fields.

        Raises Conflict when `wanted` names a resourceVersion that the object no longer has. Without one a conflict is
        the server's own, and is tried again.
        """
        query = {"fieldManager": MANAGER, "force": "true"}
        again = _AGAIN if "resourceVersion" in wanted["metadata"] else _AGAIN | {409}
        return self._call("PATCH", kind, wanted["metadata"]["name"], wanted, query, again=again)

    def create(self, kind: Kind, wanted: Object) -> Object:
        """Make an object. Raises Conflict when there is one of that name."""
        return self._call("POST", kind, body=wanted, query={"fieldManager": MANAGER})

    def replace(self, kind: Kind, wanted: Object) -> Object:
        """Write a whole object. Raises Conflict when it was changed since it was read."""
        return self._call("PUT", kind, wanted["metadata"]["name"], wanted, {"fieldManager": MANAGER})

    def delete(self, kind: Kind, found: Object) -> None:
        """Delete exactly this object and, before it is gone, everything that it owns. Returns at once."""
        metadata = found["metadata"]
        body = {"propagationPolicy": "Foreground", "preconditions": {"uid": metadata["uid"]}}
        with suppress(Gone, Conflict):  # another object may have that name now; who looks again sees it
            self._call("DELETE", kind, metadata["name"], body)

    # ---------------------------------------------------------------------------------------- watching

    def changes(self, kind: Kind, labels: Mapping[str, str], stopped: threading.Event) -> Iterator[None]:
        """Yields whenever an object of a kind may have changed, and once at the beginning of every connection.

        It goes on through broken connections until `stopped`. Raises ApiError for what will not mend itself.
        """
        query = {"labelSelector": _selector(labels), "watch": "true", "timeoutSeconds": str(_WATCH_SECONDS)}
        pause = _FIRST_PAUSE
        while not stopped.is_set():
            try:
                stream = self._send("GET", self._path(kind), query, None, read_seconds=_WATCH_SECONDS + 5)
                yield
                for line in _lines(stream):
                    if stopped.is_set():
                        return
                    if line:
                        pause = _FIRST_PAUSE
                        yield
                stopped.wait(_FIRST_PAUSE)  # a server that ends every connection at once is not asked without end
            except Exception as error:
                failure = self._explain(error, "watch", kind, "")
                if failure.status and failure.status not in _AGAIN and failure.status != 410:
                    raise failure from error
                stopped.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    # ---------------------------------------------------------------------------------------- proxying

    def http(self, path: str, seconds: float) -> httpx.Client:
        """A client of a Service or Pod through the API server; `path` begins with its kind, as "services/name:80".

        What the API server itself fails to do is tried again; what the server behind it answers is the answer.
        """
        base = f"{self.server}/api/v1/namespaces/{self.namespace}/{path}/proxy"
        transport = _ProxyTransport(_tls(self._api.configuration), min(self.api_seconds, _PROXY_SECONDS))
        return httpx.Client(base_url=base, transport=transport, auth=self._authorize, timeout=seconds, trust_env=False)

    def _authorize(self, request: httpx.Request) -> httpx.Request:
        headers: dict[str, str] = {}
        self._api.update_params_for_auth(headers, [], ["BearerToken"])
        request.headers.update(headers)
        return request

    # ---------------------------------------------------------------------------------------- requests

    def _path(self, kind: Kind, name: str = "", namespace: str = "") -> str:
        path = f"{kind.root}/namespaces/{namespace or self.namespace}/{kind.plural}"
        return f"{path}/{name}" if name else path

    def _call(
        self,
        method: str,
        kind: Kind,
        name: str = "",
        body: Object | None = None,
        query: Mapping[str, str] | None = None,
        namespace: str = "",
        again: frozenset[int] = _AGAIN,
    ) -> Object:
        words = {"GET": "read", "PATCH": "apply", "POST": "create", "PUT": "write", "DELETE": "delete"}[method]
        named = name or (body["metadata"].get("name", "") if body else "")
        path = self._path(kind, name, namespace)
        with self._explained(words, kind, named):
            guard = self.guard if method != "GET" and kind != LEASE else None
            return cast("Object", json.loads(self._retried(method, path, query, body, again, guard)))

    @contextmanager
    def _explained(self, words: str, kind: Kind, name: str) -> Generator[None]:
        try:
            yield
        except TargetError:  # the guard's
            raise
        except Exception as error:
            raise self._explain(error, words, kind, name) from error

    def _retried(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Object | None,
        again: frozenset[int],
        guard: Callable[[], None] | None,
    ) -> bytes:
        deadline, pause = time.monotonic() + self.api_seconds, _FIRST_PAUSE
        while True:
            if guard:
                guard()
            left = deadline - time.monotonic()
            try:
                return self._send(method, path, query, body, min(_REQUEST_SECONDS, max(left, 0.1)), preload=True)
            except Exception as error:
                status = getattr(error, "status", None)
                if status and status not in again:
                    raise
                wait = max(pause, _retry_after(error))
                if time.monotonic() + wait > deadline:
                    raise
            time.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Object | None,
        read_seconds: float,
        preload: bool = False,
    ) -> Any:
        """One request: the bytes of the reply when `preload`, else the reply itself."""
        content = "application/apply-patch+yaml" if method == "PATCH" else "application/json"
        reply = self._api.call_api(
            path,
            method,
            query_params=[(key, value) for key, value in (query or {}).items() if value],
            header_params={"Accept": "application/json, */*", "Content-Type": content},
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _return_http_data_only=True,
            _request_timeout=(min(_CONNECT_SECONDS, read_seconds), read_seconds),
        )
        self._note_clock(reply.headers.get("Date"))
        return reply.read() if preload else reply

    def _note_clock(self, date: str | None) -> None:
        with suppress(TypeError, ValueError):
            ahead = parsedate_to_datetime(date or "").timestamp() + 0.5 - time.time()
            # The header is good to half a second: what is within that is no difference.
            self._clock_ahead = ahead if abs(ahead) > 1 else 0.0

    def _explain(self, error: Exception, words: str, kind: Kind, name: str) -> ApiError:
        """What was asked, of which object, and what the API server said."""
        if isinstance(error, ApiError):
            return error
        asked = f"cannot {words} {kind.name}{f' {name}' if name else 's'} in namespace {self.namespace}"
        status, body = int(getattr(error, "status", 0) or 0), getattr(error, "body", None)
        if not status:
            kept = f"kept failing for {self.api_seconds:g} s"
            return ApiError(f"{asked}: the API server {self.server} {kept}: {type(error).__name__}: {error}")
        said = _message(body) or str(getattr(error, "reason", ""))
        text = f"{asked}: HTTP {status}: {said}"
        if status == 404 and not _is_status(body):
            crd = f"it does not know {kind.resource} ({kind.version}); install its CustomResourceDefinition"
            return ApiError(f"{asked}: HTTP 404: {crd}", status)
        if status == 404:
            missing = _status(body).get("details", {}).get("kind", "")
            return ApiError(text, status) if missing == "namespaces" else Gone(text, status)
        if status == 409:
            return Conflict(text, status)
        if status == 401:
            return ApiError(f"{text}; the API server {self.server} does not know these credentials", status)
        if status == 403 and " cannot " in said and " resource " in said:
            return ApiError(f"{text}; give this account that right on {kind.resource}", status)
        return ApiError(text, status)


class _ProxyTransport(httpx.HTTPTransport):
    """Tries again what the API server could not pass on; replies of the server behind it bear its release."""

    def __init__(self, verify: ssl.SSLContext | bool, seconds: float):
        super().__init__(verify=verify)
        self._seconds = seconds

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        deadline, pause = time.monotonic() + self._seconds, _FIRST_PAUSE
        request.read()
        while True:
            last = time.monotonic() + pause > deadline
            try:
                response = super().handle_request(request)
                if last or response.status_code not in _AGAIN or RELEASE_HEADER in response.headers:
                    return response
                response.close()
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.RemoteProtocolError, httpx.ReadError):
                if last:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _tls(settings: Any) -> ssl.SSLContext | bool:
    """How the API server is verified, and who we are to it."""
    if not str(settings.host).startswith("https"):
        return False
    context = ssl.create_default_context(cafile=settings.ssl_ca_cert)
    if not settings.verify_ssl:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if settings.cert_file:
        context.load_cert_chain(settings.cert_file, settings.key_file)
    return context


def _selector(labels: Mapping[str, str] | None) -> str:
    return ",".join(f"{key}={value}" for key, value in (labels or {}).items())


def _lines(stream: Any) -> Iterable[bytes]:
    """Lines of a reply as they come."""
    rest = b""
    try:
        for chunk in stream.stream(4096, decode_content=False):
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole
    finally:
        stream.close()


def _retry_after(error: Exception) -> float:
    headers: Any = getattr(error, "headers", None) or {}
    with suppress(TypeError, ValueError):
        return float(headers.get("Retry-After") or 0)
    return 0.0


def _status(body: Any) -> Object:
    """The Status object of a refusal; {} when there is none."""
    with suppress(TypeError, ValueError):
        found = json.loads(body)
        if isinstance(found, dict):
            return cast("Object", found)
    return {}


def _is_status(body: Any) -> bool:
    return _status(body).get("kind") == "Status"


def _message(body: Any) -> str:
    said = _status(body).get("message")
    return said if isinstance(said, str) else (body or b"").decode(errors="replace")[:300].strip()
