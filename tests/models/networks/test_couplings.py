"""Invertible layers: the inverse undoes, and the log-determinant is that of the brute-force Jacobian."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.networks.couplings import (
    AffineCoupling,
    Chain,
    Elementwise,
    Squeeze,
    bounded,
    channelwise,
    checkerboard,
    coupling_chain,
)

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


def test_chain_applies_its_layers_in_order_and_undoes_them_in_reverse() -> None:
    """y = L₃(L₂(L₁(x))) in the shape of x, log-determinants summed."""
    layers = [_layer("elementwise"), Squeeze(), Elementwise((8, 1, 2)).double()]
    nn.init.constant_(layers[2].s_CHW, 0.3)  # type: ignore[arg-type]
    chain, x = Chain(layers, (8, 1, 2)), _image()
    first, log_det = layers[0](x)
    y, total = chain(x)
    torch.testing.assert_close(y, layers[2](layers[1](first)[0])[0].reshape(x.shape))
    torch.testing.assert_close(total, log_det + 16 * 0.3)
    back, total_back = chain(y, inverse=True)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(total_back, -total)


def test_coupling_chain_alternates_masks_on_every_scale() -> None:
    """Checkerboards, a squeeze, channels, checkerboards; each parity once in two couplings."""
    made: list[Tensor] = []

    def coupling(mask: Tensor) -> nn.Module:
        made.append(mask)
        return AffineCoupling(mask, features=2, depth=1, dropout=0.0)

    chain = coupling_chain((1, 4, 4), 2, 2, coupling)
    assert chain.z_shape == (4, 2, 2)
    expected = [checkerboard((1, 4, 4), 0), channelwise((4, 2, 2), 0), checkerboard((4, 2, 2), 0)]
    assert all(torch.equal(mask, first) for mask, first in zip(made[::2], expected, strict=True))
    assert all(torch.equal(mask, 1 - first) for mask, first in zip(made[1::2], expected, strict=True))


def test_log_scales_are_bounded_both_ways() -> None:
    """One layer scales by at most e², so that neither direction overflows; near zero nothing changes."""
    torch.testing.assert_close(bounded(torch.tensor([-1e9, 1e-4, 1e9])), torch.tensor([-2.0, 1e-4, 2.0]))
