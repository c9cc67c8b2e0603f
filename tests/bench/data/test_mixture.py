"""Protects the ground truth of the certificates: posterior, density, moments and flow of the mixture."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from bench.data.mixture import GaussianMixture, anisotropic
from models.denoiser import PREDICTIONS, Denoiser
from models.grids import grid
from models.paths import PATHS, path
from models.samplers import sampler
from tests.models.oracles import GaussianOracle, latents, normal_like

MIXTURE = anisotropic()


def _one_dimensional() -> GaussianMixture:
    weights = torch.tensor([0.7, 0.3], dtype=torch.float64)
    means = torch.tensor([[-0.4], [0.8]], dtype=torch.float64)
    return GaussianMixture(weights, means, torch.tensor([[[0.04]], [[0.09]]], dtype=torch.float64))


def _three_dimensional() -> GaussianMixture:
    generator = torch.Generator().manual_seed(1)
    root = 0.3 * torch.randn(3, 3, 3, generator=generator, dtype=torch.float64)
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    eye = 0.01 * torch.eye(3, dtype=torch.float64)
    return GaussianMixture(weights, torch.randn(3, 3, generator=generator), root @ root.mT + eye)


def _plane(width: float, points: int) -> tuple[Tensor, float]:
    """Points of a square lattice (n, 2) and the area of each."""
    line = torch.linspace(-width, width, points, dtype=torch.float64)
    return torch.cartesian_prod(line, line), float(line[1] - line[0]) ** 2


def _normal(mixture: GaussianMixture, x: Tensor) -> Tensor:
    """Density of the mixture by the definition, (n,)."""
    total = torch.zeros(len(x), dtype=torch.float64)
    for w, m, c in zip(mixture.weights, mixture.means, mixture.covariances, strict=True):
        total += w * torch.distributions.MultivariateNormal(m, c).log_prob(x).exp()
    return total


def test_density_is_that_of_the_definition_and_sums_to_one() -> None:
    x, area = _plane(3.0, 400)
    density = MIXTURE.log_density(x).exp()
    assert torch.allclose(density, _normal(MIXTURE, x), rtol=1e-10, atol=1e-14)
    assert float(density.sum()) * area == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("mixture", [_one_dimensional(), MIXTURE, _three_dimensional()])
def test_moments_are_those_of_the_samples(mixture: GaussianMixture) -> None:
    n = 200_000
    x = mixture.sample(n, torch.Generator().manual_seed(0)).flatten(1)
    centred = x - mixture.mean()
    error = centred.std(0) / math.sqrt(n)
    assert bool((centred.mean(0).abs() < 4 * error).all())
    products = centred.unsqueeze(2) * centred.unsqueeze(1)
    error = products.std(0) / math.sqrt(n)
    assert bool(((products.mean(0) - mixture.covariance()).abs() < 4 * error).all())


def test_moments_are_those_of_the_density() -> None:
    x, area = _plane(3.5, 500)
    mass = MIXTURE.log_density(x).exp() * area
    assert torch.allclose(mass @ x, MIXTURE.mean(), atol=1e-9)
    centred = x - MIXTURE.mean()
    assert torch.allclose(centred.T @ (mass.unsqueeze(1) * centred), MIXTURE.covariance(), atol=1e-9)


@pytest.mark.parametrize("log_snr", [-6.0, -2.0, 0.0, 2.0, 5.0])
def test_posterior_is_bayes_rule_by_quadrature(log_snr: float) -> None:
    """E[x_0 | x_t] ∝ ∫ x_0 p(x_0) N(x_t; α x_0, σ²), on a lattice fine enough for double precision."""
    p = path("cosine")
    t = p.t_of_log_snr(log_snr)
    alpha, sigma = p.alpha(t), p.sigma(t)
    x_0, _ = _plane(3.0, 500)
    prior = _normal(MIXTURE, x_0)
    x_t = torch.tensor([[0.3, -0.2], [-0.9, 0.4], [1.2, 0.7]], dtype=torch.float64)
    said = {kind: MIXTURE.network(p, kind)(x_t, torch.full((3,), t)) for kind in ("x0", "epsilon")}
    for row, x0, epsilon in zip(x_t, said["x0"], said["epsilon"], strict=True):
        mass = prior * (-0.5 * ((row - alpha * x_0) / sigma).square().sum(1)).exp()
        wanted = mass @ x_0 / mass.sum()
        assert torch.allclose(x0, wanted, atol=1e-8)
        assert torch.allclose(epsilon, (row - alpha * wanted) / sigma, atol=1e-6)


def test_posterior_is_what_a_regression_on_samples_finds() -> None:
    """Monte Carlo: among draws whose x_t fell near a point, the mean of x_0 is the network's answer."""
    p, n = path("rectified-flow"), 400_000
    x_0 = MIXTURE.sample(n, torch.Generator().manual_seed(2)).flatten(1)
    x_t = p.alpha(0.5) * x_0 + p.sigma(0.5) * normal_like(3)(x_0)
    near = (x_t - torch.tensor([0.2, 0.1])).norm(dim=1) < 0.05
    predicted = MIXTURE.network(p, "x0")(x_t[near], torch.full((int(near.sum()),), 0.5))
    gap = x_0[near] - predicted
    assert bool((gap.mean(0).abs() < 4 * gap.std(0) / math.sqrt(len(gap))).all())


