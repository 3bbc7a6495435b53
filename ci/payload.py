"""What may start a retraining from outside: `repository_dispatch` with a payload that the run file's schema takes.

    {"run": "qwen2.5-7b-lora", "settings": {"data": {"sources": ["gs://…"]}}, "again": false, "reason": "new data"}

`settings` are laid over the named run file. They may say what is trained on and how, never what is let through or where
it goes: whoever can send an event could otherwise open the gate. Nothing of a payload is read by a shell.

    python -m ci.payload   reads PAYLOAD (JSON), writes build/retrain/run.yaml and request.json
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ci import job
from ci.commands import ROOT, CiError
from components.step_config import InputError
from pipelines import run_config

PLACE = ROOT / "build/retrain"
SECTIONS = ("data", "training")
"""What a payload may lay over. base, evaluation, gate, rollout and run are the repository's."""

_MOST_BYTES = 50_000


class Request(BaseModel):
    """One wish for a retraining."""

    model_config = ConfigDict(extra="forbid", strict=True)

    run: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,60}$")
    """Name of a run file in pipelines/runs/; no path."""

    settings: dict[str, dict[str, Any]] = {}
    again: bool = False
    """Although a run of the same content has succeeded."""

    wait_minutes: int = Field(default=0, ge=0, le=50)
    """How long the job follows the run; its login to the cluster ends after an hour."""

    reason: str = Field(default="", max_length=300)

    @field_validator("settings")
    @classmethod
    def _known_sections(cls, settings: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        if closed := sorted(set(settings) - set(SECTIONS)):
            raise ValueError(f"{', '.join(closed)}: not open to a payload, which may set {' and '.join(SECTIONS)}")
        return settings


def read(text: str) -> Request:
    """Raises CiError with one line per problem."""
    if len(text.encode()) > _MOST_BYTES:
        raise CiError(f"the payload has {len(text.encode()):,} bytes, and {_MOST_BYTES:,} are taken")
    try:
        return Request.model_validate_json(text)
    except ValidationError as error:
        lines = [f"payload: {'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise CiError("\n".join(lines)) from error


def compose(request: Request, place: Path) -> Path:
    """The run file that is asked for, checked as a whole. Raises CiError."""
    bundled = run_config.RUNS / f"{request.run}.yaml"
    if not bundled.is_file():
        known = ", ".join(sorted(path.stem for path in run_config.RUNS.glob("*.yaml")))
        raise CiError(f"payload: run: {request.run!r} is none of {known}")
    sections = yaml.safe_load(bundled.read_text(encoding="utf-8"))
    for name, values in request.settings.items():
        for key in values:
            # a file of the job's machine would travel into the run
            if key.endswith("_file"):
                raise CiError(f"payload: settings.{name}.{key}: files are the repository's; give the text itself")
        kept = {key: value for key, value in sections.get(name, {}).items() if key.removesuffix("_file") not in values}
        sections[name] = {**kept, **values}
    sections["run"] = {"name": request.run, **sections.get("run", {})}
    place.mkdir(parents=True, exist_ok=True)
    path = place / "run.yaml"
    path.write_text(yaml.safe_dump(sections, sort_keys=False, allow_unicode=True), encoding="utf-8")
    try:
        run_config.load(str(path))
    except InputError as error:
        raise CiError(str(error)) from error
    return path


def from_environment() -> str:
    """PAYLOAD, or what a person chose in the dialog (RUN, AGAIN, WAIT_MINUTES), or the run that SCHEDULED_RUN names."""
    payload = os.environ.get("PAYLOAD", "")
    if payload and payload != "null":
        return payload
    chosen: dict[str, Any] = {"run": os.environ.get("RUN") or os.environ.get("SCHEDULED_RUN", "")}
    if not chosen["run"]:
        raise CiError("nothing says what to run: set the variable SLIPWAY_RETRAIN_RUN to a run file's name")
    chosen["again"] = os.environ.get("AGAIN", "") == "true"
    minutes = os.environ.get("WAIT_MINUTES") or "0"
    if not re.fullmatch(r"\d{1,3}", minutes):
        raise CiError(f"WAIT_MINUTES {minutes!r} is no number")
    return json.dumps({**chosen, "wait_minutes": int(minutes)})


def main() -> int:
    try:
        request = read(from_environment())
        path = compose(request, PLACE)
        (PLACE / "request.json").write_text(request.model_dump_json(indent=1) + "\n")
    except CiError as error:
        return job.fail(error)
    words = {"run": request.run, "again": request.again, "settings": request.settings, "reason": request.reason}
    job.summary("### Asked for\n\n" + job.fenced(json.dumps(words, indent=1, ensure_ascii=False), "json"))
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
