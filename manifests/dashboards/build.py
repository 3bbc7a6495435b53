"""Writes the Grafana dashboards, NAME.json from NAME.yaml: `python -m manifests.dashboards.build`.

They read managed Prometheus through a data source of type Prometheus. Two of their variables are worth a word:
`cluster` is GKE's name of the cluster, and `environment` what the names of the log-based metrics of
terraform/modules/monitoring begin with, slipway_dev for slipway-dev.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

HERE = Path(__file__).parent
NAMES = ("training", "gate", "rollout", "serving")
ENVIRONMENTS = ("slipway_dev", "slipway_prod", "slipway_eph")
_COLUMNS, _WIDTH, _HEIGHT = 24, 8, 8
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Panel:
    """One graph, as the YAML files have it."""

    title: str
    unit: str
    """One of Grafana's units: s, bytes, reqps, percentunit (0 to 1), percent, or suffix:WORD."""

    says: str
    """What it means, shown when somebody points at the title."""

    queries: dict[str, str]
    """Legend -> PromQL."""

    form: Literal["timeseries", "stat", "bars"] = "timeseries"
    limit: float | None = None
    """Where it turns red."""


def panels(name: str) -> list[Panel]:
    """The panels of a dashboard, left to right and top to bottom."""
    return [Panel(**one) for one in yaml.safe_load((HERE / f"{name}.yaml").read_text())]


def dashboard(name: str) -> dict[str, Any]:
    """A dashboard as Grafana imports it."""
    links = {"type": "dashboards", "tags": ["slipway"], "title": "Slipway", "asDropdown": True}
    return {
        "uid": f"slipway-{name}",
        "title": f"Slipway: {name}",
        "tags": ["slipway"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,  # one crosshair on all panels
        "refresh": "1m",
        "time": {"from": "now-30d" if name == "gate" else "now-24h", "to": "now"},
        "timezone": "browser",
        "links": [links | {"includeVars": True, "keepTime": True}],
        "templating": {"list": _variables()},
        "panels": [_panel(number, one) for number, one in enumerate(panels(name))],
    }


def _variables() -> list[dict[str, Any]]:
    services = _asked("service", "Service", 'label_values(slipway_release_info{cluster="$cluster"}, service)')
    first = {"text": ENVIRONMENTS[0], "value": ENVIRONMENTS[0]}
    return [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        _asked("cluster", "Cluster", "label_values(kube_pod_status_phase, cluster)"),
        services | {"multi": True, "includeAll": True, "allValue": ".*"},
        {
            "name": "environment",
            "label": "Log-based metrics",
            "type": "custom",
            "query": ",".join(ENVIRONMENTS),
            "options": [{"text": one, "value": one, "selected": one == first["value"]} for one in ENVIRONMENTS],
            "current": first,
        },
    ]


def _asked(name: str, label: str, query: str) -> dict[str, Any]:
    """A variable whose values come from the metrics, asked again when the time changes."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": query,
        "refresh": 2,
        "sort": 1,
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    is_stat = panel.form == "stat"
    column, row = number * _WIDTH % _COLUMNS, number * _WIDTH // _COLUMNS * _HEIGHT
    defaults: dict[str, Any] = {"unit": panel.unit, "thresholds": _thresholds(panel)}
    if not is_stat:
        defaults |= {"min": 0, "custom": _drawn(panel)}
    return {
        "id": number + 1,
        "type": "stat" if is_stat else "timeseries",
        "title": panel.title,
        "description": panel.says,
        "datasource": _SOURCE,
        "gridPos": {"x": column, "y": row, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel),
        "targets": [
            {"refId": chr(ord("A") + at), "datasource": _SOURCE, "expr": query, "legendFormat": legend}
            | ({"instant": True, "range": False} if is_stat else {"range": True})
            for at, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def _thresholds(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.limit is not None:
        steps.append({"color": "red", "value": panel.limit})
    return {"mode": "absolute", "steps": steps}


def _drawn(panel: Panel) -> dict[str, Any]:
    drawn = {"thresholdsStyle": {"mode": "off" if panel.limit is None else "line"}}
    if panel.form == "bars":
        return drawn | {"drawStyle": "bars", "fillOpacity": 60, "stacking": {"mode": "normal", "group": "A"}}
    return drawn | {"drawStyle": "line", "fillOpacity": 8}


def _options(panel: Panel) -> dict[str, Any]:
    if panel.form == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "textMode": "value_and_name", "colorMode": "value"}
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def text(name: str) -> str:
    """The content of a dashboard's file."""
    return json.dumps(dashboard(name), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    for name in NAMES:
        (HERE / f"{name}.json").write_text(text(name))


if __name__ == "__main__":
    main()
