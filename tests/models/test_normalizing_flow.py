"""RealNVP: invertible, with the density it says, in the units it says."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from models.base import NonFiniteSamples
from models.networks.couplings import AffineCoupling, Squeeze
from models.normalizing_flow import RealNVP
from models.seeds import Seeds
from tests.models.digits import PER_PIXEL_HISTOGRAM_BITS, bits, every_image, randomise, split, train
from tests.models.flows import (
    bin_probabilities,
    brute_force_log_density,
    check_float32_inverse,
    check_reported_likelihood,
    perturbed,
)

SMALL = {"features": 6, "couplings": 2}
SHAPES = [(1, 4, 4), (3, 2, 2), (1, 3, 2), (2, 1, 1), (1, 1, 2)]


def _flow(shape: tuple[int, int, int], levels: int = 4, std: float = 0.3) -> RealNVP:
    model = randomise(RealNVP(shape, levels, **SMALL), std)
    assert isinstance(model, RealNVP)
    return model


@cache
def _trained() -> RealNVP:
    """A few seconds on the real digits."""
    torch.manual_seed(0)
    model = train(RealNVP(features=16, couplings=2), steps=200, learning_rate=4e-3)
    assert isinstance(model, RealNVP)
    return model


@pytest.mark.parametrize("shape", SHAPES)
def test_inverse_undoes_the_flow(shape: tuple[int, int, int]) -> None:
    """Samples come from the density that is reported only if the inverse is one; with odd sizes too."""
    model = _flow(shape)
    x = torch.randn(5, *shape, dtype=torch.float64)
    z, log_det = model.network(x)
    back, log_det_back = model.network(z, inverse=True)
    torch.testing.assert_close(back, x, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(log_det_back, -log_det, atol=1e-9, rtol=1e-9)
    assert not torch.allclose(z, x)


def test_inverse_undoes_the_flow_in_float32() -> None:
    """With random weights, and with trained ones."""
    torch.manual_seed(0)
    noise = torch.randn(100, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    check_float32_inverse(perturbed(RealNVP(), 0.02), noise)
    check_float32_inverse(_trained())


@pytest.mark.parametrize("shape", SHAPES)
def test_log_density_is_that_of_the_jacobian(shape: tuple[int, int, int]) -> None:
    """ln N(z) + slogdet of the whole Jacobian from cube to noise, the logit included."""
    model, generator = _flow(shape), torch.Generator().manual_seed(1)
    y = 1.8 * torch.rand(1, *shape, dtype=torch.float64, generator=generator) - 0.9
    torch.testing.assert_close(model.log_density(y)[0].detach(), brute_force_log_density(model, y))


def test_probabilities_of_all_bins_sum_to_one() -> None:
    """The density integrated over each bin of a two-pixel image: nothing lost at or outside the cube."""
    model = _flow((1, 1, 2), levels=3)
    p = bin_probabilities(model, panel=0.5, end=20)
    assert float(p.sum()) == pytest.approx(1, abs=1e-8)
    check_reported_likelihood(model, every_image((1, 1, 2), 3), p)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_identity_flow_gives_the_closed_form_bits(levels: int) -> None:
    """z = logit(v), v uniform on the unit interval: ½ln 2π + π²/6 − 2 nats above log K a dimension.

    The offset must come from s = 2/K and the cube [−1, 1]: a slip of one bit a dimension shows here.
    """
    model = RealNVP((1, 8, 8), levels, **SMALL).eval()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(levels, (4000, 1, 8, 8), generator=generator, dtype=torch.uint8)
    nats = model.nll(pixels, generator=generator).nats
    expected = 0.5 * math.log(2 * math.pi) + math.pi**2 / 6 - 2 + math.log(levels)
    error = float(nats.std()) / math.sqrt(4000) / 64
    assert error < 6e-3
    assert float(nats.mean()) / 64 == pytest.approx(expected, abs=5 * error)


def test_more_dequantisation_samples_tighten_the_bound() -> None:
    """M = 16 is below M = 1 on the same images, and `single` is the M = 1 number."""
    model, pixels = _flow((1, 4, 4)), torch.randint(4, (300, 1, 4, 4), dtype=torch.uint8)
    sixteen = model.nll(pixels, generator=torch.Generator().manual_seed(1), dequantisation_samples=16)
    one = model.nll(pixels, generator=torch.Generator().manual_seed(2))
    assert bool((sixteen.nats <= sixteen.breakdown["single"]).all())
    assert float(sixteen.nats.mean()) < float(one.nats.mean()) - 0.05
    error = float(one.nats.std()) / math.sqrt(300)
    assert float(sixteen.breakdown["single"].mean()) == pytest.approx(float(one.nats.mean()), abs=5 * error)
    assert "uniform dequantisation ×16, s=2/4" in sixteen.protocol


def test_edges_of_the_cube_stay_finite() -> None:
    """u = 0 at level 0 and u → 1 at level K−1: in float32 y would be ±1 and its logit infinite."""
    model, generator = RealNVP((1, 8, 8), 256, **SMALL).eval(), torch.Generator().manual_seed(0)
    lowest, highest = 2.0**-25, 1 - 2.0**-25
    for level, u in ((0, lowest), (255, highest)):
        noise = torch.full((1, 1, 8, 8), u, dtype=torch.float64)
        y = model.dequantise(torch.full((1, 1, 8, 8), level, dtype=torch.uint8), noise)
        assert bool(model.log_density(y).isfinite().all())
    assert bool(
        model.nll(torch.zeros(500, 1, 8, 8, dtype=torch.uint8), generator=generator).nats.isfinite().all()
    )


def test_shapes_decide_the_scales() -> None:
    """Even images are squeezed, odd ones are not, and every element is transformed either way."""
    assert sum(isinstance(layer, Squeeze) for layer in RealNVP((1, 8, 8), scales=3).network.layers) == 2
    assert not any(isinstance(layer, Squeeze) for layer in RealNVP((1, 7, 8), scales=3).network.layers)
    for shape in SHAPES:
        masks: dict[tuple[int, ...], Tensor] = {}
        for layer in RealNVP(shape, **SMALL).network.layers:
            if isinstance(layer, AffineCoupling):
                key = tuple(layer.mask_CHW.shape)
                masks[key] = masks.get(key, torch.zeros(key)) + (1 - layer.mask_CHW)
        assert all(bool((count > 0).all()) for count in masks.values()), shape


def test_samples_are_the_inverse_of_per_image_noise() -> None:
    """A sample does not depend on its batch, costs one network call, and maps back to its own noise."""
    model, calls = _flow((1, 4, 4), levels=256).float(), []
    model.network.register_forward_hook(lambda *_: calls.append(1))
    pixels = model.sample(6, None, Seeds(0, range(6)))
    assert len(calls) == 1
    assert torch.equal(pixels[3:4], model.sample(1, None, Seeds(0, [3])))
    x, _ = model.network(Seeds(0, range(6)).per_image((1, 4, 4)), inverse=True)
    assert torch.equal(pixels, model.quantise(2 * torch.sigmoid(x.double()) - 1))


def test_learns_digits_better_than_histograms() -> None:
    """A few seconds of training beat 64 separate histograms, in spite of uniform dequantisation."""
    model = _trained()
    nats = model.nll(split()[1], generator=torch.Generator().manual_seed(0)).nats
    assert bits(nats, model) < PER_PIXEL_HISTOGRAM_BITS - 0.1


def test_infinite_samples_are_caught_before_they_become_white_pixels() -> None:
    """sigmoid(∞) = 1 would pass for level K−1."""
    model = RealNVP((1, 4, 4), 4, **SMALL).eval()
    nn.init.constant_(model.network.layers[0].t_CHW, -math.inf)
    with pytest.raises(NonFiniteSamples, match="image 0"):
        model.sample(2, None, Seeds(0, range(2)))


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="two dimensions or more"):
        RealNVP((1, 1, 1))
    model = RealNVP((1, 4, 4), 4, **SMALL)
    pixels = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="dequantisation_samples must be a whole number, at least 1"):
        model.nll(pixels, dequantisation_samples=-1)
    with pytest.raises(ValueError, match="RealNVP is unconditional: leave the labels out"):
        model.nll(pixels, torch.zeros(1))
    with pytest.raises(ValueError, match=r"must be integer levels 0…3: got torch.float32"):
        model.loss(pixels.float())
    with pytest.raises(ValueError, match="samples by inverse only: leave sampler out"):
        model.sample(1, object(), Seeds(0, [0]))  # type: ignore[arg-type]
