"""Kubeflow Pipelines' API server by hand: the routes, statuses and error bodies of 2.17.0 that the project meets.

The texts are the server's own (backend/src/apiserver: server/, storage/, template/v2_template.go). Nothing runs: a test
moves a run along with `finish`.
"""

from __future__ import annotations

import copy
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

Reply = tuple[int, Any]
"""Status and body; a text is sent as it is, anything else as JSON."""

_EXAMPLES = {"STRUCT": dict, "LIST": list, "STRING": str, "BOOLEAN": bool}


class Refused(Exception):
    """An answer of the server that is no success."""

    def __init__(self, status: int, code: int, message: str):
        super().__init__(message)
        self.reply: Reply = (status, {"code": code, "message": message, "details": []})


def invalid(message: str) -> Refused:
    return Refused(400, 3, f"Invalid input error: {message}")


def exists(kind: str, name: str) -> Refused:
    return Refused(409, 6, f"Failed to create a new {kind}. The name {name} already exists. Please specify a new name")


class FakeKubeflow:
    """The server's memory, and what a test may do to it."""

    def __init__(self) -> None:
        self.token = ""
        self.multi_user = False
        self.pipelines: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, dict[str, Any]] = {}
        self.experiments: dict[str, dict[str, Any]] = {}
        self.all_runs: dict[str, dict[str, Any]] = {}
        self.recurring: dict[str, dict[str, Any]] = {}
        self.logs: dict[str, str] = {}
        """Pod name -> its main container's log."""

        self.requests: list[str] = []
        """ "METHOD /path" of each, without the query."""

        self.before: Callable[[str], Reply | None] = lambda request: None
        """Sees each request first, and may answer it."""

        self.page_size = 100
        self._clock = datetime(2026, 1, 1, tzinfo=UTC)
        self._lock = threading.Lock()

    # ------------------------------------------------------------------ what a test does

    def finish(self, run_id: str, state: str, *, verdict: str = "", keep_logs: bool = True, error: str = "") -> None:
        """Let a run end; with a verdict its steps are there as Argo's nodes are shown, and the gate's log."""
        run = self.all_runs[run_id]
        with self._lock:
            if verdict:
                run["run_details"] = _details("rollout" if verdict == "pass" else "stop")
            if verdict and keep_logs:
                event = {"event": "verdict", "step": "quality_gate", "verdict": verdict}
                told = json.dumps({**event, "reason": f"because: {verdict}"})
                lines = ['I0101 10:00:00.000000 1 launcher_v2.go:100] "verdict" {}', told, "done"]
                self.logs["train-and-release-x7k2p-system-container-impl-1234567890"] = "\n".join(lines)
            entry = {"state": state, "update_time": self._now()}
            run["state_history"] = [{**entry, "error": {"code": 13, "message": error}} if error else entry]
            run["state"] = state

    def created(self, what: str) -> int:
        """How often something was made: "pipelines", "upload_version", "experiments", "runs", "recurringruns"."""
        return sum(one.startswith("POST") and one.endswith(f"/{what}") for one in self.requests)

    # ------------------------------------------------------------------ routes

    def answer(self, method: str, url: str, body: bytes, authorization: str) -> Reply:
        parts = urlsplit(url)
        request, query = f"{method} {parts.path}", {key: value[0] for key, value in parse_qs(parts.query).items()}
        with self._lock:
            self.requests.append(request)
        early = self.before(request)
        if early:
            return early
        if self.token and authorization != f"Bearer {self.token}":
            return 401, {
                "code": 16,
                "message": "Request header error: there is no user identity header.",
                "details": [],
            }
        for pattern, handle in self._routes():
            match = re.fullmatch(pattern, request)
            if match:
                try:
                    with self._lock:
                        # a copy: it is sent while a test may move the run along
                        return copy.deepcopy(handle(query, body, *match.groups()))
                except Refused as refused:
                    return refused.reply
        return 404, {"code": 5, "message": "Not Found", "details": []}

    def _routes(self) -> list[tuple[str, Callable[..., Reply]]]:
        api = "/apis/v2beta1"
        return [
            (f"GET {api}/healthz", lambda query, body: (200, {"multi_user": self.multi_user})),
            (f"GET {api}/pipelines", lambda query, body: self._list("pipelines", self.pipelines, query)),
            (f"POST {api}/pipelines", self._create_pipeline),
            (f"POST {api}/pipelines/upload_version", self._upload_version),
            (f"GET {api}/pipelines/([^/]+)/versions", self._list_versions),
            (f"GET {api}/experiments", lambda query, body: self._list("experiments", self.experiments, query)),
            (f"POST {api}/experiments", self._create_experiment),
            (f"GET {api}/runs", self._list_runs),
            (f"POST {api}/runs", self._create_run),
            (f"GET {api}/runs/([^/:]+)", self._get_run),
            (f"POST {api}/runs/([^/:]+):terminate", self._terminate),
            ("GET /apis/v1alpha1/runs/([^/]+)/nodes/([^/]+)/log", self._log),
            (f"GET {api}/recurringruns", lambda query, body: self._list("recurringRuns", self.recurring, query)),
            (f"POST {api}/recurringruns", self._create_recurring),
            (f"DELETE {api}/recurringruns/([^/:]+)", self._delete_recurring),
            (f"POST {api}/recurringruns/([^/:]+):(enable|disable)", self._switch_recurring),
        ]

    def _now(self) -> str:
        self._clock += timedelta(seconds=1)
        return self._clock.isoformat().replace("+00:00", "Z")

    def _list(self, kind: str, objects: dict[str, dict[str, Any]], query: dict[str, str]) -> Reply:
        found = [one for one in objects.values() if _matches(one, query.get("filter", ""))]
        if query.get("sort_by", "").endswith(" desc"):
            found.sort(key=lambda one: one["created_at"], reverse=True)
        start = int(query.get("page_token") or 0)
        size = min(int(query.get("page_size") or 20), self.page_size)
        reply: dict[str, Any] = {kind: found[start : start + size], "total_size": len(found)}
        if start + size < len(found):
            reply["next_page_token"] = str(start + size)
        return 200, reply

    def _create_pipeline(self, query: dict[str, str], body: bytes) -> Reply:
        asked = json.loads(body)
        if any(one["name"] == asked["name"] for one in self.pipelines.values()):
            raise exists("pipeline", asked["name"])
        made = {**asked, "pipeline_id": str(uuid.uuid4()), "created_at": self._now()}
        self.pipelines[made["pipeline_id"]] = made
        return 200, made

    def _upload_version(self, query: dict[str, str], body: bytes) -> Reply:
        """An upload is no part of the gateway, and errs in a shape of its own."""
        name, pipeline = query.get("name", ""), query.get("pipelineid", "")
        words = "Failed to create a pipeline version"
        if pipeline not in self.pipelines:
            return 400, {"error_message": words, "error_details": words}
        if any(one["pipeline_id"] == pipeline and one["name"] == name for one in self.versions.values()):
            return 409, {"error_message": words, "error_details": words}
        text = re.split(rb"\r\n\r\n", body, maxsplit=1)[1].rsplit(b"\r\n--", 1)[0]
        documents = list(yaml.safe_load_all(text))
        if not documents or "pipelineInfo" not in documents[0]:
            return 400, {"error_message": "unknown template format", "error_details": "unknown template format"}
        made = {
            "pipeline_id": pipeline,
            "pipeline_version_id": str(uuid.uuid4()),
            "name": name,
            "display_name": name,
            "created_at": self._now(),
            "pipeline_spec": {"pipeline_spec": documents[0], "platform_spec": documents[1] if documents[1:] else {}},
        }
        self.versions[made["pipeline_version_id"]] = made
        return 200, made

    def _list_versions(self, query: dict[str, str], body: bytes, pipeline: str) -> Reply:
        ours = {key: one for key, one in self.versions.items() if one["pipeline_id"] == pipeline}
        return self._list("pipeline_versions", ours, query)

    def _create_experiment(self, query: dict[str, str], body: bytes) -> Reply:
        asked = json.loads(body)
        if any(one["display_name"] == asked["display_name"] for one in self.experiments.values()):
            raise exists("experiment", asked["display_name"])
        made = {
            **asked,
            "experiment_id": str(uuid.uuid4()),
            "created_at": self._now(),
            "storage_state": "AVAILABLE",
        }
        self.experiments[made["experiment_id"]] = made
        return 200, made

    def _list_runs(self, query: dict[str, str], body: bytes) -> Reply:
        experiment = query.get("experiment_id")
        ours = {k: one for k, one in self.all_runs.items() if experiment in (None, one["experiment_id"])}
        return self._list("runs", ours, query)

    def _create_run(self, query: dict[str, str], body: bytes) -> Reply:
        asked = json.loads(body)
        self._check_work(asked)
        made = {
            **asked,
            "run_id": str(uuid.uuid4()),
            "state": "PENDING",
            "storage_state": "AVAILABLE",
            "created_at": self._now(),
        }
        self.all_runs[made["run_id"]] = made
        return 200, made

    def _check_work(self, asked: dict[str, Any]) -> None:
        """As validatePipelineJobInputs does."""
        if asked.get("experiment_id") not in self.experiments:
            raise Refused(404, 5, f"Experiment {asked.get('experiment_id')} not found")
        version = self.versions.get(asked["pipeline_version_reference"]["pipeline_version_id"])
        if version is None:
            raise Refused(404, 5, "Failed to get the latest pipeline version")
        wanted = version["pipeline_spec"]["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
        given = asked["runtime_config"]["parameters"]
        extra = [name for name in given if name not in wanted]
        if extra:
            raise invalid(f"parameter(s) provided are not required by pipeline: {', '.join(extra)}")
        for name, value in given.items():
            kind = wanted[name]["parameterType"]
            if not isinstance(value, _EXAMPLES[kind]):
                raise invalid(
                    f"input parameter {name} requires type {kind.lower()}, but the parameter value is not of "
                    f"{kind.lower()} value type"
                )

    def _get_run(self, query: dict[str, str], body: bytes, run_id: str) -> Reply:
        if run_id not in self.all_runs:
            raise Refused(
                404,
                5,
                f"Failed to get a run: Failed to fetch run {run_id}: ResourceNotFoundError: Run {run_id} not found",
            )
        return 200, self.all_runs[run_id]

    def _terminate(self, query: dict[str, str], body: bytes, run_id: str) -> Reply:
        self._get_run(query, body, run_id)
        self.all_runs[run_id]["state"] = "CANCELED"
        return 200, {}

    def _log(self, query: dict[str, str], body: bytes, run_id: str, node: str) -> Reply:
        """The status is sent before the log is looked for, so a missing one is a success with words."""
        return 200, self.logs.get(node, json.dumps({"error_message": f"Failed to read logs for run {run_id}"}))

    def _create_recurring(self, query: dict[str, str], body: bytes) -> Reply:
        asked = json.loads(body)
        self._check_work(asked)
        cron = asked["trigger"]["cron_schedule"]["cron"]
        if not 5 <= len(cron.split()) <= 6:
            raise invalid(
                "Schedule cron is not a supported format(https://godoc.org/github.com/robfig/cron). Error: "
                f"Expected 5 to 6 fields, found {len(cron.split())}: {cron}"
            )
        if not 1 <= int(asked["max_concurrency"]) <= 10:
            raise invalid("The max concurrency of the recurring run is out of range. Support 1-10")
        made = {
            **asked,
            "recurring_run_id": str(uuid.uuid4()),
            "created_at": self._now(),
            "status": "ENABLED" if asked["mode"] == "ENABLE" else "DISABLED",
        }
        self.recurring[made["recurring_run_id"]] = made
        return 200, made

    def _delete_recurring(self, query: dict[str, str], body: bytes, job: str) -> Reply:
        if self.recurring.pop(job, None) is None:
            raise Refused(404, 5, f"ResourceNotFoundError: Job {job} not found")
        return 200, {}

    def _switch_recurring(self, query: dict[str, str], body: bytes, job: str, verb: str) -> Reply:
        self.recurring[job]["status"] = f"{verb.upper()}D"
        return 200, {}


def _details(last: str) -> dict[str, Any]:
    """A run's tasks up to the last one, as Argo's nodes are shown."""
    pod = "train-and-release-x7k2p-1234567890"
    return {
        "task_details": [
            {"display_name": "quality-gate-driver", "state": "SUCCEEDED"},
            {"display_name": "quality-gate", "state": "SUCCEEDED", "child_tasks": [{"pod_name": pod}]},
            {"display_name": "executor", "state": "SUCCEEDED"},
            {"display_name": last, "state": "SUCCEEDED", "child_tasks": []},
        ]
    }


def _matches(one: dict[str, Any], text: str) -> bool:
    """Every predicate of a filter, as protojson reads it."""
    for predicate in json.loads(text or "{}").get("predicates", []):
        value, wanted = one[predicate["key"]], predicate["string_value"]
        if not {"EQUALS": value == wanted, "IS_SUBSTRING": wanted in value}[predicate["operation"]]:
            return False
    return True


@contextmanager
def serve(answer: Callable[[str, str, bytes, str], Reply]) -> Iterator[str]:
    """A loopback server that answers by `answer(method, path with query, body, Authorization)`; its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, content = answer(self.command, self.path, body, self.headers.get("Authorization", ""))
            data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(content, str) else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = do_PATCH = _reply

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
