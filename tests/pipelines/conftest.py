"""Compiles the pipeline once per run file and profile, for every test that looks at the result."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import run_config
from pipelines.placement import Engine
from tests.pipelines import ir
from tests.pipelines.fake_kfp import FakeKubeflow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def fake() -> FakeKubeflow:
    return FakeKubeflow()


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Any]]:
    """(run file, profile, engine) -> the YAML documents, a copy that a test may change."""
    from pipelines.compile import compile_pipeline

    folder = tmp_path_factory.mktemp("compiled")
    found: dict[tuple[str, str, Engine], list[Any]] = {}

    def compile_once(run: str = "laptop", profile: str = "cpu", engine: Engine = "kubeflow") -> list[Any]:
        if (run, profile, engine) not in found:
            before = Path.cwd()
            os.chdir(ROOT)  # the bundled files name their data from there
            try:
                config = run_config.load(run)
            finally:
                os.chdir(before)
            output = folder / f"{run}-{profile}-{engine}.yaml"
            compile_pipeline(config, profile, output, engine)
            found[run, profile, engine] = ir.read_documents(output.read_text(encoding="utf-8"))
        return copy.deepcopy(found[run, profile, engine])

    return compile_once
