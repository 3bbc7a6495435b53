"""A copy of what the workflows run, so that nothing is written into the repository; make and the programs are real."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ci.commands import ROOT
from tests.workflows import rules, tools
from tests.workflows.fakes import Programs

_COPIED = ("Makefile", "ci", "pyproject.toml", "constraints.txt")
_LINKED = ("components", "data", "images", "manifests", "pipelines", "serving", "terraform")
_BORDER = ("buildah", "cosign", "docker", "gcloud", "kubectl", "podman", "skopeo", "sudo", "terraform", "trivy")
"""What reaches out of this machine, or changes it."""

_KEPT = ("HOME", "LANG", "TMPDIR", "SYSTEMROOT")


@dataclass
class Workspace:
    """The copy, the programs at its border, and the environment that GitHub gives to a job."""

    folder: Path
    programs: Programs
    github: dict[str, str] = field(default_factory=dict)

    def make(self, target: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """`make TARGET`, with nothing of this machine's environment but what a program needs to start."""
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment = {**kept, "PATH": self.programs.path, "PYTHON": sys.executable, **self.github, **variables}
        command = [tools.ordinary("make"), "--silent", f"SUBMIT_VENV={self.folder / '.venv-submit'}", target, *words]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120)

    def step(self, workflow: str, job: str, run: str, values: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """A step as the workflow has it: its target, with the variables that workflow, job and step set.

        `values`: expression -> what it comes to.
        """
        parsed = rules.read((rules.WORKFLOWS / workflow).read_text())
        found = next(one for one in parsed["jobs"][job]["steps"] if one.get("run") == run)
        merged: dict[str, Any] = {**parsed.get("env", {}), **parsed["jobs"][job].get("env", {}), **found.get("env", {})}
        words = run.removeprefix("buildah unshare ").removeprefix("make ").split()
        return self.make(*words, **{name: evaluate(str(text), values) for name, text in merged.items()})

    def copy(self, name: str) -> None:
        """Take a folder in whole, for what looks where its own code lies."""
        (self.folder / name).unlink()
        shutil.copytree(ROOT / name, self.folder / name)

    @property
    def summary(self) -> str:
        path = Path(self.github["GITHUB_STEP_SUMMARY"])
        return path.read_text() if path.exists() else ""

    @property
    def outputs(self) -> dict[str, str]:
        path = Path(self.github["GITHUB_OUTPUT"])
        text = path.read_text() if path.exists() else ""
        return {m[1]: m[3] for m in re.finditer(r"^(\w+)<<(\S+)\n(.*?)\n\2$", text, re.MULTILINE | re.DOTALL)}


def evaluate(text: str, values: dict[str, str]) -> str:
    """A value of the YAML with each expression as `values` has it; KeyError for one that a test did not think of."""
    return re.sub(r"\$\{\{ *(.*?) *\}\}", lambda match: values[match[1]], text)


def make_workspace(folder: Path) -> Workspace:
    root = folder / "checkout"
    root.mkdir()
    for name in _COPIED:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, root / name)
    for name in _LINKED:
        (root / name).symlink_to(ROOT / name)
    python = root / ".venv-submit/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (root / ".venv-submit/.ready").touch()
    github = {
        "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
        "GITHUB_OUTPUT": str(folder / "output"),
        "GITHUB_REPOSITORY": "somebody/slipway",
        "GITHUB_SHA": "0123456789abcdef0123456789abcdef01234567",
        "GITHUB_REF": "refs/heads/main",
        "GITHUB_ACTOR": "somebody",
        "GITHUB_SERVER_URL": "https://github.com",
        "GITHUB_WORKFLOW_REF": "somebody/slipway/.github/workflows/release.yml@refs/heads/main",
    }
    programs = Programs(folder / "bin")
    programs.guard(*_BORDER)
    return Workspace(root, programs, github)
