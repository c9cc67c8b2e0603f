"""The Fréchet distance of N images with its standard error, that of FID_N and not of the limit.

The error is the delta method's, Var ψ_a / n_a + Var ψ_b / n_b with the influence values of
`frechet_influence`. The interval is about E[FID_N]: the distance at this N, whose bias of about c/N
(Chong and Forsyth 2020, 1911.07023) it does not contain; see `frechet_debiased` for the limit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.metrics.frechet import frechet_distance
from bench.metrics.frechet_influence import Influence, Rows, moments_of
from bench.metrics.moments import Moments

NORMAL_95 = 1.959964
"""Two-sided 95 % quantile of the normal law."""


@dataclass(frozen=True)
class FrechetWithError:
    """FID_N and its 95 % interval.

    share_generated, share_reference  of the variance; the latter is 0 for a reference taken as fixed
    estimand                          what the interval is about
    """

    value: float
    standard_error: float
    low: float
    high: float
    n: int
    n_reference: int
    share_generated: float
    share_reference: float
    reference_fixed: bool
    method: str
    warning: str
    estimand: str


def frechet_with_error(
    generated: Rows, reference: Rows | Moments, *, fixed: bool = False, groups: Sequence[int] | None = None
) -> FrechetWithError:
    """Distance of generated features to those of a reference.

    generated  features (n, d), or a function that gives their batches (read twice: moments, influence)
    reference  features, or moments alone, which are then taken as fixed
    fixed      the reference is what it is and not a sample of something larger
    groups     generated images that share a group (a prompt, a class seed) are not independent
    """
    a, b = moments_of(generated), reference if isinstance(reference, Moments) else moments_of(reference)
    found = frechet_distance(a, b)
    of_a = variance_of_mean(Influence.towards(a, b).values(generated), groups)
    is_fixed = fixed or isinstance(reference, Moments)
    of_b = 0.0
    if not (is_fixed or isinstance(reference, Moments)):
        of_b = variance_of_mean(Influence.towards(b, a).values(reference))
    error = math.sqrt(of_a + of_b)
    share = of_a / (of_a + of_b) if error else 1.0
    return FrechetWithError(
        value=found.value,
        standard_error=error,
        low=found.value - NORMAL_95 * error,
        high=found.value + NORMAL_95 * error,
        n=a.n,
        n_reference=b.n,
        share_generated=share,
        share_reference=1.0 - share,
        reference_fixed=is_fixed,
        method=found.method,
        warning=found.warning,
        estimand=f"E[FID_N] at N={a.n}, " + ("reference fixed" if is_fixed else f"reference of {b.n} images"),
    )


def variance_of_mean(values: np.ndarray, groups: Sequence[int] | np.ndarray | None = None) -> float:
    """Variance of the mean of values (n,), independent or, with groups (n,), independent between groups."""
    n = len(values)
    centred = values - values.mean()
    if groups is not None:
        labels = np.asarray(groups)
        if labels.shape != values.shape:
            raise ValueError(f"there are {len(labels)} groups for {n} images: give each image its group.")
        _, which = np.unique(labels, return_inverse=True)
        centred = np.bincount(which, centred)
    count = len(centred)
    if count < 2:
        raise ValueError("a standard error needs at least 2 independent images or groups.")
    return float(centred @ centred) * count / (count - 1) / n**2
