"""What every step's schema has in common."""

from __future__ import annotations

import os
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError


class InputError(ValueError):
    """An input that its owner can mend; its message says what, which value and what to do."""


class StepConfig(BaseModel):
    """Base of every schema: unknown keys are refused, values are frozen, docstrings document fields.

    KFP hands the integers of a dict parameter over as floats; pydantic's lax mode reads 16.0 as 16.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_values_as_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        # lax mode, which the floats need, would read `yes` as 1
        annotation = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and {int, float} & {annotation, *get_args(annotation)}:
            raise PydanticCustomError("truth_value", "a truth value is not a number")
        return value


ForcedStep = Literal["all", "fetch_base", "prepare_data", "finetune", "package_release", "evaluate", "quality_gate"]
"""The steps that the store may answer for; resolve_champion and rollout always run."""


class RunSettings(StepConfig):
    """Which run this is, and where its results are kept (the pipeline's `run` parameter)."""

    name: str
    """Names the run in reports, MLflow and Kubeflow; the run file's name when it is not given."""

    store: str = ".slipway"
    """Folder of the content-addressed store, the releases and the attestations; a shared volume in a cluster."""

    commit: str = ""
    """Git commit of the code, for `slipway trace`; filled in when a run is submitted."""

    run_id: str = Field(default_factory=lambda: os.environ.get("SLIPWAY_RUN_ID", ""))
    """Identifies this execution; filled in when a run is submitted, and in a pod by Kubeflow. It enters no digest."""

    force: list[ForcedStep] = Field(default=[])
    """Steps to execute again although their results are in the store."""
