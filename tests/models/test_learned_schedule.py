"""Protects the learned schedule: whatever its parameters, it is a Gaussian path, monotone and invertible."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.denoiser import Denoiser
from models.grids import grid
from models.learned_schedule import TAU, LearnedPath, LearnedSchedule
from models.likelihood.probability_flow import Flow, flow_log_density
from models.paths import path
from models.samplers import sampler
from tests.models.oracles import MEAN, VARIANCE, denoiser, isotropic, latents


def _schedule(seed: int, spread: float = 0.7) -> LearnedSchedule:
    """Parameters as training might leave them."""
    schedule, generator = LearnedSchedule(-7.0), torch.Generator().manual_seed(seed)
    for parameter in schedule.parameters():
        torch.nn.init.normal_(parameter, std=spread, generator=generator)
    return schedule


PATHS = [_schedule(seed).path() for seed in range(4)]
LEARNED = st.sampled_from(PATHS)
TIMES = st.floats(0.0005, 0.9995).filter(lambda t: abs(t - TAU) > 1e-6)


@given(LEARNED, TIMES)
def test_derivatives_are_those_of_the_functions(p: LearnedPath, t: float) -> None:
    """Against autograd in float64, on both sides of τ."""
    time = torch.tensor(t, dtype=torch.float64, requires_grad=True)
    for function, derivative in ((p.alpha, p.alpha_dot), (p.sigma, p.sigma_dot)):
        (slope,) = torch.autograd.grad(function(time), time)
        assert derivative(t) == pytest.approx(float(slope), rel=1e-8, abs=1e-12)
        assert float(derivative(time.detach())) == pytest.approx(derivative(t), rel=1e-10)


@given(LEARNED, TIMES)
def test_it_preserves_variance_and_its_log_snr_is_the_ratio(p: LearnedPath, t: float) -> None:
    assert p.alpha(t) ** 2 + p.sigma(t) ** 2 == pytest.approx(1.0, abs=1e-14)
    assert p.log_snr(t) == pytest.approx(2 * math.log(p.alpha(t) / p.sigma(t)), abs=1e-9)
    tensor = torch.tensor([t], dtype=torch.float64)
    assert float(p.log_snr(tensor)) == pytest.approx(p.log_snr(t), rel=1e-12)


@given(LEARNED, st.floats(-10.0, 60.0))
def test_time_and_log_snr_are_inverse(p: LearnedPath, log_snr: float) -> None:
    """From the start of the grids to far beyond the learned end γ_0."""
    t = p.t_of_log_snr(log_snr)
    assert 0 < t < 1
    assert p.log_snr(t) == pytest.approx(log_snr, rel=1e-9, abs=1e-9)
    tensor = p.t_of_log_snr(torch.tensor([log_snr], dtype=torch.float64))
    assert float(tensor) == pytest.approx(t, rel=1e-9)


@pytest.mark.parametrize("p", PATHS)
def test_it_goes_from_data_to_noise_and_falls_strictly(p: LearnedPath) -> None:
    """Also across τ, where the learned part joins what leads to the data."""
    assert (p.alpha(0.0), p.sigma(0.0), p.log_snr(0.0)) == (1.0, 0.0, math.inf)
    zero = torch.zeros(1, dtype=torch.float64)
    assert (float(p.alpha(zero)), float(p.sigma(zero))) == (1.0, 0.0)
    assert math.isfinite(p.sigma_dot(0.0))
    assert p.alpha_dot(0.0) == 0.0
    assert p.log_snr(1.0) < -10.0
    t = torch.linspace(0, 1, 5001, dtype=torch.float64)
    assert bool((p.log_snr(t).diff() < 0).all())
    assert p.log_snr(TAU * (1 - 1e-9)) == pytest.approx(p.log_snr(TAU), abs=1e-6)


def test_the_snapshot_is_what_the_parameters_say() -> None:
    """The path of samplers and the γ of the loss are one function."""
    schedule = _schedule(9)
    p, u = schedule.path(), torch.linspace(0, 1, 33)
    m, m_dot = (part.detach() for part in schedule.monotone(u))
    start, end = schedule.limits()
    t = TAU + (1 - TAU) * u.double()
    assert torch.allclose(-p.log_snr(t).float(), start + (end - start) * m, atol=1e-4)
    assert float(m[0]) == 0.0
    assert float(m[-1]) == 1.0
    slope = torch.autograd.functional.jvp(lambda v: schedule.monotone(v)[0], u, torch.ones_like(u))[1]
    assert torch.allclose(slope, m_dot, atol=1e-4)


def test_it_starts_where_it_is_told_and_nearly_straight() -> None:
    p = LearnedSchedule(-7.0).path()
    assert p.start == pytest.approx(-7.0, abs=1e-5)
    m, _ = LearnedSchedule(-7.0).monotone(torch.tensor([0.25, 0.5, 0.75]))
    assert m.tolist() == pytest.approx([0.25, 0.5, 0.75], abs=0.05)


@pytest.mark.parametrize("p", PATHS)
def test_samplers_run_on_it_as_on_any_path(p: LearnedPath) -> None:
    """DDIM depends on the log-SNR alone: the same map as on the cosine path."""
    ends: list[Tensor] = []
    for route in (p, path("cosine")):
        oracle = isotropic(route)
        times = grid("shared", route, 7)
        x = latents(8, 4, route.sigma(times[0]))
        ends.append(sampler("ddim", 7)(denoiser(oracle), x, times))
    assert torch.allclose(ends[0], ends[1], atol=1e-9)


def test_the_flow_on_it_has_a_density() -> None:
    """From σ(0) = 0 through τ to noise: ln N(x_1; 0, σ_1²) + ln |dx_1/dx_0| of the exact flow."""
    oracle = isotropic(PATHS[0], dims=2)
    x = MEAN + math.sqrt(VARIANCE) * latents(3, 2, 1.0)
    chain = Denoiser(oracle, oracle.path, oracle.kind)
    found = flow_log_density(chain, x, Flow("dopri5", 1e-5, 1e-5, divergence="exact"))
    x_1, p = oracle.flow(x, 0.0, 1.0), oracle.path
    stretch = math.sqrt((p.alpha(1.0) ** 2 * VARIANCE + p.sigma(1.0) ** 2) / VARIANCE)
    wanted = torch.distributions.Normal(0.0, p.sigma(1.0)).log_prob(x_1) + math.log(stretch)
    assert torch.allclose(found, wanted.flatten(1).sum(1), atol=1e-3)


def test_bad_requests_get_one_sentence() -> None:
    with pytest.raises(ValueError, match="below γ = 0"):
        LearnedSchedule(1.0)
    with pytest.raises(ValueError, match="one or more units"):
        LearnedSchedule(-7.0, 0)
