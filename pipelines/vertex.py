"""Vertex AI Pipelines as an engine: jobs and schedules by name and content."""
# pyright: basic
# the client's types are wider than what it returns

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.submit import PIPELINE, EngineError, Run, Schedule, Submission

_LABEL = "slipway-digest"
_CONSOLE = "https://console.cloud.google.com/vertex-ai"
_STATES = {"unspecified": "pending", "cancelled": "canceled", "cancelling": "canceling"}


@dataclass(frozen=True)
class Project:
    """Where Vertex AI runs the pipelines, and as whom."""

    project: str
    location: str
    root: str
    """gs://… where the steps' outputs go."""

    service_account: str = ""
    """Of the steps; "" is the project's Compute Engine account."""

    endpoint: str = ""
    """Another address of the API, for a private connection."""

    @classmethod
    def from_environment(cls) -> Project:
        """Raises EngineError that names what is missing."""
        found = cls(
            os.environ.get("VERTEX_PROJECT", ""),
            os.environ.get("VERTEX_LOCATION", ""),
            os.environ.get("VERTEX_PIPELINE_ROOT", "").rstrip("/"),
            os.environ.get("VERTEX_SERVICE_ACCOUNT", ""),
            os.environ.get("VERTEX_ENDPOINT", ""),
        )
        needed = {
            "VERTEX_PROJECT": found.project,
            "VERTEX_LOCATION": found.location,
            "VERTEX_PIPELINE_ROOT": found.root,
        }
        unset = [name for name, value in needed.items() if not value]
        if unset:
            raise EngineError(f"{', '.join(unset)} not set; Vertex AI needs project, region and a gs:// folder")
        if not found.root.startswith("gs://"):
            raise EngineError(f"VERTEX_PIPELINE_ROOT {found.root!r} must be a gs:// folder")
        return found


def connect(project: Project, credentials: Any = None) -> Vertex:
    """The engine of a project; `credentials` instead of Google's default ones. Raises EngineError without any."""
    import google.auth.exceptions
    from google.cloud import aiplatform

    logging.getLogger("google.cloud.aiplatform").setLevel(
        logging.ERROR
    )  # it announces every call, and warns of the short lists that are asked for
    try:
        aiplatform.init(
            project=project.project,
            location=project.location,
            credentials=credentials,
            api_endpoint=project.endpoint or None,
            api_transport="rest",
        )
        return Vertex(project, aiplatform)
    except google.auth.exceptions.GoogleAuthError as error:
        raise EngineError(f"no credentials for Google Cloud: {error}") from error


