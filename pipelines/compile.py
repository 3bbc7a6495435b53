"""Compile the pipeline to the YAML that Kubeflow takes."""

from __future__ import annotations

from pathlib import Path

from pipelines.placement import PROFILES
from pipelines.run_config import RunConfig
from pipelines.train_and_release import build


def compile_pipeline(config: RunConfig, profile: str, output: Path) -> None:
    """Write the intermediate representation; the same input gives the same bytes."""
    from kfp import compiler

    output.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(build(PROFILES[profile], config.parameters()), str(output))
