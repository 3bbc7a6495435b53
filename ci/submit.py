"""Compile with a release's images, bring the pipeline to the cluster and start it there.

python -m ci.submit release   after a release: RUN once, or by CRON; then the cluster is told which release it has
python -m ci.submit retrain   with the images and the code of the cluster's release: build/retrain/run.yaml
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ci import cluster, job, release
from ci.commands import ROOT, CiError, ask, program, run

KUBEFLOW = "kubeflow"
NAMESPACE = "slipway-pipelines"
RECORD = "slipway-release"
"""ConfigMap that says which images and which commit the cluster was last given."""

PASS, FAILED, _, STOPPED_FAIL, STOPPED_INCONCLUSIVE = range(5)
"""Exit codes of `slipway submit --wait`."""


def after_release() -> None:
    """The new images' pipeline, started or set as a schedule. Raises CiError."""
    images = release.references()
    run_file = job.value("RUN", "the run file, by its name in pipelines/runs/")
    cron = os.environ.get("CRON", "").strip()
    command = ["schedule", run_file, f"--cron={cron}"] if cron else ["submit", run_file]
    with cluster.access() as environment:
        told, _ = _slipway(command, images, environment, ROOT)
        _record(images, environment)
    link = (told.get("run") or told.get("schedule") or {}).get("link", "")
    job.summary(f"### Pipeline\n\n`{run_file}`: {told.get('action')}" + (f", {link}" if link else ""))


def retrain() -> None:
    """The request that was checked, with what the cluster's release holds. Raises CiError."""
    place = ROOT / "build/retrain"
    try:
        request = json.loads((place / "request.json").read_text())
    except OSError as error:
        raise CiError(f"{place}/request.json is missing: the job `check` writes it") from error
    with cluster.access() as environment:
        images = recorded(environment)
        command = ["submit", str(place / "run.yaml")]
        command += ["--again"] if request["again"] else []
        if request["wait_minutes"]:
            command += ["--wait", f"--wait-seconds={60 * request['wait_minutes']}"]
        with code_of(images["SLIPWAY_COMMIT"]) as code:
            told, exit_code = _slipway(command, images, environment, code)
    job.summary(describe(told, exit_code))


def describe(told: dict[str, Any], exit_code: int) -> str:
    """What came of it; a run that the gate stopped is a run that did what it should."""
    name = told.get("name", "")
    link = (told.get("run") or {}).get("link", "")
    lines = [f"### {name or 'Retraining'}", "", f"{told.get('action', '')} {link}".strip()]
    if exit_code in (STOPPED_FAIL, STOPPED_INCONCLUSIVE) or told.get("verdict"):
        lines += ["", f"verdict: **{told.get('verdict') or 'unknown'}**, {told.get('reason', '')}"]
    return "\n".join(lines)


def recorded(environment: dict[str, str]) -> dict[str, str]:
    """Which images and commit the cluster was last given. Raises CiError."""
    command = [program("kubectl"), "get", "configmap", RECORD, f"--namespace={NAMESPACE}", "--output=json"]
    try:
        data = json.loads(ask(command, env=environment)).get("data") or {}
    except CiError as error:
        raise CiError(f"the cluster has no release yet: run the workflow `release` first\n{error}") from error
    os.environ["RELEASED"] = "\n".join(f"{key}={value}" for key, value in data.items())
    return release.references()


def _record(images: dict[str, str], environment: dict[str, str]) -> None:
    """Write it down where the next retraining, and who is on call, looks."""
    found = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": RECORD, "namespace": NAMESPACE, "labels": {"app.kubernetes.io/part-of": "slipway"}},
        "data": images,
    }
    apply = [program("kubectl"), "apply", "--server-side", "--field-manager=slipway-release", "--filename=-"]
    run(apply, env=environment, given=json.dumps(found))


@contextmanager
def code_of(commit: str) -> Iterator[Path]:
    """A folder with the code of a commit: pipeline and images must be of one release, whatever main holds by now."""
    folder = ROOT / "build/released"
    remove = ["git", "worktree", "remove", "--force", str(folder)]
    subprocess.run(remove, cwd=ROOT, capture_output=True)  # a job that was killed may have left one
    try:
        ask(["git", "worktree", "add", "--detach", folder, commit])
    except CiError as error:
        raise CiError(
            f"commit {commit} of the cluster's release is not in this checkout: fetch-depth: 0\n{error}"
        ) from error
    try:
        yield folder
    finally:
        ask(remove)


def _slipway(
    command: list[str], images: dict[str, str], environment: dict[str, str], code: Path
) -> tuple[dict[str, Any], int]:
    """(what the command line said, its exit code). Raises CiError when it failed."""
    with cluster.forward("service/ml-pipeline", KUBEFLOW, 8888, "/apis/v2beta1/healthz", environment) as endpoint:
        # sys.path begins with the working directory, so the commit's own code runs, in this environment
        words = [sys.executable, "-m", "pipelines.cli", *command, "--json"]
        done = subprocess.run(
            words,
            cwd=code,
            env={**os.environ, **environment, **images, "KFP_ENDPOINT": endpoint},
            stdout=subprocess.PIPE,
            text=True,
        )
    stopped = done.returncode in (STOPPED_FAIL, STOPPED_INCONCLUSIVE) and "--wait" in command
    if done.returncode != PASS and not stopped:
        raise CiError(f"`slipway {' '.join(command[:2])}` ended with {done.returncode}; its words are above")
    return json.loads(re.sub(r"\A[^{]*", "", done.stdout)), done.returncode


COMMANDS = {"release": after_release, "retrain": retrain}


def main(arguments: list[str]) -> int:
    return job.carry_out("ci.submit", COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
