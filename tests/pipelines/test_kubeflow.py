"""Submitting, scheduling and ending runs on Kubeflow Pipelines' API.

The server is the hand-written one. The tests of the last part also run against the server at KFP_ENDPOINT where that
is set: they leave one schedule less and one ended run more than they found.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import kubeflow
from pipelines.kubeflow import Kubeflow, Server
from pipelines.schedule import find_schedules, set_schedule
from pipelines.submit import EngineError, Submission, follow, submit
from tests.pipelines import engines, ir
from tests.pipelines.engines import registry  # noqa: F401  (a fixture)
from tests.pipelines.fake_kfp import FakeKubeflow, serve
from tests.ports import free_port

pytestmark = pytest.mark.usefixtures("registry")


@pytest.fixture
def url(fake: FakeKubeflow) -> Iterator[str]:
    with serve(fake.answer) as address:
        yield address


@pytest.fixture
def engine(url: str) -> Kubeflow:
    return kubeflow.connect(Server(url))


# --- a run -----------------------------------------------------------------------------------------------------


def test_a_run_starts_with_the_seven_parameters_of_its_file(fake, engine, tmp_path):
    submission = engines.submission(tmp_path)
    done = submit(engine, submission)
    assert (done.action, done.name) == ("submitted", f"nightly-energy-{submission.digest}")
    assert done.creates == [
        "pipeline train-and-release",
        f"version {submission.version}",
        "experiment energy-cluster",
    ]
    (run,) = fake.all_runs.values()
    parameters = run["runtime_config"]["parameters"]
    assert sorted(parameters) == ["base", "data", "evaluation", "gate", "rollout", "run", "training"]
    assert parameters["run"] == {**parameters["run"], "run_id": done.name, "commit": "c0ffee"}
    assert parameters["base"]["chat_template"] == submission.config.base.chat_template
    assert fake.experiments[run["experiment_id"]]["display_name"] == "energy-cluster"


def test_what_the_server_got_is_the_compiled_pipeline(fake, engine, tmp_path):
    submission = engines.submission(tmp_path)
    submit(engine, submission)
    (version,) = fake.versions.values()
    documents = list(yaml.safe_load_all(submission.yaml))
    assert [version["pipeline_spec"]["pipeline_spec"], version["pipeline_spec"]["platform_spec"]] == documents
    assert ir.find_problems(documents) == []


def test_its_link_opens_the_dashboards_page_of_the_run(url, engine, tmp_path):
    run = submit(engine, engines.submission(tmp_path)).run
    assert run is not None
    assert run.link == f"{url}/#/runs/details/{run.id}"
    elsewhere = kubeflow.connect(Server(url, pages="https://kubeflow.example"))
    assert elsewhere.run(run.id).link == f"https://kubeflow.example/#/runs/details/{run.id}"


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "PAUSED", "SUCCEEDED"])
def test_the_same_content_again_is_one_run(fake, engine, tmp_path, state):
    first = submit(engine, engines.submission(tmp_path))
    fake.all_runs[first.run.id]["state"] = state
    second = submit(engine, engines.submission(tmp_path))
    assert (second.action, second.run.id, second.run.state) == ("kept", first.run.id, state.lower())
    assert [fake.created(what) for what in ("pipelines", "upload_version", "experiments", "runs")] == [1, 1, 1, 1]


@pytest.mark.parametrize("state", ["FAILED", "CANCELED"])
def test_after_a_failure_the_same_content_starts_again_under_a_new_name(fake, engine, tmp_path, state):
    first = submit(engine, engines.submission(tmp_path))
    fake.finish(first.run.id, state)
    second = submit(engine, engines.submission(tmp_path))
    assert (second.action, second.name) == ("submitted", f"{first.name}-2")
    assert fake.created("upload_version") == 1


def test_again_makes_another_and_is_found_as_the_same_content(fake, engine, tmp_path):
    submission = engines.submission(tmp_path)
    first, second = submit(engine, submission), submit(engine, submission, again=True)
    assert second.name == f"{first.name}-2"
    assert fake.all_runs[second.run.id]["runtime_config"]["parameters"]["run"]["run_id"] == second.name
    assert submit(engine, submission, again=True).name == f"{first.name}-3"
    assert {run.name for run in engine.runs_of(submission)} == {first.name, second.name, f"{first.name}-3"}


def test_an_archived_run_counts_no_more(fake, engine, tmp_path):
    first = submit(engine, engines.submission(tmp_path))
    fake.all_runs[first.run.id]["storage_state"] = "ARCHIVED"
    assert submit(engine, engines.submission(tmp_path)).action == "submitted"


def test_other_parameters_are_another_run_of_another_version(fake, engine, tmp_path):
    first = submit(engine, engines.submission(tmp_path))
    second = submit(engine, engines.submission(tmp_path, rate=0.0005))
    assert second.action == "submitted"
    assert second.name != first.name
    assert len(fake.versions) == 2


def test_another_commit_is_another_run_of_the_same_version(fake, engine, tmp_path):
    submit(engine, engines.submission(tmp_path))
    assert submit(engine, engines.submission(tmp_path, commit="decade")).action == "submitted"
    assert len(fake.versions) == 1


def test_a_dry_run_changes_nothing_and_says_what_would(fake, engine, tmp_path):
    done = submit(engine, engines.submission(tmp_path), dry_run=True)
    assert (done.action, done.run, len(done.creates)) == ("would submit", None, 3)
    assert not [request for request in fake.requests if not request.startswith("GET")]


@pytest.mark.parametrize(
    ("what", "kind"), [("pipelines", "pipelines"), ("upload_version", "versions"), ("experiments", "experiments")]
)
def test_somebody_who_was_faster_is_no_error(fake, engine, tmp_path, what, kind):
    """Between our look and our call the same thing is made by another: the server says 409."""
    submission = engines.submission(tmp_path)
    busy: list[str] = []

    def make_first(request: str) -> None:
        if request.startswith("POST") and request.endswith(f"/{what}") and not busy:
            busy.append(request)
            submit(engine, submission, again=True)

    fake.before = make_first
    assert submit(engine, submission, again=True).action == "submitted"
    assert busy
    assert len(getattr(fake, kind)) == 1


def test_two_hundred_runs_of_an_experiment_hide_none(fake, engine, tmp_path):
    submission = engines.submission(tmp_path)
    first = submit(engine, submission)
    for number in range(2, 200):
        fake.all_runs[f"r{number}"] = {**fake.all_runs[first.run.id], "run_id": f"r{number}"}
    assert len(engine.runs_of(submission)) == 199


# --- its end ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", ["pass", "fail", "inconclusive"])
def test_the_verdict_is_read_from_the_gates_log(fake, engine, tmp_path, verdict):
    run = submit(engine, engines.submission(tmp_path)).run
    fake.finish(run.id, "SUCCEEDED", verdict=verdict)
    ending = follow(engine, run.id, seconds=5, pause=0.01)
    assert (ending.verdict, ending.reason) == (verdict, f"because: {verdict}")


def test_without_the_log_the_branch_that_ran_tells_a_pass(fake, engine, tmp_path):
    run = submit(engine, engines.submission(tmp_path)).run
    fake.finish(run.id, "SUCCEEDED", verdict="pass", keep_logs=False)
    assert follow(engine, run.id, seconds=5, pause=0.01).verdict == "pass"
    fake.finish(run.id, "SUCCEEDED", verdict="fail", keep_logs=False)
    ending = follow(engine, run.id, seconds=5, pause=0.01)
    assert ending.verdict == ""
    assert "its log is gone" in ending.reason


def test_every_new_state_is_told_once(fake, engine, tmp_path):
    run = submit(engine, engines.submission(tmp_path)).run
    states = iter(["PENDING", "RUNNING", "RUNNING", "SUCCEEDED"])

    def advance(request: str) -> None:
        if request == f"GET /apis/v2beta1/runs/{run.id}":
            state = next(states, "SUCCEEDED")
            fake.all_runs[run.id]["state"] = state

    fake.before = advance
    heard: list[str] = []
    follow(engine, run.id, seconds=5, pause=0.01, changed=lambda seen: heard.append(seen.state))
    assert heard == ["pending", "running", "succeeded"]


def test_a_failed_run_ends_without_a_verdict_and_with_the_servers_words(fake, engine, tmp_path):
    run = submit(engine, engines.submission(tmp_path)).run
    fake.finish(run.id, "FAILED", error="finetune: exit code 137")
    ending = follow(engine, run.id, seconds=5, pause=0.01)
    assert (ending.run.state, ending.verdict, ending.reason) == ("failed", "", "finetune: exit code 137")


def test_an_outage_while_following_is_waited_out(fake, engine, tmp_path):
    run = submit(engine, engines.submission(tmp_path)).run
    fake.finish(run.id, "SUCCEEDED", verdict="pass")
    outage = iter([(503, "upstream connect error")] * 3)
    fake.before = lambda request: next(outage, None)
    assert follow(engine, run.id, seconds=5, pause=0.01).verdict == "pass"


def test_an_outage_that_does_not_end_is_an_error(fake, engine, tmp_path):
    run = submit(engine, engines.submission(tmp_path)).run
    fake.before = lambda request: (503, "upstream connect error")
    with pytest.raises(EngineError, match="503 upstream connect error"):
        follow(engine, run.id, seconds=60, pause=0.01, blind=0.05)


def test_a_run_that_never_ends_is_left_with_its_link(fake, engine, tmp_path):
    """As Kubeflow shows a run whose workflow was deleted."""
    run = submit(engine, engines.submission(tmp_path)).run
    fake.all_runs[run.id]["state"] = "RUNNING"
    with pytest.raises(EngineError, match=rf"is running after 0.05 s; look at .*{run.id}"):
        follow(engine, run.id, seconds=0.05, pause=0.01)


# --- schedules -------------------------------------------------------------------------------------------------


def test_a_schedule_runs_one_at_a_time_and_makes_up_for_nothing(fake, engine, tmp_path):
    set_schedule(engine, engines.submission(tmp_path), "nightly", "0 0 3 * * *")
    (job,) = fake.recurring.values()
    assert (job["max_concurrency"], job["no_catchup"], job["mode"]) == ("1", True, "ENABLE")
    assert job["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * *"}}


def test_the_runs_of_a_schedule_are_told_their_identifier_by_the_pod(fake, engine, tmp_path):
    """They share their parameters; a run_id there would be the same in each."""
    set_schedule(engine, engines.submission(tmp_path), "nightly", "0 0 3 * * *")
    (job,) = fake.recurring.values()
    assert "run_id" not in job["runtime_config"]["parameters"]["run"]
    assert job["runtime_config"]["parameters"]["run"]["commit"] == "c0ffee"


def test_a_schedule_that_is_the_same_is_kept(fake, engine, tmp_path):
    made = set_schedule(engine, engines.submission(tmp_path), "nightly", "0 0 3 * * *")
    again = set_schedule(engine, engines.submission(tmp_path), "nightly", "0 0 3 * * *")
    assert (made.action, again.action, again.schedule) == ("created", "kept", made.schedule)
    assert fake.created("recurringruns") == 1


@pytest.mark.parametrize(("cron", "rate"), [("0 0 4 * * *", 0.0002), ("0 0 3 * * *", 0.0005)])
def test_a_schedule_that_changed_is_made_anew_before_the_old_one_goes(fake, engine, tmp_path, cron, rate):
    old = set_schedule(engine, engines.submission(tmp_path), "nightly", "0 0 3 * * *").schedule
    new = set_schedule(engine, engines.submission(tmp_path, rate=rate), "nightly", cron)
    assert new.action == "replaced"
    assert list(fake.recurring) == [new.schedule.id] != [old.id]
    assert engine.schedules() == [new.schedule]
    assert new.schedule.enabled
    changes = [request for request in fake.requests if "recurringruns" in request and not request.startswith("GET")]
    assert changes[1:] == [
        "POST /apis/v2beta1/recurringruns",
        f"DELETE /apis/v2beta1/recurringruns/{old.id}",
        f"POST /apis/v2beta1/recurringruns/{new.schedule.id}:enable",  # it counts only once the old one is gone
    ]


def test_a_death_while_a_schedule_is_replaced_is_cleared_up_by_the_same_command(fake, engine, tmp_path):
    set_schedule(engine, engines.submission(tmp_path), "nightly", "0 0 3 * * *")
    fake.before = lambda request: (503, "gone") if request.startswith("DELETE") else None
    with pytest.raises(EngineError, match="delete the schedule nightly"):
        set_schedule(engine, engines.submission(tmp_path), "nightly", "0 0 4 * * *")
    assert sorted(job["status"] for job in fake.recurring.values()) == ["DISABLED", "ENABLED"]  # none runs twice
    fake.before = lambda request: None
    found = set_schedule(engine, engines.submission(tmp_path), "nightly", "0 0 4 * * *")
    assert [(one.cron, one.enabled) for one in engine.schedules()] == [("0 0 4 * * *", True)]
    assert found.schedule.enabled


def test_a_paused_schedule_stays_paused_when_it_changes(fake, engine, tmp_path):
    engine.pause(set_schedule(engine, engines.submission(tmp_path), "nightly", "0 0 3 * * *").schedule)
    assert not set_schedule(engine, engines.submission(tmp_path), "nightly", "0 0 4 * * *").schedule.enabled
    assert [one.enabled for one in engine.schedules()] == [False]


def test_the_server_has_the_last_word_about_a_cron(engine, tmp_path):
    with pytest.raises(
        EngineError, match=r"would not make the schedule nightly: 400 .*Expected 5 to 6 fields, found 4"
    ):
        set_schedule(engine, engines.submission(tmp_path), "nightly", "0 3 * *")


def test_a_schedule_of_a_dry_run_is_not_made(fake, engine, tmp_path):
    planned = set_schedule(engine, engines.submission(tmp_path), "nightly", "0 0 3 * * *", dry_run=True)
    assert planned.action == "would create"
    assert fake.recurring == {}


# --- who may ask, and who does not answer ----------------------------------------------------------------------


def test_nobody_at_the_endpoint():
    endpoint = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(EngineError, match=rf"KFP_ENDPOINT {endpoint} does not answer: .*kubectl port-forward"):
        kubeflow.connect(Server(endpoint))


def test_somebody_else_at_the_endpoint():
    with serve(lambda *request: (200, "<html>")) as url, pytest.raises(EngineError, match="no Kubeflow Pipelines API"):
        kubeflow.connect(Server(url))


def test_a_token_opens_and_its_lack_is_told(fake, url, tmp_path):
    fake.token = "secret"
    with pytest.raises(EngineError, match="refuses with 401: set KFP_TOKEN"):
        kubeflow.connect(Server(url))
    engine = kubeflow.connect(Server(url, token="secret"))
    run = submit(engine, engines.submission(tmp_path)).run
    fake.finish(run.id, "SUCCEEDED", verdict="pass")
    assert engine.verdict(run.id) == ("pass", "because: pass")  # the log, too, is asked for with the token
    fake.token = "another"
    with pytest.raises(EngineError, match=r"401 .*set KFP_TOKEN anew"):
        engine.runs(5)


def test_several_users_need_a_namespace(fake, url, tmp_path):
    fake.multi_user = True
    with pytest.raises(EngineError, match="set KFP_NAMESPACE"):
        kubeflow.connect(Server(url))
    submit(kubeflow.connect(Server(url, namespace="team-a")), engines.submission(tmp_path))
    (experiment,) = fake.experiments.values()
    assert experiment["namespace"] == "team-a"


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({}, "KFP_ENDPOINT is not set"),
        ({"KFP_ENDPOINT": "kubeflow.example"}, "must begin with http"),
        ({"KFP_ENDPOINT": "http://x", "KF_PIPELINES_SA_TOKEN_PATH": "/nowhere/token"}, "/nowhere/token cannot be read"),
    ],
)
def test_an_environment_that_names_no_server(monkeypatch, variables, says):
    for name in ("KFP_ENDPOINT", "KFP_TOKEN", "KF_PIPELINES_SA_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(EngineError, match=says):
        Server.from_environment()


def test_the_environment_names_server_and_token(monkeypatch, tmp_path):
    (tmp_path / "token").write_text("from-a-file\n")
    monkeypatch.delenv("KFP_TOKEN", raising=False)
    monkeypatch.setenv("KFP_ENDPOINT", "http://kubeflow.example/")
    monkeypatch.setenv("KFP_NAMESPACE", "team-a")
    monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", "https://ui.example/")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    assert Server.from_environment() == Server("http://kubeflow.example", "team-a", "from-a-file", "https://ui.example")
    monkeypatch.setenv("KFP_TOKEN", "given")
    assert Server.from_environment().token == "given"


# --- the same against a real server, where there is one --------------------------------------------------------


@pytest.fixture(params=["by hand", "real"])
def any_engine(request: pytest.FixtureRequest, fake: FakeKubeflow) -> Iterator[Kubeflow]:
    if request.param == "real":
        if not os.environ.get("KFP_ENDPOINT"):
            pytest.skip("KFP_ENDPOINT is not set: no Kubeflow Pipelines to test against")
        yield kubeflow.connect(Server.from_environment())
        return
    with serve(fake.answer) as url:
        yield kubeflow.connect(Server(url))


@pytest.fixture
def unique(tmp_path: Path) -> Callable[[], Submission]:
    """The submission of a content that no server has seen; the same at every call."""
    commit = uuid.uuid4().hex
    return lambda: engines.submission(tmp_path, commit=commit)


def test_a_run_is_submitted_once_and_ended(any_engine, unique):
    first, second = submit(any_engine, unique()), submit(any_engine, unique())
    try:
        assert (first.action, second.action) == ("submitted", "kept")
        assert second.run.id == first.run.id
        assert first.run.id in {run.id for run in any_engine.runs(20)}
        assert submit(any_engine, unique(), dry_run=True).creates == []
    finally:
        any_engine.terminate(first.run.id)
    ending = follow(any_engine, first.run.id, seconds=120, pause=0.2)
    assert ending.run.state in ("canceled", "failed")


def test_a_schedule_is_made_once_replaced_paused_and_deleted(any_engine, unique):
    name = f"test-{uuid.uuid4().hex[:8]}"
    try:
        made = set_schedule(any_engine, unique(), name, "0 0 3 1 1 *")
        assert (made.action, set_schedule(any_engine, unique(), name, "0 0 3 1 1 *").action) == ("created", "kept")
        assert set_schedule(any_engine, unique(), name, "0 0 4 1 1 *").action == "replaced"
        (one,) = find_schedules(any_engine, name)
        assert (one.cron, one.enabled) == ("0 0 4 1 1 *", True)
        any_engine.pause(one)
        assert [one.enabled for one in find_schedules(any_engine, name)] == [False]
        any_engine.resume(one)
        assert [one.enabled for one in find_schedules(any_engine, name)] == [True]
    finally:
        for one in any_engine.schedules():
            if one.name == name:
                any_engine.delete_schedule(one)
    assert name not in {one.name for one in any_engine.schedules()}


def test_a_run_that_is_not_there(any_engine):
    missing = str(uuid.uuid4())
    with pytest.raises(EngineError, match=f"read the run {missing}: 404 .*not found"):
        any_engine.run(missing)


def test_a_parameter_that_the_pipeline_has_not(any_engine, unique):
    class Wrong(Submission):
        def parameters(self, run_id: str = "") -> dict[str, dict[str, Any]]:
            return {**super().parameters(run_id), "extra": {}}

    submission = unique()
    wrong = Wrong(submission.config, submission.yaml)
    with pytest.raises(EngineError, match=r"400 .*parameter\(s\) provided are not required by pipeline: extra"):
        any_engine.start(wrong, "wrong")
