"""Terraform in one of the two environments, with its state in the bucket."""

from __future__ import annotations

import json
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
        """For a state on which nobody works any more: a lock on it is one that a killed job has left."""
        self._unlock()
        self._run("destroy", "-auto-approve", *self._changing())

    def plan(self, out: Path) -> bool:
        """Write a plan; whether it changes anything."""
        command = self._command("plan", f"-out={out}", "-detailed-exitcode", *self._changing())
        code = run(command, env=self.environment, good=(0, 1, 2))
        if code == 1:
            raise CiError("terraform plan ended with 1; its words are above")
        return code == 2  # it would change something

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

    def changed(self) -> str:
        """When a state that knows of anything was last written; "" where none does. Asked without `init`."""
        name = "default.tfstate"
        written = self._object(name).get("creation_time", "")
        return (
            written if written and json.loads(ask(["gcloud", "storage", "cat", self._url(name)]))["resources"] else ""
        )

    def _unlock(self) -> None:
        """The lock is an object beside the state, and its id that object's generation; nothing makes it expire."""
        if generation := self._object("default.tflock").get("generation"):
            self._run("force-unlock", "-force", str(generation))

    def _object(self, name: str) -> dict[str, Any]:
        """What Google says of an object beside the state; {} when there is none."""
        try:
            told = ask(["gcloud", "storage", "objects", "describe", self._url(name), "--format=json"])
        except CiError as error:
            if "404" in str(error) or "not found" in str(error):
                return {}
            raise
        return json.loads(told or "{}")

    def _url(self, name: str) -> str:
        return f"gs://{self.bucket}/{self.prefix}/{name}"

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
