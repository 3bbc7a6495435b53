"""Terraform in one of the two environments, with its state in the bucket."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ci.commands import ROOT, CiError, ask, program, run

ENVIRONMENTS = ROOT / "terraform/environments"


@dataclass
class Terraform:
    """One root with one state."""

    root: str
    bucket: str
    prefix: str
    variables: Mapping[str, Any] = field(default_factory=dict)
    var_file: str = ""

    @property
    def folder(self) -> Path:
        return ENVIRONMENTS / self.root

    @property
    def environment(self) -> dict[str, str]:
        """Values go by the environment, where no shell and no command line reads them."""
        given = {
            f"TF_VAR_{name}": value if isinstance(value, str) else json.dumps(value)
            for name, value in self.variables.items()
        }
        # two states of one root share a checkout: each has its own .terraform
        data = ROOT / "build/terraform" / self.prefix.replace("/", "-")
        return {"TF_IN_AUTOMATION": "1", "TF_INPUT": "0", "CHECKPOINT_DISABLE": "1", "TF_DATA_DIR": str(data), **given}

    def init(self) -> None:
        backend = [f"-backend-config=bucket={self.bucket}", f"-backend-config=prefix={self.prefix}"]
        self._run("init", "-input=false", "-no-color", "-reconfigure", *backend)

    def apply(self) -> None:
        self._run("apply", "-auto-approve", *self._changing())

    def destroy(self) -> None:
        self._run("destroy", "-auto-approve", *self._changing())

    def plan(self, out: Path) -> bool:
        """Write a plan; whether it changes anything."""
        command = self._command("plan", f"-out={out}", "-detailed-exitcode", *self._changing())
        env = {**os.environ, **self.environment}
        code = subprocess.run(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL).returncode
        if code not in (0, 2):  # 2: it would change something
            raise CiError(f"terraform plan ended with {code}; its words are above")
        return code == 2

    def apply_plan(self, plan: Path) -> None:
        """Exactly what was planned; Terraform itself refuses a plan that the state has overtaken."""
        self._run("apply", "-input=false", "-no-color", "-lock-timeout=5m", str(plan))

    def show(self, plan: Path) -> str:
        return ask(self._command("show", "-no-color", str(plan)), env=self.environment)

    def show_json(self, plan: Path) -> dict[str, Any]:
        return json.loads(ask(self._command("show", "-json", str(plan)), env=self.environment))

    def output(self, name: str) -> str:
        return ask(self._command("output", "-raw", name), env=self.environment).strip()

    def holds(self) -> bool:
        """Whether the state knows of anything; there may be no state at all."""
        told = ask(self._command("state", "pull"), env=self.environment)
        return bool(told.strip()) and bool(json.loads(told)["resources"])

    def _changing(self) -> list[str]:
        return [
            "-input=false",
            "-no-color",
            "-lock-timeout=5m",
            *([f"-var-file={self.var_file}"] if self.var_file else []),
        ]

    def _command(self, *words: str) -> list[str]:
        return [
            program("terraform", "https://developer.hashicorp.com/terraform/install"),
            f"-chdir={self.folder}",
            *words,
        ]

    def _run(self, *words: str) -> None:
        run(self._command(*words), env=self.environment)
