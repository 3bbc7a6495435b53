"""What is live now, and is this run's configuration one that can run?"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from components.evaluate.config import EvaluationConfig
from components.fetch_base.config import BaseConfig
from components.finetune.config import TrainingConfig
from components.prepare_data.config import DataConfig
from components.quality_gate.config import GateConfig
from components.rollout.config import RolloutConfig
from components.step_config import InputError, RunSettings, StepConfig
from components.store import Store, link_tree, write_atomically

SCHEMAS: dict[str, type[StepConfig]] = {
    "run": RunSettings,
    "data": DataConfig,
    "base": BaseConfig,
    "training": TrainingConfig,
    "evaluation": EvaluationConfig,
    "gate": GateConfig,
    "rollout": RolloutConfig,
}


@dataclass(frozen=True)
class Champion:
    """The content of champion.json."""

    digest: str | None
    service: str


def validate(parameters: dict[str, dict[str, Any]]) -> dict[str, StepConfig]:
    """All seven parameters through their schemas: parameter name -> configuration.

    A run may be started by hand in the dashboard, so this is the last look before anything costs money.
    Raises InputError with one line per mistake: parameter, key, value, what is allowed.
    """
    configs: dict[str, StepConfig] = {}
    mistakes: list[str] = []
    for name, schema in SCHEMAS.items():
        try:
            configs[name] = schema.model_validate(parameters[name])
        except ValidationError as error:
            mistakes += [_mistake(name, detail) for detail in error.errors()]
    if "KFP_POD_NAME" in os.environ:
        mistakes += _mistakes_in_cluster(configs)
    if mistakes:
        raise InputError("; ".join(mistakes))
    check_together(cast(DataConfig, configs["data"]), cast(BaseConfig, configs["base"]))
    return configs


def check_together(data: DataConfig, base: BaseConfig) -> None:
    """What no schema sees by itself. Raises InputError when an example may be longer than a model from scratch reads.

    Asked of a run file before anything is submitted, and here again.
    """
    scratch = base.scratch
    if scratch and data.max_tokens > scratch.context_length:
        limit = f"base.scratch.context_length {scratch.context_length}"
        raise InputError(f"data.max_tokens {data.max_tokens} is more than {limit}")


def _mistakes_in_cluster(configs: dict[str, StepConfig]) -> list[str]:
    """What a pod cannot do: its machine and its own folders are gone when it ends."""
    mistakes: list[str] = []
    run, rollout = configs.get("run"), configs.get("rollout")
    if isinstance(run, RunSettings) and not Path(run.store).is_absolute():
        mistakes.append(f"run.store: {run.store!r}: it ends with its pod; name a mounted folder by its absolute path")
    if isinstance(rollout, RolloutConfig) and rollout.target == "local":
        mistakes.append(
            "rollout.target: 'local': the local target serves on one machine; it cannot roll out from a cluster"
        )
    return mistakes


def _mistake(parameter: str, detail: Any) -> str:
    key = ".".join([parameter, *(str(part) for part in detail["loc"])])
    if detail["type"] == "extra_forbidden":
        return f"{key}: there is no such key"
    if detail["type"] == "missing":
        return f"{key}: is missing"
    return f"{key}: {detail['input']!r}: {detail['msg']}"


def resolve(store: Store, config: RolloutConfig, directory: Path) -> Champion:
    """Write champion.json into `directory`, and the live release beside it when there is one.

    Raises InputError when the live release is missing from the store or damaged, TargetError when it cannot be had.
    """
    # The one step that looks into another's folder: what is live is known to the rollout target alone
    # (design.md, rule 7). Imported here, so that validating a run needs no HTTP client.
    from components.rollout.deliver import live, require_whole

    champion = Champion(live(store, config), config.service)
    if champion.digest:
        link_tree(require_whole(store, champion.digest, config), directory / "release")
    write_atomically(directory / "champion.json", json.dumps(vars(champion), indent=1))
    return champion
