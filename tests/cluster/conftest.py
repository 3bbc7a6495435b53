"""The cluster that tests run against, or the reason why there is none."""

from __future__ import annotations

import os
import time

import pytest

from tests.cluster.harness import Cluster
from tests.cluster.place import ClusterError


def pytest_configure(config: pytest.Config) -> None:
    """The marker that `make test-cluster` leaves out."""
    config.addinivalue_line("markers", "full: on a cluster, and too long for each change (`make test-cluster-full`)")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """CI has an end: a test on the cluster that would begin after it is skipped, and the summary says so."""
    until = float(os.environ.get("SLIPWAY_CLUSTER_UNTIL", "inf"))
    if "cluster" in getattr(item, "fixturenames", ()) and time.time() > until:
        pytest.skip("the time that CI has for the cluster is up; `make test-cluster` runs it")


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The cluster that is up; without one the test is skipped with the reason, or fails where one is required."""
    wanted = os.environ.get("SLIPWAY_CLUSTER")
    if wanted == "off":
        pytest.skip("left out by `make test`; `make cluster test-cluster` runs the tests on a real cluster")
    try:
        return Cluster.attach()
    except ClusterError as reason:
        if wanted == "required":
            pytest.fail(str(reason))
        pytest.skip(str(reason))