@pytest.mark.parametrize("name", sorted(PATHS))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_all_predictions_say_the_same(name: str, dtype: torch.dtype) -> None:
    """Each seen through the denoiser, over all noise that grids visit, in double and in single precision."""
    p, tolerance = path(name), 1e-7 if dtype == torch.float64 else 2e-3
    for log_snr in (-10.0, -3.0, 0.0, 4.0, 10.0, 14.0):
        t = p.t_of_log_snr(log_snr)
        x_t = p.alpha(t) * MIXTURE.sample(64, torch.Generator().manual_seed(0))
        x_t = (x_t + p.sigma(t) * normal_like(1)(x_t)).to(dtype)
        views = [Denoiser(MIXTURE.network(p, kind), p, kind)(x_t, t) for kind in PREDICTIONS]
        score = MIXTURE.network(p, "epsilon").double()(x_t.double(), torch.full((64,), t).double())
        assert torch.allclose(views[0].epsilon.double(), score, atol=tolerance, rtol=tolerance)
        for view in views[1:]:
            # α x_0 + σ ε = x_t leaves to each view what the other's rounding is worth at this noise.
            assert torch.allclose(view.x0 * p.alpha(t), views[1].x0 * p.alpha(t), atol=tolerance)
            assert torch.allclose(view.epsilon * p.sigma(t), views[0].epsilon * p.sigma(t), atol=tolerance)


@pytest.mark.parametrize("name", sorted(PATHS))
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_single_precision_is_double_precision_rounded(name: str, prediction: str) -> None:
    """From log-SNR −10 to +14, far tails included: no overflow, no cancellation."""
    p = path(name)
    network = MIXTURE.network(p, prediction)
    for log_snr in (-10.0, -5.0, 0.0, 5.0, 10.0, 14.0):
        t = torch.full((256,), p.t_of_log_snr(log_snr), dtype=torch.float32)
        spread = float(p.alpha(t.double()[:1]) + p.sigma(t.double()[:1]))
        x = (2.0 * spread * normal_like(0)(torch.empty(256, 1, 1, 2, dtype=torch.float64))).float()
        single, double = network(x, t), network(x.double(), t.double())
        assert single.dtype == torch.float32
        assert single.shape == x.shape
        scale = 1.0 + double.abs()
        assert float(((single.double() - double) / scale).abs().max()) < 2e-3


def test_at_time_zero_the_data_are_known_and_the_noise_is_not() -> None:
    x, zero = MIXTURE.sample(8, torch.Generator().manual_seed(0)), torch.zeros(8, dtype=torch.float64)
    for name in PATHS:
        assert torch.allclose(MIXTURE.network(path(name), "x0")(x, zero), x, atol=1e-12)
        assert not MIXTURE.network(path(name), "epsilon")(x, zero).any()
    assert torch.allclose(MIXTURE.network(path("rectified-flow"), "velocity")(x, zero), -x, atol=1e-12)


def test_each_image_may_have_its_own_time_and_does_not_see_the_others() -> None:
    p = path("linear-vp")
    network, x = MIXTURE.network(p, "v"), latents(5, 2, 1.0)
    t = torch.tensor([0.01, 0.3, 0.5, 0.9, 0.99], dtype=torch.float64)
    together = network(x, t)
    for i in range(5):
        assert torch.allclose(together[i : i + 1], network(x[i : i + 1], t[i : i + 1]), atol=1e-12)


def test_score_is_the_gradient_of_the_log_density() -> None:
    p, t = path("cosine"), 0.4
    x = latents(16, 2, 1.0).requires_grad_()
    (gradient,) = torch.autograd.grad(MIXTURE.log_density(x, p, t).sum(), x)
    score = Denoiser(MIXTURE.network(p, "v"), p, "v")(x.detach(), t).score
    assert torch.allclose(score, gradient, atol=1e-10)


def _single(name: str) -> tuple[GaussianMixture, GaussianOracle]:
    mean, root = torch.tensor([0.5, -0.2], dtype=torch.float64), torch.tensor([[0.4, 0.1], [0.0, 0.2]])
    covariance = (root @ root.T).double()
    one = GaussianMixture(torch.ones(1), mean.unsqueeze(0), covariance.unsqueeze(0))
    return one, GaussianOracle(path(name), "v", mean, covariance)


