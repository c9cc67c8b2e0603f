"""The discretised logistic: sums to one, and samples what it says."""

from __future__ import annotations

import pytest
import torch

from models.discretised_logistic import DiscretisedLogistic


def _law(mean: float, log_scale: float, levels: int) -> DiscretisedLogistic:
    shape = (levels,)
    return DiscretisedLogistic(
        torch.full(shape, mean, dtype=torch.float64),
        torch.full(shape, log_scale, dtype=torch.float64),
        levels,
    )


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
@pytest.mark.parametrize("mean", [-1.3, -1.0, 0.21, 4.0])
@pytest.mark.parametrize("log_scale", [-7.0, -2.0, 2.0])
def test_sums_to_one_exactly(levels: int, mean: float, log_scale: float) -> None:
    """Open edges and the stable difference: no mass lost for narrow, wide or far-off laws."""
    log_p = _law(mean, log_scale, levels).log_prob(torch.arange(levels))
    assert bool(log_p.isfinite().all())
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-12)


def test_inner_and_edge_bins_by_hand() -> None:
    """μ = 0, s = 1, three levels: P(0) = σ(−1/2), P(1) = σ(1/2) − σ(−1/2), P(2) = P(0)."""
    p = _law(0.0, 0.0, 3).log_prob(torch.arange(3)).exp()
    edge = torch.sigmoid(torch.tensor(-0.5, dtype=torch.float64))
    torch.testing.assert_close(p, torch.stack([edge, 1 - 2 * edge, edge]))


def test_samples_have_the_probabilities() -> None:
    """Levels over a fine grid of u come in the proportions of `log_prob`, in order."""
    levels, n = 17, 200_000
    law = _law(-0.4, -1.5, levels)
    spread = DiscretisedLogistic(law.mean[:1].expand(n), law.log_scale[:1].expand(n), levels)
    drawn = spread.sample((torch.arange(n, dtype=torch.float64) + 0.5) / n).long()
    shares = torch.bincount(drawn, minlength=levels).double() / n
    torch.testing.assert_close(shares, law.log_prob(torch.arange(levels)).exp(), atol=1e-5, rtol=0)
    assert bool((drawn.diff() >= 0).all())


def test_uniform_of_zero_is_the_lowest_level() -> None:
    """u = 0 happens, once in 2²⁴ draws: its quantile is −∞, its level is 0."""
    assert _law(0.0, -2.0, 3).sample(torch.zeros(3)).tolist() == [0, 0, 0]
