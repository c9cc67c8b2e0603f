"""The dequantiser: a density on the cube of u, uniform before it is trained, with the ln q that it says.

Shapes: B batch, C channels, H height, W width, D = C·H·W, K levels.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from models.networks.dequantiser import EDGE, Dequantiser, ToldCoupling
from tests.models.flows import perturbed, slogdet

SHAPES = [(1, 1, 2), (1, 3, 2), (3, 2, 2), (2, 1, 1), (1, 1, 1)]


def _random(shape: tuple[int, int, int], std: float = 0.15, couplings: int = 4) -> Dequantiser:
    torch.manual_seed(0)
    return perturbed(Dequantiser(shape, couplings=couplings, features=6).double(), std)


def _draws(shape: tuple[int, int, int], n: int) -> tuple[Tensor, Tensor]:
    """n images x(k) of 4 levels, and uniform noise, float64."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(4, (n, *shape), generator=generator) * (2.0 / 3.0) - 1.0
    return x.double(), torch.rand(n, *shape, generator=generator, dtype=torch.float64)


def _place(model: Dequantiser, x: Tensor, noise: Tensor) -> Tensor:
    return model(x, noise)[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_log_q_is_that_of_the_jacobian(shape: tuple[int, int, int]) -> None:
    """q(u) = 1/|det ∂u/∂u_0|, u_0 uniform: the whole D × D Jacobian of the map from noise, within 1e-6."""
    model, (x, noise) = _random(shape), _draws(shape, 5)
    log_q = model(x, noise)[1].detach()
    assert log_q.dtype == torch.float64
    for index in range(5):
        rows = slice(index, index + 1)
        found = -slogdet(functools.partial(_place, model, x[rows]), noise[rows])
        torch.testing.assert_close(log_q[index], found, atol=1e-6, rtol=0)
    assert float(log_q.abs().min()) > 1e-3


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_density_of_any_place_is_that_of_the_draw(shape: tuple[int, int, int]) -> None:
    model, (x, noise) = _random(shape), _draws(shape, 50)
    u, log_q = model(x, noise)
    torch.testing.assert_close(model.log_density(x, u), log_q, atol=1e-6, rtol=1e-7)


@pytest.mark.parametrize("levels", [(0, 0), (1, 3), (3, 0)])
@torch.no_grad()
def test_density_integrates_to_one(levels: tuple[int, int]) -> None:
    """Over the places of two pixels, by the trapezium rule in the logit of u, for every image by itself."""
    model, step = _random((1, 1, 2), 0.1), 0.2
    axis = torch.arange(-30.0, 30.0, step, dtype=torch.float64)
    v = torch.cartesian_prod(axis, axis).view(-1, 1, 1, 2)
    slope = (1 - 2 * EDGE) ** 2 * (torch.sigmoid(v) * torch.sigmoid(-v)).flatten(1).prod(1)
    x = (torch.tensor(levels, dtype=torch.float64) * (2.0 / 3.0) - 1.0).view(1, 1, 1, 2).expand_as(v)
    q = model.log_density(x, EDGE + (1 - 2 * EDGE) * torch.sigmoid(v)).exp()
    assert float((q * slope).sum()) * step**2 == pytest.approx(1.0, abs=1e-6)
    assert float(q[(v.abs() < 3).flatten(1).all(1)].max()) > 1.1


@pytest.mark.parametrize("shape", SHAPES)
def test_starts_uniform(shape: tuple[int, int, int]) -> None:
    """The couplings start as the identity and the noise in the logit is logistic: u = u_0 but for 2⁻²⁵."""
    x, noise = _draws(shape, 20)
    u, log_q = Dequantiser(shape)(x.float(), noise)
    torch.testing.assert_close(u, noise, atol=2 * EDGE, rtol=0)
    assert float(log_q.detach().abs().max()) < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
def test_every_element_is_moved(shape: tuple[int, int, int]) -> None:
    moved = torch.zeros(shape)
    for layer in Dequantiser(shape, couplings=2).layers:
        assert isinstance(layer, ToldCoupling)
        moved += 1 - layer.mask_CHW
    assert bool((moved > 0).all())


def test_colours_of_a_pixel_are_told_of_each_other() -> None:
    """Checkerboards alone would draw them independently, given the other pixels."""
    masks: list[Any] = [layer.mask_CHW for layer in Dequantiser((3, 2, 2)).layers]
    assert any(bool((mask[0] != mask[2]).all()) for mask in masks)


@torch.no_grad()
def test_never_reaches_an_end() -> None:
    """Where the logistic function rounds to 0 and 1, u does not, and ln q is finite."""
    model = _random((1, 4, 4), std=0.0)
    for sign in (-1.0, 1.0):
        layers: list[Any] = list(model.layers)
        for layer in layers:
            layer.network.bias_CHW[1] = 1000.0 * sign
        x, noise = _draws((1, 4, 4), 10)
        u, log_q = model(x, noise)
        assert EDGE <= float(u.min()) <= float(u.max()) <= 1 - EDGE
        assert bool(log_q.isfinite().all())
        assert float(log_q.min()) > 16 * 100 * math.log(2)
