"""Protects the variational bound: closed forms for Gaussian data, and that it bounds.

The bound of Gaussian data under an exact predictor is a mean of quadratics in (x_0, ε), so the four
combinations of x_0 = m ± s and ε = ±1 give its expectation exactly, without sampling.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from models.denoiser import Denoiser
from models.grids import grid
from models.learned_variance import interpolated
from models.likelihood.discretised_gaussian import discretised_gaussian_nats
from models.likelihood.variational_bound import (
    Bound,
    prior_nats,
    reverse_variances,
    squared_error_moments,
    step_nats,
    variational_bound,
)
from models.paths import PATHS, GaussianPath, LinearVPPath, path
from models.posterior import posterior
from tests.models.oracles import MEAN, VARIANCE, denoiser, isotropic, normal_like

ENTROPY = 0.5 * math.log(2 * math.pi * math.e * VARIANCE)
NODES = torch.tensor(list(itertools.product((-1.0, 1.0), (-1.0, 1.0))), dtype=torch.float64)
X_0 = (MEAN + math.sqrt(VARIANCE) * NODES[:, 0]).view(4, 1, 1, 1)


def _epsilon(x: Tensor) -> Tensor:
    return NODES[:, 1].view(4, 1, 1, 1)


def _continuous(mean: Tensor, variance: Tensor) -> Tensor:
    """A decoder with a density instead of levels: −ln N(x_0; mean, variance)."""
    return 0.5 * ((X_0 - mean).square() / variance + (2 * math.pi * variance).log())


def _bound(chain: Denoiser, times: tuple[float, ...], variances: list[Tensor]) -> Bound:
    return variational_bound(chain, X_0, times, variances, _continuous, _epsilon)


class _DiscreteBetas(LinearVPPath):
    """The discrete schedule of T linear betas, seen at its own times i/T."""

    def __init__(self, betas: Tensor) -> None:
        super().__init__()
        object.__setattr__(self, "cumulative", [1.0, *(1 - betas).cumprod(0).tolist()])

    def _integral(self, t: float) -> float:  # type: ignore[override]
        table = self.cumulative  # type: ignore[attr-defined]
        return -math.log(table[round(float(torch.as_tensor(t).flatten()[0]) * (len(table) - 1))])


@pytest.mark.parametrize(
    ("high", "steps", "large", "small", "optimal"),
    [(0.02, 1000, 0.840463, 1.295719, 0.725793), (0.02, 100, 0.790756, 2.145373, 0.765005)],
)
def test_bound_of_the_classic_schedule_in_closed_form(
    high: float, steps: int, large: float, small: float, optimal: float
) -> None:
    """DDPM with exact predictor on N(0.3, 0.25): nats known to six digits for each choice of variance.

    There the prior is N(0, 1) and the first step's variance is that of the second posterior for both fixed
    choices. At 100 steps the prior alone is 0.106 nats, so a dropped part shows.
    """
    schedule = _DiscreteBetas(torch.linspace(1e-4, high, steps, dtype=torch.float64))
    chain = denoiser(isotropic(schedule, "epsilon", dims=1))
    times = tuple(i / steps for i in range(steps, -1, -1))
    shift = _unit_prior_correction(schedule)
    for kind, wanted in (("large", large), ("small", small), ("optimal", optimal)):
        moments = squared_error_moments(chain, X_0, times, _epsilon) if kind == "optimal" else None
        variances = reverse_variances(schedule, times, kind, moments)  # type: ignore[arg-type]
        if kind == "large":
            variances[-1] = torch.tensor(posterior(schedule, 2 / steps, 1 / steps).small).double()
        found = _bound(chain, times, variances)
        assert float(found.total.mean()) + shift == pytest.approx(wanted, abs=2e-6)


def _unit_prior_correction(schedule: GaussianPath) -> float:
    """KL to N(0, 1) minus KL to N(0, σ_T²), averaged over the data."""
    variance = schedule.sigma(1.0) ** 2
    to_unit = 0.5 * (variance + schedule.alpha(1.0) ** 2 * (MEAN**2 + VARIANCE) - 1 - math.log(variance))
    return to_unit - float(prior_nats(schedule, 1.0, X_0).mean())


@pytest.mark.parametrize("name", sorted(PATHS))
@pytest.mark.parametrize("kind", ["small", "large", "optimal"])
def test_gap_to_the_entropy_is_a_sum_of_variance_mismatches(name: str, kind: str) -> None:
    """bound − H = KL(q(x_T) ‖ prior) + Σ g(v/σ²), g(r) = (r − 1 − ln r)/2, v the true reverse variance."""
    chain = denoiser(isotropic(path(name), dims=1))
    p, times = chain.path, grid("shared", path(name), 50)
    moments = squared_error_moments(chain, X_0, times, _epsilon) if kind == "optimal" else None
    variances = reverse_variances(p, times, kind, moments)  # type: ignore[arg-type]
    marginal = [p.alpha(t) ** 2 * VARIANCE + p.sigma(t) ** 2 for t in times]
    ratio = marginal[0] / p.sigma(times[0]) ** 2
    mean = (p.alpha(times[0]) * MEAN / p.sigma(times[0])) ** 2
    gap = 0.5 * (ratio - 1 - math.log(ratio) + mean)
    for i, (t, s) in enumerate(itertools.pairwise(times)):
        covariance = p.alpha(t) / p.alpha(s) * marginal[i + 1]
        r = (marginal[i + 1] - covariance**2 / marginal[i]) / float(variances[i])
        gap += 0.5 * (r - 1 - math.log(r))
    assert float(_bound(chain, times, variances).total.mean()) - ENTROPY == pytest.approx(gap, abs=1e-9)


class _Says(nn.Module):
    """An oracle that also says where the reverse variance lies between small and large."""

    def __init__(self, oracle: nn.Module, extra: float) -> None:
        super().__init__()
        self.oracle, self.extra = oracle, extra

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([self.oracle(x, t), torch.full_like(x, self.extra)], 1)


@pytest.mark.parametrize(("extra", "kind"), [(-1.0, "small"), (1.0, "large")])
def test_learned_variances_reach_small_and_large(extra: float, kind: str) -> None:
    """v = (extra + 1)/2 at its ends gives the bounds of the fixed variances, the decoder's included."""
    oracle = isotropic(path("cosine"), dims=1)
    times = grid("shared", oracle.path, 12)
    chain = Denoiser(_Says(oracle, extra), oracle.path, oracle.kind)
    learned = _bound(chain, times, reverse_variances(oracle.path, times, "learned"))
    fixed = _bound(denoiser(oracle), times, reverse_variances(oracle.path, times, kind))  # type: ignore[arg-type]
    assert torch.allclose(learned.total, fixed.total, rtol=1e-12)


