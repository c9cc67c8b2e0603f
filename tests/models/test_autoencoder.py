"""The autoencoder: a proper likelihood model whatever β, with latents of variance 1.

Shapes: B images, c h w latents.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.autoencoder import Autoencoder
from models.base import NonFiniteSamples
from models.seeds import Seeds
from tests.models.digits import bits, every_image, randomise, split, train

SHAPE, LEVELS = (1, 2, 2), 3
REPEATS = 100


def _small(latent: int = 1, beta: float = 0.2) -> Autoencoder:
    """A latent grid of 1×1, so that the integral over one latent can be taken."""
    torch.manual_seed(0)
    model = randomise(Autoencoder(SHAPE, LEVELS, latent=latent, channels=4, beta=beta))
    assert isinstance(model, Autoencoder)
    return model


@torch.no_grad()
def _integrated_nats(model: Autoencoder, pixels: Tensor) -> Tensor:
    """−ln ∫ N(z) p(pixels|z) dz by the trapezium rule on 2001 points."""
    z = torch.linspace(-8, 8, 2001, dtype=torch.float64).view(-1, 1, 1, 1)
    law = model.decode(z)
    log_normal = -0.5 * z.flatten() ** 2 - 0.5 * math.log(2 * math.pi) + math.log(16 / 2000)
    return -torch.stack(
        [(law.log_prob(image).flatten(1).sum(1) + log_normal).logsumexp(0) for image in pixels]
    )


def _mean_bound(model: Autoencoder, pixels: Tensor, importance_samples: int) -> tuple[Tensor, Tensor]:
    """Mean and standard error, (B,), of the bound over independent draws."""
    generator = torch.Generator().manual_seed(importance_samples)
    draws = model.nll(
        pixels.repeat(REPEATS, 1, 1, 1), generator=generator, importance_samples=importance_samples
    ).nats.view(REPEATS, -1)
    return draws.mean(0), draws.std(0) / math.sqrt(REPEATS)


def test_the_likelihood_is_a_bound_that_tightens() -> None:
    """Exact ≤ K=16 ≤ K=1 in expectation over all 81 images, though β is not 1."""
    model, pixels = _small(), every_image(SHAPE, LEVELS)
    exact = _integrated_nats(model, pixels)
    assert float((-exact).exp().sum()) == pytest.approx(1, abs=1e-9)
    gaps = []
    for K in (1, 16):
        mean, error = _mean_bound(model, pixels, K)
        assert bool((mean - exact > -5 * error).all()), K
        gaps.append(float((mean - exact).mean()))
    assert gaps[0] > gaps[1] > 0


def test_beta_weighs_the_divergence_in_the_loss_and_not_in_the_likelihood() -> None:
    """loss(β=1) − loss(β=¼) = ¾·KL/D; the bound is the same; β = 1 gives −ELBO/D."""
    pixels = every_image(SHAPE, LEVELS)
    full, weak = _small(beta=1.0), _small(beta=0.25)
    losses = [float(m.loss(pixels, None, torch.Generator().manual_seed(0)).detach()) for m in (full, weak)]
    mean, log_std = full.encode(pixels)
    kl = 0.5 * (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).flatten(1).sum(1).mean()
    assert losses[0] - losses[1] == pytest.approx(0.75 * float(kl.detach()) / 4, rel=1e-5)
    nats = [m.nll(pixels, generator=torch.Generator().manual_seed(0)).nats for m in (full, weak)]
    assert torch.equal(nats[0], nats[1])
    bound, error = _mean_bound(full, pixels, 1)
    draws = torch.stack([full.loss(pixels.repeat(50, 1, 1, 1)).detach() for _ in range(5)])
    assert 4 * float(draws.mean()) == pytest.approx(float(bound.mean()), abs=5 * float(error.mean()))


def test_parts_add_up() -> None:
    model, pixels = _small(latent=3), every_image(SHAPE, LEVELS)[:7]
    found = model.nll(pixels, generator=torch.Generator().manual_seed(0), importance_samples=5)
    torch.testing.assert_close(
        found.breakdown["reconstruction"] + found.breakdown["kl"], found.breakdown["elbo"]
    )
    assert bool((found.nats <= found.breakdown["elbo"]).all())
    assert found.kind == "bound"
    assert "K=5 " in found.protocol


def test_scaled_latents_have_unit_variance_over_the_training_set() -> None:
    """Drawn latents, not means only; more images than are encoded at once; the scale is saved."""
    torch.manual_seed(0)
    model, pixels = Autoencoder(channels=8, latent=3).eval(), split()[0]
    for parameter in model.encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.calibrate(pixels)
    mean, log_std = model.encode(pixels)
    z = mean + log_std.exp() * torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    assert float((model.scale * z).var().detach()) == pytest.approx(1.0, rel=0.02)
    assert float((model.scale * mean).var().detach()) < 0.97
    again = Autoencoder(channels=8, latent=3)
    again.load_state_dict(model.state_dict())
    assert float(again.scale) == float(model.scale) != 1.0


def test_samples_have_the_probabilities_of_the_model() -> None:
    """Frequencies of single pixels over 20 000 samples against the integral over z."""
    model, n = _small(), 20_000
    samples = model.float().sample(n, None, Seeds(0, range(n))).flatten(1).long()
    images = every_image(SHAPE, LEVELS)
    p = (-_integrated_nats(model.double(), images)).exp()
    for pixel in range(4):
        expected = torch.stack([p[images.flatten(1)[:, pixel] == level].sum() for level in range(LEVELS)])
        shares = torch.bincount(samples[:, pixel], minlength=LEVELS).double() / n
        torch.testing.assert_close(shares, expected, atol=0.015, rtol=0)


def test_a_short_training_keeps_the_image_in_fewer_numbers() -> None:
    """32 latents for 64 pixels: the decoder's mean is near the image, and sharper than its neighbourhood."""
    torch.manual_seed(0)
    model, pixels = train(Autoencoder(channels=16, latent=2), steps=200, learning_rate=4e-3), split()[1]
    assert isinstance(model, Autoencoder)
    assert model.latent_dims == 32
    with torch.no_grad():
        seen = model.decode(model.encode(pixels)[0]).mean.clamp(-1, 1)
    x = model.to_signed(pixels)
    error, spread = (seen - x).square().mean(), (x - x.mean(0)).square().mean()
    assert float(error) < 0.25 * float(spread)
    found = model.nll(pixels, generator=torch.Generator().manual_seed(0))
    assert bits(found.breakdown["reconstruction"], model) < 1.9


