"""The inventory is of what there is: of the server as it is scraped, of rules as they record."""

from __future__ import annotations

import subprocess
import sys

from tests.monitoring import inventory, promtool, rules
from tests.monitoring.inventory import Metric

METRICS = inventory.metrics()


def test_the_server_shows_its_metrics() -> None:
    assert METRICS["slipway_generations_total"].values == {
        "outcome": frozenset({"answered", "failed", "refused", "left"})
    }
    assert {"service", "revision", "pod", "namespace", "cluster"} <= METRICS["slipway_queue_depth"].labels
    assert {"5.0", "5", "+Inf"} <= METRICS["slipway_time_to_first_token_seconds_bucket"].values["le"]
    assert "slipway_generations" not in METRICS and "slipway_generations_created" not in METRICS


def test_promtool_finds_no_fault_in_what_the_server_shows() -> None:
    code = (
        "from prometheus_client import generate_latest; from serving import metrics; print(generate_latest().decode())"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=rules.ROOT)
    ours = [line for line in shown.stdout.splitlines() if "slipway_" in line and "_created" not in line]
    done = subprocess.run(
        [promtool.program(), "check", "metrics"], input="\n".join(ours) + "\n", capture_output=True, text=True
    )

    assert len(ours) > 50
    assert done.stderr == "" and done.returncode == 0


def test_a_recorded_metric_has_the_labels_that_its_rule_keeps() -> None:
    scope = rules.SCOPED["Rules"]

    assert METRICS["slipway:answers:rate5m"].labels == scope | {"service", "revision", "outcome"}
    assert METRICS["slipway:answers_failed:objective"].labels == scope


def test_what_is_not_there_is_said() -> None:
    known = {"a": Metric(frozenset({"x"}), {"x": frozenset({"1"})})}

    assert inventory.faults('sum by (x) (a{x="1"})', known) == []
    assert inventory.faults('sum by (y) (a{x="2", z="3"} + b)', known) == [
        "x of a is never 2",
        "a has no label z",
        "there is no metric b",
        "no metric here has a label y",
    ]


def test_google_names_nothing_twice() -> None:
    """A name in the list of foreign metrics is not one of ours."""
    assert not [name for name in inventory._foreign() if name.startswith("slipway")]
