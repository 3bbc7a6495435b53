"""A workspace for each test, and what an environment's settings look like."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.workflows.fakes import Service
from tests.workflows.workspace import Workspace, make_workspace

SETTINGS = {
    "workload_identity_provider": "projects/1/locations/global/workloadIdentityPools/slipway-dev/providers/github",
    "demo_service_account": "slipway-dev-demo@my-project.iam.gserviceaccount.com",
    "service_accounts": {
        key: f"slipway-dev-{key}@my-project.iam.gserviceaccount.com"
        for key in ("release", "plan", "submit", "preview", "apply")
    },
    "project_id": "my-project",
    "region": "us-central1",
    "state_bucket": "my-project-terraform",
    "cluster": "slipway-dev",
    "preview_registry": "us-central1-docker.pkg.dev/my-project/slipway-dev-previews",
}


@pytest.fixture
def settings() -> str:
    return json.dumps(SETTINGS)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path)


@pytest.fixture
def service() -> Service:
    return Service()
