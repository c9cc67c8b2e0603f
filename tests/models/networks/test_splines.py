"""Rational-quadratic splines: increasing, smooth, exactly inverted, and the identity where they say so."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from models.networks.couplings import channelwise, checkerboard
from models.networks.splines import (
    LOG_SLOPE_LIMIT,
    MINIMUM_SHARE,
    SplineCoupling,
    knots,
    rational_quadratic,
    slopes_at_knots,
)
from tests.models.flows import slogdet

BOUND, BINS = 3.0, 6
SHAPE = (2, 2, 4)


def _raw(splines: int, std: float = 1.5, bins: int = BINS, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return std * torch.randn(3 * bins - 1, splines, dtype=dtype, generator=generator)


def _on_grid(raw: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """A grid from beyond the left tail to beyond the right one, and raw parameters at each point."""
    x = torch.linspace(-BOUND - 1, BOUND + 1, points, dtype=raw.dtype)
    return x[:, None].expand(-1, raw.shape[1]), raw[:, None].expand(-1, points, -1)


def test_value_of_a_bin_is_that_of_the_paper() -> None:
    """Two bins, numbers put into equation 4 by hand: no two slips can cancel here.

    Widths 1 and 1, heights 0.5 and 1.5, slopes 1, 2, 1; in the middle of the first bin ξ = ½, s = ½:
    y = −1 + ½·(½·¼ + 1·¼) / (½ + (2 + 1 − 1)·¼) = −0.8125, in the middle of the second, s = 1.5:
    y = −½ + 1.5·(1.5·¼ + 2·¼) / (1.5 + (1 + 2 − 3)·¼) = 0.375.
    """
    share = (0.25 - MINIMUM_SHARE) / (1 - 2 * MINIMUM_SHARE)
    height = math.log(share / (1 - share))
    slope = LOG_SLOPE_LIMIT * math.atanh(math.log(2) / LOG_SLOPE_LIMIT)
    raw = torch.tensor([0.0, 0.0, height, 0.0, slope], dtype=torch.float64)[:, None].expand(-1, 2)
    y, _ = rational_quadratic(torch.tensor([-0.5, 0.5], dtype=torch.float64), raw, 1.0)
    torch.testing.assert_close(y, torch.tensor([-0.8125, 0.375], dtype=torch.float64), atol=1e-12, rtol=0)


def test_zero_is_the_identity() -> None:
    x, raw = _on_grid(torch.zeros(3 * BINS - 1, 2, dtype=torch.float64), 101)
    y, log_slope = rational_quadratic(x, raw, BOUND)
    torch.testing.assert_close(y, x, atol=1e-12, rtol=0)
    torch.testing.assert_close(log_slope, torch.zeros_like(x), atol=1e-12, rtol=0)


def test_increases_everywhere() -> None:
    """A fall would make two x share one y, and the inverse a guess."""
    x, raw = _on_grid(_raw(50, std=3.0), 2001)
    y, log_slope = rational_quadratic(x, raw, BOUND)
    assert bool((y.diff(dim=0) > 0).all())
    assert bool(log_slope.isfinite().all())


def test_value_and_slope_are_continuous_at_knots_and_tails() -> None:
    """y(x_j) = y_j and y'(x_j) = d_j from both sides, the ends of the interval included."""
    raw = _raw(50)
    places, values = knots(raw[:BINS], BOUND), knots(raw[BINS : 2 * BINS], BOUND)
    slopes = slopes_at_knots(raw[2 * BINS :], raw[0])
    assert float(places.diff(dim=0).min()) >= 2 * BOUND * MINIMUM_SHARE * (1 - 1e-9)
    assert bool((slopes.log().abs() < LOG_SLOPE_LIMIT).all())
    assert torch.equal(slopes[[0, -1]], torch.ones(2, 50, dtype=torch.float64))
    every = raw[:, None].expand(-1, BINS + 1, -1)
    for side in (-1e-9, 0.0, 1e-9):
        y, log_slope = rational_quadratic(places + side, every, BOUND)
        torch.testing.assert_close(y, values, atol=1e-6, rtol=0)
        torch.testing.assert_close(log_slope, slopes.log(), atol=1e-4, rtol=0)


