"""Submit a run to a pipeline engine: check it, name it by its content, start it once, follow it to its end."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from components.rollout.config import RolloutConfig
from components.rollout.target import TargetError
from components.step_config import InputError
from components.store import sha256_json
from pipelines.placement import PROFILES, Engine
from pipelines.run_config import RunConfig, RunFileError

PIPELINE = "train-and-release"
_MOST_PARAMETERS = 100_000
"""Bytes of all parameters as JSON. Kubeflow hands them to its launcher as one argument of a process, and Linux takes
no argument above 128 KiB (MAX_ARG_STRLEN)."""

_STORED_BASES = re.compile(r"(hub|wheel|release):|scratch$|.+://")
_BLIND_SECONDS = 300
"""How long an engine may be out of reach while a run is followed: a proxy or an API server that restarts."""

_LOOK_SECONDS = 5.0
"""How long the cluster that a rollout is for may take to show itself before a run is sent."""

ACTIVE = {"pending", "queued", "running", "paused"}
ENDED = {"succeeded", "failed", "canceled", "skipped"}


class EngineError(InputError, RuntimeError):
    """A pipeline engine refused, or cannot be reached; the message says what it said and what to do."""


@dataclass(frozen=True)
class Run:
    """One run as its engine shows it."""

    id: str
    name: str
    state: str
    """"pending", "running", "succeeded", "failed", "canceled" …"""

    link: str
    """Its page, where the reports are."""

    created: str = ""
    error: str = ""


@dataclass(frozen=True)
class Schedule:
    """One recurring run."""

    id: str
    name: str
    cron: str
    enabled: bool
    digest: str
    """Of what it runs and when; "" when somebody else made it."""

    link: str


@dataclass(frozen=True)
class Submission:
    """A pipeline and its parameters, checked; equal content has equal digests, whenever and wherever it is made."""

    config: RunConfig
    yaml: str

    @property
    def version(self) -> str:
        """Of the pipeline: the beginning of its text's sha256."""
        return hashlib.sha256(self.yaml.encode()).hexdigest()[:12]

    @property
    def digest(self) -> str:
        """Of pipeline and parameters, the commit among them; the run's identifier is none of its content."""
        return sha256_json({"pipeline": self.version, "parameters": self.parameters()})[:12]

    @property
    def name(self) -> str:
        """Name of the first run of this content."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.config.run.name.lower()).strip("-")[:60]
        return f"{slug or 'run'}-{self.digest}"

    def names_run(self, name: str) -> bool:
        """Whether a run of that name is one of this content: the first, or another that was asked for."""
        return re.fullmatch(rf"{self.name}(-\d+)?", name) is not None

    @property
    def service(self) -> str:
        return self.config.rollout.service

    def parameters(self, run_id: str = "") -> dict[str, dict[str, Any]]:
        """The pipeline's seven parameters. Without a run_id the pod's own environment tells it (placement.py)."""
        parameters = self.config.parameters()
        run = {key: value for key, value in parameters["run"].items() if key != "run_id"}
        return {**parameters, "run": {**run, "run_id": run_id} if run_id else run}


class PipelineEngine(Protocol):
    """What Kubeflow Pipelines and Vertex AI Pipelines have in common. Every call may raise EngineError."""

    def missing(self, submission: Submission) -> list[str]:
        """What starting a run would create beside it, in words."""
        ...

    def runs_of(self, submission: Submission) -> list[Run]:
        """Every run of this content that was not archived, the newest first."""
        ...

    def start(self, submission: Submission, name: str) -> Run: ...

    def runs(self, limit: int) -> list[Run]:
        """The newest runs of the pipeline."""
        ...

    def run(self, run_id: str) -> Run: ...

    def terminate(self, run_id: str) -> None: ...

    def verdict(self, run_id: str) -> tuple[str, str]:
        """The gate's verdict and reason; ("", why) when it cannot be known."""
        ...

    def schedules(self) -> list[Schedule]: ...

    def create_schedule(
        self, submission: Submission, name: str, cron: str, digest: str, *, enabled: bool
    ) -> Schedule: ...

    def delete_schedule(self, schedule: Schedule) -> None: ...

    def pause(self, schedule: Schedule) -> None: ...

    def resume(self, schedule: Schedule) -> None: ...


# --- before anything is sent -----------------------------------------------------------------------------------


