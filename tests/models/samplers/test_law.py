"""Protects the stochastic samplers: the law of what they draw, in closed form for Gaussian data."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bench.data.mixture import anisotropic
from models.denoiser import Denoiser
from models.grids import grid
from models.paths import PATHS, path
from models.samplers import sampler
from models.samplers.interpolant import DIFFUSIONS
from tests.models.oracles import denoiser, isotropic, latents, normal_like


@pytest.mark.parametrize("name", sorted(PATHS))
def test_ddim_with_eta_one_is_ancestral_sampling(name: str) -> None:
    """Song et al. 2021, §4.1: given the same noise they are the same numbers, clipped or not."""
    oracle = isotropic(path(name), "epsilon")
    times = grid("shared", oracle.path, 20)
    x = latents(16, 4, oracle.path.sigma(times[0]))
    for clip in (False, True):
        chain = denoiser(oracle)
        chain = type(chain)(oracle, oracle.path, "epsilon", clip=clip)
        a = sampler("ddpm", 20)(chain, x, times, noise=normal_like(7))
        b = sampler("ddim", 20, eta=1.0)(chain, x, times, noise=normal_like(7))
        assert torch.allclose(a, b, atol=1e-9)


@pytest.mark.parametrize("name", sorted(PATHS))
def test_large_variance_is_exact_for_unit_gaussian_data_at_any_number_of_steps(name: str) -> None:
    """Every state but the last, which adds no noise, has the variance α² + σ² of the path."""
    oracle = isotropic(path(name), mean=0.0, variance=1.0)
    times, seen = grid("shared", oracle.path, 4), []
    p = oracle.path
    start = latents(20_000, 4, (p.alpha(times[0]) ** 2 + p.sigma(times[0]) ** 2) ** 0.5)
    sampler("ddpm", 4, variance="large")(
        denoiser(oracle), start, times, noise=normal_like(1), callback=lambda i, t, x: seen.append((t, x))
    )
    for t, x in seen[:-1]:
        assert float(x.var()) == pytest.approx(p.alpha(t) ** 2 + p.sigma(t) ** 2, rel=0.02)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_many_steps_give_the_data(variance: str) -> None:
    """Both variances meet the data's law when steps are fine."""
    oracle = isotropic(path("cosine"))
    times = grid("uniform", oracle.path, 200)
    x = latents(4000, 4, oracle.path.sigma(times[0]))
    found = sampler("ddpm", 200, "uniform", variance=variance)(
        denoiser(oracle), x, times, noise=normal_like(2)
    )
    assert float(found.mean()) == pytest.approx(0.3, abs=0.01)
    assert float(found.std()) == pytest.approx(0.5, abs=0.015)


def test_small_variance_is_narrow_when_steps_are_few() -> None:
    """A known property: with 3 steps the posterior's variance loses spread, the larger one less."""
    oracle = isotropic(path("cosine"), variance=1.0, mean=0.0)
    times, spread = grid("uniform", oracle.path, 3), {}
    x = latents(8000, 4, oracle.path.sigma(times[0]))
    for variance in ("small", "large"):
        found = sampler("ddpm", 3, "uniform", variance=variance)(
            denoiser(oracle), x, times, noise=normal_like(2)
        )
        spread[variance] = float(found.std())
    assert spread["small"] < spread["large"] < 1.0


STOCHASTIC: list[tuple[str, dict[str, Any]]] = [
    ("ddpm", {}),
    ("ddpm", {"variance": "large"}),
    ("ddim", {"eta": 0.5}),
    ("euler-ancestral", {}),
    ("dpmpp-2m-sde", {}),
    ("dpmpp-2m-sde", {"solver": "heun", "eta": 0.5}),
    ("edm", {"churn": 40.0}),
    ("edm", {"churn": 40.0, "churn_min": 0.1, "churn_max": 20.0, "churn_noise": 1.0}),
    *(("sde-euler", {"diffusion": diffusion}) for diffusion in DIFFUSIONS),
    ("sde-euler", {"diffusion": "constant", "scale": 0.3}),
    ("sde-heun", {}),
    ("sde-heun", {"diffusion": "sbdm"}),
]


def _standard_errors(name: str, options: dict[str, Any], n: int, steps: int) -> tuple[float, float]:
    """How far mean and covariance of n samples are from those of the mixture, in standard errors, at most.

    The states at the start have the exact law, so that what is wrong is the sampler.
    """
    mixture, p, source = anisotropic(), path("cosine"), torch.Generator().manual_seed(0)
    times = grid("shared", p, steps)
    x_0 = mixture.sample(n, source).view(n, 1, 1, -1).float()
    x_T = p.alpha(times[0]) * x_0[torch.randperm(n, generator=source)]
    x_T = x_T + p.sigma(times[0]) * torch.randn(x_T.shape, generator=source)
    chain = Denoiser(mixture.network(p, "v"), p, "v")

    def noise(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=source)

    found = sampler(name, steps, **options)(chain, x_T, times, noise=noise).double().view(n, -1)
    centred = found - found.mean(0)
    products = centred[:, :, None] * centred[:, None, :]
    mean = (found.mean(0) - mixture.mean()).abs() / (found.std(0) / n**0.5)
    covariance = (products.mean(0) - mixture.covariance()).abs() / (products.std(0) / n**0.5)
    return float(mean.max()), float(covariance.max())


@pytest.mark.parametrize(("name", "options"), STOCHASTIC)
def test_moments_of_the_samples_are_those_of_the_data(name: str, options: dict[str, Any]) -> None:
    """The short form of the next: 4 000 samples, 200 steps."""
    mean, covariance = _standard_errors(name, options, 4_000, 200)
    assert max(mean, covariance) < 4.0


@pytest.mark.campaign
@pytest.mark.parametrize(("name", "options"), STOCHASTIC)
def test_moments_of_a_hundred_thousand_samples(name: str, options: dict[str, Any]) -> None:
    """Within 4 standard errors, 0.3 % of a deviation; first-order methods need steps as fine for that."""
    fine = name in ("ddpm", "ddim", "euler-ancestral") or name == "sde-euler"
    mean, covariance = _standard_errors(name, options, 100_000, 1000 if fine else 400)
    print(f"{name} {options}: mean {mean:.2f}, covariance {covariance:.2f} standard errors")
    assert max(mean, covariance) < 4.0
