"""The KFP face, run as the local runner runs it: as a plain function with artifacts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kfp import dsl

from components.prepare_data.component import prepare_data

ENERGY = Path(__file__).parents[3] / "data" / "energy" / "energy.jsonl"


def _run(base_model: Path, directory: Path, source: Path, **data: object) -> tuple[Path, dsl.Metrics, dsl.Dataset]:
    directory.mkdir()
    examples = dsl.Dataset(name="examples", uri=str(directory / "examples"))
    metrics = dsl.Metrics(name="metrics", uri=str(directory / "metrics"))
    prepare_data.python_func(
        run={"name": "test", "store": str(directory.parent / "store")},
        # KFP hands integers over as floats
        data={"sources": [str(source)], "max_tokens": 512.0, **data},
        base=dsl.Model(name="base", uri=str(base_model.parent)),
        examples=examples,
        report=dsl.HTML(name="report", uri=str(directory / "report.html")),
        metrics=metrics,
    )
    return directory, metrics, examples


def test_the_face_writes_its_artifacts(base_model: Path, tmp_path: Path):
    directory, metrics, examples = _run(base_model, tmp_path / "run", ENERGY)
    data = json.loads((directory / "examples" / "data.json").read_bytes())
    assert (directory / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert metrics.metadata["kept"] == data["counts"]["kept"] == 504
    assert examples.metadata["digest"] == data["digest"]
    assert (directory / "examples" / "manifest.json").is_file()


def test_it_is_reused_until_the_content_of_a_source_or_a_setting_changes(
    base_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    def events() -> list[str]:
        lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
        return [line["event"] for line in lines if line["event"] in ("stored", "reused")]

    source = tmp_path / "rows.jsonl"
    source.write_bytes(ENERGY.read_bytes())
    _run(base_model, tmp_path / "one", source)
    assert events() == ["stored"]
    elsewhere = tmp_path / "elsewhere" / "rows.jsonl"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(source.read_bytes())
    _run(base_model, tmp_path / "two", elsewhere)
    assert events() == ["reused"]
    _run(base_model, tmp_path / "three", source, system_prompt="Be plain.")
    assert events() == ["stored"]
    source.write_bytes(b"\n".join(ENERGY.read_bytes().splitlines()[:-1]))
    _run(base_model, tmp_path / "four", source)
    assert events() == ["stored"]
