"""When a candidate gets more traffic, and when it is rolled back."""

from __future__ import annotations

import itertools

import pytest

from components.rollout.decide import Limits, StageObservation, decide

LIMITS = Limits(min_requests=20, max_error_rate=0.1, stage_seconds=60)


def verdict(requests, errors, seconds=1.0, limits=LIMITS, stable=(0, 0)):
    return decide(StageObservation(requests, errors, *stable, seconds), limits).verdict


EVERY = list(itertools.product(range(0, 45, 3), range(0, 45, 3), (0.0, 59.9, 60.0, 1e9)))
SOME_LIMITS = [Limits(min_requests, rate, 60) for min_requests in (1, 2, 20, 40) for rate in (0.0, 0.01, 0.1, 0.5, 1.0)]


@pytest.mark.parametrize("limits", SOME_LIMITS, ids=str)
def test_too_few_requests_never_advance(limits):
    for requests, errors, seconds in EVERY:
        if requests < limits.min_requests:
            assert verdict(requests, min(errors, requests), seconds, limits) != "advance"


@pytest.mark.parametrize("limits", SOME_LIMITS, ids=str)
def test_more_errors_never_turn_a_decision_for_the_better(limits):
    order = ["advance", "wait", "roll back"]
    for requests, seconds in {(requests, seconds) for requests, _, seconds in EVERY}:
        verdicts = [verdict(requests, errors, seconds, limits) for errors in range(requests + 1)]
        ranks = [order.index(one) for one in verdicts]
        assert ranks == sorted(ranks)


@pytest.mark.parametrize("limits", SOME_LIMITS, ids=str)
def test_what_advances_stays_within_the_rate_and_what_is_decided_early_could_not(limits):
    for requests, errors, seconds in EVERY:
        if errors > requests:
            continue
        found = verdict(requests, errors, seconds, limits)
        if found == "advance":
            assert errors / requests <= limits.max_error_rate + 1e-9
        elif found == "roll back" and seconds < limits.stage_seconds:
            # the best that could still come: only good answers up to min_requests
            assert errors / max(requests, limits.min_requests) > limits.max_error_rate


def test_a_stage_ends_by_its_deadline():
    for requests, errors, _ in EVERY:
        assert verdict(requests, min(errors, requests), LIMITS.stage_seconds) != "wait"


def test_enough_requests_at_the_deadline_advance():
    assert verdict(20, 2, seconds=60) == "advance"


def test_it_is_rolled_back_as_soon_as_the_rate_cannot_be_kept():
    assert verdict(2, 2) == "wait"
    assert verdict(3, 3) == "roll back"


def test_the_stable_release_s_errors_excuse_nothing_and_condemn_nothing():
    for requests, errors, seconds in EVERY:
        one = verdict(requests, errors, seconds)
        assert one == verdict(requests, errors, seconds, stable=(1000, 0))
        assert one == verdict(requests, errors, seconds, stable=(1000, 1000))


def test_the_reasons_name_the_counts():
    late = decide(StageObservation(7, 0, 90, 0, 61), LIMITS)
    assert late.reason == "it answered 7 of 20 requests within 60 s"
    bad = decide(StageObservation(20, 3, 180, 1, 5), LIMITS)
    expected = "3 of 20 requests failed, of the stable release's 1 of 180; the rate that may fail is 10.00%"
    assert (bad.verdict, bad.reason) == ("roll back", expected)
    assert decide(StageObservation(4, 0, 0, 0, 5), LIMITS).reason == "4 of 20 requests"