def test_slope_is_that_of_automatic_differentiation() -> None:
    """The log-determinant of a coupling is a sum of these."""
    x, raw = _on_grid(_raw(20), 301)
    x = x.clone().requires_grad_()
    y, log_slope = rational_quadratic(x, raw, BOUND)
    (derivative,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(log_slope, derivative.log(), atol=1e-9, rtol=0)


def test_inverse_undoes() -> None:
    """Inside, at the knots and beyond the tails; the slopes of the two directions cancel."""
    x, raw = _on_grid(_raw(50, std=3.0), 401)
    y, log_slope = rational_quadratic(x, raw, BOUND)
    back, log_slope_back = rational_quadratic(y, raw, BOUND, inverse=True)
    torch.testing.assert_close(back, x, atol=1e-9, rtol=0)
    torch.testing.assert_close(log_slope_back, -log_slope, atol=1e-7, rtol=0)


def test_root_does_not_cancel_in_float32() -> None:
    """Both forms of the root are needed: for nearly straight bins (a → 0) and flat bins that end steeply.

    Either form alone is wrong by 5e-4 and more in one of the two.
    """
    bins, points = 4, 4001
    straight = 1e-4 * _raw(1, bins=bins, dtype=torch.float32)
    steep = torch.tensor([4.0, 0, 0, 0, 0, 4.0, 4.0, 0, 9.0, 0, 0])[:, None]
    y = torch.linspace(-BOUND, BOUND, points)
    for raw in (straight, steep):
        raw = raw.expand(-1, points)
        exact, _ = rational_quadratic(y.double(), raw.double(), BOUND, inverse=True)
        back, _ = rational_quadratic(y, raw, BOUND, inverse=True)
        torch.testing.assert_close(back.double(), exact, atol=3e-6, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 50.0, 1e4])
def test_extreme_parameters_stay_finite(scale: float) -> None:
    """One wild output of a network must not end training: values and gradients are finite, tails too."""
    x, raw = _on_grid(_raw(30, std=scale, dtype=torch.float32), 200)
    x, raw = x.clone().requires_grad_(), raw.clone().requires_grad_()
    y, log_slope = rational_quadratic(x, raw, BOUND)
    (y.square().sum() + log_slope.sum()).backward()
    for part in (y, log_slope, x.grad, raw.grad):
        assert part is not None
        assert bool(part.isfinite().all())
    outside = x.detach().abs() > BOUND
    assert torch.equal(y[outside], x[outside])


MASKS = {f"{kind.__name__} {p}": kind(SHAPE, p) for kind in (checkerboard, channelwise) for p in (0, 1)}


def _coupling(name: str) -> SplineCoupling:
    """In float64 with random weights."""
    torch.manual_seed(1)
    coupling = SplineCoupling(MASKS[name], BINS, BOUND, features=5, depth=1, dropout=0.0).double().eval()
    for parameter in coupling.parameters():
        nn.init.normal_(parameter, std=0.5)
    return coupling


@pytest.mark.parametrize("name", MASKS)
def test_coupling_is_inverted_and_its_log_determinant_is_that_of_the_jacobian(name: str) -> None:
    """slogdet of the whole D × D Jacobian; the kept half comes out as it went in."""
    coupling, generator = _coupling(name), torch.Generator().manual_seed(2)
    x = 2.5 * torch.randn(3, *SHAPE, dtype=torch.float64, generator=generator)
    assert bool((x.abs() > BOUND).any())
    y, log_det = coupling(x)
    back, log_det_back = coupling.inverse(y)
    torch.testing.assert_close(back, x, atol=1e-10, rtol=0)
    torch.testing.assert_close(log_det_back, -log_det, atol=1e-9, rtol=0)
    for i in range(3):
        brute = slogdet(lambda v: coupling(v)[0], x[i : i + 1])
        torch.testing.assert_close(log_det[i].detach(), brute, atol=1e-6, rtol=0)
    kept = MASKS[name].bool().expand_as(x)
    assert torch.equal(y[kept], x[kept])
    assert not torch.allclose(y[~kept], x[~kept])


def test_evaluation_in_float32_is_rounded_only_at_its_end() -> None:
    """Steep bins would lose digits of samples; training may lose them, and is the same spline."""
    coupling = SplineCoupling(MASKS["checkerboard 0"], BINS, BOUND, features=5, depth=1, dropout=0.0)
    nn.init.normal_(coupling.network.bias_CHW, std=3.0, generator=torch.Generator().manual_seed(1))
    exact = copy.deepcopy(coupling).double().eval()
    x = 1.5 * torch.randn(50, *SHAPE, generator=torch.Generator().manual_seed(2))
    for name in ("forward", "inverse"):
        y, log_det = getattr(coupling.eval(), name)(x)
        expected_y, expected_log_det = getattr(exact, name)(x.double())
        assert y.dtype == log_det.dtype == torch.float32
        torch.testing.assert_close(y.double(), expected_y, atol=1e-7, rtol=1e-7)
        torch.testing.assert_close(log_det.double(), expected_log_det, atol=1e-5, rtol=0)
        trained_y, trained_log_det = getattr(coupling.train(), name)(x)
        torch.testing.assert_close(trained_y, y, atol=1e-3, rtol=0)
        torch.testing.assert_close(trained_log_det, log_det, atol=1e-2, rtol=0)
