"""Sets the recurring runs that manifests/schedules/ holds as data, in one environment.

    python -m manifests.recurring dev            writes build/schedules/dev/*.yaml, and says what would be set
    python -m manifests.recurring dev --apply    and sets it, by `slipway schedule` (KFP_ENDPOINT names the server)

Each file is a run file's name, what this environment changes in it, and when it runs; ${NAME} stands for a line of
manifests/overlays/gke-ENVIRONMENT/platform.env. Setting the same again changes nothing. A schedule that no file has any
more is named, and left for a person to delete.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator

from components.step_config import InputError, StepConfig
from pipelines import run_config
from pipelines.schedule import read_cron

ROOT = Path(__file__).resolve().parents[1]
SCHEDULES = ROOT / "manifests/schedules"
ENVIRONMENTS = ("ephemeral", "dev", "prod")
SLIPWAY = (sys.executable, "-m", "pipelines.cli")
"""The command line of this environment, whatever the shell's PATH holds."""

_PLACE = re.compile(r"\$\{([A-Z_]+)\}")


class Recurring(StepConfig):
    """One file of manifests/schedules/."""

    environments: list[Literal["ephemeral", "dev", "prod"]] = Field(min_length=1)
    """Where it runs."""

    cron: str
    """As `slipway schedule --cron` takes it; UTC."""

    run: str
    """A bundled run file's name, or a path from the project's root."""

    changes: dict[str, Any] = Field(default={})
    """What stands otherwise than in the run file; mappings are joined, everything else is replaced."""

    @field_validator("cron")
    @classmethod
    def _can_be_read(cls, cron: str) -> str:
        read_cron(cron)
        return cron


def read(path: Path) -> Recurring:
    """One file. Raises InputError that names it."""
    try:
        return Recurring.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML: {error}") from error
    except ValidationError as error:
        lines = (f"{path}: {'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise InputError("\n".join(lines)) from error


def read_platform(environment: str) -> dict[str, str]:
    """The lines of an environment's platform.env. Raises InputError when it has none."""
    path = ROOT / f"manifests/overlays/gke-{environment}/platform.env"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise InputError(f"there is no {path}; manifests/platform.env.example says how it is made") from error
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def run_file(recurring: Recurring, platform: Mapping[str, str]) -> dict[str, Any]:
    """The run file as it is submitted. Raises InputError for a name that platform.env does not have."""
    base = yaml.safe_load(run_config.find_run_file(recurring.run).read_text(encoding="utf-8"))
    return _joined(base, _filled(recurring.changes, platform))


def _joined(base: Any, over: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    return base | {key: _joined(base.get(key), value) for key, value in over.items()}


def _filled(value: Any, platform: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(inner, platform) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, platform) for inner in value]
    return _PLACE.sub(lambda found: _named(found[1], platform), value) if isinstance(value, str) else value


def _named(name: str, platform: Mapping[str, str]) -> str:
    if name not in platform:
        raise InputError(f"${{{name}}} is no line of platform.env; those are {', '.join(sorted(platform))}")
    return platform[name]


def plan(environment: str, folder: Path, platform: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    """(name, command) of each schedule of an environment; its run file is written to `folder` and checked.

    Raises InputError for a run file that cannot be used.
    """
    for path in sorted(SCHEDULES.glob("*.yaml")):
        recurring = read(path)
        if environment not in recurring.environments:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        written = folder / path.name
        content = yaml.safe_dump(run_file(recurring, platform), sort_keys=False, allow_unicode=True)
        written.write_text(f"# The recurring run {path.stem}, as the environment {environment} has it.\n{content}")
        run_config.load(str(written))
        yield path.stem, [*SLIPWAY, "schedule", str(written), path.stem, "--cron", recurring.cron]


def leftovers(known: list[str]) -> list[str]:
    """Names of the server's schedules that no file has."""
    told = subprocess.run([*SLIPWAY, "schedule", "list", "--json"], capture_output=True, text=True, check=True)
    return sorted({one["name"] for one in json.loads(told.stdout)} - set(known))


def main() -> int:
    """Exit codes: 0 done, 1 a file or the server refuses, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m manifests.recurring", description="Set the recurring runs.")
    parser.add_argument("environment", choices=ENVIRONMENTS)
    parser.add_argument("--apply", action="store_true", help="set them; without it they are only shown")
    options = parser.parse_args()
    try:
        platform = read_platform(options.environment)
        planned = list(plan(options.environment, ROOT / "build/schedules" / options.environment, platform))
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    for _, command in planned:
        print(shlex.join(["slipway", *command[len(SLIPWAY) :]]), flush=True)
        if options.apply and subprocess.run(command).returncode:
            return 1
    if options.apply:
        for name in leftovers([name for name, _ in planned]):
            print(f"{name}: no file of manifests/schedules has it; `slipway schedule delete {name}` ends it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
