"""Vertex AI's pipeline API by hand: pipelineJobs and schedules of v1 over REST."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.pipelines.fake_kfp import Reply

PARENT = "projects/acme/locations/europe-west4"


def refused(status: int, code: str, message: str) -> Reply:
    return status, {"error": {"code": status, "message": message, "status": code}}


class FakeVertex:
    """The service's memory; a test moves a job along with `finish`."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.schedules: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.before: Callable[[str], Reply | None] = lambda request: None
        self._clock = datetime(2026, 1, 1, tzinfo=UTC)

    def finish(self, job_id: str, state: str, *, verdict: str = "", error: str = "") -> None:
        job = self.jobs[f"{PARENT}/pipelineJobs/{job_id}"]
        job["state"] = f"PIPELINE_STATE_{state}"
        if error:
            job["error"] = {"code": 9, "message": error}
        if verdict:
            gate = {"taskId": "7", "taskName": "quality-gate", "execution": {"metadata": {"output:Output": verdict}}}
            job["jobDetail"] = {"taskDetails": [{"taskId": "1", "taskName": "finetune"}, gate]}

    def answer(self, method: str, url: str, body: bytes, authorization: str) -> Reply:
        parts = urlsplit(url)
        query = {key: value[0] for key, value in parse_qs(parts.query).items()}
        request = f"{method} {parts.path.removeprefix('/v1/')}"
        self.requests.append(request)
        early = self.before(request)
        if early:
            return early
        asked = json.loads(body) if body else {}
        for pattern, handle in (
            (rf"POST {PARENT}/pipelineJobs", self._create_job),
            (rf"GET {PARENT}/pipelineJobs", self._list_jobs),
            (rf"POST {PARENT}/schedules", self._create_schedule),
            (rf"GET {PARENT}/schedules", self._list_schedules),
            (rf"(GET|DELETE) ({PARENT}/(?:pipelineJobs|schedules)/[^/:]+)", self._one),
            (rf"POST ({PARENT}/(?:pipelineJobs|schedules)/[^/:]+):(\w+)", self._act),
        ):
            match = re.fullmatch(pattern, request)
            if match:
                return handle(query, asked, *match.groups())
        return refused(404, "NOT_FOUND", f"no route {request}")

    def _now(self) -> str:
        self._clock += timedelta(seconds=1)
        return self._clock.isoformat().replace("+00:00", "Z")

    def _create_job(self, query: dict[str, str], asked: dict[str, Any]) -> Reply:
        name = f"{PARENT}/pipelineJobs/{query['pipelineJobId']}"
        if name in self.jobs:
            return refused(409, "ALREADY_EXISTS", f"The PipelineJob {name} already exists.")
        self.jobs[name] = {**asked, "name": name, "state": "PIPELINE_STATE_PENDING", "createTime": self._now()}
        return 200, self.jobs[name]

    def _list_jobs(self, query: dict[str, str], asked: dict[str, Any]) -> Reply:
        key, _, value = query.get("filter", "").partition("=")
        wanted = value.strip('"')
        found = list(self.jobs.values())
        if key.startswith("labels."):
            found = [job for job in found if job["labels"].get(key.removeprefix("labels.")) == wanted]
        elif key == "pipeline_name":
            found = [job for job in found if job["pipelineSpec"]["pipelineInfo"]["name"] == wanted]
        elif key:
            return refused(400, "INVALID_ARGUMENT", f"Invalid filter: {key}")
        return 200, {"pipelineJobs": sorted(found, key=lambda job: job["createTime"], reverse=True)}

    def _create_schedule(self, query: dict[str, str], asked: dict[str, Any]) -> Reply:
        if len(asked["cron"].split()) != 5:
            return refused(400, "INVALID_ARGUMENT", f"Invalid cron: {asked['cron']}")
        name = f"{PARENT}/schedules/{1000 + len(self.requests)}"
        self.schedules[name] = {**asked, "name": name, "state": "ACTIVE", "createTime": self._now()}
        return 200, self.schedules[name]

    def _list_schedules(self, query: dict[str, str], asked: dict[str, Any]) -> Reply:
        return 200, {"schedules": list(self.schedules.values())}

    def _one(self, query: dict[str, str], asked: dict[str, Any], method: str, name: str) -> Reply:
        objects = self.jobs if "/pipelineJobs/" in name else self.schedules
        if name not in objects:
            return refused(404, "NOT_FOUND", f"The resource {name} is not found.")
        if method == "GET":
            return 200, objects[name]
        del objects[name]
        return 200, {
            "name": f"{name}/operations/1",
            "done": True,
            "response": {"@type": "type.googleapis.com/google.protobuf.Empty"},
        }

    def _act(self, query: dict[str, str], asked: dict[str, Any], name: str, verb: str) -> Reply:
        if verb == "cancel":
            self.jobs[name]["state"] = "PIPELINE_STATE_CANCELLED"
        else:
            self.schedules[name]["state"] = {"pause": "PAUSED", "resume": "ACTIVE"}[verb]
        return 200, {}
