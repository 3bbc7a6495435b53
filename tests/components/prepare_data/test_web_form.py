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
KEY: list[dict[str, Any]] = [
    json.loads(line) for line in (ENERGY / "web_form.key.jsonl").read_text("utf-8").splitlines()
]
CONFIG = DataConfig(sources=[str(ENERGY / "energy.jsonl"), str(ENERGY / "web_form.jsonl")])


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def became(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """What each line became: the fields of the key, as the step's own output says them."""
    directory = tmp_path_factory.mktemp("web_form")
    sources = find_sources(CONFIG.sources)
    prepare(sources, CONFIG, base_model, directory)
    control_tokens = chat.control_tokens(chat.load_tokenizer(base_model))
    refused = {
        row["line"]: row for row in read_lines(directory / "quarantine.jsonl") if row["file"] == "web_form.jsonl"
    }
    dropped = {
        row["line"]: row for row in read_lines(directory / "duplicates.jsonl") if row["file"] == "web_form.jsonl"
    }
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


def _lines() -> list[Any]:
    later = pytest.mark.xfail(strict=True, raises=AssertionError, reason="the rule for this row comes later")
    return [pytest.param(key, id=f"line {key['line']}", marks=[later] if key.get("later") else []) for key in KEY]


@pytest.mark.parametrize("key", _lines())
def test_the_key_holds(key: dict[str, Any], became: dict[int, dict[str, Any]]):
    now = became[key["line"]]
    assert now["becomes"] == key["becomes"]
    if key["becomes"] == "quarantined":
        assert now["reason"] == key["reason"]
    if key["becomes"] == "kept":
        assert now["changes"] == key["changes"]
    if key["becomes"] == "duplicate":
        assert now["of"] == _place(key["of"])


def _place(of: int | str) -> dict[str, Any]:
    """Where the key's `of` stands: a line of the form, or the id of a bundled row."""
    if isinstance(of, int):
        return {"file": "web_form.jsonl", "line": of}
    ids = [row["id"] for row in read_lines(ENERGY / "energy.jsonl")]
    return {"file": "energy.jsonl", "line": ids.index(of) + 1}


def test_the_key_has_every_line_once():
    lines = [number for number, line in enumerate((ENERGY / "web_form.jsonl").read_bytes().split(b"\n"), 1) if line]
    assert [key["line"] for key in KEY] == lines
    assert len(lines) >= 60


def test_the_form_has_the_defects_that_it_promises(became: dict[int, dict[str, Any]]):
    raw = (ENERGY / "web_form.jsonl").read_bytes()
    reasons = {now.get("reason") for now in became.values()}
    assert reasons >= {
        "broken_json", "wrong_encoding", "unknown_shape", "missing_field", "wrong_type", "no_roles", "unknown_role",
        "role_order", "empty_question", "empty_answer", "cut_answer", "answer_too_long", "too_many_tokens",
        "control_characters", "html", "special_token",
    }  # fmt: skip
    assert raw.startswith(b"\xef\xbb\xbf")
    assert b"\x92" in raw and b"\xe9" in raw and b"q\x00u\x00e\x00" in raw
    assert max(len(line) for line in raw.split(b"\n")) > 40_000
    assert {key["reason"] for key in KEY if key.get("later") and "reason" in key} == {"near_duplicate", "contamination"}


def test_the_contaminating_rows_copy_the_test_split(base_model: Path, tmp_path: Path):
    import pyarrow.parquet as pq

    prepare(find_sources(CONFIG.sources[:1]), CONFIG, base_model, tmp_path)
    test_ids = pq.read_table(tmp_path / "test.parquet")["id"].to_pylist()
    copied = [key["of"] for key in KEY if key.get("reason") == "contamination"]
    assert copied and set(copied) <= set(test_ids)
