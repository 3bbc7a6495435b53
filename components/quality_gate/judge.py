"""The step: from an evaluation to a verdict, its report, and its place beside the release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from components.progress import say
from components.quality_gate.config import GateConfig
from components.quality_gate.gate import decide, read_scores
from components.quality_gate.verdict_report import write_report
from components.store import Store, write_atomically

VERDICT_FILE = "verdict.json"
REPORT_FILE = "report.html"


def judge(scores_directory: Path, config: GateConfig, directory: Path) -> None:
    """Write verdict.json and report.html into `directory`. Raises GateError when nothing can be compared."""
    scores = read_scores(scores_directory)
    decision = decide(scores, config)
    write_report(decision, scores, directory / REPORT_FILE)
    write_atomically(directory / VERDICT_FILE, decision.to_json())


def read_verdict(directory: Path) -> dict[str, Any]:
    """The content of a verdict artifact's verdict.json."""
    return cast("dict[str, Any]", json.loads((directory / VERDICT_FILE).read_bytes()))


def attest(store: Store, verdict: dict[str, Any]) -> None:
    """Put the verdict beside the release that it is about.

    "Already live" says nothing that the verdict which made it live does not say better: it replaces none.
    """
    path = store.attestations(verdict["challenger"]) / VERDICT_FILE
    if not (verdict["already_live"] and path.exists()):
        write_atomically(path, json.dumps(verdict, indent=1, ensure_ascii=False))


def verdict_metrics(verdict: dict[str, Any]) -> dict[str, float]:
    """The numbers of a verdict under flat names, for the dashboard."""
    numbers: dict[str, float] = {"margin": verdict["margin"]}
    for name, comparison in verdict["comparisons"].items():
        for key in ("difference", "lower", "upper", "n", "examples", "minimum_detectable_effect"):
            if comparison[key] is not None:
                numbers[f"{name}_{key}"] = comparison[key]
    for model, metrics in verdict["metrics"].items():
        numbers |= {f"{model}_{name}": value for name, value in metrics.items()}
    return numbers


def announce(verdict: dict[str, Any]) -> None:
    """Say the verdict and its reason."""
    say("verdict", step="quality_gate", verdict=verdict["verdict"], reason=verdict["reason"])
