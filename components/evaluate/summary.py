"""What an evaluation found, read back without torch."""

from __future__ import annotations

import json
from pathlib import Path


def read_metrics(directory: Path) -> dict[str, float]:
    """Flat metrics of a scores artifact, "challenger.perplexity" for one; empty when nothing was scored."""
    summary = json.loads((directory / "scores.json").read_bytes())
    return {
        f"{model}.{metric}": value
        for model, values in summary.get("metrics", {}).items()
        for metric, value in values.items()
    }
