"""A run file: one YAML with the pipeline's seven parameters and the placement profile."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from components.evaluate.config import EvaluationConfig
from components.fetch_base.config import BaseConfig
from components.finetune.config import TrainingConfig
from components.prepare_data.config import DataConfig
from components.quality_gate.config import GateConfig
from components.rollout.config import RolloutConfig
from components.step_config import InputError, RunSettings, StepConfig

RUNS = Path(__file__).resolve().parent / "runs"
_TEXT_FILES = (("data", "system_prompt"), ("base", "chat_template"))
"""Settings whose text a run file may keep in a file: `system_prompt_file: path` beside the section's other keys."""


class RunConfig(StepConfig):
    """Everything that one run needs to know; the seven sections become the pipeline's seven parameters."""

    run: RunSettings
    data: DataConfig
    base: BaseConfig
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    gate: GateConfig = GateConfig()
    rollout: RolloutConfig = RolloutConfig()

    placement: Literal["cpu", "l4", "a100", "h100x8"] = Field("cpu", description="Profile of pipelines/placement.py.")

    @model_validator(mode="after")
    def _contexts_fit(self) -> RunConfig:
        scratch = self.base.scratch
        if scratch and self.data.max_tokens > scratch.context_length:
            raise ValueError(
                f"data.max_tokens {self.data.max_tokens} is more than base.scratch.context_length {scratch.context_length}"
            )
        return self

    def parameters(self) -> dict[str, dict[str, Any]]:
        """The pipeline's seven dict parameters, complete with defaults."""
        return self.model_dump(mode="json", exclude={"placement"})


def find_run_file(name: str) -> Path:
    """A path as given, or the name of one of the bundled run files.

    Raises InputError that lists the bundled ones.
    """
    for path in (Path(name), RUNS / f"{name}.yaml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in RUNS.glob("*.yaml")))
    raise InputError(f"no run file {name!r}: it is neither a path nor one of {known}")


def load(name: str, run: Mapping[str, Any] | None = None) -> RunConfig:
    """Read and validate a run file; `run` overrides settings of its section `run`.

    Raises InputError with one line per problem: file, key, value and what is allowed.
    """
    path = find_run_file(name)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: a run file is a mapping with the keys {', '.join(RunConfig.model_fields)}")
    sections: dict[str, Any] = content
    settings = sections.setdefault("run", {})
    if isinstance(settings, dict):
        sections["run"] = {"name": path.stem, **settings, **(run or {})}
    _read_text_files(sections, path)
    try:
        return RunConfig.model_validate(sections)
    except ValidationError as error:
        raise InputError("\n".join(describe(error, str(path)))) from error


def describe(error: ValidationError, where: str) -> list[str]:
    """One line per problem: where, the key's dotted name, the value it has, and what is allowed."""
    lines: list[str] = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"]) or "(run file)"
        if problem["type"] == "extra_forbidden":
            lines.append(f"{where}: {key}: unknown key{_alternatives(problem['loc'])}")
        elif problem["type"] == "missing":
            lines.append(f"{where}: {key}: required, and missing")
        elif isinstance(problem["input"], dict | list):
            lines.append(f"{where}: {key}: {problem['msg'].removeprefix('Value error, ')}")
        else:
            lines.append(f"{where}: {key}: {problem['input']!r}: {problem['msg'].removeprefix('Value error, ')}")
    return lines


def _alternatives(location: tuple[int | str, ...]) -> str:
    """The keys that stand where an unknown one was found."""
    schema: Any = RunConfig
    for part in location[:-1]:
        field = getattr(schema, "model_fields", {}).get(part)
        schema = field.annotation if field else None
    allowed = ", ".join(sorted(schema.model_fields)) if hasattr(schema, "model_fields") else ""
    return f"; allowed here: {allowed}" if allowed else ""


def _read_text_files(sections: dict[str, Any], run_file: Path) -> None:
    """Replace `<setting>_file: path` by `<setting>: the file's text`; paths start at the working directory."""
    for section, setting in _TEXT_FILES:
        values = sections.get(section)
        if not isinstance(values, dict) or f"{setting}_file" not in values:
            continue
        if setting in values:
            raise InputError(f"{run_file}: {section}.{setting} and {section}.{setting}_file exclude each other")
        named = Path(str(values.pop(f"{setting}_file")))
        try:
            values[setting] = named.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{run_file}: {section}.{setting}_file: {named} cannot be read ({error})") from error
