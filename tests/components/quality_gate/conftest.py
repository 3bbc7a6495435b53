"""Writes score artifacts by hand, as the evaluate step writes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

DIGESTS = {"base": "sha256:" + "b" * 64, "champion": "sha256:" + "c" * 64, "challenger": "sha256:" + "d" * 64}

_METRICS = {"nll_per_token": 2.5, "nats_per_byte": 0.625, "perplexity": 12.18}


def _write_scores(
    directory: Path,
    losses: dict[str, np.ndarray],
    *,
    ids: dict[str, list[str]] | None = None,
    questions: list[str] | None = None,
    tokens: dict[str, np.ndarray] | None = None,
    lengths: dict[str, np.ndarray] | None = None,
    tokenizers: dict[str, str] | None = None,
    **facts,
) -> Path:
    """`losses`: model -> nats per token, shape (N,). Every answer has 10 tokens and 40 bytes (`lengths`).

    Every example has a question of its own, unless `questions` names them.
    """
    names = ("example_id", "question_digest", "model", "nll_sum", "tokens", "bytes")
    columns: dict[str, list] = {name: [] for name in names}
    for model, values in losses.items():
        counts = (tokens or {}).get(model, np.full(len(values), 10))
        columns["example_id"] += (ids or {}).get(model, [f"e{row:04}" for row in range(len(values))])
        columns["question_digest"] += questions or [f"q{row:04}" for row in range(len(values))]
        columns["model"] += [model] * len(values)
        columns["nll_sum"] += (np.asarray(values) * counts).tolist()
        columns["tokens"] += counts.tolist()
        columns["bytes"] += (lengths or {}).get(model, np.full(len(values), 40)).tolist()
    directory.mkdir(parents=True, exist_ok=True)
    kinds = {"example_id": pa.string(), "model": pa.string(), "nll_sum": pa.float64(), "tokens": pa.int32()}
    kinds |= {"bytes": pa.int32(), "question_digest": pa.string()}
    table = {name: pa.array(values, type=kinds[name]) for name, values in columns.items()}
    parquet.write_table(pa.table(table), directory / "scores.parquet")
    named = {
        "challenger": DIGESTS["challenger"],
        "champion": DIGESTS["champion"] if "champion" in losses else None,
        "base": DIGESTS["base"],
        "test_digest": "sha256:" + "e" * 64,
        "data_digest": "sha256:" + "f" * 64,
        "already_live": False,
        "tokenizers": tokenizers or dict.fromkeys(DIGESTS, "sha256:" + "7" * 64),
        "samples": [],
        "metrics": {name: _METRICS for name in losses},
    }
    (directory / "scores.json").write_text(json.dumps(named | facts))
    return directory


def _noisy(mean: float, n: int = 200, spread: float = 0.1, seed: int = 0) -> np.ndarray:
    """Losses of a model: the examples' own difficulty, the same for every model, a mean shift, and noise."""
    difficulty = np.random.default_rng(99).normal(2.5, 0.8, n)
    return difficulty + mean + np.random.default_rng(seed).normal(0, spread, n)


@pytest.fixture
def digests():
    """The release digests that the scores name."""
    return DIGESTS


@pytest.fixture
def noisy():
    return _noisy


@pytest.fixture
def write_scores():
    return _write_scores
