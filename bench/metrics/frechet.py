"""The Fréchet distance between Gaussians fitted to two sets of features, with its error and its bias.

    d²(a, b) = |μ_a − μ_b|² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^{1/2})

Heusel et al. 2017 (1706.08500), Dowson and Landau 1982. The trace of the root is taken as the ranks of the
covariances allow, see `root_trace`.

The distance of n samples is biased upwards by about c/n (Chong and Forsyth 2020, 1911.07023), so distances
are compared at equal n, or debiased.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bench.metrics.moments import BlockMoments, Moments, merged
from bench.metrics.root_trace import root_trace

# Two-sided 95 % quantiles of Student's t by degrees of freedom; the normal one beyond.
_T95 = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    7: 2.365,
    9: 2.262,
    14: 2.145,
    19: 2.093,
    39: 2.023,
}


@dataclass(frozen=True)
class FrechetResult:
    """The distance, how the root was taken (see `root_trace`), and a warning where n ≤ d."""

    value: float
    method: str
    warning: str = ""


@dataclass(frozen=True)
class FrechetEstimate:
    """Distance at n images, its 95 % interval (that of the distance *at this n*), and its debiased value."""

    value: float
    standard_error: float
    low: float
    high: float
    debiased: float
    debiased_low: float
    debiased_high: float
    n: int
    groups: int
    method: str


def frechet_distance(a: Moments, b: Moments) -> FrechetResult:
    """Squared Fréchet distance of two sets of features of the same dimensions.

    Raises ValueError on one sample, other dimensions, and a scatter that no features have.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"features of {len(a.mean)} and of {len(b.mean)} dimensions cannot be compared: use one network."
        )
    root = root_trace(a, b)
    shift = a.mean - b.mean
    traces = np.trace(a.scatter) / (a.n - 1) + np.trace(b.scatter) / (b.n - 1)
    few = {
        one.n: f"n={one.n} ≤ d={one.dims}: the covariance is singular" for one in (a, b) if one.n <= one.dims
    }
    return FrechetResult(
        float(shift @ shift + traces - 2.0 * root.value), root.method, "; ".join(few.values())
    )


def group_frechet(
    blocks: BlockMoments, *, group_size: int, blocks_per_group: int, reference: Moments
) -> FrechetEstimate:
    """Mean distance of disjoint groups of `group_size` images to the reference.

    Standard error: delete-one-block jackknife within each group of m blocks, averaged over G groups,
    Var = Σ_g Var_g / G². Debiased: the jackknife's m·d − (m − 1)·mean(d without a block), which removes the
    part of the bias that goes as 1/group_size. Intervals use Student's t with G(m − 1) degrees of freedom.
    The reference is taken as it is: its own finite size is the same for every model. Near distance zero the
    interval is too wide rather than too narrow (the jackknife overestimates where the first-order term
    vanishes); with n/d below about 10 some bias of order (d/n)² stays in the debiased value.
    """
    if blocks_per_group < 2:
        raise ValueError(f"the jackknife leaves out one block of several: {blocks_per_group} is too few.")
    if group_size % blocks_per_group or blocks.block_size * blocks_per_group != group_size:
        raise ValueError(
            f"{blocks_per_group} blocks of {blocks.block_size} images do not make a group of {group_size}."
        )
    parts = blocks.blocks
    groups, rest = divmod(len(parts), blocks_per_group)
    complete = all(part.n == blocks.block_size for part in parts.values())
    if not groups or rest or not complete or list(parts) != list(range(len(parts))):
        raise ValueError(
            f"a distance at n={group_size} needs whole groups of {group_size} images; give more images."
        )
    m = blocks_per_group
    found = [_jackknife([parts[g * m + i] for i in range(m)], reference) for g in range(groups)]
    value = float(np.mean([f[0] for f in found]))
    debiased = float(np.mean([f[1] for f in found]))
    error = math.sqrt(sum(f[2] for f in found)) / groups
    half = _t95(groups * (m - 1)) * error
    methods = sorted({f[3] for f in found})
    return FrechetEstimate(
        value=value,
        standard_error=error,
        low=value - half,
        high=value + half,
        debiased=debiased,
        debiased_low=debiased - half,
        debiased_high=debiased + half,
        n=groups * group_size,
        groups=groups,
        method="+".join(methods),
    )


def _jackknife(parts: list[Moments], reference: Moments) -> tuple[float, float, float, str]:
    """Distance of the parts together, its debiased value, the variance of both, and the method."""
    whole = frechet_distance(merged(parts), reference)
    m = len(parts)
    without = np.array(
        [frechet_distance(merged(parts[:i] + parts[i + 1 :]), reference).value for i in range(m)]
    )
    debiased = m * whole.value - (m - 1) * without.mean()
    variance = (m - 1) / m * float(((without - without.mean()) ** 2).sum())
    return whole.value, float(debiased), variance, whole.method


def _t95(freedom: int) -> float:
    """The tabulated quantile at or below these degrees of freedom: never too narrow."""
    if freedom > 120:
        return 1.980
    return _T95[max(known for known in _T95 if known <= max(1, freedom))]
