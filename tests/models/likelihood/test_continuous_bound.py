"""Protects the continuous-time bound: closed forms of each part, and that the course of γ does not matter."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from models.likelihood.continuous_bound import diffusion_nats, mixed, prior_nats, reconstruction_nats
from tests.models.oracles import normal_like

MEAN, VARIANCE, START, END = 0.3, 0.25, -6.0, 8.0

Course = Callable[[Tensor], Tensor]

COURSES: dict[str, Course] = {
    "straight": lambda u: START + (END - START) * u,
    "bent": lambda u: START + (END - START) * (0.3 * u + 0.7 * u**3),
    "steep": lambda u: START + (END - START) * (u + 0.9 * torch.sin(2 * math.pi * u) / (2 * math.pi)),
}


def _diffusion(course: Course, nodes: int = 2000) -> float:
    """½∫γ'E‖ε − ε̂‖² of Gaussian data under the exact predictor, midpoint rule over u.

    The error is linear in (x_0, ε), so x_0 = m ± s and ε = ±1 give its mean square without sampling.
    """
    u = ((torch.arange(nodes, dtype=torch.float64) + 0.5) / nodes).requires_grad_()
    gamma = course(u)
    (slope,) = torch.autograd.grad(gamma.sum(), u)
    gamma, total = gamma.detach(), 0.0
    for x_sign in (-1.0, 1.0):
        for e_sign in (-1.0, 1.0):
            x = torch.full((nodes, 1), MEAN + x_sign * math.sqrt(VARIANCE), dtype=torch.float64)
            epsilon = torch.full_like(x, e_sign)
            z, alpha = mixed(x, gamma, epsilon), (-gamma).sigmoid().sqrt()[:, None]
            noise = gamma.sigmoid()[:, None]
            epsilon_hat = noise.sqrt() * (z - alpha * MEAN) / (alpha**2 * VARIANCE + noise)
            total += float(diffusion_nats(epsilon - epsilon_hat, slope).mean()) / 4
    return total


@pytest.mark.parametrize("course", sorted(COURSES))
def test_diffusion_of_gaussian_data_depends_on_the_ends_alone(course: str) -> None:
    """½ ln[(1 + s²e^{−γ_0})/(1 + s²e^{−γ_1})] for every course of γ between them."""
    wanted = 0.5 * math.log((1 + VARIANCE * math.exp(-START)) / (1 + VARIANCE * math.exp(-END)))
    assert _diffusion(COURSES[course]) == pytest.approx(wanted, rel=1e-5)


def test_parts_add_up_to_the_entropy_of_gaussian_data() -> None:
    """With a density N(x; z_0/α_0, e^{γ_0}) as decoder, bound − H is what the ends cost: KL(q(z_1)‖N) + the
    gap of that decoder, which ignores the data's law: ½ ln(1 + e^{γ_0}/s²) less ½ e^{γ_0}/(s² + e^{γ_0}) …

    In closed form: prior + diffusion + ½(1 + ln 2πe^{γ_0}) − H.
    """
    data = MEAN + math.sqrt(VARIANCE) * torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    prior = float(prior_nats(data, torch.tensor(END)).mean())
    bound = prior + _diffusion(COURSES["straight"]) + 0.5 * (1 + math.log(2 * math.pi) + START)
    entropy = 0.5 * math.log(2 * math.pi * math.e * VARIANCE)
    decoder_gap = 0.5 * math.log1p(math.exp(START) / VARIANCE)
    left = 1 / (1 + math.exp(END))
    mixed_prior = 0.5 * (left * (VARIANCE + MEAN**2 - 1) - math.log1p(left * (VARIANCE - 1)))
    assert bound - entropy == pytest.approx(decoder_gap + mixed_prior, abs=1e-5)


@pytest.mark.parametrize("gamma", [-2.0, 0.0, 5.0])
def test_prior_is_the_divergence_of_two_gaussians(gamma: float) -> None:
    """Against torch.distributions."""
    x = torch.tensor([[0.4, -0.9]], dtype=torch.float64)
    alpha, sigma = (1 / (1 + math.exp(gamma))) ** 0.5, (1 / (1 + math.exp(-gamma))) ** 0.5
    q = torch.distributions.Normal(alpha * x, sigma)
    p = torch.distributions.Normal(torch.zeros_like(x), 1.0)
    wanted = torch.distributions.kl_divergence(q, p).sum(1)
    assert torch.allclose(prior_nats(x, torch.tensor(gamma).double()), wanted, rtol=1e-10)


def test_decoder_is_normalised_and_is_bayes_rule_for_equal_levels() -> None:
    """Over all levels the probabilities add up to one, in proportion to N(z_0; α x_k, σ²)."""
    levels, gamma = 5, torch.tensor(-2.0)
    z = torch.tensor([0.1, -3.0, 0.9], dtype=torch.float64).view(3, 1).expand(3, levels).reshape(-1, 1)
    pixels = torch.arange(levels).repeat(3).view(-1, 1)
    found = (-reconstruction_nats(pixels, z, gamma, levels)).exp().view(3, levels)
    assert torch.allclose(found.sum(1), torch.ones(3, dtype=torch.float64), atol=1e-12)
    alpha, sigma = (-gamma).sigmoid().sqrt().double(), gamma.sigmoid().sqrt().double()
    places = 2 * torch.arange(levels) / (levels - 1) - 1.0
    likelihood = torch.distributions.Normal(alpha * places, sigma).log_prob(z.view(3, levels)).exp()
    assert torch.allclose(found, likelihood / likelihood.sum(1, keepdim=True), rtol=1e-5)


def test_decoder_is_certain_where_the_noise_is_finer_than_the_levels() -> None:
    """256 levels at γ_0 = −13.3, the published end: 0.01 bits a dimension; at −9 the levels overlap."""
    pixels = torch.randint(0, 256, (64, 256), generator=torch.Generator().manual_seed(0))
    x = 2.0 * pixels.double() / 255 - 1.0
    bits = {}
    for gamma in (-13.3, -9.0):
        z = mixed(x, torch.tensor(gamma).double(), normal_like(1)(x))
        bits[gamma] = (
            float(reconstruction_nats(pixels, z, torch.tensor(gamma), 256).mean()) / 256 / math.log(2)
        )
    assert bits[-13.3] < 0.02
    assert bits[-9.0] > 1.0
