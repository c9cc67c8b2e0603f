"""Protects the integrators: order of convergence to the exact flow of Gaussian data, on every path."""

from __future__ import annotations

import math

import pytest
import torch

from models.grids import grid
from models.paths import PATHS, path
from models.samplers import sampler
from tests.models.oracles import GaussianOracle, denoiser, isotropic, latents


def _correlated(name: str) -> GaussianOracle:
    """Three entries with variances 1, 0.25, 0.04 along tilted axes."""
    axes, _ = torch.linalg.qr(
        torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    )
    spread = torch.tensor([1.0, 0.25, 0.04], dtype=torch.float64)
    mean = torch.tensor([0.5, -0.2, 0.1], dtype=torch.float64)
    return GaussianOracle(path(name), "v", mean, axes @ spread.diag() @ axes.T)


def _error(oracle: GaussianOracle, name: str, steps: int, grid_name: str) -> float:
    """Root mean square distance of a sampler's endpoint from the exact one."""
    times = grid(grid_name, oracle.path, steps)
    x = latents(64, 3, oracle.path.sigma(times[0]))
    found = sampler(name, steps, grid_name)(denoiser(oracle), x, times)
    return float((found - oracle.flow(x, times[0], 0.0)).square().mean().sqrt())


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("ddim", 1), ("heun", 2)])
@pytest.mark.parametrize("path_name", ["cosine", "rectified-flow"])
def test_order_of_convergence(name: str, order: int, path_name: str) -> None:
    """Halving the step divides the error by 2 to the order, in the path's own time."""
    oracle = _correlated(path_name)
    coarse, fine = (_error(oracle, name, steps, "uniform") for steps in (128, 256))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("name", sorted(PATHS))
def test_ddim_arrives_at_the_exact_endpoint_as_steps_grow(name: str) -> None:
    oracle = _correlated(name)
    errors = [_error(oracle, "ddim", steps, "shared") for steps in (10, 100, 1000)]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert errors[2] < 2e-3


def test_the_same_noise_ends_at_the_same_image_on_every_path() -> None:
    """Paths differ by scale and clock only: x/α at equal log-SNR follows one flow."""
    ends = []
    for name in sorted(PATHS):
        oracle = _correlated(name)
        times = grid("shared", oracle.path, 400)
        x = latents(32, 3, oracle.path.sigma(times[0]))
        ends.append(sampler("heun", 400)(denoiser(oracle), x, times))
        exact = oracle.flow(x, times[0], 0.0)
        assert torch.allclose(ends[-1], exact, atol=2e-3)
    assert all(torch.allclose(ends[0], other, atol=2e-3) for other in ends)


def test_ddim_is_the_same_map_on_every_path() -> None:
    """Unlike Euler's, its steps depend on the log-SNR alone: equal to rounding already at five steps."""
    ends = {"ddim": [], "euler": []}
    for sampler_name, found in ends.items():
        for name in sorted(PATHS):
            oracle = isotropic(path(name))
            times = grid("shared", oracle.path, 5)
            x = latents(8, 4, oracle.path.sigma(times[0]))
            found.append(sampler(sampler_name, 5)(denoiser(oracle), x, times))
    assert all(torch.allclose(ends["ddim"][0], other, atol=1e-10) for other in ends["ddim"])
    assert not torch.allclose(ends["euler"][0], ends["euler"][1], atol=1e-3)
