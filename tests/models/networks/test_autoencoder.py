"""The convolutional halves: sizes, gradients, and options that cannot be built."""

from __future__ import annotations

import pytest
import torch

from models.networks.autoencoder import Decoder, Encoder, widths


@pytest.mark.parametrize(("factor", "size"), [(1, (5, 3)), (2, (4, 6)), (4, (8, 4)), (8, (8, 16))])
def test_halves_and_doubles_each_side(factor: int, size: tuple[int, int]) -> None:
    """(H, W) → (H/f, W/f) → (H, W), also where H ≠ W and where one pixel is left."""
    x = torch.randn(2, 3, *size)
    z = Encoder(3, 5, 8, factor, 1, 0.0)(x)
    assert z.shape == (2, 5, size[0] // factor, size[1] // factor)
    assert Decoder(5, 6, 8, factor, 1, 0.0)(z).shape == (2, 6, *size)


def test_every_parameter_and_every_pixel_counts() -> None:
    """A gradient reaches each weight once the zero branches have moved, and each input dimension."""
    torch.manual_seed(0)
    encoder, decoder = Encoder(1, 4, 8, 2, 1, 0.0), Decoder(4, 2, 8, 2, 1, 0.0)
    for parameter in (*encoder.parameters(), *decoder.parameters()):
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(3, 1, 4, 4, requires_grad=True)
    decoder(encoder(x)).square().sum().backward()
    assert x.grad is not None
    assert bool((x.grad != 0).all())
    assert all(bool((p.grad != 0).any()) for half in (encoder, decoder) for p in half.parameters())


def test_starts_near_zero_and_unequal_images_differ() -> None:
    """Outputs of a fresh half are small, so that log scales start near the middle of their range."""
    torch.manual_seed(0)
    out = Encoder(1, 8, 32, 2, 2, 0.0)(torch.rand(16, 1, 8, 8) * 2 - 1)
    assert 0 < float(out.std().detach()) < 0.5
    assert not torch.equal(out[0], out[1])


def test_dropout_acts_in_training_only() -> None:
    encoder, x = Encoder(1, 2, 8, 2, 1, 0.5), torch.randn(1, 1, 4, 4)
    torch.nn.init.normal_(encoder.layers[1].conv_out.weight)
    assert not torch.equal(encoder(x), encoder(x))
    encoder.eval()
    assert torch.equal(encoder(x), encoder(x))


def test_widths_double_up_to_four_times() -> None:
    assert widths(16, 1) == [16]
    assert widths(16, 8) == [16, 32, 64, 64]
    for factor in (0, 3, 6):
        with pytest.raises(ValueError, match="factor must be a power of two"):
            widths(16, factor)
    with pytest.raises(ValueError, match="channels must be at most 8 or a multiple of 8: got 12"):
        widths(12, 2)
