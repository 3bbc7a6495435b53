"""What upstream.yaml may say, and what it says."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from manifests.installer.rendering import MANIFESTS
from pipelines import platform_parts
from pipelines.platform_parts import ON_GKE, InputError, Platform


@pytest.fixture
def said() -> dict[str, Any]:
    """The file as it is written, for a test to change."""
    return copy.deepcopy(yaml.safe_load(platform_parts.FILE.read_text()))


def refusal(said: dict[str, Any], folder: Path) -> str:
    file = folder / "upstream.yaml"
    file.write_text(yaml.safe_dump(said))
    with pytest.raises(InputError) as caught:
        platform_parts.read(file)
    return str(caught.value)


def of(said: dict[str, Any], name: str) -> dict[str, Any]:
    (part,) = [one for one in said["parts"] if one["name"] == name]
    return part


def test_a_tag_is_no_pin(said: dict[str, Any], tmp_path: Path) -> None:
    del said["sources"]["kserve"]["commit"]

    assert "a tag may move" in refusal(said, tmp_path)


@pytest.mark.parametrize("commit", ["v0.20.0", "1fb7810", "1FB781055DD1567164358233E1125142CA6EF1FE"])
def test_a_commit_is_forty_digits(said: dict[str, Any], tmp_path: Path, commit: str) -> None:
    said["sources"]["kserve"]["commit"] = commit

    assert "sources.kserve.commit" in refusal(said, tmp_path)


def test_an_archive_needs_its_digest(said: dict[str, Any], tmp_path: Path) -> None:
    del said["sources"]["keda"]["sha256"]

    assert "give the sha256 of the archive" in refusal(said, tmp_path)


def test_a_misspelt_key(said: dict[str, Any], tmp_path: Path) -> None:
    of(said, "kserve")["chart"]["valeus"] = "kserve.yaml"

    assert "valeus" in refusal(said, tmp_path)


def test_a_source_that_nobody_uses(said: dict[str, Any], tmp_path: Path) -> None:
    said["sources"]["istio"] = said["sources"]["kserve"]

    assert "istio" in refusal(said, tmp_path)


def test_a_source_that_is_not_there(said: dict[str, Any], tmp_path: Path) -> None:
    of(said, "trainer")["sources"] = ["trainer", "lws"]

    assert "lws" in refusal(said, tmp_path)


def test_two_parts_of_one_name(said: dict[str, Any], tmp_path: Path) -> None:
    said["parts"].append(of(said, "mlflow"))

    assert "parts with the same name: mlflow" in refusal(said, tmp_path)


def test_an_environment_without_its_folder(said: dict[str, Any], tmp_path: Path) -> None:
    del of(said, "mlflow")["kustomization"]["prod"]

    assert "must name a folder for each" in refusal(said, tmp_path)


def test_a_part_from_nowhere(said: dict[str, Any], tmp_path: Path) -> None:
    del of(said, "keda")["chart"]

    assert "give one of" in refusal(said, tmp_path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run this in a checkout"):
        platform_parts.read(tmp_path / "upstream.yaml")


def test_what_others_need_comes_first(platform: Platform) -> None:
    order = [part.name for part in platform.parts]

    assert order[0] == "namespaces" and order[-1] == "slipway"
    for first, then in [
        ("cert-manager", "kserve"),  # its webhooks' certificates
        ("jobset", "trainer"),
        ("kserve-crds", "kserve"),
        ("gateway-api", "kserve"),
        ("kueue", "slipway"),  # the queues are of its kinds
        ("keda", "slipway"),
        ("cert-manager", "monitoring"),  # its objects stand in their namespaces
        ("kubeflow-pipelines", "monitoring"),
    ]:
        assert order.index(first) < order.index(then), (first, then)


def test_a_charts_version_is_its_sources(platform: Platform) -> None:
    """Of what Git has, and in the archive's name."""
    for part in platform.parts:
        if part.chart:
            source = platform.sources[part.chart.source]
            assert source.ref == part.version or source.archive.endswith(f"-{part.version}.tgz"), part.name
        elif part.name in ("trainer", "kubeflow-pipelines"):
            assert platform.sources[part.name].ref == part.version


def test_each_file_that_is_named_is_there(platform: Platform) -> None:
    for part in platform.parts:
        if part.chart and part.chart.values:
            assert (MANIFESTS / "upstream" / part.chart.values).is_file(), part.name
        for folder in part.kustomization.values():
            assert (MANIFESTS / folder / "kustomization.yaml").is_file(), part.name


def test_no_values_file_is_left_over(platform: Platform) -> None:
    named = {part.chart.values for part in platform.parts if part.chart}

    assert {file.name for file in (MANIFESTS / "upstream").glob("*.yaml")} == named - {""}


def test_the_test_cluster_has_what_a_rollout_needs(platform: Platform) -> None:
    assert [part.name for part in platform.of("test-cluster")] == ["gateway-api", "kserve-crds", "kserve", "slipway"]
    assert len(platform.of("dev")) == len(platform.parts)


def test_the_rollouts_kserve_is_the_one_that_is_tested() -> None:
    """The test cluster's go.mod, and what is installed on GKE."""
    text = (MANIFESTS.parent / "tests/cluster/modules/go.mod").read_text()
    tested = re.search(r"github.com/kserve/kserve (v\S+)", text)

    assert tested and tested[1] == platform_parts.read().sources["kserve"].ref


def test_mlflows_server_is_as_new_as_its_client(platform: Platform) -> None:
    constraints = (MANIFESTS.parent / "constraints.txt").read_text()
    (part,) = [one for one in platform.parts if one.name == "mlflow"]

    assert f"\nmlflow=={part.version.removeprefix('v')}\n" in constraints
    assert f"mlflow/mlflow:{part.version}-full" in (MANIFESTS / "upstream/mlflow/server/server.yaml").read_text()


def test_what_terraform_must_say_is_said_for_every_database(platform: Platform) -> None:
    for part in platform.parts:
        for environment in ON_GKE:
            in_cloud = part.kustomization.get(environment, "").endswith("/cloud-sql")
            assert in_cloud == bool(part.needs_there.get(environment)), (part.name, environment)