def test_sample_does_not_depend_on_its_batch() -> None:
    model = randomise(Autoencoder((3, 4, 8), 256, channels=8)).float()
    together, alone = model.sample(4, None, Seeds(0, range(4))), model.sample(1, None, Seeds(0, [2]))
    assert together.shape == (4, 3, 4, 8)
    assert together.dtype == torch.uint8
    assert torch.equal(together[2:3], alone)


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="beta must be above 0"):
        Autoencoder(beta=0.0)
    with pytest.raises(ValueError, match="factor 4 must divide the height and width of 6×8 images"):
        Autoencoder((1, 6, 8), factor=4)
    with pytest.raises(ValueError, match="latent must be a whole number, at least 1: got 0"):
        Autoencoder(latent=0)
    model, pixels = Autoencoder(channels=8), split()[1][:2]
    with pytest.raises(ValueError, match="importance_samples"):
        model.nll(pixels, importance_samples=0)
    with pytest.raises(ValueError, match="leave the labels out"):
        model.loss(pixels, torch.zeros(2))
    with pytest.raises(ValueError, match="cannot be guided"):
        model.sample(2, None, Seeds(0, range(2)), guidance=2.0)
    torch.nn.init.constant_(model.network.last[2].bias, float("nan"))
    with pytest.raises(NonFiniteSamples, match="image 0"):
        model.sample(2, None, Seeds(0, range(2)))
