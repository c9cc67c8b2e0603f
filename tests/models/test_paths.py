"""Protects α, σ, their derivatives and the log-SNR: everything else is computed from them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.gaussian_path import GaussianPath
from models.paths import (
    PATHS,
    CosinePath,
    ExplodingPath,
    LinearVPPath,
    SigmoidPath,
    ZeroTerminalLinearVPPath,
    path,
)

NAMES = st.sampled_from(sorted(PATHS))
TIMES = st.floats(0.002, 0.998)
PRESERVING = [CosinePath(), LinearVPPath(), ZeroTerminalLinearVPPath(), SigmoidPath(), SigmoidPath(-1.0, 3.0)]


@given(NAMES, TIMES)
def test_derivatives_are_those_of_the_functions(name: str, t: float) -> None:
    """Against autograd in float64."""
    p, time = path(name), torch.tensor(t, dtype=torch.float64, requires_grad=True)
    for function, derivative in ((p.alpha, p.alpha_dot), (p.sigma, p.sigma_dot)):
        (slope,) = torch.autograd.grad(function(time), time)
        assert derivative(t) == pytest.approx(float(slope), rel=1e-9, abs=1e-12)


@given(NAMES, TIMES)
def test_log_snr_is_defined_by_alpha_and_sigma(name: str, t: float) -> None:
    p = path(name)
    assert p.log_snr(t) == pytest.approx(2 * math.log(p.alpha(t) / p.sigma(t)), abs=1e-9)


@given(NAMES, st.tuples(st.floats(1e-9, 0.9999), st.floats(1e-9, 0.9999)))
def test_log_snr_falls_strictly(name: str, times: tuple[float, float]) -> None:
    s, t = sorted(times)
    assert t <= s * (1 + 1e-9) or path(name).log_snr(s) > path(name).log_snr(t)


@given(NAMES, st.floats(-10.0, 60.0))
def test_time_and_log_snr_are_inverse_over_the_whole_range(name: str, log_snr: float) -> None:
    """Down to t ≈ 1e-26, where 1 − α² computed naively is 0."""
    p = path(name)
    t = p.t_of_log_snr(log_snr)
    assert 0 < t < 1
    assert p.log_snr(t) == pytest.approx(log_snr, rel=1e-9, abs=1e-9)


@given(NAMES, TIMES)
def test_floats_and_tensors_agree(name: str, t: float) -> None:
    p, tensor = path(name), torch.tensor([t], dtype=torch.float64)
    for function in (p.alpha, p.sigma, p.alpha_dot, p.sigma_dot, p.log_snr):
        assert float(function(tensor)) == pytest.approx(function(t), rel=1e-12, abs=1e-12)
    log_snr = p.log_snr(t)
    assert float(p.t_of_log_snr(p.log_snr(tensor))) == pytest.approx(p.t_of_log_snr(log_snr), rel=1e-9)


@pytest.mark.parametrize("name", sorted(PATHS))
def test_a_path_goes_from_data_to_noise(name: str) -> None:
    """Noise for the prior: what is left of the data's variance there is 5·10⁻⁵ of the noise's or less."""
    p = path(name)
    assert (p.alpha(0.0), p.sigma(0.0)) == (1.0, 0.0)
    assert p.log_snr(0.0) == math.inf
    assert (p.alpha(1.0) / p.sigma(1.0)) ** 2 < 5e-5


@pytest.mark.parametrize("p", PRESERVING)
def test_variance_preserving_paths_keep_unit_variance(p: GaussianPath) -> None:
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    assert torch.allclose(p.alpha(t) ** 2 + p.sigma(t) ** 2, torch.ones_like(t), atol=1e-14)


@pytest.mark.parametrize("name", ["cosine", "linear-vp-zero", "sigmoid", "rectified-flow"])
def test_zero_terminal_paths_keep_nothing_of_the_data(name: str) -> None:
    """Samplers start from pure noise; the linear-β path is the one that has some data left there."""
    p = path(name)
    assert p.alpha(1.0) == pytest.approx(0.0, abs=1e-15)
    assert p.sigma(1.0) == 1.0
    assert path("linear-vp").alpha(1.0) > 1e-3


def test_zero_terminal_path_is_the_linear_one_shifted_and_scaled() -> None:
    """Lin et al. 2023, algorithm 1, on α: the last becomes 0, the first stays."""
    linear, zero = LinearVPPath(), ZeroTerminalLinearVPPath()
    for t in (1e-4, 0.1, 0.5, 0.9):
        wanted = (linear.alpha(t) - linear.alpha(1.0)) / (1.0 - linear.alpha(1.0))
        assert zero.alpha(t) == pytest.approx(wanted, rel=1e-12)


@given(st.floats(0.01, 0.99), st.floats(-4.0, 0.0), st.floats(0.5, 4.0))
def test_sigmoid_path_is_the_normalised_sigmoid(t: float, start: float, end: float) -> None:
    """Jabri et al. 2022: γ(t) = (s(end) − s(t(end − start) + start))/(s(end) − s(start))."""

    def s(z: float) -> float:
        return 1 / (1 + math.exp(-z))

    p = SigmoidPath(start, end)
    wanted = (s(end) - s(t * (end - start) + start)) / (s(end) - s(start))
    assert p.alpha(t) ** 2 == pytest.approx(wanted, rel=1e-9)
    assert p.t_of_log_snr(p.log_snr(t)) == pytest.approx(t, rel=1e-9)


def test_linear_path_is_the_limit_of_the_thousand_discrete_betas() -> None:
    """Ho et al. 2020: β from 1e-4 to 0.02 in 1000 steps; ᾱ agrees within the discretisation."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    cumulative = (1 - betas).cumprod(0)[[99, 499, 899]]
    ours = [LinearVPPath().alpha(t) ** 2 for t in (0.1, 0.5, 0.9)]
    assert torch.allclose(cumulative, torch.tensor(ours, dtype=torch.float64), rtol=0.06)


def test_exploding_path_adds_noise_and_keeps_the_data() -> None:
    p = ExplodingPath(80.0)
    assert (p.alpha(0.3), p.sigma(0.25), p.sigma_dot(0.5), p.alpha_dot(0.5)) == (1.0, 20.0, 80.0, 0.0)
    assert ExplodingPath().sigma_max > math.exp(5.0), "the shared grids start at log-SNR −10"


def test_a_misspelt_path_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'cosine'"):
        path("cosin")


@pytest.mark.parametrize("name", ["linear-vp", "linear-vp-zero", "sigmoid"])
def test_infinite_derivatives_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="use t > 0"):
        path(name).sigma_dot(0.0)
    with pytest.raises(ValueError, match="use t < 1"):
        path("sigmoid").alpha_dot(1.0)
