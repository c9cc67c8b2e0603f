"""A number with its error: what every sample metric returns.

Nothing here needs more than numpy and the standard library, so the metrics work without the harness.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


@dataclass(frozen=True)
class Estimate:
    """A value, its standard error, its 95 % interval, the number of rows it rests on, and how it was made."""

    value: float
    standard_error: float
    low: float
    high: float
    n: int
    protocol: str


def normal_interval(value: float, standard_error: float) -> tuple[float, float]:
    """value ± 1.96 standard errors."""
    return value - Z95 * standard_error, value + Z95 * standard_error


def normal_estimate(value: float, standard_error: float, n: int, protocol: str) -> Estimate:
    """An estimate with the normal interval."""
    low, high = normal_interval(value, standard_error)
    return Estimate(value, standard_error, low, high, n, protocol)


def wilson(share: float, n: int) -> tuple[float, float]:
    """95 % score interval of a share of n independent rows (Wilson 1927): never of zero width."""
    scale = 1 + Z95**2 / n
    centre = (share + Z95**2 / (2 * n)) / scale
    half = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n)) / scale
    low = 0.0 if share == 0 else max(0.0, centre - half)
    return low, 1.0 if share == 1 else min(1.0, centre + half)


def share_estimate(successes: int, n: int, protocol: str) -> Estimate:
    """A share of n independent rows with Wilson's interval, honest at 0 and 1.

    The standard error is √(p(1 − p)/n); the interval is the better summary near the ends.
    """
    p = successes / n
    low, high = wilson(p, n)
    return Estimate(p, math.sqrt(p * (1 - p) / n), low, high, n, protocol)
