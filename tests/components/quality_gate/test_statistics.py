"""The statistics against values computed another way, and against themselves over many seeds."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

from components.quality_gate.statistics import mean_interval, minimum_detectable_effect, paired_differences

NORMAL = NormalDist()


def bca_by_hand(values, confidence, resamples, seed):
    """Efron & Tibshirani (1993), formulas 14.9 to 14.15, written out with loops."""
    random = np.random.default_rng(seed)
    n, mean = len(values), sum(values) / len(values)
    means = sorted(float(values[random.integers(0, n, n)].mean()) for _ in range(resamples))
    below = sum(1 for value in means if value < mean) + 0.5 * sum(1 for value in means if value == mean)
    bias = NORMAL.inv_cdf(below / resamples)
    jackknife = [(sum(values) - value) / (n - 1) for value in values]
    centre = sum(jackknife) / n
    acceleration = sum((centre - one) ** 3 for one in jackknife) / (
        6 * sum((centre - one) ** 2 for one in jackknife) ** 1.5
    )

    def bound(level):
        shifted = bias + NORMAL.inv_cdf(level)
        return means[round(NORMAL.cdf(bias + shifted / (1 - acceleration * shifted)) * (resamples - 1))]

    return bound(1 - confidence), bound(confidence)


@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.95])
def test_bounds_agree_with_bca_written_out_by_hand_on_skewed_differences(confidence):
    values = np.random.default_rng(7).exponential(1.0, 40) - 0.8
    interval = mean_interval(values, confidence=confidence, resamples=100_000, seed=1)
    lower, upper = bca_by_hand(values, confidence, 50_000, seed=2)
    error = values.std(ddof=1) / 40**0.5
    assert interval.difference == pytest.approx(values.mean())
    assert interval.lower == pytest.approx(lower, abs=0.08 * error)
    assert interval.upper == pytest.approx(upper, abs=0.08 * error)
    # Skewed to the right: BCa reaches further up than down, which a symmetric interval would not.
    assert interval.upper - interval.difference > interval.difference - interval.lower


def test_clusters_are_drawn_whole_and_weighted_by_their_size():
    """Against a bootstrap with a loop, for clusters of one to six differences that share a part."""
    random = np.random.default_rng(11)
    clusters = [str(cluster) for cluster in range(30) for _ in range(1 + cluster % 6)]
    values = random.normal(0, 0.3, 30)[np.array(clusters, dtype=int)] + random.normal(0, 0.1, len(clusters))
    groups = [values[np.array(clusters) == str(cluster)] for cluster in range(30)]
    means = sorted(
        float(np.concatenate([groups[cluster] for cluster in random.integers(0, 30, 30)]).mean()) for _ in range(20_000)
    )
    order = random.permutation(len(clusters))  # a cluster's differences need not stand together
    interval = mean_interval(values[order], [clusters[row] for row in order], confidence=0.95, resamples=9999, seed=1)
    error = float(np.std(means))
    assert interval.n == 30 and interval.difference == pytest.approx(values.mean())
    assert interval.lower == pytest.approx(means[1000], abs=0.2 * error)
    assert interval.upper == pytest.approx(means[19_000], abs=0.2 * error)
    assert interval.standard_deviation / 30**0.5 == pytest.approx(error, rel=0.1)


def test_clusters_of_one_give_the_bounds_of_rows_to_the_last_digit():
    values = np.random.default_rng(3).normal(size=50)
    rows = mean_interval(values, confidence=0.95, resamples=999, seed=5)
    assert mean_interval(values, [f"q{row}" for row in range(50)], confidence=0.95, resamples=999, seed=5) == rows


def test_a_single_cluster_has_no_spread_to_see():
    interval = mean_interval(np.array([0.0, 1.0]), ["q", "q"], confidence=0.95, resamples=999, seed=0)
    assert (interval.n, interval.lower, interval.difference, interval.upper) == (1, 0.5, 0.5, 0.5)


def test_bounds_of_normal_differences_are_near_the_t_interval():
    values = np.random.default_rng(3).normal(0.1, 0.3, 400)
    interval = mean_interval(values, confidence=0.95, resamples=9999, seed=0)
    half = 1.6487 * values.std(ddof=1) / 20  # t(399) at 0.95
    assert interval.lower == pytest.approx(values.mean() - half, abs=0.002)
    assert interval.upper == pytest.approx(values.mean() + half, abs=0.002)
    assert interval.standard_deviation == pytest.approx(values.std(ddof=1))


def test_same_seed_same_bounds():
    values = np.random.default_rng(3).normal(size=50)
    once, again = (mean_interval(values, confidence=0.95, resamples=999, seed=5) for _ in range(2))
    assert once == again


def test_a_large_sample_is_resampled_in_blocks_without_changing_the_bounds(monkeypatch):
    values = np.random.default_rng(3).normal(size=50)
    whole = mean_interval(values, confidence=0.95, resamples=999, seed=5)
    monkeypatch.setattr("components.quality_gate.statistics._BATCH_VALUES", 50 * 10)
    assert mean_interval(values, confidence=0.95, resamples=999, seed=5).upper == pytest.approx(whole.upper)


@pytest.mark.parametrize("value", [0.0, 0.25, -3e5])
def test_differences_without_spread_have_their_mean_as_bounds(value):
    interval = mean_interval(np.full(30, value), confidence=0.95, resamples=999, seed=0)
    assert interval.difference == interval.lower == interval.upper == pytest.approx(value)
    assert interval.standard_deviation == 0


def test_rounding_noise_is_not_spread():
    values = 0.1 + np.random.default_rng(0).normal(0, 1e-15, 30)
    interval = mean_interval(values, confidence=0.95, resamples=999, seed=0)
    assert interval.lower == interval.upper == interval.difference


def test_bounds_are_finite_for_the_smallest_samples():
    for values in ([0.0, 1.0], [0.0, 0.0, 1.0], [0.0] * 19 + [1.0]):
        interval = mean_interval(np.array(values), confidence=0.95, resamples=999, seed=0)
        assert min(values) <= interval.lower <= interval.difference <= interval.upper <= max(values)


def test_where_bca_has_no_value_the_bound_is_the_extreme_difference(monkeypatch):
    monkeypatch.setattr("components.quality_gate.statistics._bca", lambda *_: (float("nan"), float("inf")))
    interval = mean_interval(np.array([-1.0, 0.0, 4.0]), confidence=0.95, resamples=999, seed=0)
    assert (interval.lower, interval.difference, interval.upper) == (-1.0, 1.0, 4.0)


def test_nothing_to_compare_is_refused():
    with pytest.raises(ValueError, match="no examples"):
        mean_interval(np.array([]), confidence=0.95, resamples=999, seed=0)


@pytest.mark.parametrize(
    ("deviation", "n", "effect"), [(0.3, 1392, 0.02), (0.3, 223, 0.05), (0.2**0.5, 1374, 0.03), (0.2**0.5, 495, 0.05)]
)
def test_detectable_effect_of_published_sample_sizes(deviation, n, effect):
    assert minimum_detectable_effect(deviation, n) == pytest.approx(effect, rel=0.003)


def test_paired_differences_are_per_unit_and_change_sign_when_swapped():
    own, other, tokens = np.array([10.0, 6.0]), np.array([8.0, 9.0]), np.array([4.0, 3.0])
    assert paired_differences(own, other, tokens).tolist() == [0.5, -1.0]
    assert paired_differences(other, own, tokens).tolist() == [-0.5, 1.0]


@pytest.mark.parametrize(
    ("own", "other", "units", "words"),
    [
        ([1.0, 2.0], [1.0], [1.0, 1.0], "cannot pair"),
        ([1.0, float("nan")], [1.0, 2.0], [1.0, 1.0], "not a finite number"),
        ([1.0, float("inf")], [1.0, 2.0], [1.0, 1.0], "not a finite number"),
        ([1.0, 2.0], [1.0, 2.0], [1.0, 0.0], "length 0"),
        ([[1.0]], [[1.0]], [[1.0]], "cannot pair"),
    ],
)
def test_what_cannot_be_paired_is_refused(own, other, units, words):
    with pytest.raises(ValueError, match=words):
        paired_differences(np.array(own), np.array(other), np.array(units))


def test_equal_models_cross_each_bound_at_the_nominal_rate():
    """500 A/A comparisons: each one-sided 95 % bound misses zero in about 5 % of them."""
    above = below = 0
    for seed in range(500):
        values = np.random.default_rng(seed).normal(0, 0.3, 80)
        interval = mean_interval(values, confidence=0.95, resamples=999, seed=seed)
        above += interval.lower > 0
        below += interval.upper < 0
    # Binomial(500, 0.05): mean 25, standard deviation 4.9; three of them either side.
    assert 11 <= above <= 39
    assert 11 <= below <= 39