def prepare(config: RunConfig, profile: str, engine: Engine, commit: str, *, run_file: str = "") -> Submission:
    """Check a run for an engine and compile its pipeline.

    Raises RunFileError with one line per problem, each beginning with the run file where it is given.
    """
    from pipelines.compile import compile_pipeline

    problems = list(find_problems(config, profile, engine))
    if problems:
        raise RunFileError("\n".join(f"{run_file}: {problem}" if run_file else problem for problem in problems))
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "pipeline.yaml")
        compile_pipeline(_of_run(config, commit="", run_id=""), profile, written, engine)
        text = written.read_text(encoding="utf-8")
    return Submission(_of_run(config, commit=commit, run_id=""), text)


def _of_run(config: RunConfig, *, commit: str, run_id: str) -> RunConfig:
    run = config.run.model_copy(update={"commit": commit, "run_id": run_id})
    return config.model_copy(update={"run": run})


def find_problems(config: RunConfig, profile: str, engine: Engine) -> Iterator[str]:
    """What would only be found out in a pod, a line each."""
    shared = PROFILES[profile].store.path if engine == "kubeflow" else "/gcs"
    where, folder = {
        "kubeflow": ("the shared volume that every step mounts", shared),
        "vertex": ("a bucket, which Vertex AI mounts at /gcs", "/gcs/my-bucket"),
    }[engine]
    if not _is_below(config.run.store, shared):
        lost = "what a pod writes elsewhere is lost when it ends"
        yield f"run.store: {config.run.store!r}: {lost}; name a folder on {where}, for example {folder}/store"
    if config.rollout.target == "local":
        yield "rollout.target: 'local': serves on one machine and cannot roll out from a cluster; set target: kserve"
    if problem := find_unpulled():
        yield problem
    files = [("data.sources", source, "data") for source in config.data.sources]
    if not _STORED_BASES.match(config.base.source):
        files.append(("base.source", config.base.source, "models"))
    corpus = config.base.scratch.corpus if config.base.scratch else []
    files += [("base.scratch.corpus", path, "data") for path in corpus]
    for key, path, kind in files:
        if "://" not in path and not _is_below(path, shared):
            example = f"{folder}/{kind}/{PurePosixPath(path).name}"
            yield f"{key}: {path!r}: the pods do not have it; give a URL, or a path on {where}, for example {example}"
    parameters = config.parameters()
    for key, text in _texts(parameters):
        problem = find_misread(text)
        if problem:
            yield f"{key}: {problem}"
    size = len(json.dumps(parameters, ensure_ascii=False).encode())
    if size > _MOST_PARAMETERS:
        yield f"the parameters have {size:,} bytes and a step takes {_MOST_PARAMETERS:,}; shorten the longest texts"


def find_unpulled() -> str:
    """Why no cluster can pull the images that a pipeline is compiled with now; "" when they are in a registry."""
    from components import images

    if "/" in images.CPU:
        return ""
    return f"SLIPWAY_REGISTRY is not set, and a cluster cannot pull {images.CPU!r}; set it to the images' prefix"


def look_ahead(rollout: RolloutConfig) -> str:
    """Look whether the rollout could begin in the cluster of KUBECONFIG; why nobody could look, or "".

    A pod rolls out, with an account of its own: what this person cannot reach or may not see refuses nothing.
    Raises TargetError for what the rollout would only find after the training.
    """
    from components.rollout.kserve.client import ApiError, Cluster
    from components.rollout.kserve.target import KServeTarget

    try:
        cluster = Cluster.connect(rollout.kserve.namespace, _LOOK_SECONDS)
    except TargetError as error:
        return str(error)
    try:
        KServeTarget(rollout, cluster=cluster).refuse_early()
    except TargetError as error:
        if isinstance(error, ApiError) and error.status != 404:
            return str(error)
        raise TargetError(
            f"the run would end without a rollout: {error}. So says the cluster {cluster.server} of KUBECONFIG; name "
            "another one's kubeconfig there if the run is not for this one"
        ) from error
    return ""


def _is_below(path: str, folder: str) -> bool:
    pure = PurePosixPath(path)
    return ".." not in pure.parts and pure != PurePosixPath(folder) and pure.is_relative_to(folder)


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, text) of every text in the parameters, keys of mappings included."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield f"{key}.{name}".removeprefix("."), name
            yield from _texts(inner, f"{key}.{name}".removeprefix("."))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from _texts(inner, f"{key}[{position}]")


