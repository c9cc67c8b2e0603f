"""Protects the decoder: a probability over levels that sums to one and never underflows to nonsense."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.likelihood.discretised_gaussian import discretised_gaussian_nats, log_interval


@given(st.integers(2, 256), st.floats(-3, 3), st.floats(-14, 3))
def test_it_sums_to_one(levels: int, mean: float, log_deviation: float) -> None:
    """For means beyond the edges and deviations from far below to far above a level's width."""
    spread = torch.tensor(math.exp(2 * log_deviation), dtype=torch.float64)
    nats = discretised_gaussian_nats(torch.arange(levels), torch.tensor(mean), spread, levels)
    assert float((-nats).exp().sum()) == pytest.approx(1.0, abs=1e-12)


def test_inner_levels_are_differences_of_the_normal_distribution_function() -> None:
    """Against math.erf, which the implementation does not use."""
    deviation, mean = 0.2, 0.1
    nats = discretised_gaussian_nats(
        torch.arange(17), torch.tensor(mean), torch.tensor(deviation**2, dtype=torch.float64), 17
    )
    for k in range(1, 16):
        ends = [(2 * k / 16 - 1 + h / 16 - mean) / deviation / math.sqrt(2) for h in (-1, 1)]
        wanted = 0.5 * (math.erf(ends[1]) - math.erf(ends[0]))
        assert math.exp(-float(nats[k])) == pytest.approx(wanted, rel=1e-6)


def test_far_tails_keep_their_logarithm() -> None:
    """40 standard deviations away 1 − Φ underflows, its logarithm ≈ −x²/2 does not; both sides alike."""
    low, high = torch.tensor([40.0, -41.0]).double(), torch.tensor([41.0, -40.0]).double()
    found = log_interval(low, high)
    assert float(found[0]) == pytest.approx(-(40**2) / 2 - math.log(40 * math.sqrt(2 * math.pi)), abs=1e-3)
    assert float(found[0]) == float(found[1])


def test_one_level_is_refused() -> None:
    with pytest.raises(ValueError, match="two or more levels"):
        discretised_gaussian_nats(torch.zeros(1), torch.zeros(1), torch.ones(1), 1)
