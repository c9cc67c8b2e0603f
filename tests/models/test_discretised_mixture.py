"""The mixture of discretised logistics: a distribution over colours, and its conditionals are its own.

Shapes: N colours, M components, C channels, K levels.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.discretised_logistic import DiscretisedLogistic
from models.discretised_mixture import DiscretisedMixture, parameters

M = 4


def _mixture(
    channels: int, levels: int, scale: float = 2.0, dtype: torch.dtype = torch.float64
) -> DiscretisedMixture:
    generator = torch.Generator().manual_seed(channels * levels)
    raw = scale * torch.randn(parameters(M, channels), generator=generator, dtype=dtype)
    return DiscretisedMixture.of(raw, channels, levels)


def _colours(channels: int, levels: int) -> Tensor:
    """(K^C, C): every colour of one pixel."""
    return torch.cartesian_prod(*[torch.arange(levels)] * channels).view(-1, channels)


@pytest.mark.parametrize(("channels", "levels"), [(1, 2), (1, 256), (2, 5), (3, 4), (4, 2)])
@pytest.mark.parametrize("scale", [0.3, 2.0, 20.0])
def test_sums_to_one_over_every_colour(channels: int, levels: int, scale: float) -> None:
    """Telescoping edges and normalised weights: for wide, narrow and clamped scales, far means included."""
    log_p = _mixture(channels, levels, scale).log_prob(_colours(channels, levels)).sum(-1)
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("scale", [0.3, 20.0])
def test_sums_to_one_in_single_precision(scale: float) -> None:
    """What models are trained in: no small constant is added anywhere that would show."""
    log_p = _mixture(1, 256, scale, torch.float32).log_prob(_colours(1, 256)).sum(-1)
    assert float(log_p.double().exp().sum()) == pytest.approx(1, abs=2e-6)


def test_is_the_sum_over_components_of_products_over_channels() -> None:
    """Σ_m π_m Π_c P_m(k_c), written out for three channels with the means of PixelCNN++, equation 3."""
    mixture, colours = _mixture(3, 4), _colours(3, 4)
    total, x = torch.zeros(len(colours), dtype=torch.float64), colours.double() * (2 / 3) - 1
    for m in range(M):
        alpha, beta, gamma = mixture.coefficient[m].tolist()
        means = torch.stack(
            [
                mixture.mean[m, 0].expand(len(x)),
                mixture.mean[m, 1] + alpha * x[:, 0],
                mixture.mean[m, 2] + beta * x[:, 0] + gamma * x[:, 1],
            ],
            1,
        )
        each = DiscretisedLogistic(means, mixture.log_scale[m].expand_as(means), 4).log_prob(colours)
        total += mixture.log_weight[m].exp() * each.sum(1).exp()
    torch.testing.assert_close(mixture.log_prob(colours).sum(1).exp(), total, atol=1e-12, rtol=1e-10)


def test_conditionals_are_the_ratios_of_the_joint() -> None:
    """P(k_c | k_<c) = P(k_≤c)/P(k_<c), both summed out of the joint by brute force."""
    mixture, K = _mixture(3, 4), 4
    joint_KKK = mixture.log_prob(_colours(3, K)).sum(1).exp().view(K, K, K)
    first, second = joint_KKK.sum((1, 2)), joint_KKK.sum(2)
    torch.testing.assert_close(mixture.log_probs(torch.zeros(0, dtype=torch.int64)).exp(), first)
    for k in range(K):
        torch.testing.assert_close(mixture.log_probs(torch.tensor([k])).exp(), second[k] / first[k])
        given = mixture.log_probs(torch.tensor([k, 3 - k])).exp()
        torch.testing.assert_close(given, joint_KKK[k, 3 - k] / second[k, 3 - k])


def test_table_of_levels_agrees_with_single_levels_over_a_batch() -> None:
    """What sampling reads (`log_probs`) is what evaluation reads (`log_prob`), at every level and channel."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(5, 7, parameters(M, 3), generator=generator, dtype=torch.float64)
    mixture = DiscretisedMixture.of(raw, 3, 6)
    levels = torch.randint(6, (5, 7, 3), generator=generator)
    for c in range(3):
        table = mixture.log_probs(levels[..., :c])
        assert table.shape == (5, 7, 6)
        torch.testing.assert_close(table.exp().sum(-1), torch.ones(5, 7, dtype=torch.float64))
        picked = table.gather(-1, levels[..., c, None])[..., 0]
        torch.testing.assert_close(picked, mixture.log_prob(levels)[..., c])


def test_one_component_of_one_channel_is_a_discretised_logistic() -> None:
    raw, levels = torch.tensor([0.7, 0.2, -1.0], dtype=torch.float64), torch.arange(9)[:, None]
    law = DiscretisedLogistic(raw[1], raw[2], 9)
    mixture = DiscretisedMixture.of(raw, 1, 9)
    torch.testing.assert_close(mixture.log_prob(levels), law.log_prob(levels))


def test_channels_are_independent_without_coefficients_and_with_one_component() -> None:
    """The coefficients alone tie the channels of one component; the shared component ties the rest."""
    tied = _mixture(2, 5)
    zero = torch.zeros_like(tied.coefficient)
    free = DiscretisedMixture(tied.log_weight, tied.mean, tied.log_scale, zero, 5)
    single = DiscretisedMixture(
        torch.zeros(1, dtype=torch.float64), tied.mean[:1], tied.log_scale[:1], zero[:1], 5
    )

    def varies(mixture: DiscretisedMixture) -> bool:
        tables = torch.stack([mixture.log_probs(torch.tensor([k])) for k in range(5)])
        return bool((tables - tables[0]).abs().max() > 1e-9)

    assert varies(tied)
    assert varies(free)
    assert not varies(single)


def test_has_the_published_number_of_parameters() -> None:
    """100 for ten components of RGB, as in PixelCNN++; 3 a component for grey."""
    assert parameters(10, 3) == 100
    assert parameters(5, 1) == 15


@pytest.mark.parametrize("raw", [-1e4, 0.0, 1e4])
def test_extreme_parameters_give_finite_numbers_and_gradients(raw: float) -> None:
    """Early training: an unlucky step must not turn the loss into NaN."""
    parameters_P = torch.full((parameters(M, 3),), raw, requires_grad=True)
    log_p = DiscretisedMixture.of(parameters_P, 3, 256).log_prob(torch.tensor([0, 128, 255]))
    log_p.sum().backward()
    assert bool(log_p.isfinite().all())
    assert parameters_P.grad is not None
    assert bool(parameters_P.grad.isfinite().all())


def test_flat_law_at_large_scales() -> None:
    """The unit: many scales wide, the inner levels share what the open ends leave, evenly."""
    raw = torch.tensor([0.0, 0.0, 50.0], dtype=torch.float64)
    p = DiscretisedMixture.of(raw, 1, 17).log_probs(torch.zeros(0, dtype=torch.int64)).exp()
    assert float(p[1:-1].max() / p[1:-1].min()) == pytest.approx(1, abs=2e-3)
    # σ'(0)/s a unit of x: the bins are 2/16 wide, and s = e³ at the limit.
    assert float(p[8]) == pytest.approx(0.25 * 0.125 / math.exp(3), rel=1e-3)
