"""A run file that a cluster can run, and submissions of it, for the tests that speak to a pipeline engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from components import images
from pipelines import run_config
from pipelines.placement import Engine
from pipelines.run_config import RunConfig
from pipelines.submit import Submission, prepare

RUN_FILE = """
run:
  name: Nightly energy
  store: {store}
data:
  sources: [gs://bucket/energy.jsonl]
  system_prompt: |
    You know about energy.
base:
  source: hub:Qwen/Qwen2.5-0.5B-Instruct
  revision: 7ae557604adf67be50417f59c2c2f167def9a775
  licence: Apache-2.0
  chat_template: |
    {{% for message in messages %}}{{{{ message['content'] }}}}{{% endfor %}}
training:
  learning_rate: {rate}
rollout:
  target: kserve
  service: energy-cluster
placement: l4
"""

_COMPILED: dict[tuple[str, float], Submission] = {}
"""A compilation takes half a second."""


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that a cluster can pull. The variable is read once, when the steps' faces are imported."""
    monkeypatch.setattr(images, "CPU", f"registry.example/slipway/{images.CPU}")


def write_run_file(folder: Path, *, store: str = "/mnt/slipway/store", rate: float = 0.0002) -> Path:
    path = folder / "nightly.yaml"
    path.write_text(RUN_FILE.format(store=store, rate=rate), encoding="utf-8")
    return path


def load(folder: Path, **changes: object) -> RunConfig:
    return run_config.load(str(write_run_file(folder, **changes)))  # pyright: ignore[reportArgumentType]


def submission(
    folder: Path, engine: Engine = "kubeflow", *, rate: float = 0.0002, commit: str = "c0ffee"
) -> Submission:
    if (engine, rate) not in _COMPILED:
        store = "/mnt/slipway/store" if engine == "kubeflow" else "/gcs/bucket/store"
        _COMPILED[engine, rate] = prepare(load(folder, store=store, rate=rate), "l4", engine, "")
    compiled = _COMPILED[engine, rate]
    run = compiled.config.run.model_copy(update={"commit": commit})
    return Submission(compiled.config.model_copy(update={"run": run}), compiled.yaml)
