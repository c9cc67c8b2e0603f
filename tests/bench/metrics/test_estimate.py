"""Intervals of values and of shares."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from bench.metrics.estimate import Z95, normal_estimate, share_estimate, wilson


def test_the_quantile_is_that_of_the_normal_distribution() -> None:
    assert norm.ppf(0.975) == pytest.approx(Z95, rel=1e-12)
    found = normal_estimate(2.0, 0.5, 7, "p")
    assert (found.low, found.high) == pytest.approx((2 - Z95 / 2, 2 + Z95 / 2))
    assert (found.n, found.protocol) == (7, "p")


@pytest.mark.parametrize(("successes", "n"), [(0, 9), (1, 9), (5, 10), (99, 100), (100, 100)])
def test_shares_have_the_interval_of_wilson(successes: int, n: int) -> None:
    found = share_estimate(successes, n, "share")
    theirs = binomtest(successes, n).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert found.value == successes / n
    assert found.standard_error == pytest.approx(np.sqrt(found.value * (1 - found.value) / n))


def test_the_interval_of_a_share_is_inside_the_unit_interval_and_never_of_zero_width() -> None:
    for share in (0.0, 1e-9, 0.3, 1 - 1e-9, 1.0):
        low, high = wilson(share, 25)
        assert 0.0 <= low <= share <= high <= 1.0
        assert high - low > 0.1
