"""Protects timings: the interval of the median, measured evaluations, memory."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.metrics.throughput import median_interval, others


def test_nine_rounds_take_the_second_from_either_end() -> None:
    low, high, coverage = median_interval(np.arange(9.0))
    assert (low, high) == (1.0, 7.0)
    assert coverage == pytest.approx(1 - 2 * (1 + 9) / 2**9)


def test_too_few_rounds_take_the_whole_range_and_say_what_it_covers() -> None:
    low, high, coverage = median_interval(np.arange(3.0))
    assert (low, high) == (0.0, 2.0)
    assert coverage == pytest.approx(0.75)


@pytest.mark.parametrize("n", [9, 15, 30])
def test_the_interval_covers_the_median_whatever_the_distribution(n: int) -> None:
    rng = np.random.default_rng(n)
    hits, trials = 0, 2000
    for _ in range(trials):
        low, high, coverage = median_interval(np.sort(rng.exponential(size=n)))
        hits += low <= math.log(2) <= high
    assert coverage >= 0.95
    assert abs(hits / trials - coverage) < 4 * math.sqrt(coverage * (1 - coverage) / trials)


def test_the_load_of_other_programs_is_a_share() -> None:
    with others() as load:
        sum(range(200_000))
    assert 0.0 <= load[0] <= 1.0
