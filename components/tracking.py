"""MLflow as the record of what was trained and measured; never the source of what is live (design rule 7).

MLFLOW_TRACKING_URI names a server; without it the record is an SQLite file in the store.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.step_config import RunSettings

if TYPE_CHECKING:
    from mlflow import MlflowClient


def log_step(
    run: RunSettings, step: str, params: dict[str, Any], metrics: dict[str, float], artifacts: list[Path] | None = None
) -> None:
    """Add a step's settings, metrics and files to the MLflow run of this pipeline run, which is made when missing."""
    # mlflow imports slowly; steps that were reused never call this
    from mlflow import MlflowClient

    server = os.environ.get("MLFLOW_TRACKING_URI")
    store = Path(run.store).resolve()
    store.mkdir(parents=True, exist_ok=True)
    # steps that run side by side make the database once, and agree on one record
    with (store / "mlflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # a client, since mlflow.set_tracking_uri writes into the environment, where it looks like a server's address
        client = MlflowClient(server or f"sqlite:///{store}/mlflow.db")
        record = _find_or_create(client, run, "" if server else (store / "mlflow").as_uri())
    for name, value in params.items():
        client.log_param(record, f"{step}.{name}", value)
    for name, value in metrics.items():
        if isinstance(value, int | float):
            client.log_metric(record, f"{step}.{name}", value)
    for path in artifacts or []:
        client.log_artifact(record, str(path), artifact_path=step)
    client.set_terminated(record)


def _find_or_create(client: MlflowClient, run: RunSettings, artifacts: str) -> str:
    """MLflow's id of this pipeline run's record, in the experiment named like the run file.

    Without a run_id (a run that was started in Kubeflow's dashboard) each step has a record of its own: runs that
    share the empty id would overwrite each other. `artifacts` is where a new experiment's files go; "" leaves it to
    the server.
    """
    known = client.get_experiment_by_name(run.name)
    experiment = known.experiment_id if known else client.create_experiment(run.name, artifacts or None)
    if run.run_id:
        found = client.search_runs([experiment], f"tags.`slipway.run_id` = '{run.run_id}'", max_results=1)
        if found:
            return found[0].info.run_id
    tags = {"slipway.run_id": run.run_id, "slipway.commit": run.commit}
    return client.create_run(experiment, tags=tags, run_name=run.run_id or run.name).info.run_id
