"""Invertible layers: the inverse undoes, and the log-determinant is that of the brute-force Jacobian."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.networks.couplings import AffineCoupling, Elementwise, Squeeze, channelwise, checkerboard

SHAPE = (2, 2, 4)


def _layers() -> dict[str, nn.Module]:
    masks = {f"{kind.__name__} {p}": kind(SHAPE, p) for kind in (checkerboard, channelwise) for p in (0, 1)}
    layers: dict[str, nn.Module] = {"elementwise": Elementwise(SHAPE), "squeeze": Squeeze()}
    layers |= {name: AffineCoupling(mask, features=5, depth=1, dropout=0.0) for name, mask in masks.items()}
    return layers


NAMES = list(_layers())


def _layer(name: str) -> nn.Module:
    """In float64 with random weights: a coupling starts as the identity, which would prove nothing."""
    torch.manual_seed(1)
    layer = _layers()[name].double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.4)
    return layer


def _image(batch: int = 3) -> Tensor:
    return torch.randn(batch, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", NAMES)
def test_inverse_undoes_and_log_determinants_cancel(name: str) -> None:
    """A wrong inverse would draw samples from another density than the one that is reported."""
    layer, x = _layer(name), _image()
    y, log_det = layer(x)
    back, log_det_back = layer.inverse(y)  # type: ignore[operator]
    assert not torch.equal(y.flatten(), x.flatten())
    torch.testing.assert_close(back, x, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(log_det_back, -log_det, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_log_determinant_is_that_of_the_jacobian(name: str) -> None:
    """slogdet of the whole D × D Jacobian, from automatic differentiation."""
    layer, x = _layer(name), _image(1)
    D = x.numel()
    jacobian = torch.autograd.functional.jacobian(lambda v: layer(v)[0].flatten(), x).reshape(D, D)  # type: ignore[union-attr]
    torch.testing.assert_close(layer(x)[1][0], torch.linalg.slogdet(jacobian)[1], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kind", [checkerboard, channelwise])
def test_masks_of_both_parities_cover_every_element_once(kind: object) -> None:
    """Two couplings in a row must transform every element; one left out would stay Gaussian."""
    assert callable(kind)
    assert torch.equal(kind(SHAPE, 0) + kind(SHAPE, 1), torch.ones(SHAPE))
    assert torch.equal(kind(SHAPE, 2), kind(SHAPE, 0))
    assert 0 < kind(SHAPE, 0).sum() < kind(SHAPE, 0).numel()


def test_coupling_starts_as_the_identity() -> None:
    coupling = AffineCoupling(checkerboard(SHAPE, 0), features=5, depth=1, dropout=0.0)
    x = _image().float()
    y, log_det = coupling(x)
    assert torch.equal(y, x)
    assert torch.equal(log_det, torch.zeros(3))
