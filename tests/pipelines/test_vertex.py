"""Submitting and scheduling on Vertex AI Pipelines' API, as the hand-written service answers it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml
from google.auth.credentials import AnonymousCredentials
from google.cloud.aiplatform_v1 import AcceleratorType

from pipelines import vertex
from pipelines.placement import PROFILES, VERTEX_ACCELERATORS
from pipelines.schedule import set_schedule
from pipelines.submit import EngineError, follow, submit
from pipelines.vertex import Project, Vertex
from tests.pipelines import engines, ir
from tests.pipelines.engines import registry  # noqa: F401  (a fixture)
from tests.pipelines.fake_kfp import serve
from tests.pipelines.fake_vertex import PARENT, FakeVertex, refused

pytestmark = pytest.mark.usefixtures("registry")


@pytest.fixture
def fake() -> FakeVertex:
    return FakeVertex()


@pytest.fixture
def engine(fake: FakeVertex) -> Iterator[Vertex]:
    with serve(fake.answer) as url:
        project = Project("acme", "europe-west4", "gs://bucket/root", "steps@acme.iam.gserviceaccount.com", url)
        yield vertex.connect(project, AnonymousCredentials())


# --- as compiled -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
def test_the_pipeline_is_one_document_with_vertex_names_of_gpus(compiled, profile):
    documents = compiled("laptop", profile, "vertex")
    assert len(documents) == 1
    assert ir.find_problems(documents) == []
    pipeline = ir.parse(documents)
    for step in pipeline.steps():
        wanted = PROFILES[profile].of(step.replace("-", "_"))
        found = pipeline.container(step).resources.accelerator
        expected = (VERTEX_ACCELERATORS[wanted.accelerator], wanted.gpus) if wanted.gpus else ("", 0)
        assert (found.type, found.count) == expected


def test_vertex_knows_every_gpu_of_the_profiles():
    used = {one.accelerator for profile in PROFILES.values() for one in profile.steps.values() if one.gpus}
    assert used <= VERTEX_ACCELERATORS.keys()
    assert {VERTEX_ACCELERATORS[name] for name in used} <= {one.name for one in AcceleratorType}


# --- runs ------------------------------------------------------------------------------------------------------


def test_a_job_is_started_once_per_content(fake, engine, tmp_path):
    submission = engines.submission(tmp_path, "vertex")
    first, second = submit(engine, submission), submit(engine, submission)
    assert (first.action, second.action, second.run.id) == ("submitted", "kept", first.name)
    (job,) = fake.jobs.values()
    assert job["serviceAccount"] == "steps@acme.iam.gserviceaccount.com"
    assert job["runtimeConfig"]["gcsOutputDirectory"] == "gs://bucket/root"
    assert job["runtimeConfig"]["parameterValues"]["run"]["run_id"] == first.name
    assert job["pipelineSpec"] == yaml.safe_load(submission.yaml)
    assert first.run.link == (
        f"https://console.cloud.google.com/vertex-ai/locations/europe-west4/pipelines/runs/{first.name}?project=acme"
    )
    assert [run.name for run in engine.runs(5)] == [first.name]


def test_after_a_failure_or_when_asked_for_another_starts(fake, engine, tmp_path):
    submission = engines.submission(tmp_path, "vertex")
    first = submit(engine, submission)
    fake.finish(first.name, "FAILED", error="no quota for NVIDIA_L4")
    ending = follow(engine, first.name, seconds=5, pause=0.01)
    assert (ending.run.state, ending.reason) == ("failed", "no quota for NVIDIA_L4")
    assert submit(engine, submission).name == f"{first.name}-2"
    assert submit(engine, submission, again=True).name == f"{first.name}-3"


@pytest.mark.parametrize("verdict", ["pass", "fail", "inconclusive"])
def test_the_verdict_is_the_gates_output(fake, engine, tmp_path, verdict):
    run = submit(engine, engines.submission(tmp_path, "vertex")).run
    fake.finish(run.id, "SUCCEEDED", verdict=verdict)
    assert follow(engine, run.id, seconds=5, pause=0.01).verdict == verdict


def test_a_job_is_cancelled(fake, engine, tmp_path):
    run = submit(engine, engines.submission(tmp_path, "vertex")).run
    engine.terminate(run.id)
    assert follow(engine, run.id, seconds=5, pause=0.01).run.state == "canceled"


def test_what_google_says_is_passed_on(fake, engine, tmp_path):
    fake.before = lambda request: refused(403, "PERMISSION_DENIED", "Permission aiplatform.pipelineJobs.list denied")
    with pytest.raises(EngineError, match="would not list the runs: 403 Permission aiplatform"):
        submit(engine, engines.submission(tmp_path, "vertex"))
    fake.before = lambda request: None
    with pytest.raises(EngineError, match=r"read the run nobody: 404 .*is not found"):
        engine.run("nobody")


# --- schedules -------------------------------------------------------------------------------------------------


def test_a_schedule_is_made_kept_and_replaced(fake, engine, tmp_path):
    submission = engines.submission(tmp_path, "vertex")
    made = set_schedule(engine, submission, "nightly", "0 0 3 * * 1")
    assert (made.action, set_schedule(engine, submission, "nightly", "0 0 3 * * 1").action) == ("created", "kept")
    (plan,) = fake.schedules.values()
    assert (plan["cron"], plan["maxConcurrentRunCount"]) == ("0 3 * * 1", "1")
    assert plan["createPipelineJobRequest"]["parent"] == PARENT
    assert set_schedule(engine, submission, "nightly", "0 0 4 * * 1").action == "replaced"
    assert [(one.cron, one.enabled) for one in engine.schedules()] == [("0 0 4 * * 1", True)]


def test_a_schedule_is_paused_resumed_and_deleted(fake, engine, tmp_path):
    schedule = set_schedule(engine, engines.submission(tmp_path, "vertex"), "nightly", "0 0 3 * * 1").schedule
    engine.pause(schedule)
    assert [one.enabled for one in engine.schedules()] == [False]
    engine.resume(schedule)
    assert [one.enabled for one in engine.schedules()] == [True]
    engine.delete_schedule(schedule)
    assert fake.schedules == {}


def test_seconds_are_refused(engine, tmp_path):
    with pytest.raises(EngineError, match="begins with second 30; Vertex AI knows minutes only"):
        set_schedule(engine, engines.submission(tmp_path, "vertex"), "nightly", "30 0 3 * * 1")


# --- the environment -------------------------------------------------------------------------------------------


def test_the_environment_names_project_region_and_bucket(monkeypatch):
    for name in (
        "VERTEX_PROJECT",
        "VERTEX_LOCATION",
        "VERTEX_PIPELINE_ROOT",
        "VERTEX_SERVICE_ACCOUNT",
        "VERTEX_ENDPOINT",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VERTEX_LOCATION", "europe-west4")
    with pytest.raises(EngineError, match="VERTEX_PROJECT, VERTEX_PIPELINE_ROOT not set"):
        Project.from_environment()
    monkeypatch.setenv("VERTEX_PROJECT", "acme")
    monkeypatch.setenv("VERTEX_PIPELINE_ROOT", "s3://bucket")
    with pytest.raises(EngineError, match="'s3://bucket' must be a gs:// folder"):
        Project.from_environment()
    monkeypatch.setenv("VERTEX_PIPELINE_ROOT", "gs://bucket/root/")
    assert Project.from_environment() == Project("acme", "europe-west4", "gs://bucket/root")
