"""actionlint and zizmor find nothing in the workflows, and do find what is planted."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.workflows import tools
from tests.workflows.rules import WORKFLOWS

MISTAKEN = """\
name: planted
on: pull_request
permissions: {}
jobs:
  one:
    runs-on: ubuntu-24.04
    permissions:
      contents: read
    steps:
      - run: echo ${{ github.event.pull_request.title }}
      - run: echo ${{ steps.none.outputs.x }}
"""


def actionlint(*paths: Path) -> subprocess.CompletedProcess[str]:
    # without the programs that it would call where they happen to be
    command = [tools.path("actionlint"), "-no-color", "-shellcheck=", "-pyflakes=", *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=WORKFLOWS.parents[1])


def zizmor(path: Path) -> subprocess.CompletedProcess[str]:
    command = [tools.path("zizmor"), "--offline", "--no-progress", "--color=never", "--format=plain", str(path)]
    environment = {key: value for key, value in os.environ.items() if key not in ("GH_TOKEN", "GITHUB_TOKEN")}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def test_actionlint():
    done = actionlint(*sorted(WORKFLOWS.glob("*.yml")))
    assert done.returncode == 0, done.stdout + done.stderr


def test_actionlint_notices(tmp_path: Path):
    (tmp_path / "planted.yml").write_text(MISTAKEN)
    done = actionlint(tmp_path / "planted.yml")
    assert (
        done.returncode == 1
        and "potentially untrusted" in done.stdout
        and 'property "none" is not defined' in done.stdout
    )


def test_zizmor():
    done = zizmor(WORKFLOWS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_zizmor_notices(tmp_path: Path):
    (tmp_path / "planted.yml").write_text(MISTAKEN)
    done = zizmor(tmp_path / "planted.yml")
    assert done.returncode > 10 and "template-injection" in done.stdout
