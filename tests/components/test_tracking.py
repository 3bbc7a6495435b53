"""What a step tells MLflow is in the SQLite file of the store, one MLflow run for each pipeline run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from components.step_config import RunSettings
from components.tracking import log_step

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def own_tracking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The tests' records are where they say, whatever server the environment names; the rest lands in tmp_path."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests: making the database takes seconds."""
    return tmp_path_factory.mktemp("store")


def settings(store, **changes):
    return RunSettings(**{"name": "laptop", "store": str(store), "commit": "abc123", "run_id": "laptop-1", **changes})


def records(database, name):
    client = mlflow.MlflowClient(f"sqlite:///{database}")
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    return client, client.search_runs([experiment.experiment_id])


def test_settings_metrics_and_files_of_a_run_s_steps_land_in_one_record(store, tmp_path):
    report = tmp_path / "loss.html"
    report.write_text("<p>falling</p>")
    run = settings(store, name="one")
    log_step(
        run, "finetune", {"rank": 16, "method": "lora"}, {"train_loss": 2.5, "steps": 12, "note": "text"}, [report]
    )
    log_step(run, "evaluate", {"samples": 2}, {"perplexity": 9.5})

    client, (record,) = records(store / "mlflow.db", "one")
    assert record.data.params == {"finetune.rank": "16", "finetune.method": "lora", "evaluate.samples": "2"}
    assert record.data.metrics == {"finetune.train_loss": 2.5, "finetune.steps": 12.0, "evaluate.perplexity": 9.5}
    assert record.data.tags["slipway.run_id"] == "laptop-1"
    assert record.data.tags["slipway.commit"] == "abc123"
    assert record.info.run_name == "laptop-1"
    assert record.info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(record.info.run_id, "finetune")] == ["finetune/loss.html"]
    assert [path.read_text() for path in (store / "mlflow").rglob("loss.html")] == ["<p>falling</p>"]
    assert [path.name for path in tmp_path.iterdir()] == ["loss.html"], "nothing lands where the step happens to run"
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_another_run_has_a_record_of_its_own(store):
    for run_id, rate in (("a", 0.1), ("b", 0.2)):
        log_step(settings(store, name="two", run_id=run_id), "finetune", {"learning_rate": rate}, {})
    _, found = records(store / "mlflow.db", "two")
    by_run = {record.data.tags["slipway.run_id"]: record.data.params for record in found}
    assert by_run == {"a": {"finetune.learning_rate": "0.1"}, "b": {"finetune.learning_rate": "0.2"}}


def test_runs_without_an_id_are_not_mixed_up(store):
    """They would be refused: a parameter that is logged cannot change."""
    for rate in (0.1, 0.2):
        log_step(settings(store, name="three", run_id=""), "finetune", {"learning_rate": rate}, {})
    _, found = records(store / "mlflow.db", "three")
    assert {record.data.params["finetune.learning_rate"] for record in found} == {"0.1", "0.2"}


def test_a_step_that_is_retried_may_say_the_same_again(store):
    for loss in (2.0, 1.0):
        log_step(settings(store, name="four"), "finetune", {"rank": 4}, {"loss": loss})
    _, (record,) = records(store / "mlflow.db", "four")
    assert record.data.metrics == {"finetune.loss": 1.0}


def test_a_server_named_by_the_environment_is_used_instead_of_the_store(store, tmp_path, monkeypatch):
    elsewhere = tmp_path / "server.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{elsewhere}")
    log_step(settings(store, name="five"), "finetune", {}, {"loss": 1.0})
    _, (record,) = records(elsewhere, "five")
    assert record.data.metrics == {"finetune.loss": 1.0}
    assert mlflow.MlflowClient(f"sqlite:///{store}/mlflow.db").get_experiment_by_name("five") is None


@pytest.mark.slow
def test_steps_side_by_side_agree_on_one_record(tmp_path):
    """Both find no database and no record of the run, both would make one."""
    code = (
        "import json, sys; from components.step_config import RunSettings; from components.tracking import log_step;"
        "run, step = json.loads(sys.argv[1]); log_step(RunSettings(**run), step, {'one': 1}, {'two': 2.0})"
    )
    run = settings(tmp_path).model_dump()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    steps = [
        subprocess.Popen([sys.executable, "-c", code, json.dumps([run, step])], env=environment)
        for step in ("package", "evaluate")
    ]
    assert [step.wait(120) for step in steps] == [0, 0]
    _, (record,) = records(tmp_path / "mlflow.db", "laptop")
    assert record.data.metrics == {"package.two": 2.0, "evaluate.two": 2.0}
