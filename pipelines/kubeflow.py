"""Kubeflow Pipelines as an engine: pipelines by name and content, experiments by service, runs, schedules."""
# pyright: basic
# the client is generated, without types

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from pipelines.submit import PIPELINE, EngineError, Run, Schedule, Submission

_ANSWER_SECONDS = 20
_PAGE = 100
_MARK = "slipway "
"""Begins the description of a schedule of ours; its digest follows."""

_FORWARDED = "http://localhost:8888 after `kubectl port-forward -n kubeflow svc/ml-pipeline 8888`"
_IN_POD_TOKEN = Path("/var/run/secrets/kubeflow/pipelines/token")


@dataclass(frozen=True)
class Server:
    """Where the API server is and who asks."""

    endpoint: str
    namespace: str = ""
    """Of a multi-user installation; "" for a single-user one."""

    token: str = ""
    pages: str = ""
    """Address of the dashboard where it is another one."""

    @classmethod
    def from_environment(cls) -> Server:
        """Raises EngineError when KFP_ENDPOINT is not set."""
        endpoint = os.environ.get("KFP_ENDPOINT", "").rstrip("/")
        if not endpoint:
            raise EngineError(
                f"KFP_ENDPOINT is not set; give the address of Kubeflow Pipelines, for example {_FORWARDED}"
            )
        if not endpoint.startswith(("http://", "https://")):
            raise EngineError(f"KFP_ENDPOINT {endpoint!r} must begin with http:// or https://")
        pages = os.environ.get("KF_PIPELINES_UI_ENDPOINT", "").rstrip("/")
        token = os.environ.get("KFP_TOKEN", "")
        if not token and "KF_PIPELINES_SA_TOKEN_PATH" in os.environ:
            token = _read_token(Path(os.environ["KF_PIPELINES_SA_TOKEN_PATH"]))
        elif not token and _IN_POD_TOKEN.is_file():
            token = _read_token(_IN_POD_TOKEN)
        return cls(endpoint, os.environ.get("KFP_NAMESPACE", ""), token, pages)


