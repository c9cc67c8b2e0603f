"""Protects the U-Net: general in shape, silent before training, sensitive to all it is given."""

from __future__ import annotations

import math

import pytest
import torch

from models.networks.unet import AttentionBlock, UNet, fourier_features, time_features


def _awake(network: UNet) -> UNet:
    """Random weights where initialisation put zeros."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.1)
    return network


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((1, 8, 8), {}),
        ((3, 12, 8), {"channels": 16, "multipliers": (1, 2, 2), "blocks": 2}),
        ((1, 5, 7), {"channels": 8, "multipliers": (1,), "attention": False}),
        ((2, 4, 4), {"channels": 4, "octaves": (2, 3), "dropout": 0.1}),
    ],
)
def test_it_keeps_the_shape_and_says_nothing_before_training(shape: tuple, options: dict) -> None:
    network, x, t = UNet(shape, **options), torch.randn(3, *shape), torch.rand(3)
    out = network(x, t)
    assert out.shape == x.shape
    assert float(out.detach().abs().max()) == 0.0
    assert bool(_awake(network)(x, t).abs().max() > 0)


def test_every_parameter_is_reached_by_the_gradient() -> None:
    """A block left out of the forward pass would train nothing, silently."""
    network = _awake(UNet((1, 8, 8), channels=16, octaves=(3,)))
    network(torch.randn(4, 1, 8, 8), torch.rand(4)).square().sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in network.parameters())


@torch.no_grad()
def test_images_do_not_see_each_other_and_pixels_all_do() -> None:
    network = _awake(UNet((1, 8, 8), channels=16)).eval()
    x, t = torch.randn(3, 1, 8, 8), torch.rand(3)
    assert torch.allclose(network(x, t)[1:], network(x[1:], t[1:]), atol=1e-5)
    moved = x.clone()
    moved[0, 0, 0, 0] += 1.0
    change = (network(moved, t) - network(x, t)).abs()
    assert float(change[1:].max()) < 1e-5
    assert float(change[0, 0, 7, 7]) > 1e-6


def test_time_matters_to_a_thousandth() -> None:
    features = time_features(torch.tensor([0.5, 0.501]), 32)
    assert features.shape == (2, 32)
    assert float((features[0] - features[1]).abs().max()) > 0.3
    assert torch.allclose(features[:, 0], torch.cos(torch.tensor([500.0, 501.0])), atol=1e-4)


def test_fourier_features_have_the_period_of_a_level() -> None:
    """Octave 4 returns to the same value after 2/16, the distance of 17 levels in [−1, 1]."""
    x = torch.tensor([-0.3, -0.3 + 2 / 16]).view(2, 1, 1, 1)
    waves = fourier_features(x, (4,))
    assert waves.shape == (2, 3, 1, 1)
    assert torch.allclose(waves[0, 1:], waves[1, 1:], atol=1e-5)
    assert float(waves[0, 1]) == pytest.approx(math.sin(16 * math.pi * -0.3), abs=1e-5)


def test_attention_is_blind_to_the_order_of_positions() -> None:
    """Without position features a permutation of the pixels permutes the result."""
    block = AttentionBlock(8)
    torch.nn.init.normal_(block.out.weight)
    x, order = torch.randn(2, 8, 1, 6), torch.randperm(6)
    assert torch.allclose(block(x)[..., order], block(x[..., order]), atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 9, 8), {}, "divisible by 2"),
        ((1, 8, 8), {"channels": 12}, "multiple of 8"),
        ((1, 8, 8), {"multipliers": ()}, "one or more blocks and multipliers"),
    ],
)
def test_impossible_sizes_get_one_sentence(shape: tuple, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(shape, **options)