class Vertex:
    """submit.PipelineEngine on Vertex AI's API (v1)."""

    def __init__(self, project: Project, aiplatform: Any):
        self._project, self._aiplatform = project, aiplatform
        self._jobs, self._plans = aiplatform.PipelineJob, aiplatform.PipelineJobSchedule

    # ------------------------------------------------------------------ runs

    def missing(self, submission: Submission) -> list[str]:
        """Nothing: a job brings its pipeline along."""
        return []

    def runs_of(self, submission: Submission) -> list[Run]:
        with _in_words("list the runs"):
            found = self._jobs.list(
                filter=f'labels.{_LABEL}="{submission.digest}"', order_by="create_time desc", enable_simple_view=True
            )
        return [self._seen(job.gca_resource) for job in found if submission.names_run(job.display_name)]

    def start(self, submission: Submission, name: str) -> Run:
        with _in_words(f"start the run {name}"), self._job(submission, name, submission.digest, name) as job:
            # PipelineJob.submit would first make a bucket that is missing and hand out roles on it, and only logs
            # what goes wrong there; buckets and roles are Terraform's
            resource = job._gca_resource
            resource.service_account = self._project.service_account
            parent = f"projects/{self._project.project}/locations/{self._project.location}"
            made = job.api_client.create_pipeline_job(parent=parent, pipeline_job=resource, pipeline_job_id=name)
            return self._seen(made)

    @contextmanager
    def _job(self, submission: Submission, name: str, digest: str, run_id: str) -> Iterator[Any]:
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder, "pipeline.yaml")
            written.write_text(submission.yaml, encoding="utf-8")
            yield self._jobs(
                display_name=name,
                job_id=run_id or None,
                template_path=str(written),
                pipeline_root=self._project.root,
                parameter_values=submission.parameters(run_id),
                labels={_LABEL: digest, "slipway-service": submission.service},
            )

    def runs(self, limit: int) -> list[Run]:
        with _in_words("list the runs"):
            found = self._jobs.list(
                filter=f'pipeline_name="{PIPELINE}"', order_by="create_time desc", enable_simple_view=True
            )
        return [self._seen(job.gca_resource) for job in found[:limit]]

    def run(self, run_id: str) -> Run:
        with _in_words(f"read the run {run_id}"):
            return self._seen(self._jobs.get(run_id).gca_resource)

    def terminate(self, run_id: str) -> None:
        with _in_words(f"end the run {run_id}"):
            self._jobs.get(run_id).cancel()

    def verdict(self, run_id: str) -> tuple[str, str]:
        with _in_words(f"read the run {run_id}"):
            details = self._jobs.get(run_id).task_details
        for task in details:
            metadata = dict(task.execution.metadata) if task.execution else {}
            if task.task_name == "quality-gate" and "output:Output" in metadata:
                verdict = str(metadata["output:Output"])
                return verdict, f"the gate said {verdict}; its report is on the run's page"
        return "", "the gate left no verdict on the run's page"

    def _seen(self, resource: Any) -> Run:
        state = str(resource.state.name).removeprefix("PIPELINE_STATE_").lower()
        created = resource.create_time
        error = resource.error.message if resource.error else ""
        return Run(
            id=resource.name.rpartition("/")[2],
            name=resource.display_name,
            state=_STATES.get(state, state),
            link=self._page(f"pipelines/runs/{resource.name.rpartition('/')[2]}"),
            created=f"{created:%Y-%m-%d %H:%M:%S}" if created else "",
            error=error,
        )

    def _page(self, path: str) -> str:
        return f"{_CONSOLE}/locations/{self._project.location}/{path}?project={self._project.project}"

    # ------------------------------------------------------------------ schedules

    def schedules(self) -> list[Schedule]:
        with _in_words("list the schedules"):
            found = self._plans.list()
        planned = [self._planned(plan) for plan in found]
        return [schedule for schedule in planned if schedule.digest]

    def create_schedule(self, submission: Submission, name: str, cron: str, digest: str, *, enabled: bool) -> Schedule:
        second, _, minutes = cron.partition(" ")
        if second != "0":
            raise EngineError(f"the cron {cron!r} begins with second {second}; Vertex AI knows minutes only, so give 0")
        with _in_words(f"make the schedule {name}"), self._job(submission, name, digest, "") as job:
            plan = self._plans(pipeline_job=job, display_name=name)
            plan.create(
                cron=minutes.replace("?", "*"),
                max_concurrent_run_count=1,
                service_account=self._project.service_account or None,
            )
            if not enabled:
                plan.pause()
        return replace(self._planned(plan), enabled=enabled)  # the object does not notice that it was paused

    def delete_schedule(self, schedule: Schedule) -> None:
        with _in_words(f"delete the schedule {schedule.name}"):
            self._plans.get(schedule.id).delete()

    def pause(self, schedule: Schedule) -> None:
        with _in_words(f"pause the schedule {schedule.name}"):
            self._plans.get(schedule.id).pause()

    def resume(self, schedule: Schedule) -> None:
        with _in_words(f"resume the schedule {schedule.name}"):
            self._plans.get(schedule.id).resume(catch_up=False)

    def _planned(self, plan: Any) -> Schedule:
        resource = plan.gca_resource
        job = resource.create_pipeline_job_request.pipeline_job
        return Schedule(
            id=plan.name,
            name=plan.display_name,
            cron=f"0 {resource.cron}",
            enabled=resource.state.name == "ACTIVE",
            digest=dict(job.labels).get(_LABEL, "") if job else "",
            link=self._page(f"schedules/{plan.name}"),
        )


@contextmanager
def _in_words(what: str) -> Iterator[None]:
    """Raises what the client raises as EngineError: what was wanted, and what Google said."""
    import google.api_core.exceptions
    import google.auth.exceptions

    try:
        yield
    except google.api_core.exceptions.GoogleAPICallError as error:
        said = re.sub(r"^[A-Z]+ https?://\S+: ", "", error.message or "")
        raise EngineError(f"Vertex AI would not {what}: {error.code} {said}") from error
    except google.auth.exceptions.GoogleAuthError as error:
        raise EngineError(f"Google Cloud refuses the credentials: {error}") from error
    except (OSError, google.api_core.exceptions.RetryError) as error:  # requests' errors are OSErrors
        raise EngineError(f"Vertex AI did not answer when asked to {what}: {error}") from error
