"""Protects rectified flow: it learns digits, and its bits account for the dequantisation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from models.flow_matching import RectifiedFlow
from models.samplers import sampler
from models.seeds import Seeds

REPEATS = 4000


def test_an_untrained_flow_is_the_prior_and_pays_for_the_level_width() -> None:
    """Velocity 0: −ln P(k) averages −ln N(y) − D ln(2/K); any other scale or sign shifts it by D ln of it."""
    model = RectifiedFlow((1, 2, 2), 17, channels=8).eval()
    pixels = torch.tensor([[0, 5, 10, 16], [16, 16, 0, 8]], dtype=torch.uint8).view(2, 1, 2, 2)
    nats = _mean_nats(model, pixels)
    k, s = pixels.double(), 2.0 / 17
    second = (s * (k + 0.5) - 1.0) ** 2 + s**2 / 12
    wanted = (0.5 * second + 0.5 * math.log(2 * math.pi) - math.log(s)).flatten(1).sum(1)
    assert torch.allclose(nats, wanted, atol=0.01)


def test_probabilities_of_all_levels_sum_to_the_mass_inside_the_cube() -> None:
    """One pixel: Σ_k exp(−nats) is Φ(1) − Φ(−1) < 1 up to the slope of the density within a level."""
    model = RectifiedFlow((1, 1, 1), 17, channels=8, multipliers=(1,)).eval()
    nats = _mean_nats(model, torch.arange(17, dtype=torch.uint8).view(17, 1, 1, 1))
    assert float((-nats).exp().sum()) == pytest.approx(math.erf(1 / math.sqrt(2)), abs=0.005)


def test_samples_of_the_dequantisation_are_averaged() -> None:
    """Four samples of one image spread half as much as one; their number stands in the protocol."""
    model = RectifiedFlow((1, 2, 2), 17, channels=8).eval()
    pixels = torch.full((2000, 1, 2, 2), 16, dtype=torch.uint8)
    found = [
        model.nll(
            pixels, None, torch.Generator().manual_seed(0), solver="euler", steps=1, dequantisation_samples=n
        )
        for n in (1, 4)
    ]
    assert float(found[0].nats.std() / found[1].nats.std()) == pytest.approx(2.0, rel=0.15)
    assert "uniform dequantisation×4" in found[1].protocol
    assert found[1].kind == "estimate"


def _mean_nats(model: RectifiedFlow, pixels: torch.Tensor) -> torch.Tensor:
    """The mean over many draws of the dequantisation, image by image."""
    many = pixels.repeat(REPEATS, 1, 1, 1)
    found = model.nll(many, None, torch.Generator().manual_seed(0), solver="euler", steps=1)
    return found.nats.view(REPEATS, -1).mean(0)


@pytest.fixture(scope="module")
def trained() -> tuple[RectifiedFlow, torch.Tensor]:
    """A small flow after a few seconds of training on the real digits."""
    from sklearn.datasets import load_digits

    digits = torch.from_numpy(load_digits().images.astype(np.uint8)[:, None])
    torch.manual_seed(0)
    model = RectifiedFlow((1, 8, 8), 17, channels=16)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        index = torch.randint(1437, (64,), generator=generator)
        optimizer.zero_grad()
        model.loss(digits[index], None, generator).backward()
        optimizer.step()
    return model.eval(), digits


def test_a_short_training_beats_a_histogram_of_levels(trained: tuple[RectifiedFlow, torch.Tensor]) -> None:
    """2.971 bits a dimension is the global histogram's figure."""
    model, digits = trained
    found = model.nll(digits[1437:1501], None, torch.Generator().manual_seed(0), solver="rk4", steps=8)
    assert float(found.nats.mean()) / (64 * math.log(2)) < 2.971
    for part in ("rk4 8 steps", "rademacher×1", "uniform dequantisation×1", "s=2/17"):
        assert part in found.protocol


def test_adaptive_solver_confirms_the_fixed_one(trained: tuple[RectifiedFlow, torch.Tensor]) -> None:
    """The same images, dequantisation and probe: two solvers, one number."""
    model, digits = trained
    found = [
        model.nll(digits[:2], None, torch.Generator().manual_seed(0), **options).nats
        for options in ({"solver": "rk4", "steps": 40}, {"rtol": 1e-4, "atol": 1e-4})
    ]
    assert torch.allclose(found[0], found[1], atol=0.2)


def test_gradients_of_the_weights_are_left_alone(trained: tuple[RectifiedFlow, torch.Tensor]) -> None:
    """Likelihoods are taken under no_grad and leave no trace in the model."""
    model, digits = trained
    model.zero_grad(set_to_none=True)
    with torch.no_grad():
        found = model.nll(digits[:2], None, torch.Generator().manual_seed(0), solver="euler", steps=2)
    assert not found.nats.requires_grad
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", ["euler", "heun", "ddim", "ddpm"])
def test_every_sampler_draws_images_that_use_dark_and_bright_levels(
    trained: tuple[RectifiedFlow, torch.Tensor], name: str
) -> None:
    model, digits = trained
    pixels = model.sample(64, sampler(name, 12), Seeds(0, range(64)))
    real = digits.float().mean(0)
    assert pixels.dtype == torch.uint8
    assert torch.corrcoef(torch.stack([pixels.float().mean(0).flatten(), real.flatten()]))[0, 1] > 0.9


def test_bad_requests_get_one_sentence() -> None:
    model = RectifiedFlow((1, 8, 8), 17, channels=8)
    pixels = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match="one or more samples"):
        model.nll(pixels, dequantisation_samples=0)
    with pytest.raises(ValueError, match="unconditional"):
        model.nll(pixels, torch.zeros(2))
