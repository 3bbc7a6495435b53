"""A run file: one YAML with the pipeline's seven parameters and the placement profile."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from pydantic import Field, ValidationError, model_validator

from components.evaluate.config import EvaluationConfig
from components.fetch_base.config import BaseConfig
from components.finetune.config import TrainingConfig
from components.prepare_data.config import DataConfig
from components.quality_gate.config import GateConfig
from components.resolve_champion.resolve import check_together
from components.rollout.config import RolloutConfig
from components.step_config import InputError, RunSettings, StepConfig

RUNS = Path(__file__).resolve().parent / "runs"
_TEXT_FILES = (("data", "system_prompt"), ("base", "chat_template"))
"""Settings whose text a run file may keep in a file: `system_prompt_file: path` beside the section's other keys."""

Location = tuple[int | str, ...]
"""Keys and list positions that lead to a value."""


class RunFileError(InputError):
    """A run file that cannot be used; nothing was run."""


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
        check_together(self.data, self.base)
        return self

    @model_validator(mode="after")
    def _rollout_ignores_nothing(self) -> RunConfig:
        """Not in the rollout's own schema: that also reads what earlier rollouts wrote down, which harms nobody."""
        rollout, default = self.rollout, RolloutConfig()
        if rollout.target == "kserve" and rollout.port != default.port:
            raise ValueError(f"rollout.port {rollout.port} is for target local; leave it out, a gateway has its own")
        if rollout.strategy == "replace" and rollout.stages != default.stages:
            raise ValueError(
                f"rollout.stages {rollout.stages} are for strategy surge: with replace, the new release has all the "
                "traffic from the beginning; leave them out"
            )
        return self

    def parameters(self) -> dict[str, dict[str, Any]]:
        """The pipeline's seven dict parameters, complete with defaults.

        What is None is left out, since KFP has no null in a parameter; None is always the default where it is allowed.
        """
        return self.model_dump(mode="json", exclude={"placement"}, exclude_none=True)


def find_run_file(name: str) -> Path:
    """A path as given, or the name of one of the bundled run files.

    Raises RunFileError that lists the bundled ones.
    """
    for path in _candidates(name):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in RUNS.glob("*.yaml")))
    raise RunFileError(f"no run file {name!r}: it is neither a path nor one of {known}")


def is_run_file(name: str) -> bool:
    """Whether find_run_file would find one."""
    return any(path.is_file() for path in _candidates(name))


def _candidates(name: str) -> tuple[Path, Path]:
    return Path(name), RUNS / f"{name}.yaml"


def load(name: str, run: Mapping[str, Any] | None = None, target: str | None = None) -> RunConfig:
    """Read and validate a run file; `run` overrides settings of its section `run`, `target` its `rollout.target`.

    Raises RunFileError with one line per problem: file, key, value and what is allowed.
    """
    path = find_run_file(name)
    sections = _read(path)
    settings = sections.setdefault("run", {})
    if isinstance(settings, dict):
        sections["run"] = {"name": path.stem, **settings, **(run or {})}
    if target:
        _set_target(sections, target)
    _read_text_files(sections, path)
    try:
        return RunConfig.model_validate(sections)
    except ValidationError as error:
        raise RunFileError("\n".join(describe(error, str(path)))) from error


# --- reading the file ------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, of which plain YAML readers drop the first in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"the key {key.value} stands there twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict[str, Any]:
    """The file's content. Raises RunFileError when it cannot be read, or is anything but one mapping."""
    try:
        content: Any = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise RunFileError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RunFileError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        reasons = [reason for reason in (error.context, error.problem) if reason]
        raise RunFileError(f"{place}: not YAML: {', '.join(reasons)}") from error
    except yaml.YAMLError as error:
        raise RunFileError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        found = "is empty" if content is None else f"holds {_show(content)}"
        raise RunFileError(f"{path} {found}; a run file is a mapping with the keys {', '.join(RunConfig.model_fields)}")
    return cast(dict[str, Any], content)


def _set_target(sections: dict[str, Any], target: str) -> None:
    """Another target than the file's; what the file says for its own is then of no use."""
    rollout: Any = sections.setdefault("rollout", {})
    if isinstance(rollout, dict):
        settings = cast(dict[str, Any], rollout)
        settings["target"] = target
        settings.pop({"local": "kserve", "kserve": "port"}[target], None)


def _read_text_files(sections: dict[str, Any], run_file: Path) -> None:
    """Replace `<setting>_file: path` by `<setting>: the file's text`; paths start at the working directory."""
    for section, setting in _TEXT_FILES:
        values: Any = sections.get(section)
        key = f"{setting}_file"
        if not isinstance(values, dict) or key not in values:
            continue
        if setting in values:
            raise RunFileError(f"{run_file}: {section}.{setting} and {section}.{key} exclude each other; keep one")
        named = cast(dict[str, Any], values).pop(key)
        if not isinstance(named, str):
            raise RunFileError(f"{run_file}: {section}.{key}: {_show(named)}: must be the path of a text file")
        try:
            values[setting] = Path(named).read_text(encoding="utf-8").strip()
        except OSError as error:
            reason = f"{error.strerror}; relative paths start at {Path.cwd()}"
            raise RunFileError(f"{run_file}: {section}.{key}: {named}: cannot be read: {reason}") from error
        except UnicodeDecodeError as error:
            raise RunFileError(f"{run_file}: {section}.{key}: {named}: is not UTF-8 text") from error


# --- saying what is wrong --------------------------------------------------------------------------------------


