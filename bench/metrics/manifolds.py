"""How faithful and how varied: improved precision and recall, density and coverage.

With B_k(x) the ball round x to its k-th nearest other row of its own set,

    precision = share of generated rows in some ball of a real row
    recall    = share of real rows in some ball of a generated row       Kynkäänniemi et al. 2019 (1904.06991)
    density   = mean over generated rows of (real balls that hold it)/k
    coverage  = share of real balls that hold a generated row            Naeem et al. 2020 (2002.09797)

All four depend on n, so compare them at equal n; precision and recall also bend with single outliers, which
density and coverage do not. Intervals are those of the value at this n, and allow for both sets: the spread
of the mean over one set's rows, and for the other set a jackknife that leaves out tenths, with Student's t at
9 degrees of freedom; those of shares are never inside Wilson's. In simulations the errors are 1.0 to 1.3
times the actual spread.

Shapes: n generated rows, m real rows, d dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.metrics.balls import GROUPS, Membership, membership, mutual_membership
from bench.metrics.estimate import Estimate, share_estimate
from bench.metrics.rows import BLOCK, pair_of_rows

_T95_OF_9 = 2.2621571628


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision: are generated images like real ones? Recall: are real images like some generated one?"""

    precision: Estimate
    recall: Estimate


@dataclass(frozen=True)
class DensityCoverage:
    """Density may exceed 1 where generated rows crowd where real ones do; coverage is a share."""

    density: Estimate
    coverage: Estimate


def precision_recall(generated: Any, real: Any, k: int = 3, *, block: int = BLOCK) -> PrecisionRecall:
    """Improved precision and recall; generated comes first, and the names say which is which."""
    x, y = pair_of_rows(generated, real, least=GROUPS)
    in_real, in_generated = mutual_membership(x, y, k, block=block)
    tail = f"[k={k}, generated n={len(x)}, real n={len(y)}, errors of both sets]"
    return PrecisionRecall(_held(in_real, f"precision {tail}"), _held(in_generated, f"recall {tail}"))


def density_coverage(generated: Any, real: Any, k: int = 5, *, block: int = BLOCK) -> DensityCoverage:
    """Density and coverage, both with the real rows' balls; the paper takes k = 5."""
    x, y = pair_of_rows(generated, real, least=GROUPS)
    found = membership(x, y, k, block=block)
    tail = f"[k={k}, generated n={len(x)}, real n={len(y)}, errors of both sets]"
    return DensityCoverage(_density(found, f"density {tail}"), _coverage(found, f"coverage {tail}"))


def _held(found: Membership, protocol: str) -> Estimate:
    """The share of queries that some ball holds; the other set is that of the balls."""
    held = found.inside > 0
    return _share(held[0], _variance_of_other(held[1:]), protocol)


def _coverage(found: Membership, protocol: str) -> Estimate:
    """The share of balls that hold some query; the other set is that of the queries."""
    times = found.reached_by.sum(0)
    return _share(times > 0, _variance_of_other(times - found.reached_by > 0), protocol)


def _density(found: Membership, protocol: str) -> Estimate:
    inside = found.inside / found.k
    value, n = float(inside[0].mean()), inside.shape[1]
    error = math.sqrt(float(inside[0].var(ddof=1)) / n + _variance_of_other(inside[1:]))
    half = _T95_OF_9 * error
    return Estimate(value, error, max(0.0, value - half), value + half, n, protocol)


def _share(held: NDArray[np.bool_], variance_of_other: float, protocol: str) -> Estimate:
    """A share whose interval is never inside Wilson's, which has no zero width at 0 and 1."""
    wilson = share_estimate(int(held.sum()), len(held), protocol)
    error = math.sqrt(wilson.standard_error**2 + variance_of_other)
    low, high = wilson.value - _T95_OF_9 * error, wilson.value + _T95_OF_9 * error
    return Estimate(
        wilson.value,
        error,
        max(0.0, min(low, wilson.low)),
        min(1.0, max(high, wilson.high)),
        len(held),
        protocol,
    )


def _variance_of_other(without_group: NDArray[Any]) -> float:
    """What the other set's sampling adds, from values (G, rows) with one of its groups left out.

    Jackknife of the mean over rows, less the part that is only these rows' noise and is counted with them.
    """
    values = without_group.astype(np.float64)
    noise = float((values - values.mean(0)).var(1, ddof=1).mean()) / values.shape[1]
    return max(0.0, (GROUPS - 1) * (float(values.mean(1).var()) - noise))
