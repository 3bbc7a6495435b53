"""The gate's report: the verdict, its numbers, and the picture of every paired difference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from components.quality_gate.gate import Comparison, Decision, Scores, differences
from components.report import Cell, Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEADLINES = {
    "pass": "Pass: it may go live.",
    "fail": "Fail: what is live stays.",
    "inconclusive": "Inconclusive: what is live stays.",
}


def write_report(decision: Decision, scores: Scores, path: Path) -> None:
    """Write the page that Kubeflow's dashboard and a browser show."""
    report = Report("Quality gate", f"{_HEADLINES[decision.verdict]} {_capitalised(decision.reason)}.")
    report.section("What was decided on")
    report.table(["fact", "value"], _facts(decision))
    if decision.comparisons:
        report.section("Loss on the same answers")
        report.text(
            f"Differences are the challenger's loss minus the reference's, averaged over the examples, in "
            f"{decision.unit}; below zero is better. Each bound holds with {decision.confidence:.0%} confidence. "
            "To pass, the upper bound must lie below the margin; a lower bound above it is a fail. Examples that begin "
            "with the same question are alike, so that bounds and detectable difference are made from questions. "
            '"Better" is said where the upper bound lies below zero, with two references after Holm\'s correction.'
        )
        report.table(
            [
                "reference",
                "verdict",
                "difference",
                "lower bound",
                "upper bound",
                "margin",
                "examples",
                "questions",
                "detectable",
            ],
            [_row(name, comparison, decision.margin) for name, comparison in decision.comparisons.items()],
        )
    for name, comparison in decision.comparisons.items():
        report.figure(*_plot(name, comparison, scores, decision))
    if decision.bounds:
        report.section("Absolute bounds")
        report.table(
            ["metric", "challenger", "allowed", "kept"],
            [[check.metric, check.value, check.limit, check.ok] for check in decision.bounds],
        )
    if decision.metrics:
        report.section("Each model by itself")
        names = sorted(next(iter(decision.metrics.values())))
        report.table(
            ["model", *names],
            [[model, *(values[name] for name in names)] for model, values in decision.metrics.items()],
        )
    report.write(path)


def _facts(decision: Decision) -> list[list[Cell]]:
    return [
        ["challenger", decision.challenger],
        ["champion (live)", decision.champion or "none: nothing is live yet"],
        ["base", decision.base],
        ["compared with", decision.reference],
        ["test set", decision.test_digest],
    ]


def _row(name: str, comparison: Comparison, margin: float) -> list[Cell]:
    return [
        name,
        comparison.verdict,
        comparison.difference,
        comparison.lower,
        comparison.upper,
        margin,
        comparison.examples,
        comparison.n,
        comparison.minimum_detectable_effect,
    ]


def _capitalised(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _plot(name: str, comparison: Comparison, scores: Scores, decision: Decision) -> tuple[Figure, str]:
    """Sorted paired differences, with the interval of their mean against the margin, and the same in words."""
    from matplotlib.figure import Figure  # 0.5 s that only a page with a figure needs

    # matplotlib's own annotations are incomplete.
    figure = cast(Any, Figure(figsize=(8, 4), layout="constrained"))
    points, means = figure.subplots(1, 2, width_ratios=[3, 1])
    values = np.sort(differences(scores.models["challenger"], scores.models[name], comparison.unit))
    points.bar(np.arange(1, values.size + 1), values, width=1.0, color=np.where(values < 0, "#3b7dd8", "#d9822b"))
    points.set_xlabel(f"{values.size} examples, sorted")
    points.set_ylabel(f"challenger minus {name}, {comparison.unit}")
    means.errorbar(
        [0],
        [comparison.difference],
        yerr=[[comparison.difference - comparison.lower], [comparison.upper - comparison.difference]],
        fmt="o",
        color="#1b1f24",
        capsize=8,
    )
    means.set_xlim(-1, 1)
    means.set_xticks([])
    means.set_xlabel(f"mean and {decision.confidence:.0%} bounds")
    for axes in (points, means):
        axes.axhline(0, color="#5b6470", linewidth=0.8)
    means.axhline(decision.margin, color="#b3261e", linestyle="--", linewidth=1, label=f"margin {decision.margin:g}")
    means.legend(loc="best", fontsize="small")
    better = int((values < 0).sum())
    words = (
        f"Challenger against {name}: it is better on {better} of {values.size} examples; the mean difference is "
        f"{comparison.difference:+.4f} {comparison.unit}, its bounds are {comparison.lower:+.4f} and "
        f"{comparison.upper:+.4f}, the margin is {decision.margin:g}"
    )
    return cast("Figure", figure), words
