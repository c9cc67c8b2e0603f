"""Neural spline flow: invertible, with the density it says, and worth its splines."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch

from models.networks.couplings import Squeeze
from models.networks.splines import SplineCoupling
from models.seeds import Seeds
from models.spline_flow import SplineFlow
from tests.models.digits import PER_PIXEL_HISTOGRAM_BITS, bits, every_image, randomise, split, train
from tests.models.flows import (
    bin_probabilities,
    brute_force_log_density,
    check_float32_inverse,
    check_reported_likelihood,
    perturbed,
)

SMALL = {"features": 6, "couplings": 2, "bins": 4, "bound": 3.0}
SHAPES = [(1, 4, 4), (3, 2, 2), (1, 3, 2), (2, 1, 1), (1, 1, 2)]


def _flow(shape: tuple[int, int, int], levels: int = 4, std: float = 0.3) -> SplineFlow:
    model = randomise(SplineFlow(shape, levels, **SMALL), std)  # type: ignore[arg-type]
    assert isinstance(model, SplineFlow)
    return model


@cache
def _trained() -> SplineFlow:
    """A few seconds on the real digits."""
    torch.manual_seed(0)
    model = train(SplineFlow(features=12, bins=6), steps=80, learning_rate=8e-3)
    assert isinstance(model, SplineFlow)
    return model


@pytest.mark.parametrize("shape", SHAPES)
def test_log_density_is_that_of_the_jacobian(shape: tuple[int, int, int]) -> None:
    """Bits a dimension are wrong wherever one log-determinant is."""
    model, generator = _flow(shape), torch.Generator().manual_seed(1)
    y = 1.8 * torch.rand(1, *shape, dtype=torch.float64, generator=generator) - 0.9
    torch.testing.assert_close(
        model.log_density(y)[0].detach(), brute_force_log_density(model, y), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_inverse_undoes_the_flow(shape: tuple[int, int, int]) -> None:
    """Samples come from the density that is reported only if the inverse is one; beyond the tails too."""
    model = _flow(shape, std=0.2)
    x = 4 * torch.randn(40, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert bool((x.abs() > model.network.layers[1].bound).any())
    z, log_det = model.network(x)
    back, log_det_back = model.network(z, inverse=True)
    torch.testing.assert_close(back, x, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(log_det_back, -log_det, atol=1e-9, rtol=1e-9)
    assert not torch.allclose(z, x)


def test_inverse_undoes_the_flow_in_float32() -> None:
    """On data, whose logits reach beyond the tails, and on noise; with random weights far outside too."""
    torch.manual_seed(0)
    wide = 4 * torch.randn(100, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    check_float32_inverse(perturbed(SplineFlow(), 0.03), wide)
    check_float32_inverse(_trained())


@pytest.mark.parametrize("shape", [(1, 1, 2), (2, 1, 1)])
def test_probabilities_of_all_levels_sum_to_one(shape: tuple[int, int, int]) -> None:
    """The density integrated over each bin of a two-pixel image: nothing lost at or outside the cube."""
    model = _flow(shape, levels=3)
    p = bin_probabilities(model, panel=0.25)
    # The density has kinks at the knots, on curves that no panel can follow.
    assert float(p.sum()) == pytest.approx(1, abs=5e-4)
    check_reported_likelihood(model, every_image(shape, 3), p)


def test_shapes_decide_the_scales() -> None:
    """Even images are squeezed, odd ones are not; every layer that bends is a spline."""
    layers = SplineFlow((1, 8, 8), scales=3).network.layers
    assert sum(isinstance(layer, Squeeze) for layer in layers) == 2
    assert sum(isinstance(layer, SplineCoupling) for layer in layers) == 2 * 5
    assert not any(isinstance(layer, Squeeze) for layer in SplineFlow((1, 7, 8), scales=3).network.layers)


def test_starts_as_the_identity() -> None:
    """Training starts from the logit alone, whatever the seed: bits are those of the closed form."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(17, (500, 1, 8, 8), generator=generator).to(torch.uint8)
    nats = SplineFlow().eval().nll(pixels, generator=generator).nats / 64
    expected = 0.5 * math.log(2 * math.pi) + math.pi**2 / 6 - 2 + math.log(17)
    error = float(nats.std()) / math.sqrt(500)
    assert error < 0.02
    assert float(nats.mean()) == pytest.approx(expected, abs=5 * error)


def test_samples_are_the_inverse_of_per_image_noise() -> None:
    """A sample does not depend on its batch, costs one network call, and maps back to its own noise."""
    model, calls = perturbed(SplineFlow((1, 4, 4), 256, **SMALL), 0.2), []  # type: ignore[arg-type]
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


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="two dimensions or more"):
        SplineFlow((1, 1, 1))
    with pytest.raises(ValueError, match="bins must be a whole number, at least 1"):
        SplineFlow(bins=0)
    with pytest.raises(ValueError, match="bins must be at most 50: got 60"):
        SplineFlow(bins=60)
    with pytest.raises(ValueError, match="bound must be above zero"):
        SplineFlow(bound=0.0)
    with pytest.raises(ValueError, match="SplineFlow cannot be guided: leave guidance at 1"):
        SplineFlow((1, 4, 4), 4, **SMALL).sample(1, None, Seeds(0, [0]), guidance=2.0)  # type: ignore[arg-type]
