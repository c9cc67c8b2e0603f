"""Differences of two runs with their errors, and what may be concluded from many of them.

    bits per dimension   of the same images: mean of bᵢ − aᵢ, error sd/√n, Student's t with n − 1
    Fréchet distance     of the same seeds: jackknife of the difference, leaving out the same block of both
    throughput           of the rounds of both: ratio of medians, its interval by bootstrap over rounds, the
                         verdict by the exact rank test of Mann and Whitney (1947)
    anything else        from the two intervals, as if the runs shared nothing

A verdict asks a one-sided question, is B worse, at 4.5 %: just under the 5 % of false alarms that are
allowed, which leaves Φ(3 − 1.695) = 90.4 % power for a difference of three standard errors. Where many
cells ask the same question, Holm's steps (1979) keep 4.5 % for the chance of any false alarm among them.

Shapes: n images or rounds, G groups of m blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.identity import content_key
from bench.metrics.frechet_error import NORMAL_95

if TYPE_CHECKING:
    import numpy as np

    from bench.metrics.moments import BlockMoments, Moments

ALARM = 0.045
"""Chance of a false `worse`, and of a false `better`, among the cells of one metric."""
RESAMPLES = 10_000


@dataclass(frozen=True)
class Difference:
    """B less A, or for a ratio B over A; its 95 % interval; chances of so much if there were no difference.

    above, below  one-sided p-values: of so large and of so small a difference
    method        how, for the protocol
    """

    value: float
    low: float
    high: float
    above: float
    below: float
    method: str


def paired(a_n: np.ndarray, b_n: np.ndarray, what: str) -> Difference:
    """Mean of bᵢ − aᵢ over what both share."""
    each = b_n - a_n
    n = len(each)
    if n < 2:
        raise ValueError(f"a paired difference needs at least 2 {what}, and there is {n}.")
    error = float(each.std(ddof=1)) / math.sqrt(n)
    return _student(float(each.mean()), error, n - 1, f"paired over {n} {what}")


def jackknife(
    a: BlockMoments, b: BlockMoments, reference: Moments, *, blocks_per_group: int, shared: bool
) -> tuple[Difference, Difference]:
    """Difference of mean Fréchet distances of groups of blocks, and that of their debiased values.

    Var = Σ_g Var_g / G², Var_g = (m−1)/m Σᵢ (δ₋ᵢ − mean)², with δ₋ᵢ the difference where block i is left out
    of both where seeds are `shared`, and the sum of both runs' variances where they are not.
    """
    import numpy as np

    from bench.metrics.frechet import frechet_distance
    from bench.metrics.moments import merged

    m = blocks_per_group
    whole, without = [], []
    for run in (a, b):
        parts = list(run.blocks.values())
        groups = [parts[start : start + m] for start in range(0, len(parts), m)]
        whole.append(np.array([frechet_distance(merged(g), reference).value for g in groups]))
        left = [[merged(g[:i] + g[i + 1 :]) for i in range(m)] for g in groups]
        without.append(np.array([[frechet_distance(one, reference).value for one in g] for g in left]))
    plain = whole[1] - whole[0]
    debiased = m * plain - (m - 1) * (without[1] - without[0]).mean(1)
    sides = [without[1] - without[0]] if shared else without
    variances = sum(((s - s.mean(1, keepdims=True)) ** 2).sum(1) * (m - 1) / m for s in sides)
    error = math.sqrt(float(np.sum(variances))) / len(plain)
    how = f"jackknife over {m * len(plain)} blocks " + ("of the same seeds" if shared else "of each run")
    # The jackknife errs on the side of caution; Student's t on top of it finds too little (see the tests).
    found = [_student(float(each.mean()), error, math.inf, how) for each in (plain, debiased)]
    return found[0], found[1]


def median_ratio(a_n: np.ndarray, b_m: np.ndarray, seed: str) -> Difference:
    """Median of b over median of a, with 10 000 seeded resamples; chances by ranks: no outlier moves them."""
    import numpy as np
    from scipy.stats import mannwhitneyu

    rng = np.random.default_rng(int(content_key(seed)[:16], 16))
    of_a, of_b = (np.median(rng.choice(x, (RESAMPLES, len(x))), axis=1) for x in (a_n, b_m))
    low, high = np.quantile(of_b / of_a, (0.025, 0.975))
    value = float(np.median(b_m) / np.median(a_n))
    above, below = (float(mannwhitneyu(b_m, a_n, alternative=side).pvalue) for side in ("greater", "less"))
    method = f"ratio of medians, bootstrap and ranks of {len(a_n)} and {len(b_m)} rounds"
    return Difference(value, float(low), float(high), above, below, method)


def of_intervals(a: tuple[float, float, float], b: tuple[float, float, float]) -> Difference:
    """From (value, low, high) of both, errors taken as independent: wider than it need be for shared data."""
    errors = [(high - low) / (2 * NORMAL_95) for _, low, high in (a, b)]
    return _student(b[0] - a[0], math.hypot(*errors), math.inf, "from the two intervals, unpaired")


def _student(value: float, error: float, freedom: float, method: str) -> Difference:
    """With the interval and chances of Student's t; no error leaves no doubt."""
    from scipy.special import stdtr, stdtrit

    if error == 0.0:
        return Difference(value, value, value, float(value <= 0), float(value >= 0), method)
    freedom = min(freedom, 1e9)
    half = float(stdtrit(freedom, 0.975)) * error
    t = value / error
    return Difference(
        value, value - half, value + half, float(stdtr(freedom, -t)), float(stdtr(freedom, t)), method
    )


def holm(chances: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: of k hypotheses in rising order the i-th times k − i, never falling."""
    order = sorted(range(len(chances)), key=lambda i: chances[i])
    adjusted, least = [0.0] * len(chances), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(chances) - rank) * chances[i]))
        adjusted[i] = least
    return adjusted