def _read_token(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise EngineError(f"the token file {path} cannot be read: {error.strerror}") from error


def connect(server: Server) -> Kubeflow:
    """The engine behind an endpoint that answers. Raises EngineError, also for a namespace that is missing."""
    headers = {"Authorization": f"Bearer {server.token}"} if server.token else {}
    behind_iap = "KF_PIPELINES_IAP_OAUTH2_CLIENT_ID" in os.environ  # the client gets a token of its own
    try:
        reply = httpx.get(f"{server.endpoint}/apis/v2beta1/healthz", headers=headers, timeout=_ANSWER_SECONDS)
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise EngineError(
            f"KFP_ENDPOINT {server.endpoint} does not answer: {reason}; it is there, for example, as {_FORWARDED}"
        ) from error
    if not behind_iap:
        if reply.status_code in (401, 403):
            raise EngineError(
                f"{server.endpoint} refuses with {reply.status_code}: set KFP_TOKEN to a token that it takes, or "
                "KF_PIPELINES_IAP_OAUTH2_CLIENT_ID behind Google's proxy"
            )
        try:
            health = reply.raise_for_status().json()
        except (httpx.HTTPError, ValueError) as error:
            raise EngineError(
                f"KFP_ENDPOINT {server.endpoint} is no Kubeflow Pipelines API: /apis/v2beta1/healthz gave "
                f"{reply.status_code} {reply.headers.get('content-type', '')}"
            ) from error
        if health.get("multi_user") and not server.namespace:
            raise EngineError(f"{server.endpoint} serves several users; set KFP_NAMESPACE to your profile's namespace")
    from kfp.client import Client  # a second to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # about servers of version 1
        # a namespace is given, since the client would else ask the server and keep the answer in a file
        client = Client(
            host=server.endpoint, existing_token=server.token or None, namespace=server.namespace or "single-user"
        )
    return Kubeflow(client, server)


class Kubeflow:
    """submit.PipelineEngine on Kubeflow's API server (v2beta1)."""

    def __init__(self, client: Any, server: Server):
        self._client, self._server = client, server
        self._of_namespace = {"namespace": server.namespace} if server.namespace else {}

    # ------------------------------------------------------------------ pipelines and experiments

    def missing(self, submission: Submission) -> list[str]:
        """Pipeline, version and experiment that are not there yet."""
        pipeline = self._find_pipeline()
        version = self._find_version(pipeline.pipeline_id, submission.version) if pipeline else None
        words = [] if pipeline else [f"pipeline {PIPELINE}"]
        words += [] if version else [f"version {submission.version}"]
        return words + ([] if self._find_experiment(submission.service) else [f"experiment {submission.service}"])

    def _pipeline(self) -> Any:
        api = self._client.pipelines
        return self._find_pipeline() or self._create(
            lambda: api.pipeline_service_create_pipeline(
                {
                    "display_name": PIPELINE,
                    "name": PIPELINE,
                    "description": "Fine-tune a language model, gate it, roll it out.",
                    **self._of_namespace,
                }
            ),
            self._find_pipeline,
            f"make the pipeline {PIPELINE}",
        )

    def _find_pipeline(self) -> Any:
        call = self._client.pipelines.pipeline_service_list_pipelines
        return next(self._all(call, "pipelines", "display_name", PIPELINE, **self._of_namespace), None)

    def _version(self, pipeline_id: str, submission: Submission) -> Any:
        def find() -> Any:
            return self._find_version(pipeline_id, submission.version)

        def upload() -> Any:
            with tempfile.TemporaryDirectory() as folder:
                written = Path(folder, "pipeline.yaml")
                written.write_text(submission.yaml, encoding="utf-8")
                return self._client.pipeline_uploads.upload_pipeline_version(
                    str(written), name=submission.version, pipelineid=pipeline_id
                )

        return find() or self._create(upload, find, f"upload version {submission.version} of {PIPELINE}")

    def _find_version(self, pipeline_id: str, name: str) -> Any:
        call = self._client.pipelines.pipeline_service_list_pipeline_versions
        return next(self._all(call, "pipeline_versions", "display_name", name, pipeline_id=pipeline_id), None)

    def _experiment(self, name: str) -> Any:
        api = self._client.experiments
        return self._find_experiment(name) or self._create(
            lambda: api.experiment_service_create_experiment({"display_name": name, **self._of_namespace}),
            lambda: self._find_experiment(name),
            f"make the experiment {name}",
        )

    def _find_experiment(self, name: str) -> Any:
        call = self._client.experiments.experiment_service_list_experiments
        found = self._all(call, "experiments", "display_name", name, **self._of_namespace)
        return next((one for one in found if one.storage_state != "ARCHIVED"), None)

    # ------------------------------------------------------------------ runs

    def runs_of(self, submission: Submission) -> list[Run]:
        experiment = self._find_experiment(submission.service)
        if experiment is None:
            return []
        found = self._list_runs(experiment.experiment_id, submission.name)
        ours = [run for run in found if submission.names_run(run.display_name)]
        return [self._seen(run) for run in ours if run.storage_state != "ARCHIVED"]

    def _list_runs(self, experiment_id: str, beginning: str) -> Iterator[Any]:
        call = self._client.runs.run_service_list_runs
        yield from self._all(
            call,
            "runs",
            "display_name",
            beginning,
            operation="IS_SUBSTRING",
            experiment_id=experiment_id,
            sort_by="created_at desc",
        )

    def start(self, submission: Submission, name: str) -> Run:
        body = {**self._work(submission, name), "display_name": name}
        with _in_words(f"start the run {name}"):
            return self._seen(self._client.runs.run_service_create_run(body))

    def _work(self, submission: Submission, run_id: str) -> dict[str, Any]:
        """What a run and a schedule have in common."""
        pipeline = self._pipeline()
        version = self._version(pipeline.pipeline_id, submission)
        experiment = self._experiment(submission.service)
        return {
            "experiment_id": experiment.experiment_id,
            "pipeline_version_reference": {
                "pipeline_id": pipeline.pipeline_id,
                "pipeline_version_id": version.pipeline_version_id,
            },
            "runtime_config": {"parameters": submission.parameters(run_id)},
        }

    def runs(self, limit: int) -> list[Run]:
        with _in_words("list the runs"):
            reply = self._client.runs.run_service_list_runs(
                page_size=limit, sort_by="created_at desc", **self._of_namespace
            )
        return [self._seen(run) for run in reply.runs or [] if run.storage_state != "ARCHIVED"]

    def run(self, run_id: str) -> Run:
        return self._seen(self._get_run(run_id))

    def _get_run(self, run_id: str) -> Any:
        with _in_words(f"read the run {run_id}"):
            return self._client.runs.run_service_get_run(run_id, _request_timeout=_ANSWER_SECONDS)

    def terminate(self, run_id: str) -> None:
        with _in_words(f"end the run {run_id}"):
            self._client.runs.run_service_terminate_run(run_id)

    def verdict(self, run_id: str) -> tuple[str, str]:
        """From the gate's log, since the API shows no output of a step; which branch ran is known without it."""
        tasks = (self._get_run(run_id).run_details or _Nothing).task_details or []
        for node in (
            child.pod_name for task in tasks if task.display_name == "quality-gate" for child in _children(task)
        ):
            for pod in dict.fromkeys((_pod_of(node), node)):
                said = _find_verdict(self._log(run_id, pod))
                if said:
                    return said["verdict"], said["reason"]
        if any(task.display_name == "rollout" and task.state == "SUCCEEDED" for task in tasks):
            return "pass", "the release was rolled out (the gate's log is gone)"
        return "", "the gate stopped the run; its log is gone, its report is on the run's page"

    def _log(self, run_id: str, pod: str) -> str:
        """The main container's log; "" when it is gone."""
        import kfp_server_api
        import urllib3

        api = self._client.runs.run_service_get_run.__self__.api_client
        try:
            reply = api.call_api(
                f"/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log",
                "GET",
                auth_settings=["Bearer"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=_ANSWER_SECONDS,
            )
            return reply.data.decode(errors="replace")
        except (kfp_server_api.ApiException, urllib3.exceptions.HTTPError):
            return ""

    def _seen(self, run: Any) -> Run:
        state = (run.state or "PENDING").removeprefix("RUNTIME_STATE_").lower()
        history = [entry.error.message for entry in run.state_history or [] if entry.error and entry.error.message]
        return Run(
            id=run.run_id,
            name=run.display_name,
            state="pending" if state == "unspecified" else state,
            link=f"{self._server.pages or self._server.endpoint}/#/runs/details/{run.run_id}",
            created=f"{run.created_at:%Y-%m-%d %H:%M:%S}" if run.created_at else "",
            error=history[-1] if history and state == "failed" else "",
        )

    # ------------------------------------------------------------------ schedules

    def schedules(self) -> list[Schedule]:
        call = self._client.recurring_runs.recurring_run_service_list_recurring_runs
        return [self._planned(job) for job in self._all(call, "recurring_runs", **self._of_namespace)]

    def create_schedule(self, submission: Submission, name: str, cron: str, digest: str, *, enabled: bool) -> Schedule:
        body = {
            **self._work(submission, ""),
            "display_name": name,
            "description": _MARK + digest,
            "max_concurrency": "1",
            "no_catchup": True,  # after an outage once, not once for each time that was missed
            "trigger": {"cron_schedule": {"cron": cron}},
            "mode": "ENABLE" if enabled else "DISABLE",
        }
        with _in_words(f"make the schedule {name}"):
            made = self._client.recurring_runs.recurring_run_service_create_recurring_run(body)
        return self._planned(made)

    def delete_schedule(self, schedule: Schedule) -> None:
        with _in_words(f"delete the schedule {schedule.name}"):
            self._client.recurring_runs.recurring_run_service_delete_recurring_run(schedule.id)

    def pause(self, schedule: Schedule) -> None:
        with _in_words(f"pause the schedule {schedule.name}"):
            self._client.recurring_runs.recurring_run_service_disable_recurring_run(schedule.id)

    def resume(self, schedule: Schedule) -> None:
        with _in_words(f"resume the schedule {schedule.name}"):
            self._client.recurring_runs.recurring_run_service_enable_recurring_run(schedule.id)

    def _planned(self, job: Any) -> Schedule:
        mark = job.description or ""
        crons = job.trigger.cron_schedule if job.trigger else None
        return Schedule(
            id=job.recurring_run_id,
            name=job.display_name,
            cron=crons.cron if crons else "",
            enabled=job.status == "ENABLED",
            digest=mark.removeprefix(_MARK) if mark.startswith(_MARK) else "",
            link=f"{self._server.pages or self._server.endpoint}/#/recurringrun/details/{job.recurring_run_id}",
        )

    # ------------------------------------------------------------------ calls

    def _all(
        self,
        call: Callable[..., Any],
        kind: str,
        key: str = "",
        value: str = "",
        *,
        operation: str = "EQUALS",
        **arguments: Any,
    ) -> Iterator[Any]:
        """Every object of a list, page by page, those whose `key` is `value` when one is given."""
        if key:
            predicate = {"operation": operation, "key": key, "string_value": value}
            arguments["filter"] = json.dumps({"predicates": [predicate]})
        page = ""
        while True:
            with _in_words(f"list the {kind.replace('_', ' ')}"):
                reply = call(page_size=_PAGE, page_token=page, **arguments)
            yield from getattr(reply, kind) or []
            page = reply.next_page_token
            if not page:
                return

    def _create(self, make: Callable[[], Any], find: Callable[[], Any], what: str) -> Any:
        """Make it; when somebody else was faster (409), take his: the name says what it is."""
        import kfp_server_api

        try:
            with _in_words(what):
                return make()
        except EngineError as error:
            cause = error.__cause__
            found = find() if isinstance(cause, kfp_server_api.ApiException) and cause.status == 409 else None
            if found is None:
                raise
            return found


class _Nothing:
    task_details = None


def _children(task: Any) -> list[Any]:
    return [child for child in task.child_tasks or [] if child.pod_name]


def _pod_of(node: str) -> str:
    """Argo's id of a node -> the name of its pod: the template's name stands between (util.RetrievePodName)."""
    workflow, _, number = node.rpartition("-")
    return f"{workflow}-system-container-impl-{number}"


def _find_verdict(log: str) -> dict[str, str] | None:
    """The event that the gate says (components/progress.py), found among the launcher's own lines."""
    for line in log.splitlines():
        if '"verdict"' in line:
            try:
                event = json.loads(line[line.index("{") :])
            except ValueError:
                continue
            if isinstance(event, dict) and event.get("event") == "verdict":
                return {"verdict": str(event.get("verdict")), "reason": str(event.get("reason"))}
    return None


@contextmanager
def _in_words(what: str) -> Iterator[None]:
    """Raises what the client raises as EngineError: what was wanted, and what the server said."""
    import kfp_server_api
    import urllib3

    try:
        yield
    except kfp_server_api.ApiException as error:
        advice: dict[Any, str] = {
            401: "; set KFP_TOKEN anew",
            403: "; your account lacks the right, or KFP_NAMESPACE is another's",
        }
        said = f"{error.status} {_message(error)}{advice.get(error.status, '')}"
        raise EngineError(f"Kubeflow would not {what}: {said}") from error
    except urllib3.exceptions.HTTPError as error:
        raise EngineError(f"Kubeflow did not answer when asked to {what}: {error}") from error


def _message(error: Any) -> str:
    """What the server said: a gateway's {"message"}, an upload's {"error_message"}, else the beginning of the body."""
    try:
        body = json.loads(error.body or "")
        return str(body.get("message") or body.get("error_message") or body)
    except (ValueError, AttributeError):
        return (error.body or error.reason or "")[:300]
