"""What a query names is read out of it."""

from __future__ import annotations

import pytest

from tests.monitoring import promql
from tests.monitoring.promql import Selector


def test_selectors_labels_and_functions() -> None:
    query = promql.read(
        'sum by (le, service) (rate(a_bucket{le=~"5|5\\\\.0", x != "}"}[5m] offset 1h))'
        " / on () group_left (y) b:c:d > 1e3"
    )

    assert query.selectors == [Selector("a_bucket", (("le", "=~", "5|5\\.0"), ("x", "!=", "}"))), Selector("b:c:d")]
    assert query.grouping == {"le", "service", "y"}
    assert query.functions == {"sum", "rate"}


def test_keywords_and_numbers_are_no_metrics() -> None:
    assert promql.read("a and b or c unless d == bool 1 or vector(0) * 2h").metrics == {"a", "b", "c", "d"}


def test_a_metric_may_be_called_as_an_aggregation() -> None:
    assert promql.read('count{x="1"} + sum(count)').metrics == {"count"}


@pytest.mark.parametrize("wrong", ['{x="1"}', "a{x}", "sum by (x"])
def test_what_is_not_read_is_said(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        promql.read(wrong)
