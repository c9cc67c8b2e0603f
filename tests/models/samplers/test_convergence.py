"""Protects the integrators: order of convergence to the exact flow of Gaussian data, on every path."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.data.mixture import anisotropic
from models.denoiser import Denoiser
from models.grids import grid
from models.paths import PATHS, path
from models.samplers import catalogue, names, sampler
from tests.models.oracles import GaussianOracle, denoiser, isotropic, latents

FLOWS = [name for name in names() if catalogue.ENTRIES[name].order is not None]


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


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("midpoint", 2), ("rk4", 4)])
@pytest.mark.parametrize("path_name", ["cosine", "rectified-flow"])
def test_order_of_convergence(name: str, order: int, path_name: str) -> None:
    """On a mixture, whose flow bends: halving the step divides the error by 2 to the order."""
    mixture, p = anisotropic(), path(path_name)
    network = Denoiser(mixture.network(p, "v"), p, "v")
    start = grid("uniform", p, 1)[0]
    x = latents(64, mixture.dims, p.sigma(start))
    exact, errors = mixture.flow(x, p, start), []
    for steps in (128, 256):
        found = sampler(name, steps)(network, x, grid("uniform", p, steps))
        errors.append(float((found - exact).square().mean().sqrt()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


def test_the_published_third_order_method_is_of_order_two() -> None:
    """Half the weight of the second derivative, as in the code of the source and of those that follow it."""
    exact, published = (
        [_log_snr_error("dpmpp-3m", {"curvature": curvature}, steps) for steps in (48, 96)]
        for curvature in ("exact", "published")
    )
    assert math.log2(exact[0] / exact[1]) == pytest.approx(3.2, abs=0.3)
    assert math.log2(published[0] / published[1]) == pytest.approx(2.0, abs=0.15)


@pytest.mark.parametrize(
    ("name", "options", "order"),
    [
        ("ddim", {}, 1),
        ("dpmpp-2m", {}, 2),
        ("dpmpp-2s", {}, 2),
        ("dpmpp-3m", {}, 3),
        ("dpmpp-3s", {}, 3),
        ("deis", {"order": 2}, 2),
        ("deis", {"order": 3}, 3),
        ("unipc", {"order": 1}, 2),
        ("unipc", {"order": 2}, 3),
        ("unipc", {"order": 2, "variant": "bh1"}, 3),
        ("edm", {}, 2),
    ],
)
def test_order_of_exponential_integrators_in_the_log_snr(
    name: str, options: dict[str, Any], order: int
) -> None:
    """Multistep methods begin with lower orders, so an order above the stated one is as good."""
    coarse, fine = (_log_snr_error(name, options, steps) for steps in (48, 96))
    assert math.log2(coarse / fine) > order - 0.25


def _log_snr_error(name: str, options: dict[str, Any], steps: int) -> float:
    """Error at a low noise from a high one in equal steps of the log-SNR, the first ones finer, of any path.

    The step to 0 is left out: it is of order 1 whatever the method.
    """
    oracle = _correlated("cosine")
    p = oracle.path
    finer = [12.0 * (i / steps) ** 2 / steps for i in range(steps)]
    places = sorted({-6.0 + place for place in (*finer, *(12.0 * i / steps for i in range(1, steps + 1)))})
    times = (*(p.t_of_log_snr(place) for place in places), 0.0)
    states: dict[int, Tensor] = {}
    x = latents(64, 3, 1.0)
    chosen = sampler(name, len(times) - 1, **options)
    chosen(denoiser(oracle), x, times, callback=lambda step, _, state: states.update({step: state}))
    last = len(times) - 3
    return float((states[last] - oracle.flow(x, times[0], times[last + 1])).square().mean().sqrt())


@pytest.mark.parametrize("name", sorted(PATHS))
def test_ddim_arrives_at_the_exact_endpoint_as_steps_grow(name: str) -> None:
    oracle = _correlated(name)
    errors = [_error(oracle, "ddim", steps, "shared") for steps in (10, 100, 1000)]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert errors[2] < 2e-3


@pytest.mark.parametrize("name", FLOWS)
def test_the_same_noise_ends_at_the_same_image_on_every_path(name: str) -> None:
    """Paths differ by scale and clock only: x/α at equal log-SNR follows one flow, which each arrives at."""
    adaptive, ends = catalogue.ENTRIES[name].adaptive, []
    for path_name in sorted(PATHS):
        oracle = _correlated(path_name)
        steps = 1 if adaptive else 1000 if catalogue.ENTRIES[name].order == 1 else 150
        times = grid("shared", oracle.path, steps)
        x = latents(32, 3, oracle.path.sigma(times[0]))
        ends.append(sampler(name, steps)(denoiser(oracle), x, times))
        assert torch.allclose(ends[-1], oracle.flow(x, times[0], 0.0), atol=1.5e-2)
    assert all(torch.allclose(ends[0], other, atol=1.5e-2) for other in ends)


@pytest.mark.parametrize("name", [name for name in FLOWS if name not in ("heun", "midpoint", "rk4", "euler")])
def test_integrators_in_the_log_snr_are_the_same_map_on_every_path(name: str) -> None:
    """Their steps depend on σ/α alone: equal to rounding already at five steps. Euler's are not."""
    ends, other = [], []
    for path_name in sorted(PATHS):
        oracle = isotropic(path(path_name))
        steps = 1 if catalogue.ENTRIES[name].adaptive else 5
        times = grid("shared", oracle.path, steps)
        x = latents(8, 4, oracle.path.sigma(times[0]))
        ends.append(sampler(name, steps)(denoiser(oracle), x, times))
        other.append(sampler("euler", 1)(denoiser(oracle), x, (times[0], 0.5 * times[0], 0.0)))
    assert all(torch.allclose(ends[0], found, atol=1e-8) for found in ends)
    assert not torch.allclose(other[0], other[1], atol=1e-3)