_TAG = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_ARGO_NAMES = re.compile(
    r"\s*(item|steps|inputs|outputs|pod|workflow|tasks|node|lastRetry)\.|\s*(tasks|steps|retries)\s*$"
)
_POD_VARIABLE = re.compile(r"\$\$|\$\([-._a-zA-Z][-._a-zA-Z0-9]*\)")


def find_misread(text: str) -> str:
    """What somebody between here and a step would take for his own in a parameter's text; "" when nothing.

    The parameters stand, as JSON, in the Argo Workflow that Kubeflow makes and in the command of each pod:

    - Argo replaces `{{…}}` (argo-workflows v4.0.5, util/template). A name that it does not know is written back as
      it was, which is why `{{ message['content'] }}` of a chat template arrives whole. A name that begins like one of
      its own is refused when the run is created, or waited for without end (workflow/validate: resolveAllVariables,
      GlobalVarValidWorkflowVariablePrefix; workflow/controller/dag.go: ReplaceStrict for tasks and steps); `{{=…}}`
      is computed; after `{{` alone everything up to the next `}}` is the name, Kubeflow's own variables included.
    - Kubeflow's driver and launcher replace `{{$…}}` (kubeflow/pipelines 2.17.0, backend/src/v2: driver/resolve.go,
      component/launcher_v2.go, compileCmdAndArgs).
    - The kubelet replaces `$(NAME)` and turns `$$` into `$` in a container's command
      (https://kubernetes.io/docs/tasks/inject-data-application/define-command-argument-container/).
    """
    for match in _TAG.finditer(text):
        tag = match.group(1)
        if tag.startswith(("=", "$")) or _ARGO_NAMES.match(tag):
            return f"{match.group()!r} would be replaced on its way to a step; use another name, or spaces after {{{{"
    if "{{" in _TAG.sub("", text):
        return "'{{' without '}}' after it is taken for the beginning of a variable on its way to a step; close it"
    variable = _POD_VARIABLE.search(text)
    if variable:
        return f"{variable.group()!r} would be replaced by Kubernetes on its way to a step; write it otherwise"
    return ""


# --- runs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Submitted:
    """What `submit` did, or with dry_run would do."""

    action: str
    """"submitted", "kept" (a run of this content works or has succeeded), "would submit"."""

    name: str
    run: Run | None
    creates: list[str]


def submit(engine: PipelineEngine, submission: Submission, *, again: bool = False, dry_run: bool = False) -> Submitted:
    """Start a run, unless one of the same content is at work or has succeeded; `again` starts another."""
    earlier = engine.runs_of(submission)
    good = [run for run in earlier if run.state in ACTIVE | {"succeeded"}]
    if good and not again:
        return Submitted("kept", good[0].name, good[0], [])
    taken = {run.name for run in earlier}
    names = (submission.name if number == 1 else f"{submission.name}-{number}" for number in range(1, len(taken) + 2))
    name = next(name for name in names if name not in taken)
    if dry_run:
        return Submitted("would submit", name, None, engine.missing(submission))
    creates = engine.missing(submission)
    return Submitted("submitted", name, engine.start(submission, name), creates)


@dataclass(frozen=True)
class Ending:
    """How a run that was followed ended."""

    run: Run
    verdict: str
    """"pass", "fail", "inconclusive"; "" when the run did not get there, or its gate's words are gone."""

    reason: str


def follow(
    engine: PipelineEngine,
    run_id: str,
    *,
    seconds: float,
    changed: Callable[[Run], None] = lambda run: None,
    pause: float = 10,
    blind: float = _BLIND_SECONDS,
) -> Ending:
    """Wait for a run's end, at most `seconds`; `changed` hears of every new state.

    Raises EngineError when it has not ended by then: Kubeflow shows a run as running for ever when its workflow
    was deleted; or when the engine has been out of reach for `blind` seconds.
    """
    deadline, seen, state = time.monotonic() + seconds, time.monotonic(), ""
    while True:
        try:
            run = engine.run(run_id)
        except EngineError:
            if time.monotonic() - seen > blind:
                raise
        else:
            seen = time.monotonic()
            if run.state != state:
                state = run.state
                changed(run)
            if state in ENDED:
                break
            if seen > deadline:
                raise EngineError(f"{run.name} is {state} after {seconds:g} s; look at {run.link}")
        time.sleep(pause)
    if state != "succeeded":
        return Ending(run, "", run.error or f"the run {state}; its page says where: {run.link}")
    return Ending(run, *engine.verdict(run_id))
