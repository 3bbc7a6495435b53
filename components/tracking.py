"""MLflow as the record of what was trained and measured; never the source of what is live (design rule 7).

MLFLOW_TRACKING_URI names a server; without it the record is an SQLite file in the store.
"""

from __future__ import annotations

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
    experiment = _experiment(run)
    found = mlflow.search_runs(
        [experiment], filter_string=f"tags.`slipway.run_id` = '{run.run_id}'", output_format="list", max_results=1
    )
    with mlflow.start_run(
        run_id=found[0].info.run_id if found else None,
        experiment_id=experiment,
        run_name=run.run_id or run.name,
        tags={"slipway.run_id": run.run_id, "slipway.commit": run.commit},
    ):
        mlflow.log_params({f"{step}.{name}": value for name, value in params.items()})
        mlflow.log_metrics({f"{step}.{name}": value for name, value in metrics.items() if isinstance(value, int | float)})
        for path in artifacts or []:
            mlflow.log_artifact(str(path), artifact_path=step)


def _experiment(run: RunSettings) -> str:
    """Id of the experiment named like the run file; its artifacts stay in the store."""
    import mlflow

    existing = mlflow.get_experiment_by_name(run.name)
    if existing:
        return existing.experiment_id
    location = None if os.environ.get("MLFLOW_TRACKING_URI") else (Path(run.store).resolve() / "mlflow").as_uri()
    return mlflow.create_experiment(run.name, artifact_location=location)
