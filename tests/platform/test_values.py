"""Our values files against the charts' own: a key that a chart does not know is silently without effect."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from manifests.installer import rendering, sources, tools
from manifests.installer.errors import PlatformError
from pipelines import platform_parts
from pipelines.platform_parts import Part, Platform
from tests.platform import rules
from tests.platform.conftest import skipped_where_missing

WITH_VALUES = [part for part in platform_parts.read().parts if part.chart and part.chart.values]


def charts_own(platform: Platform, part: Part) -> dict:
    assert part.chart
    with skipped_where_missing():
        folder = sources.find(part.chart.source, platform.sources[part.chart.source])
    return yaml.safe_load((folder / part.chart.path / "values.yaml").read_text())


@pytest.mark.parametrize("part", WITH_VALUES, ids=lambda part: part.name)
def test_every_key_is_the_charts(platform: Platform, part: Part) -> None:
    assert part.chart
    ours = yaml.safe_load((rendering.VALUES / part.chart.values).read_text())

    assert list(rules.unknown_values(ours, charts_own(platform, part))) == []


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        ({"kserve": {"controler": {"deploymentMode": "Standard"}}}, ["kserve.controler"]),
        ({"kserve": {"controller": {"deploymentMode": "Standard", "mode": "x"}}}, ["kserve.controller.mode"]),
        ({"kserve": {"controller": {"nodeSelector": {"any": "thing"}}}}, []),
    ],
)
def test_a_key_that_the_chart_does_not_have_is_found(planted: dict, found: list[str]) -> None:
    chart = {"kserve": {"controller": {"deploymentMode": "Knative", "nodeSelector": {}}}}

    assert list(rules.unknown_values(planted, chart)) == found


def test_cert_managers_own_schema_refuses_a_wrong_type(platform: Platform, tmp_path: Path) -> None:
    (part,) = [one for one in platform.parts if one.name == "cert-manager"]
    charts_own(platform, part)
    assert part.chart
    chart = tmp_path / "chart"
    shutil.copytree(sources.find("cert-manager", platform.sources["cert-manager"]) / part.chart.path, chart)
    rendering.complete(chart, part.version)
    with skipped_where_missing():
        helm = tools.helm()

    with pytest.raises(PlatformError, match="replicaCount"):
        tools.run([helm, "template", "x", str(chart), "--set-string", "replicaCount=two"])