@pytest.mark.parametrize("v", [0.0, 0.3, 0.5, 1.0, 1.2])
def test_learned_variance_is_the_geometric_mean(v: float) -> None:
    """Nichol & Dhariwal 2021, eq. 15: exp(v ln large + (1 − v) ln small), half way where 0 is said."""
    extra = torch.full((2, 1, 1, 1), 2 * v - 1, dtype=torch.float64)
    wanted = 0.5**v * 0.02 ** (1 - v)
    assert interpolated(extra, 0.02, 0.5).flatten().tolist() == pytest.approx([wanted] * 2)
    small, large = torch.tensor(0.02).double(), torch.tensor(0.5).double()
    assert interpolated(extra, small, large).flatten().tolist() == pytest.approx([wanted] * 2)


def test_optimal_variances_cannot_be_improved_and_are_exact_for_gaussian_data() -> None:
    """The gap is left to the prior alone; scaling the variances either way loosens the bound."""
    chain = denoiser(isotropic(path("cosine"), dims=1))
    times = grid("shared", chain.path, 20)
    best = reverse_variances(chain.path, times, "optimal", squared_error_moments(chain, X_0, times, _epsilon))
    totals = {f: float(_bound(chain, times, [f * v for v in best]).total.mean()) for f in (0.8, 1.0, 1.25)}
    assert totals[1.0] < min(totals[0.8], totals[1.25])
    assert totals[1.0] - ENTROPY < 1e-4


def test_step_is_the_divergence_of_two_gaussians() -> None:
    """Against torch.distributions."""
    p, t, s, variance = path("linear-vp"), 0.5, 0.4, 0.07
    c, x_0, guess, x_t = posterior(p, t, s), 0.8, 0.3, -0.2
    q = torch.distributions.Normal(c.of_x * x_t + c.of_x0 * x_0, c.small**0.5)
    r = torch.distributions.Normal(c.of_x * x_t + c.of_x0 * guess, variance**0.5)
    wanted = float(torch.distributions.kl_divergence(q, r))
    found = step_nats(p, t, s, torch.tensor((x_0 - guess) ** 2).double(), variance)
    assert float(found) == pytest.approx(wanted, rel=1e-5)


