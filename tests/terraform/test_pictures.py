"""terraform/README.md's pictures are of this code."""

from __future__ import annotations

import re
from typing import Any

import pytest

from terraform import made, pictures, rights
from terraform.made import Resource
from tests.terraform.workspace import MODULES, Workspace

DOT = """digraph G {
  "module.cluster.google_container_cluster.cluster" -> "module.network.google_compute_subnetwork.nodes";
  "module.cluster.google_container_cluster.cluster" -> "module.project_services.google_project_service.service";
  "module.network.google_compute_router.router" -> "module.network.google_compute_network.network";
}
"""


def drawn(marks: tuple[str, str]) -> str:
    """A picture as it stands in README.md."""
    return pictures.README.read_text().partition(marks[0])[2].partition(marks[1])[0]


def test_pictures_are_of_this_code(terraform: Workspace):
    terraform.init("environments/gke")
    with made.copied(terraform.environment) as copy:
        found = pictures.draw(copy)
    assert {marks[0]: drawn(marks) for marks in found} == {marks[0]: text for marks, text in found.items()}, (
        "make graph"
    )


def test_every_module_is_in_the_picture():
    """Read without Terraform."""
    shown = set(re.findall(r'\["(\w+)"\]', drawn(pictures.MODULES)))
    assert {name.removeprefix("modules/") for name in MODULES} - {"project_services"} <= shown | {"edge", "secrets"}


def test_modules_wait_for_modules():
    assert pictures.modules({"environments/gke": DOT}) == (
        f"```mermaid\n{pictures.STRAIGHT}\n"
        'flowchart LR\n  n_cluster["cluster"]\n  n_network["network"]\n  n_cluster --> n_network\n```\n'
    )


def test_a_graph_that_is_printed_otherwise_is_noticed():
    with pytest.raises(ValueError, match="prints its arrows otherwise"):
        pictures.modules({"environments/gke": "digraph G { a => b }"})


def test_trust_shows_who_holds_what():
    cloud = rights.Cloud(
        accounts=["steps@p"],
        grants=[
            rights.Grant("serviceAccount:steps@p", "bucket `data`", "roles/storage.objectViewer"),
            rights.Grant("serviceAccount:steps@p", "project", "roles/a", "only then"),
        ],
        acting={"steps@p": ["ns/name"], "plan@p": ["GitHub environment `plan`"]},
    )
    text = pictures.trust_of_pods(cloud)
    assert 'n_ns_name(["ns/name"])' in text and "n_ns_name --> n_steps" in text
    assert 'n_steps -->|"storage.objectViewer"| n_bucket_data' in text
    assert 'n_steps -->|"a in part"| n_project' in text
    assert "GitHub" not in text
    jobs = pictures.trust_of_jobs(cloud)
    assert "n_GitHub_environment_plan --> n_plan" in jobs and "steps" not in jobs


def pool(**node: Any) -> Resource:
    values = {
        "node_config": [{"machine_type": "g2", "spot": False, "flex_start": False, "guest_accelerator": [], **node}],
        "autoscaling": [{"total_min_node_count": 0, "total_max_node_count": 3}],
        "queued_provisioning": [],
    }
    return Resource("x", "google_container_node_pool", "l4", values)


def test_a_pool_says_what_it_is_made_of():
    assert pictures._pool(pool()) == ["l4: 0 to 3 g2"]
    gpu = [{"type": "nvidia-l4", "count": 2}]
    assert pictures._pool(pool(guest_accelerator=gpu, spot=True)) == ["l4: 0 to 3 g2", "2 x l4, spot"]


def test_a_page_without_marks_is_refused():
    with pytest.raises(ValueError, match="has no <!-- modules"):
        pictures.with_pictures("no marks", {pictures.MODULES: "x"})
