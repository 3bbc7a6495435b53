"""What of a server's metrics is counted."""

from __future__ import annotations

import pytest
from prometheus_client import generate_latest

from components.rollout.target import Traffic
from components.rollout.traffic import count, total
from serving import metrics


def test_answered_and_failed_requests_of_the_real_server_s_metrics_are_counted():
    before = count(generate_latest().decode())
    for outcome, times in (("answered", 3), ("failed", 2), ("refused", 5), ("left", 7)):
        metrics.GENERATIONS.labels(outcome=outcome).inc(times)
    after = count(generate_latest().decode())
    assert Traffic(after.requests - before.requests, after.errors - before.errors) == Traffic(5, 2)


def test_a_server_that_has_answered_nothing_yet_counts_zero():
    text = "".join(f'slipway_generations_total{{outcome="{outcome}"}} 0.0\n' for outcome in metrics.OUTCOMES)
    assert count(f"# TYPE slipway_generations_total counter\n{text}") == Traffic(0, 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "python_info 1.0\n",
        '# TYPE slipway_generations_total counter\nslipway_generations_total{outcome="answered"} 3.0\n',
    ],
    ids=["nothing", "another program", "half"],
)
def test_metrics_without_the_counts_are_no_zero(text):
    with pytest.raises(ValueError, match="slipway_generations_total is not among its metrics"):
        count(text)


def test_what_is_no_prometheus_text_is_refused():
    with pytest.raises(ValueError):
        count('{"status": "ok"}')


def test_the_servers_of_a_release_are_added_up():
    assert total([Traffic(3, 1), Traffic(4, 0)]) == Traffic(7, 1)
    assert total([]) == Traffic()
