"""Writes docs/run-file.md, every setting of a run file, from the schemas: `python -m pipelines.run_file_reference`.

The schemas are the only source; a test says when the page is out of date.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.run_config import RunConfig, allowed, resolved

PAGE = Path(__file__).resolve().parents[1] / "docs/run-file.md"

INTRODUCTION = """\
# What a run file may say

Made from the schemas (`components/*/config.py`, `pipelines/run_config.py`) by `make settings`; change it there. A run
file is one YAML; `data.sources` and `base.source` are all that it must have. `slipway validate RUN` checks one, and an
unknown key is refused. `pipelines/runs/` has examples.

`data.system_prompt_file` and `base.chat_template_file` name a text file in place of the text.
"""

Schema = dict[str, Any]


def page() -> str:
    """docs/run-file.md."""
    whole = RunConfig.model_json_schema()
    sections = [part for name, one in whole["properties"].items() for part in _sections(name, resolved(one))]
    alone = {name: one for name, one in whole["properties"].items() if "properties" not in resolved(one)}
    return "\n".join([INTRODUCTION, *sections, *_table("Beside the sections", "", whole | {"properties": alone}), ""])


def _sections(key: str, schema: Schema) -> Iterator[str]:
    """The lines about a section, then about those within it."""
    if "properties" not in schema:
        return
    yield from _table(f"`{key}`", schema["description"], schema)
    for name, one in schema["properties"].items():
        inner = resolved(one)
        items = resolved(inner.get("items", {}))
        yield from _sections(f"{key}.{name}[]", items) if items else _sections(f"{key}.{name}", inner)


def _table(title: str, purpose: str, schema: Schema) -> list[str]:
    lines = [f"## {title}", "", *([_plain(purpose), ""] if purpose else [])]
    lines += ["| setting | may be | default | is |", "|---|---|---|---|"]
    for name, one in schema["properties"].items():
        field = resolved(one)
        default = _default(name, field, name in schema.get("required", []))
        lines.append(
            f"| `{name}` | {_may_be(field)} | {default} | {_plain(one.get('description') or field['description'])} |"
        )
    return [*lines, ""]


def _may_be(field: Schema) -> str:
    if "properties" in field or "properties" in resolved(field.get("items", {})):
        return "a list, see below" if "items" in field else "see below"
    pattern = field.get("pattern", "")
    text = allowed(field).replace(pattern, f"`{pattern}`") if pattern else allowed(field)
    return text.replace("|", "\\|")


def _default(name: str, field: Schema, required: bool) -> str:
    if name == "name":  # run_config.load gives it
        return "the file's name"
    if required:
        return "required"
    if "default" not in field or "properties" in field:
        return ""
    return "none" if field["default"] is None else f"`{json.dumps(field['default'], ensure_ascii=False)}`"


def _plain(text: str) -> str:
    """A docstring as one line that Markdown leaves alone."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "\\<")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
