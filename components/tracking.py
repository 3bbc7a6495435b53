"""MLflow as the record of what was trained and measured; never the source of what is live (design rule 7).

MLFLOW_TRACKING_URI names a server; without it the record is an SQLite file in the store.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

from components.step_config import RunSettings


def log_step(
    run: RunSettings, step: str, params: dict[str, Any], metrics: dict[str, float], artifacts: list[Path] | None = None
) -> None:
    """Add a step's settings, metrics and files to the MLflow run of this pipeline run, which is made when missing."""
    # mlflow imports slowly; steps that were reused never call this
    import mlflow

    mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(run.store).resolve()}/mlflow.db")
    with mlflow.start_run(run_id=_find_or_create(run)):
        mlflow.log_params({f"{step}.{name}": value for name, value in params.items()})
        mlflow.log_metrics(
            {f"{step}.{name}": value for name, value in metrics.items() if isinstance(value, int | float)}
        )
        for path in artifacts or []:
            mlflow.log_artifact(str(path), artifact_path=step)


def _find_or_create(run: RunSettings) -> str:
    """MLflow's id of this pipeline run's record; steps that run side by side agree on one by a lock in the store.

    Without a run_id (a run that was started in Kubeflow's dashboard) each step has a record of its own: runs that
    share the empty id would overwrite each other.
    """
    import mlflow

    store = Path(run.store).resolve()
    store.mkdir(parents=True, exist_ok=True)
    with (store / "mlflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        client = mlflow.MlflowClient()
        experiment = _experiment(run)
        if run.run_id:
            found = client.search_runs([experiment], f"tags.`slipway.run_id` = '{run.run_id}'", max_results=1)
            if found:
                return found[0].info.run_id
        tags = {"slipway.run_id": run.run_id, "slipway.commit": run.commit}
        return client.create_run(experiment, tags=tags, run_name=run.run_id or run.name).info.run_id


def _experiment(run: RunSettings) -> str:
    """Id of the experiment named like the run file; its artifacts stay in the store."""
    import mlflow

    existing = mlflow.get_experiment_by_name(run.name)
    if existing:
        return existing.experiment_id
    location = None if os.environ.get("MLFLOW_TRACKING_URI") else (Path(run.store).resolve() / "mlflow").as_uri()
    return mlflow.create_experiment(run.name, artifact_location=location)
