"""Run the pipeline on this machine: the same file as in the cluster, each step a process of its own."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from components.step_config import InputError
from components.store import Store, write_atomically
from pipelines.console import Step, StepConsole, open_log
from pipelines.doctor import DISK_GIB
from pipelines.run_config import RunConfig

_STEPS = 9
"""Of one run: the branch that is not taken is not counted."""

_KEPT_RUNS = 5
_REPORTS = {
    "data": ("prepare-data", "report"),
    "training": ("finetune", "loss_curve"),
    "evaluation": ("evaluate", "report"),
    "verdict": ("quality-gate", "report"),
}


class StepFailed(RuntimeError):
    """A step ended with an error; the message is the step's own."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    verdict: str
    """"pass", "fail" or "inconclusive"."""

    reason: str
    steps: list[Step]
    reports: dict[str, Path]
    live: dict[str, Any] | None
    """What the rollout wrote (digest, url …); None when the gate stopped the run."""

    seconds: float


def new_run_id(name: str) -> str:
    """Sorts by time whatever the run file's name, which it ends with; no two runs have the same."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}-{name}"


def current_commit() -> str:
    """The code's git commit, with "-dirty" when files differ from it; "" outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True)
        status = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    if head.returncode:
        return ""
    return head.stdout.strip() + ("-dirty" if status.stdout.strip() else "")


def refuse_early(config: RunConfig, run_file: str = "") -> None:
    """What can be known before a step runs: data that is not there, a full disk, a port that somebody else holds.

    Raises InputError, which begins with the run file where that is to blame, or the target's TargetError.
    """
    from components.prepare_data.readers import find_sources
    from components.rollout.deliver import refuse_early as refuse_rollout_early

    try:
        find_sources(config.data.sources)
    except InputError as error:
        raise InputError(f"{run_file}: data.sources: {error}".removeprefix(": ")) from error
    store = Path(config.run.store).resolve()
    existing = next(path for path in (store, *store.parents) if path.exists())
    free_gib = shutil.disk_usage(existing).free / 2**30
    if free_gib < DISK_GIB:
        raise InputError(
            f"{existing} has {free_gib:.1f} GiB free; a run needs {DISK_GIB}, so free some or set run.store"
        )
    refuse_rollout_early(Store(config.run), config.rollout)


def run_locally(config: RunConfig, screen: Console, run_file: str = "") -> Outcome:
    """Execute every step, showing progress on `screen`; `run_file` is where the configuration is from.

    Raises StepFailed with the step's own message when one fails.
    """
    # kfp takes a second to import, which `slipway validate` should not pay
    from kfp import local

    from pipelines.train_and_release import build

    refuse_early(config, run_file)
    parameters = config.parameters()
    folder = Path(config.run.store).resolve() / "runs" / config.run.run_id
    local.init(
        local.SubprocessRunner(use_venv=False), pipeline_root=str(folder), workspace_root=str(folder / "workspace")
    )
    started = time.monotonic()
    with open_log(folder / "log.txt") as log, StepConsole(screen, log, _STEPS) as console:
        pipeline = build(None, parameters)
        try:
            with contextlib.redirect_stdout(console):
                pipeline(**parameters)
        except RuntimeError as error:
            step = console.record.steps[-1] if console.record.steps else None
            reason = step.failure if step and step.failure else f"{error}"
            where = step.name if step else "pipeline"
            raise StepFailed(f"{where}: {reason} (log: {folder / 'log.txt'})") from error
    verdict = console.record.events["verdict"]
    reports, live = _collect_reports(folder), _read_live(folder)
    _forget_old_runs(folder)
    return Outcome(
        verdict=verdict["verdict"],
        reason=verdict["reason"],
        steps=console.record.steps,
        reports=reports,
        live=live,
        seconds=time.monotonic() - started,
    )


def _artifact(folder: Path, task: str, output: str) -> Path | None:
    """Where Kubeflow's local runner put an output of a task."""
    return next(iter(sorted(folder.glob(f"**/{task}/{output}"))), None)


def _collect_reports(folder: Path) -> dict[str, Path]:
    """The run's HTML reports under names that a browser opens."""
    reports: dict[str, Path] = {}
    for name, (task, output) in _REPORTS.items():
        found = _artifact(folder, task, output)
        if found:
            target = folder / "reports" / f"{name}.html"
            write_atomically(target, found.read_text(encoding="utf-8"))
            reports[name] = target
    return reports


def _read_live(folder: Path) -> dict[str, Any] | None:
    live = _artifact(folder, "rollout", "live")
    if live is None:
        return None
    return json.loads((live / "live.json" if live.is_dir() else live).read_bytes())


def _forget_old_runs(current: Path) -> None:
    """Keep the newest runs' folders; what they made stays in the store."""
    for old in sorted(path for path in current.parent.iterdir() if path.is_dir())[:-_KEPT_RUNS]:
        if old < current:  # one that began later still works
            shutil.rmtree(old)
