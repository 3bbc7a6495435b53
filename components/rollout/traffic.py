"""How many requests a server has answered, and how many it has failed: the same count at every target."""

from __future__ import annotations

from collections.abc import Iterable

from components.rollout.target import Traffic

_COUNTER = "slipway_generations_total"
"""serving/metrics.py says what its outcomes mean; what a client did ("refused", "left") tells nothing of a release."""


def count(metrics: str) -> Traffic:
    """The requests in a server's /metrics (Prometheus text) that tell how good its release is.

    Raises ValueError when the text does not hold them.
    """
    # Where nothing is rolled out, nothing needs it.
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, int] = {}
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            if sample.name == _COUNTER:
                outcome = sample.labels["outcome"]
                found[outcome] = found.get(outcome, 0) + int(sample.value)
    if not {"answered", "failed"} <= found.keys():
        raise ValueError(f"{_COUNTER} is not among its metrics")
    return Traffic(found["answered"] + found["failed"], found["failed"])


def total(parts: Iterable[Traffic]) -> Traffic:
    """The traffic of several servers of one release."""
    listed = list(parts)
    return Traffic(sum(part.requests for part in listed), sum(part.errors for part in listed))
