"""Protects the diffusion model: it learns digits, its bound is honest, its failures have an address."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.base import NonFiniteSamples
from models.diffusion import DDPM, bound_grid
from models.paths import path
from models.samplers import sampler
from models.seeds import Seeds

UNIFORM_BITS = math.log2(17)


@pytest.fixture(scope="module")
def digits() -> Tensor:
    from sklearn.datasets import load_digits

    return torch.from_numpy(load_digits().images.astype(np.uint8)[:, None])


def _train(model: DDPM, pixels: Tensor, steps: int) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        index = torch.randint(len(pixels), (64,), generator=generator)
        loss = model.loss(pixels[index], None, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def trained(digits: Tensor) -> DDPM:
    """A small model after a few seconds of training on the real digits."""
    torch.manual_seed(0)
    model = DDPM((1, 8, 8), 17, channels=16, timesteps=48)
    losses = _train(model, digits[:1437], 150)
    assert sum(losses[-20:]) < 0.6 * sum(losses[:20])
    model.eval().calibrate(digits[:1437], torch.Generator().manual_seed(1))
    return model


def test_a_short_training_beats_a_histogram_of_levels(trained: DDPM, digits: Tensor) -> None:
    """2.971 bits is what a global histogram of levels takes; the bound is below it after seconds."""
    found = trained.nll(digits[1437:1565], None, torch.Generator().manual_seed(0))
    bits = found.nats / (64 * math.log(2))
    assert found.kind == "bound"
    assert float(bits.mean()) < 2.971
    assert torch.allclose(found.nats, sum(found.breakdown.values()))
    assert "T=48" in found.protocol
    assert "optimal" in found.protocol
    assert "CosinePath" in found.protocol


def test_fitted_variances_tighten_the_bound(trained: DDPM, digits: Tensor) -> None:
    generator, mean = torch.Generator(), {}
    for kind in ("small", "large", "optimal"):
        generator.manual_seed(0)
        mean[kind] = float(trained.nll(digits[1437:1565], None, generator, variance=kind).nats.mean())
    assert mean["optimal"] < min(mean["small"], mean["large"])


def test_fitted_variances_travel_with_the_weights(trained: DDPM, digits: Tensor) -> None:
    other = DDPM((1, 8, 8), 17, channels=16, timesteps=48)
    with pytest.raises(ValueError, match="call calibrate"):
        other.nll(digits[:2])
    other.load_state_dict(trained.state_dict())
    a, b = (m.nll(digits[:4], None, torch.Generator().manual_seed(0)).nats for m in (trained, other.eval()))
    assert torch.equal(a, b)


def test_noise_images_cost_more_than_digits(trained: DDPM, digits: Tensor) -> None:
    """A density that did not depend on the image would pass every other check of the bound."""
    noise = torch.randint(0, 17, (32, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    generator = torch.Generator().manual_seed(0)
    real = trained.nll(digits[1437:1469], None, generator).nats.mean()
    assert float(trained.nll(noise, None, generator).nats.mean()) > UNIFORM_BITS * math.log(2) * 64 > real


@pytest.mark.parametrize("name", ["ddpm", "ddim", "heun"])
def test_a_sample_does_not_depend_on_its_batch(trained: DDPM, name: str) -> None:
    """Image 2 of 3 is image 2 alone, for what draws no noise on the way; all are levels."""
    together = trained.sample(3, sampler(name, 4), Seeds(0, [0, 1, 2]))
    assert together.dtype == torch.uint8
    assert int(together.max()) <= 16
    if name != "ddpm":
        alone = trained.sample(1, sampler(name, 4), Seeds(0, [2]))
        assert int((alone[0].int() - together[2].int()).abs().max()) <= 1
    assert torch.equal(together, trained.sample(3, sampler(name, 4), Seeds(0, [0, 1, 2])))


class _Breaks(nn.Module):
    """Turns one image into NaN below a given time."""

    def __init__(self, below: float, image: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.below, self.image = below, image

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        if float(t[0]) <= self.below:
            out[self.image] = math.nan
        return out


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_a_sample_that_is_not_finite_is_reported_with_image_and_step(name: str) -> None:
    """The network breaks below t = 0.5, that is at the fourth of six steps on the cosine path."""
    model = DDPM((1, 8, 8), 17, channels=8, timesteps=4)
    model.network = _Breaks(0.5, image=2)  # type: ignore[assignment]
    with pytest.raises(NonFiniteSamples) as error:
        model.sample(4, sampler(name, 6), Seeds(0, range(4)))
    assert (error.value.image, error.value.step) == (2, 4)


@pytest.mark.parametrize("name", ["cosine", "linear-vp", "rectified-flow"])
def test_times_of_the_bound_fall_from_the_shared_start_to_the_decoder(name: str) -> None:
    p = path(name)
    times = bound_grid(p, 16, 0.03)
    assert len(times) == 17
    assert list(times) == sorted(times, reverse=True)
    assert p.log_snr(times[0]) == pytest.approx(-10.0)
    assert p.sigma(times[-2]) / p.alpha(times[-2]) == pytest.approx(0.03)


def test_bad_requests_get_one_sentence() -> None:
    model = DDPM((1, 8, 8), 17, channels=8, timesteps=4)
    pixels = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match="unconditional"):
        model.loss(pixels, torch.zeros(2))
    with pytest.raises(ValueError, match="needs a sampler"):
        model.sample(1, None, Seeds(0, [0]))
    with pytest.raises(ValueError, match="built for images of"):
        model.loss(pixels[..., :4])
    with pytest.raises(ValueError, match="need 3 seeds"):
        model.sample(3, sampler("ddim", 2), Seeds(0, [0]))
    with pytest.raises(ValueError, match="Did you mean 'logit-normal'"):
        DDPM((1, 8, 8), 17, times="logitnormal")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Did you mean 'cosine'"):
        DDPM((1, 8, 8), 17, path="cosin")
