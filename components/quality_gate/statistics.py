"""How much worse is one model than another on the same examples, and how sure is that?

A difference is a paired per-example one: this model's loss minus the reference's, so below zero is better.

Examples that ask the same question are alike, and ten of them tell little more than one: what counts as an
independent witness is a cluster of examples, and the bootstrap draws clusters (Miller 2024, "Adding Error
Bars to Evals"). C is the number of clusters, N that of examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # pyright: ignore[reportMissingTypeStubs]

Array = NDArray[np.float64]

_BATCH_VALUES = 4_000_000
"""Resampled clusters held in memory at once (32 MB for each of index, sum and size)."""


@dataclass(frozen=True)
class Interval:
    """A mean difference with its two one-sided bounds, each at the stated confidence."""

    difference: float
    lower: float
    upper: float
    n: int
    """Clusters."""

    standard_deviation: float
    """Of what one cluster adds to the mean; over the square root of n it is the mean's standard error."""


def paired_differences(losses: Array, reference: Array, units: Array) -> Array:
    """Per-example loss per unit, minus the reference's.

    All three: shape (N,), same examples in the same order; losses in nats summed over the answer, units its
    length in tokens (or bytes). Raises ValueError when they cannot be paired or are not finite.
    """
    if not losses.shape == reference.shape == units.shape or losses.ndim != 1:
        raise ValueError(f"cannot pair losses of shape {losses.shape}, {reference.shape} and lengths {units.shape}")
    if not (np.isfinite(losses).all() and np.isfinite(reference).all()):
        raise ValueError("a loss is not a finite number")
    if not (units > 0).all():
        raise ValueError("an answer has length 0")
    return (losses - reference) / units


def mean_interval(
    differences: Array, clusters: Sequence[str] | None = None, *, confidence: float, resamples: int, seed: int
) -> Interval:
    """Mean of the differences (shape (N,)) with BCa bootstrap bounds.

    `clusters` names the cluster of each difference; None means that each is its own. The mean is over all
    differences, so that a resample's is the ratio of two sums over its clusters.

    Both bounds come from one set of resamples: the ends of the two-sided interval at 2 * confidence - 1 are
    the one-sided bounds at `confidence`.

    Clusters whose means are all equal have no spread for the bootstrap to see, and BCa is not defined for
    them: every resample has the same mean, so both bounds are that mean. Where BCa's correction has no finite
    value (a sample of two, say), the bound is the largest or smallest mean of a cluster, beyond which no mean
    of a resample can lie: wider than BCa's, never narrower.

    Source: Efron & Tibshirani (1993), ch. 14, applied to paired differences. Raises ValueError when N is 0.
    """
    if differences.size == 0:
        raise ValueError("there are no examples to compare")
    sums, sizes = _cluster_sums(differences, clusters)
    mean = float(differences.mean())
    n, means = sums.size, sums / sizes
    if float(np.ptp(means)) <= 1e-12 * max(1.0, abs(mean)):  # rounding is not spread
        return Interval(mean, mean, mean, n, 0.0)
    lower, upper = _bca(sums, sizes, 2 * confidence - 1, resamples, seed)
    if not np.isfinite(lower):
        lower = float(means.min())
    if not np.isfinite(upper):
        upper = float(means.max())
    deviation = float(((sums - mean * sizes) / sizes.mean()).std(ddof=1))
    return Interval(mean, lower, upper, n, deviation)


def minimum_detectable_effect(standard_deviation: float, n: int, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest true mean difference that a one-sided test at `alpha` on `n` clusters finds with probability `power`.

    From the normal approximation. It explains an inconclusive verdict and never overturns a bound.
    """
    return (NormalDist().inv_cdf(1 - alpha) + NormalDist().inv_cdf(power)) * standard_deviation / n**0.5


def _cluster_sums(differences: Array, clusters: Sequence[str] | None) -> tuple[Array, Array]:
    """Sum and number of the differences of each cluster, both of shape (C,), in the order of first appearance."""
    if clusters is None:
        return differences, np.ones_like(differences)
    order = {name: index for index, name in enumerate(dict.fromkeys(clusters))}
    cluster_N = [order[name] for name in clusters]
    return np.bincount(cluster_N, differences).astype(np.float64), np.bincount(cluster_N).astype(np.float64)


def _ratio(sums: Array, sizes: Array, axis: int) -> Array:
    return sums.sum(axis=axis) / sizes.sum(axis=axis)


def _bca(sums: Array, sizes: Array, level: float, resamples: int, seed: int) -> tuple[float, float]:
    # SciPy has no type stubs; its bootstrap draws the resamples in blocks of `batch`, from one seeded stream.
    interval = cast(
        Any,
        stats.bootstrap(  # pyright: ignore[reportUnknownMemberType]
            (sums, sizes),
            _ratio,
            paired=True,
            vectorized=True,
            confidence_level=level,
            n_resamples=resamples,
            batch=max(1, _BATCH_VALUES // sums.size),
            method="BCa",
            rng=np.random.default_rng(seed),
        ),
    ).confidence_interval
    return float(interval.low), float(interval.high)
