"""Log-based metrics count lines that are printed, by fields that they have."""

from __future__ import annotations

import re

import pytest

from tests.monitoring import inventory, rules
from tests.monitoring.lines import Line, lines

LINES = lines()
LOGGED = inventory.logged()
OTHERS = {"certificates"}
"""Counted from lines that Google writes (https://cloud.google.com/certificate-manager/docs/logs-metrics)."""


def conditions(text: str) -> list[dict[str, str]]:
    """What a filter asks of a line's fields, a map for each side of an OR; "" where it only compares a number."""
    text = rules.interpolated(text, {"local.ours": ""})
    sides = re.search(r"\(([^()]* OR [^()]*)\)", text)
    each = [text.replace(sides[0], side) for side in sides[1].split(" OR ")] if sides else [text]
    return [dict(re.findall(r'jsonPayload\.(\w+)(?:="([^"]*)"|>=?0)', one)) for one in each]


def uncounted(parts: dict[str, str], known: list[Line]) -> list[str]:
    """What of a metric no line has: each side of its filter must fit a line that has the fields it extracts."""
    extracted = set(re.findall(r"jsonPayload\.(\w+)", parts.get("labels", "") + parts.get("value", "")))
    problems = []
    for wanted in conditions(parts["filter"]):
        equal = {name: value for name, value in wanted.items() if value}
        fitting = [line for line in known if line.fits(equal)]
        if not fitting:
            problems.append(f"no line has {equal}")
        for field in sorted(extracted | set(wanted)):
            if fitting and not any(field in line.fields for line in fitting):
                problems.append(f"no line with {equal} has {field}")
    return problems


def test_lines_are_found() -> None:
    events = {line.fields.get("event") for line in LINES}

    assert {"verdict", "rollout", "live", "stored", "reused", "progress"} <= events
    assert any(line.fits({"logger": "serving.access", "message": "request"}) for line in LINES)


@pytest.mark.parametrize("name", sorted(set(LOGGED) - OTHERS))
def test_metric(name: str) -> None:
    assert len(LOGGED) >= 10
    assert uncounted(LOGGED[name], LINES) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("requests", "serving.access", "serving.acces", "no line has"),
        ("verdicts", 'event=\\"verdict\\"', 'event=\\"judged\\"', "no line has"),
        ("verdicts", 'step=\\"quality_gate\\"', 'step=\\"gate\\"', "no line has"),
        ("training-loss", "jsonPayload.loss>", "jsonPayload.losses>", "has losses"),
        ("steps", 'event=\\"reused\\"', 'event=\\"found\\"', "no line has"),
    ],
)
def test_a_filter_that_counts_nothing_is_noticed(name: str, old: str, new: str, said: str) -> None:
    assert old in LOGGED[name]["filter"]
    parts = LOGGED[name] | {"filter": LOGGED[name]["filter"].replace(old, new)}

    assert any(said in one for one in uncounted(parts, LINES))


def test_a_label_that_no_line_has_is_noticed() -> None:
    parts = LOGGED["verdicts"] | {"labels": '{ verdict = "jsonPayload.outcome" }'}

    assert uncounted(parts, LINES) == ["no line with {'event': 'verdict', 'step': 'quality_gate'} has outcome"]


@pytest.mark.parametrize(
    ("metric", "label", "value"),
    [("rollout_steps", "does", "failed"), ("verdicts", "verdict", "passed"), ("live", "action", "live")],
)
def test_a_value_that_no_line_has_is_noticed(metric: str, label: str, value: str) -> None:
    name = f"logging_googleapis_com:user_slipway_dev_{metric}"

    assert inventory.faults(f'{name}{{{label}="{value}"}}') == [f"{label} of {name} is never {value}"]


def test_terraform_names_are_metrics_of_promql() -> None:
    """As https://cloud.google.com/monitoring/promql/promql-mapping has it."""
    names = {name for name in inventory.metrics() if name.startswith("logging_")}

    assert "logging_googleapis_com:user_slipway_dev_rollout_steps" in names
    assert "logging_googleapis_com:user_slipway_dev_training_loss_sum" in names
