"""Every line of the raw web form becomes what its key says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components import chat
from components.prepare_data.config import DataConfig
from components.prepare_data.prepare import prepare, to_candidate
from components.prepare_data.readers import find_sources, read_rows

ENERGY = Path(__file__).parents[3] / "data" / "energy"
KEY: list[dict[str, Any]] = [json.loads(line) for line in (ENERGY / "web_form.key.jsonl").read_text("utf-8").splitlines()]
CONFIG = DataConfig(sources=[str(ENERGY / "energy.jsonl"), str(ENERGY / "web_form.jsonl")])


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def became(trained_bpe: str, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """What each line became: the fields of the key, as the step's own output says them."""
    from tests_conftest import save_base

    directory = tmp_path_factory.mktemp("web_form")
    model = save_base(trained_bpe, directory / "base")
    sources = find_sources(CONFIG.sources)
    prepare(sources, CONFIG, model, directory)
    control_tokens = chat.control_tokens(chat.load_tokenizer(model))
    refused = {row["line"]: row for row in read_lines(directory / "quarantine.jsonl") if row["file"] == "web_form.jsonl"}
    dropped = {row["line"]: row for row in read_lines(directory / "duplicates.jsonl") if row["file"] == "web_form.jsonl"}
    result: dict[int, dict[str, Any]] = {}
    for row in read_rows(sources[1]):
        if row.line in refused:
            result[row.line] = {"becomes": "quarantined", "reason": refused[row.line]["reason"]}
        elif row.line in dropped:
            result[row.line] = {"becomes": "duplicate", "of": dropped[row.line]["of"]}
        else:
            candidate = to_candidate(row, CONFIG, control_tokens)
            result[row.line] = {"becomes": "kept", "changes": sorted(candidate.changes)}
    return result
