"""Dashboards: every query names what exists, every number has a unit, the JSON is what the YAML makes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from manifests.dashboards import build
from manifests.dashboards.build import Panel
from tests.monitoring import inventory, promtool, rules

UNITS = {"none", "s", "bytes", "mbytes", "reqps", "percent", "percentunit", "watt"}
"""Grafana's units that are used here (its packages/grafana-data/src/valueFormats/categories.ts); "none" is a count."""

VARIABLES = {
    "$cluster": rules.CLUSTER,
    "$service": ".*",
    "${environment}": "slipway_dev",
    "$__range": "1d",
}
PANELS = [pytest.param(name, one, id=f"{name}: {one.title}") for name in build.NAMES for one in build.panels(name)]


def filled(query: str) -> str:
    """A query as Grafana sends it. Raises ValueError for a variable that there is not."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    if "$" in query:
        raise ValueError(f"a variable that no dashboard has: {query}")
    return query


def unlike(panel: Panel) -> list[str]:
    """What of a panel is not as it should be."""
    problems = [problem for query in panel.queries.values() for problem in inventory.faults(filled(query))]
    if panel.unit not in UNITS and not re.fullmatch(r"suffix:\S+", panel.unit):
        problems.append(f"{panel.unit} is no unit")
    if len(panel.says.split()) < 2:
        problems.append("does not say what it means")
    for query in panel.queries.values():
        selectors = inventory.promql.read(filled(query)).selectors
        problems += [
            f"{one.metric} is of every cluster"
            for one in selectors
            if not {"cluster", "cluster_name"} & {label for label, _, _ in one.matchers}
        ]
    shares = any(re.search(r"ratio_rate|\) / |pod_volume_utilization", query) for query in panel.queries.values())
    if panel.unit == "percentunit" and not shares:
        problems.append("percentunit, and no share")
    return problems


@pytest.mark.parametrize(("name", "panel"), PANELS)
def test_panel(name: str, panel: Panel) -> None:
    assert unlike(panel) == []


@pytest.mark.parametrize("name", build.NAMES)
def test_the_json_is_made_from_the_yaml(name: str) -> None:
    assert (build.HERE / f"{name}.json").read_text() == build.text(name), "run python -m manifests.dashboards.build"


@pytest.mark.parametrize("name", build.NAMES)
def test_form(name: str) -> None:
    made: dict[str, Any] = json.loads((build.HERE / f"{name}.json").read_text())
    places = [(one["gridPos"]["x"], one["gridPos"]["y"]) for one in made["panels"]]

    assert made["uid"] == f"slipway-{name}" and len(made["panels"]) >= 6
    assert len(set(places)) == len(places) and all(x in (0, 8, 16) for x, _ in places)
    for panel in made["panels"]:
        assert panel["fieldConfig"]["defaults"]["unit"] and panel["description"]
        assert all(
            target["datasource"] == {"type": "prometheus", "uid": "${datasource}"} for target in panel["targets"]
        )
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(made["panels"]))) - {"__range"}
    assert used <= {one["name"] for one in made["templating"]["list"]}


def test_variables_ask_for_metrics_that_exist() -> None:
    for one in build.dashboard("serving")["templating"]["list"]:
        if one["type"] == "query":
            expression, label = re.fullmatch(r"label_values\((.+), (\w+)\)", one["query"]).groups()  # type: ignore[union-attr]
            assert inventory.faults(filled(expression)) == []
            assert label in inventory.metrics()[expression.partition("{")[0]].labels


def test_environments_are_those_of_terraform() -> None:
    text = (rules.ROOT / "terraform/environments/gke/main.tf").read_text()
    shorts = re.findall(r'(?:ephemeral|dev|prod) = "(\w+)"', text)

    assert sorted(build.ENVIRONMENTS) == sorted(f"slipway_{short}" for short in shorts)


def test_promtool_takes_the_queries(tmp_path: Path) -> None:
    queries = [filled(query) for name in build.NAMES for one in build.panels(name) for query in one.queries.values()]
    recorded = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(queries)]
    files = rules.write(tmp_path, {"x.yaml": {"groups": [{"name": "x", "rules": recorded}]}})
    done = promtool.run("check", "rules", *files)

    assert len(queries) > 50
    assert done.returncode == 0, done.stdout + done.stderr


# ------------------------------------------------------------------------------------------- planted mistakes

GOOD = Panel("Queue", "none", "Requests that wait.", {"x": 'slipway_queue_depth{cluster="$cluster"}'})


def test_the_planted_panel_has_no_other_mistake() -> None:
    assert unlike(GOOD) == []


@pytest.mark.parametrize(
    ("panel", "said"),
    [
        (replace(GOOD, unit=""), " is no unit"),
        (replace(GOOD, unit="seconds"), "seconds is no unit"),
        (replace(GOOD, unit="percentunit"), "percentunit, and no share"),
        (replace(GOOD, says=""), "does not say what it means"),
        (replace(GOOD, queries={"x": 'slipway_queue{cluster="$cluster"}'}), "there is no metric slipway_queue"),
        (
            replace(GOOD, queries={"x": 'slipway_queue_depth{clusters="$cluster"}'}),
            "slipway_queue_depth has no label clusters",
        ),
        (replace(GOOD, queries={"x": "slipway_queue_depth"}), "slipway_queue_depth is of every cluster"),
        (
            replace(GOOD, queries={"x": 'sum by (model) (slipway_queue_depth{cluster="$cluster"})'}),
            "no metric here has a label model",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_planted_mistake_is_noticed(panel: Panel, said: str) -> None:
    assert said in unlike(panel)


def test_a_variable_that_is_not_there_is_noticed() -> None:
    with pytest.raises(ValueError, match="variable"):
        unlike(replace(GOOD, queries={"x": 'slipway_queue_depth{cluster="$project"}'}))


def test_a_panel_without_a_unit_or_with_a_misspelt_field_is_refused() -> None:
    with pytest.raises(TypeError, match="unit"):
        Panel(**{"title": "Queue", "says": "x y", "queries": {}})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="legend"):
        Panel(**{"title": "Queue", "unit": "s", "says": "x y", "queries": {}, "legend": "x"})  # type: ignore[arg-type]