@pytest.mark.parametrize(
    ("one", "options", "other"),
    [
        ("dpmpp-1", {}, "ddim"),
        ("deis", {"order": 1}, "ddim"),
        ("lms", {"order": 1}, "ddim"),
        ("dpmpp-2m-sde", {"eta": 0.0}, "dpmpp-2m"),
        ("euler-ancestral", {"eta": 0.0}, "ddim"),
    ],
)
def test_samplers_that_are_the_same_say_the_same(one: str, options: dict[str, Any], other: str) -> None:
    oracle = _correlated("linear-vp")
    times = grid("shared", oracle.path, 9)
    x = latents(16, 3, 1.0)
    a, b = sampler(one, 9, **options), sampler(other, 9)
    assert torch.allclose(a(denoiser(oracle), x, times), b(denoiser(oracle), x, times), atol=1e-10)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-8])
def test_dopri5_keeps_to_its_tolerance_for_the_worst_image(tolerance: float) -> None:
    """Of 64 images of which one is far out: its error counts, and is not averaged with the others'."""
    oracle = _correlated("linear-vp")
    times = grid("shared", oracle.path, 1)
    x = latents(64, 3, 1.0)
    x[0] *= 30.0
    chosen = sampler("dopri5", rtol=tolerance, atol=tolerance)
    found = chosen(denoiser(oracle), x, times)
    error = (found - oracle.flow(x, times[0], 0.0)).flatten(1).square().mean(1).sqrt()
    assert float(error.max()) < 300 * tolerance


def test_dopri5_takes_more_evaluations_for_a_smaller_tolerance() -> None:
    oracle, calls = _correlated("cosine"), []
    oracle.register_forward_pre_hook(lambda *_: calls.append(1))
    used = []
    for tolerance in (1e-3, 1e-5, 1e-7):
        calls.clear()
        times = grid("shared", oracle.path, 1)
        sampler("dopri5", rtol=tolerance, atol=tolerance)(denoiser(oracle), latents(8, 3, 1.0), times)
        used.append(len(calls))
    assert used[0] < used[1] < used[2]