@pytest.mark.parametrize("name", sorted(PATHS))
def test_one_component_is_the_gaussian_in_closed_form(name: str) -> None:
    one, oracle = _single(name)
    p = path(name)
    t = grid("shared", p, 1)[0]
    x = latents(16, 2, p.sigma(t))
    assert torch.allclose(one.network(p, "v")(x, torch.full((16,), t)), oracle(x, torch.full((16,), t)))
    assert torch.allclose(one.flow(x, p, t), oracle.flow(x, t, 0.0), atol=1e-9)
    half = p.t_of_log_snr(0.0)
    assert torch.allclose(one.flow(x, p, t, half), oracle.flow(x, t, half), atol=1e-9)


@pytest.mark.parametrize("name", ["cosine", "edm", "rectified-flow"])
def test_flow_is_accurate_for_every_image(name: str) -> None:
    """Two tolerances agree, images alone and in a batch end alike, and the way back leads back."""
    p = path(name)
    t = grid("shared", p, 1)[0]
    x = latents(64, 2, p.sigma(t))
    ends = MIXTURE.flow(x, p, t)
    assert float((MIXTURE.flow(x, p, t, tolerance=1e-9) - ends).abs().max()) < 1e-8
    assert float((MIXTURE.flow(x[:3], p, t) - ends[:3]).abs().max()) < 1e-9
    back = MIXTURE.flow(ends, p, 0.0, t)
    assert float((back - x).abs().max()) < 1e-6 * p.sigma(t)


def test_flow_follows_the_velocity() -> None:
    """(x(t + h) − x(t − h))/2h is the network's velocity, an ODE that no solver of ours made."""
    p, t, h = path("cosine"), 0.5, 1e-4
    x = latents(32, 2, 0.8)
    slope = (MIXTURE.flow(x, p, t, t + h) - MIXTURE.flow(x, p, t, t - h)) / (2 * h)
    velocity = MIXTURE.network(p, "velocity")(x, torch.full((32,), t, dtype=torch.float64))
    assert torch.allclose(slope, velocity, atol=1e-6)


def test_flow_carries_the_prior_to_the_data() -> None:
    """Mean and covariance of the end points are those of the mixture."""
    p, n = path("rectified-flow"), 4000
    t = grid("shared", p, 1)[0]
    ends = MIXTURE.flow(latents(n, 2, p.sigma(t)), p, t, tolerance=1e-7).flatten(1)
    centred = ends - MIXTURE.mean()
    assert bool((centred.mean(0).abs() < 4 * centred.std(0) / math.sqrt(n)).all())
    products = centred.unsqueeze(2) * centred.unsqueeze(1)
    off = (products.mean(0) - MIXTURE.covariance()).abs()
    assert bool((off < 4 * products.std(0) / math.sqrt(n)).all())


def test_the_same_noise_flows_to_the_same_point_on_every_path() -> None:
    ends = []
    for name in sorted(PATHS):
        p = path(name)
        t = p.t_of_log_snr(-9.0)
        ends.append(MIXTURE.flow(p.alpha(t) * latents(16, 2, math.exp(4.5)), p, t))
    assert all(torch.allclose(a, b, atol=1e-8) for a, b in itertools.pairwise(ends))


def test_samplers_run_on_it_in_single_precision() -> None:
    """Near enough to double precision for comparisons at 1e-4."""
    p = path("rectified-flow")
    times = grid("shared", p, 40)
    x = latents(256, 2, p.sigma(times[0]))
    denoiser = Denoiser(MIXTURE.network(p, "v"), p, "v")
    double, single = (sampler("ddim", 40)(denoiser, x.to(d), times) for d in (torch.float64, torch.float32))
    assert single.shape == (256, 1, 1, 2)
    assert float((double - single).abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("weights", "means", "covariances", "message"),
    [
        ([0.5, 0.6], [[0.0], [1.0]], [[[1.0]], [[1.0]]], "add up to 1"),
        ([1.0], [[0.0, 0.0]], [[[1.0]]], "weights \\(K,\\)"),
        ([1.0], [[0.0, 0.0]], [[[1.0, 2.0], [2.0, 1.0]]], "positive definite"),
    ],
)
def test_what_is_no_mixture_is_refused(weights: list, means: list, covariances: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianMixture(*(torch.tensor(given) for given in (weights, means, covariances)))


def test_flow_needs_data_at_both_ends() -> None:
    with pytest.raises(ValueError, match="α > 0"):
        MIXTURE.flow(latents(2, 2, 1.0), path("rectified-flow"), 1.0)