def describe(error: ValidationError, where: str) -> list[str]:
    """One line per problem: where, the key's dotted name, the value it has, and what is allowed."""
    return _lines(_problems(error), where)


def _lines(mistakes: Mapping[str, str], where: str) -> list[str]:
    return [f"{where}: {key}: {line}" if key else f"{where}: {line}" for key, line in mistakes.items()]


def _problems(error: ValidationError) -> dict[str, str]:
    """Dotted key -> what is wrong there."""
    problems: dict[str, str] = {}
    for problem in error.errors():
        location, text = _complaint(problem["type"], problem["loc"], problem["input"], problem["msg"])
        # the members of a union complain each: the first one names the whole value
        problems.setdefault(_dotted(location), text)
    return problems


def _complaint(kind: str, where: Location, value: Any, message: str) -> tuple[Location, str]:
    """One of pydantic's errors in a run file's terms: where it is, and the value with what is allowed."""
    known, schema = _known_part(where)
    here = (*known, *map(str, where[len(known) : len(known) + 1]))
    if kind == "extra_forbidden":
        return here, f"{_show(value)}: unknown key{_alternatives(known, schema, str(here[-1]))}"
    if where[-1:] == ("[key]",):
        return here, f"unknown key{_alternatives(known, schema, str(here[-1]))}"
    if kind == "invalid_key":
        return here, "unknown key: it is not text; put it in quotes if it is meant to be"
    if kind == "missing":
        return known, f"required, and missing; give {allowed(schema)}{_purpose(schema)}"
    if isinstance(value, float) and not math.isfinite(value):
        return known, f"{_show(value)}: must be finite: {allowed(schema)}"
    if kind == "value_error":
        shown = "" if isinstance(value, dict) else f"{_show(value)}: "
        return known, shown + message.removeprefix("Value error, ")
    return known, f"{_show(value)}: must be {allowed(schema)}{_advice(value, schema)}"


@cache
def _schema() -> dict[str, Any]:
    return RunConfig.model_json_schema()


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    """The node itself, or the one that it refers to; "or null" is left away."""
    choices = [choice for choice in node.get("anyOf", []) if choice.get("type") != "null"]
    if len(choices) == 1:
        node = {**node, **choices[0]}
        node.pop("anyOf")
    if "$ref" in node:
        return {**node, **_schema()["$defs"][node["$ref"].rpartition("/")[2]]}
    return node


def _known_part(location: Location) -> tuple[Location, dict[str, Any]]:
    """The longest beginning of a location that the schema knows, and the JSON schema of what stands there."""
    node = _schema()
    for depth, part in enumerate(location):
        inner = node.get("items") if isinstance(part, int) else node.get("properties", {}).get(part)
        if inner is None and isinstance(part, str) and part in node.get("propertyNames", {}).get("enum", []):
            inner = node["additionalProperties"]
        if inner is None:
            return location[:depth], node
        node = resolved(inner)
    return location, node


def _dotted(location: Location) -> str:
    """("gate", "bounds", 0, "metric") -> "gate.bounds[0].metric"."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def _alternatives(location: Location, schema: dict[str, Any], unknown: str) -> str:
    """The keys that may stand where an unknown one was found, the likeliest first."""
    keys = sorted([*schema.get("properties", {}), *schema.get("propertyNames", {}).get("enum", [])])
    keys += [f"{setting}_file" for section, setting in _TEXT_FILES if location == (section,)]
    near = get_close_matches(unknown, keys, n=1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    return f"{meant}; allowed here: {', '.join(keys)}"


def allowed(schema: dict[str, Any]) -> str:
    """What a JSON schema allows, in words."""
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    if "const" in schema:
        return str(schema["const"])
    if "anyOf" in schema:
        return " or ".join(allowed(resolved(choice)) for choice in schema["anyOf"])
    if "properties" in schema or "propertyNames" in schema:
        keys = [*schema.get("properties", {}), *schema.get("propertyNames", {}).get("enum", [])]
        return f"a mapping with the keys {', '.join(keys)}"
    if schema["type"] == "object":
        inner = schema["additionalProperties"]
        return f"a mapping, each value {allowed(resolved(inner))}"
    if schema["type"] == "array":
        least = f" of at least {schema['minItems']}" if "minItems" in schema else ""
        return f"a list{least}, each item {allowed(resolved(schema['items']))}"
    nouns = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text"}
    pattern = f" that matches {schema['pattern']}" if "pattern" in schema else ""
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    limits = " and ".join(f"{words[name]} {schema[name]}" for name in words if name in schema)
    return nouns[schema["type"]] + pattern + (f", {limits}" if limits else "")


def _purpose(schema: dict[str, Any]) -> str:
    """The field's docstring, on one line."""
    text = " ".join(schema.get("description", "").split())
    return f" ({text.rstrip('.')})" if text else ""


def _advice(value: Any, schema: dict[str, Any]) -> str:
    """What to do about values that YAML reads otherwise than people do."""
    if value is None:
        return "; leave the key out for its default" if "default" in schema else ""
    if schema.get("type") == "string" and not isinstance(value, str | dict | list):
        return "; put it in quotes"  # no, 7 and 2026-01-31 are not text to YAML
    return ""


def _show(value: Any) -> str:
    """A value as YAML writes it, cut to a readable length."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value) if isinstance(value, str | dict | list) else str(value)  # pyright: ignore[reportUnknownArgumentType]
    return text if len(text) <= 60 else f"{text[:57]}..."
