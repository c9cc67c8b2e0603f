"""The Fréchet distance at infinitely many images, from those that there are.

FID_N = FID + b/N + c/N² + … (Chong and Forsyth 2020, 1911.07023). Disjoint parts of the same images have the
same coefficients, so (Richardson)

    halves    2 FID_N − FID_{N/2}                           removes b
    quarters  (8 FID_N − 6 FID_{N/2} + FID_{N/4}) / 3       removes b and c

with FID_{N/2} the mean of both halves and FID_{N/4} of all four quarters, over several seeded splits. The fit
of a line in 1/N to random subsets (FID∞) is beside them, for comparison with what others print.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bench.metrics.frechet import frechet_distance
from bench.metrics.frechet_error import NORMAL_95, frechet_with_error
from bench.metrics.moments import Moments, merged

COEFFICIENTS = {"halves": (2.0, -1.0, 0.0), "quarters": (8 / 3, -2.0, 1 / 3)}
"""Of FID_N, FID_{N/2} and FID_{N/4}."""


@dataclass(frozen=True)
class DebiasedFrechet:
    """The limit's estimate with its 95 % interval, and FID_N that it came from.

    method  halves or quarters, with the number of splits and their seed
    """

    value: float
    standard_error: float
    low: float
    high: float
    at_n: float
    n: int
    method: str


def debiased_frechet(
    generated: np.ndarray,
    reference: np.ndarray | Moments,
    *,
    method: str = "quarters",
    splits: int = 4,
    seed: int = 0,
    fixed: bool = False,
) -> DebiasedFrechet:
    """Of features (n, d). A reference of features that is not `fixed` is split too: its bias goes as well.

    Standard error: the delta method's of FID_N, and of the splits' own variance, which is that of the
    second-order terms that the parts do not share.
    """
    if method not in COEFFICIENTS:
        raise ValueError(f"Unknown method {method!r} of debiasing: take halves or quarters.")
    parts = 2 if method == "halves" else 4
    _enough(generated, parts)
    split_reference = not (fixed or isinstance(reference, Moments))
    if split_reference:
        _enough(np.asarray(reference), parts)
    if splits < 2:
        raise ValueError(f"the error of debiasing needs at least 2 splits, not {splits}.")
    first_order = frechet_with_error(generated, reference, fixed=fixed)
    target = reference if isinstance(reference, Moments) else Moments.of(reference)
    found = []
    for split in range(splits):
        rng = np.random.default_rng([seed, split])
        pieces = _pieces(generated, parts, rng)
        theirs = _pieces(np.asarray(reference), parts, rng) if split_reference else [target] * parts
        found.append(_corrected(first_order.value, pieces, theirs, split_reference, method))
    value, spread = float(np.mean(found)), float(np.var(found, ddof=1))
    error = math.sqrt(first_order.standard_error**2 + spread * (1.0 + 1.0 / splits))
    return DebiasedFrechet(
        value=value,
        standard_error=error,
        low=value - NORMAL_95 * error,
        high=value + NORMAL_95 * error,
        at_n=first_order.value,
        n=len(generated),
        method=f"{method}, {splits} splits, seed {seed}",
    )


def frechet_infinity(
    generated: np.ndarray, reference: Moments, *, points: int = 15, seed: int = 0
) -> tuple[float, float]:
    """Intercept and slope of the line in 1/N through distances of random subsets, from max(2d, N/10) to N."""
    n, d = generated.shape
    first = max(2 * d, n // 10)
    if first >= n or points < 2:
        raise ValueError(f"a line in 1/N needs more than {2 * d} images and 2 points, not {n} and {points}.")
    rng = np.random.default_rng(seed)
    sizes = np.linspace(first, n, points).astype(int)
    distances = [
        frechet_distance(Moments.of(generated[rng.permutation(n)[:size]]), reference).value for size in sizes
    ]
    slope, intercept = np.polyfit(1.0 / sizes, distances, 1)
    return float(intercept), float(slope)


def _corrected(at_n: float, a: list[Moments], b: list[Moments], both: bool, method: str) -> float:
    """One split's value: parts of parts are merged, so that each image is read once."""
    whole, half, quarter = COEFFICIENTS[method]
    quarters = 0.0
    if method == "quarters":
        quarters = _mean_distance(a, b)
        a = [merged(a[:2]), merged(a[2:])]
        b = [merged(b[:2]), merged(b[2:])] if both else b[:2]
    return whole * at_n + half * _mean_distance(a, b) + quarter * quarters


def _mean_distance(a: list[Moments], b: list[Moments]) -> float:
    return float(np.mean([frechet_distance(x, y).value for x, y in zip(a, b, strict=True)]))


def _pieces(rows: np.ndarray, count: int, rng: np.random.Generator) -> list[Moments]:
    return [Moments.of(rows[part]) for part in np.array_split(rng.permutation(len(rows)), count)]


def _enough(rows: np.ndarray, parts: int) -> None:
    n, d = rows.shape
    if n // parts <= d:
        raise ValueError(
            f"{n} images in {parts} parts are no more than {d} dimensions each, where the bias does not go "
            f"as 1/N: give more than {parts * (d + 1)} images{', or take halves' if parts > 2 else ''}."
        )
