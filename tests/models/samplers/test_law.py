"""Protects the stochastic samplers: the law of what they draw, in closed form for Gaussian data."""

from __future__ import annotations

import pytest
import torch

from models.grids import grid
from models.paths import PATHS, path
from models.samplers import sampler
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
