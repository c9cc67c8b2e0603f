"""Protects α, σ, their derivatives and the log-SNR: everything else is computed from them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.paths import PATHS, CosinePath, LinearVPPath, path

NAMES = st.sampled_from(sorted(PATHS))
TIMES = st.floats(0.002, 0.998)


@given(NAMES, TIMES)
def test_derivatives_are_those_of_the_functions(name: str, t: float) -> None:
    p, h = path(name), 1e-6
    assert p.alpha_dot(t) == pytest.approx((p.alpha(t + h) - p.alpha(t - h)) / (2 * h), rel=1e-5, abs=1e-7)
    assert p.sigma_dot(t) == pytest.approx((p.sigma(t + h) - p.sigma(t - h)) / (2 * h), rel=1e-4, abs=1e-7)


@given(NAMES, TIMES)
def test_log_snr_is_defined_by_alpha_and_sigma(name: str, t: float) -> None:
    p = path(name)
    assert p.log_snr(t) == pytest.approx(2 * math.log(p.alpha(t) / p.sigma(t)), abs=1e-9)


@given(NAMES, st.floats(-10.0, 60.0))
def test_time_and_log_snr_are_inverse_over_the_whole_range(name: str, log_snr: float) -> None:
    """Down to t ≈ 1e-13, where 1 − α² computed naively is 0."""
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
    p = path(name)
    assert (p.alpha(0.0), p.sigma(0.0)) == (1.0, 0.0)
    assert p.log_snr(0.0) == math.inf
    assert p.alpha(1.0) < 0.007
    assert p.sigma(1.0) == pytest.approx(1.0, abs=3e-5)


@pytest.mark.parametrize("p", [CosinePath(), LinearVPPath()])
def test_variance_preserving_paths_keep_unit_variance(p: CosinePath | LinearVPPath) -> None:
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    assert torch.allclose(p.alpha(t) ** 2 + p.sigma(t) ** 2, torch.ones_like(t), atol=1e-14)


def test_linear_path_is_the_limit_of_the_thousand_discrete_betas() -> None:
    """Ho et al. 2020: β from 1e-4 to 0.02 in 1000 steps; ᾱ agrees within the discretisation."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    cumulative = (1 - betas).cumprod(0)[[99, 499, 899]]
    ours = [LinearVPPath().alpha(t) ** 2 for t in (0.1, 0.5, 0.9)]
    assert torch.allclose(cumulative, torch.tensor(ours, dtype=torch.float64), rtol=0.06)


def test_a_misspelt_path_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'cosine'"):
        path("cosin")


def test_the_infinite_derivative_at_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="use t > 0"):
        LinearVPPath().sigma_dot(0.0)
