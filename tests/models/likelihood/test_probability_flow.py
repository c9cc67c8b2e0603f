"""Protects the density of the probability flow: closed forms for Gaussian data, and the errors of solvers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.denoiser import Denoiser
from models.likelihood.probability_flow import Flow, flow_log_density
from models.paths import path
from tests.models.oracles import MEAN, VARIANCE, GaussianOracle, denoiser, isotropic, latents

FINE = Flow("dopri5", 1e-7, 1e-7, divergence="exact")
ENTROPY = 0.5 * math.log(2 * math.pi * math.e * VARIANCE)


def _correlated() -> tuple[GaussianOracle, torch.distributions.MultivariateNormal]:
    """Four entries with off-diagonal covariance: only there Rademacher probes have any variance."""
    generator = torch.Generator().manual_seed(2)
    axes, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))
    covariance = axes @ torch.tensor([1.0, 0.5, 0.1, 0.02], dtype=torch.float64).diag() @ axes.T
    covariance = 0.5 * (covariance + covariance.T)
    mean = torch.tensor([0.5, -0.2, 0.1, 0.0], dtype=torch.float64)
    oracle = GaussianOracle(path("rectified-flow"), "velocity", mean, covariance)
    return oracle, torch.distributions.MultivariateNormal(mean, covariance)


def test_exact_divergence_gives_the_closed_form() -> None:
    oracle, law = _correlated()
    x = latents(16, 4, 0.7)
    found = flow_log_density(denoiser(oracle), x, FINE)
    assert torch.allclose(found, law.log_prob(x.flatten(1)), atol=1e-5)


def test_hutchinson_is_unbiased_and_averages_down_with_probes() -> None:
    """600 estimates of one image: their mean within four standard errors; 4 probes halve the deviation."""
    oracle, law = _correlated()
    x = latents(1, 4, 0.7)
    exact = float(law.log_prob(x.flatten(1)))
    spread = {}
    for probes in (1, 4):
        flow = Flow("dopri5", 1e-5, 1e-5, probes=probes)
        generator = torch.Generator().manual_seed(probes)
        found = flow_log_density(denoiser(oracle), x.expand(600, -1, -1, -1), flow, generator)
        spread[probes] = float(found.std())
        assert spread[probes] > 0.1
        assert abs(float(found.mean()) - exact) < 4 * spread[probes] / math.sqrt(600)
    assert spread[1] / spread[4] == pytest.approx(2.0, rel=0.2)


def test_gaussian_probes_agree_and_are_named_in_the_protocol() -> None:
    """Same mean as the closed form, within four standard errors of 600 estimates."""
    oracle, law = _correlated()
    x, flow = latents(1, 4, 0.7), Flow("rk4", steps=20, law="gaussian")
    found = flow_log_density(
        denoiser(oracle), x.expand(600, -1, -1, -1), flow, torch.Generator().manual_seed(0)
    )
    exact = float(law.log_prob(x.flatten(1)))
    assert abs(float(found.mean()) - exact) < 4 * float(found.std()) / math.sqrt(600)
    assert flow.protocol == "ode rk4 20 steps, gaussian×1"
    assert Flow().protocol == "ode dopri5 rtol=1e-05 atol=1e-05 per image, rademacher×1"


def test_rademacher_probes_are_exact_where_entries_are_independent() -> None:
    oracle = isotropic(path("rectified-flow"), "velocity")
    x = latents(8, 4, 0.7)
    found = flow_log_density(denoiser(oracle), x, Flow("dopri5", 1e-7, 1e-7))
    assert torch.allclose(found, flow_log_density(denoiser(oracle), x, FINE), atol=1e-5)


@pytest.mark.parametrize(
    ("solver", "steps", "error"),
    [
        ("euler", 8, -2.60e-2),
        ("euler", 256, -1.84e-3),
        ("midpoint", 4, -1.26e-2),
        ("midpoint", 64, -3.90e-5),
        ("heun", 4, -2.52e-2),
        ("heun", 64, -4.28e-5),
    ],
)
def test_coarse_solvers_flatter_by_the_known_amount(solver: str, steps: int, error: float) -> None:
    """E[−ln p̂] − H on N(0.3, 0.25): the two points m ± s give the mean of a quadratic exactly.

    Negative: an under-resolved flow claims fewer nats than the entropy. This is why the number is an
    estimate and its solver stands in the protocol.
    """
    oracle = isotropic(path("rectified-flow"), "velocity", dims=1)
    x = torch.tensor([MEAN - VARIANCE**0.5, MEAN + VARIANCE**0.5], dtype=torch.float64).view(2, 1, 1, 1)
    found = flow_log_density(denoiser(oracle), x, Flow(solver, steps=steps, divergence="exact"))
    assert -float(found.mean()) - ENTROPY == pytest.approx(error, rel=0.01)


def test_fourth_order_solver_has_order_four() -> None:
    oracle, law = _correlated()
    x = latents(16, 4, 0.7)
    errors = []
    for steps in (32, 64):
        found = flow_log_density(denoiser(oracle), x, Flow("rk4", steps=steps, divergence="exact"))
        errors.append(float((found - law.log_prob(x.flatten(1))).abs().mean()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4.0, abs=0.5)


def test_density_does_not_depend_on_the_prediction_type() -> None:
    """The flow is the path's, whatever the network says; here on the cosine path."""
    x = latents(8, 4, 0.7)
    found = [
        flow_log_density(denoiser(isotropic(path("cosine"), kind)), x, FINE) for kind in ("v", "velocity")
    ]
    law = torch.distributions.Normal(MEAN, VARIANCE**0.5)
    wanted = law.log_prob(x).flatten(1).sum(1)
    assert torch.allclose(found[0], found[1], atol=1e-5)
    assert torch.allclose(found[0], wanted, atol=1e-5)


def test_exact_divergence_works_on_images() -> None:
    """Three axes of pixels: the sum runs over all D of them."""
    oracle, _ = _correlated()
    flat = latents(3, 4, 0.7)
    image: Tensor = flat.view(3, 1, 2, 2)
    found = flow_log_density(denoiser(oracle), image, FINE)
    assert torch.allclose(found, flow_log_density(denoiser(oracle), flat, FINE), atol=1e-9)


def test_bad_requests_get_one_sentence() -> None:
    with pytest.raises(ValueError, match="Did you mean 'dopri5'"):
        Flow("dopri4")
    with pytest.raises(ValueError, match="takes steps"):
        Flow("euler")
    with pytest.raises(ValueError, match="not steps"):
        Flow("dopri5", steps=4)
    with pytest.raises(ValueError, match="hutchinson or exact"):
        Flow(divergence="hutchinsen")
    with pytest.raises(ValueError, match="one or more probes"):
        Flow(probes=0)
    with pytest.raises(ValueError, match="Unknown law of probes 'gaussion'"):
        Flow(law="gaussion")
    oracle = isotropic(path("cosine"))
    with pytest.raises(ValueError, match="clip=False"):
        flow_log_density(Denoiser(oracle, oracle.path, "v", clip=True), latents(1, 4, 1.0), FINE)
