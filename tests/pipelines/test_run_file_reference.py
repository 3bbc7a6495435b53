"""docs/run-file.md has every setting of a run file, as the schemas say it."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, Field

from components.step_config import StepConfig
from pipelines import run_config, run_file_reference
from pipelines.run_file_reference import PAGE, page


def test_the_page_is_of_these_schemas():
    assert PAGE.read_text(encoding="utf-8") == page(), "make settings"


def fields(model: type[BaseModel]) -> list[str]:
    """Names of all settings, those of nested schemas too."""
    found = list(model.model_fields)
    for nested in StepConfig.__subclasses__():
        if nested is not model and any(nested.__name__ in str(one.annotation) for one in model.model_fields.values()):
            found += fields(nested)
    return found


def test_every_setting_is_there_and_says_what_it_is():
    rows = [line.split(" | ") for line in page().splitlines() if line.startswith("| `")]
    assert all(row[-1].removesuffix("|").strip() for row in rows)
    names = {row[0].removeprefix("| ").strip("`") for row in rows}
    sections = {name for name in run_config.RunConfig.model_fields if name != "placement"}
    assert names == set(fields(run_config.RunConfig)) - sections | {"engine", "precision"}


def test_a_setting_without_a_docstring_cannot_be_written(monkeypatch):
    class Bare(StepConfig):
        """A schema with a hole."""

        told: int = Field(default=1, ge=0)
        """What it is."""

        untold: int = 2

    monkeypatch.setattr(run_file_reference, "RunConfig", Bare)
    with pytest.raises(KeyError, match="description"):
        page()