class _Coupled(nn.Module):
    """A small fixed network that mixes the two pixels: nothing about it is right."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.first, self.second = (torch.randn(shape, generator=generator) for shape in ((3, 8), (8, 2)))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        features = torch.cat([x.flatten(1), t[:, None]], dim=1)
        return (torch.tanh(features @ self.first) @ self.second).view(x.shape)


class _Uniform(nn.Module):
    """The exact prediction for independent pixels, each level equally likely."""

    def __init__(self, p: GaussianPath, levels: int) -> None:
        super().__init__()
        self.path, self.places = p, 2.0 * torch.arange(levels) / (levels - 1) - 1.0

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (f(t).view(-1, 1, 1, 1, 1) for f in (self.path.alpha, self.path.sigma))
        weights = (-0.5 * ((x[..., None] - alpha * self.places) / sigma).square()).softmax(-1)
        return (weights * self.places).sum(-1)


def _tiny_space(network: nn.Module, times: tuple[float, ...], kind: str) -> Bound:
    """The bound of all 16 images of 2 pixels with 4 levels, averaged over 512 draws of the noise."""
    levels, repeats = 4, 512
    chain = Denoiser(network, path("cosine"), "x0")
    images = torch.tensor(list(itertools.product(range(levels), repeat=2))).view(-1, 1, 1, 2)
    pixels = images.repeat(repeats, 1, 1, 1)
    x_0 = 2.0 * pixels / (levels - 1) - 1.0
    moments = squared_error_moments(chain, x_0, times, normal_like(0)) if kind == "optimal" else None
    variances = reverse_variances(chain.path, times, kind, moments)  # type: ignore[arg-type]
    found = variational_bound(chain, x_0, times, variances, _decoder(pixels, levels), normal_like(1))
    assert torch.equal(found.total, found.prior + found.diffusion + found.reconstruction)
    assert min(float(part.min()) for part in (found.prior, found.diffusion_TB, found.reconstruction)) >= 0
    means = [part.view(repeats, -1).mean(0) for part in (found.prior, found.diffusion, found.reconstruction)]
    return Bound(means[0], means[1][None], means[2])


@pytest.mark.parametrize("kind", ["small", "large", "optimal"])
def test_a_wrong_network_never_gets_more_than_all_probability(kind: str) -> None:
    """Σ exp(−bound) ≤ 1 over the whole image space, for a network that knows nothing."""
    found = _tiny_space(_Coupled(), grid("shared", path("cosine"), 12), kind)
    assert 0 < float((-found.total).exp().sum()) <= 1.0


def test_an_exact_network_gets_nearly_all_probability_and_no_part_may_be_missing() -> None:
    """The sum is within a fifth of 1, so that without the decoder's or the chain's part it exceeds 1."""
    times = (*grid("shared", path("cosine"), 200)[:150], 0.0)
    found = _tiny_space(_Uniform(path("cosine"), 4), times, "optimal")
    assert 0.8 < float((-found.total).exp().sum()) <= 1.0
    assert float((found.reconstruction - found.total).exp().sum()) > 1.0
    assert float((found.diffusion - found.total).exp().sum()) > 1.0


def _decoder(pixels: Tensor, levels: int) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda mean, variance: discretised_gaussian_nats(pixels, mean, variance, levels)


def test_a_chain_that_knows_one_image_nearly_reaches_certainty() -> None:
    """A network that always says the same image gives it probability near 1, so the sum is tight too."""

    class _Certain(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.full_like(x, -1.0 / 3.0)

    levels, times = 4, grid("shared", path("cosine"), 12)
    chain = Denoiser(_Certain(), path("cosine"), "x0")
    pixels = torch.full((8, 1, 1, 2), 1)
    x_0 = 2.0 * pixels / (levels - 1) - 1.0
    variances = reverse_variances(chain.path, times, "small")
    found = variational_bound(chain, x_0, times, variances, _decoder(pixels, levels), normal_like(1))
    assert float(found.total.max()) < 1e-3


def test_bad_requests_get_one_sentence() -> None:
    p = path("cosine")
    times = grid("shared", p, 3)
    with pytest.raises(ValueError, match="calibrate first"):
        reverse_variances(p, times, "optimal")
    with pytest.raises(ValueError, match="small, large, optimal, learned, and not 'middle'"):
        reverse_variances(p, times, "middle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="learned no variance"):
        _bound(denoiser(isotropic(p, dims=1)), times, reverse_variances(p, times, "learned"))
    with pytest.raises(ValueError, match="needs as many variances"):
        _bound(denoiser(isotropic(p, dims=1)), times, reverse_variances(p, times, "small")[:2])
