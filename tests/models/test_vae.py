"""The VAE: its bounds bound, tighten with K, and its parts add up.

Shapes: B images, Z latent dimensions.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.base import NonFiniteSamples
from models.seeds import Seeds
from models.vae import VAE
from tests.models.digits import PER_PIXEL_HISTOGRAM_BITS, bits, every_image, randomise, split, train

SHAPE, LEVELS = (1, 2, 2), 3
REPEATS = 400


def _small(latent: int = 1) -> VAE:
    torch.manual_seed(0)
    model = randomise(VAE(SHAPE, LEVELS, latent=latent, width=8, depth=1))
    assert isinstance(model, VAE)
    return model


@torch.no_grad()
def _integrated_nats(model: VAE, pixels: Tensor) -> Tensor:
    """−ln ∫ N(z) p(pixels|z) dz by the trapezium rule on 4001 points of one latent dimension."""
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None]
    law = model.decode(z)
    log_normal = -0.5 * z[:, 0] ** 2 - 0.5 * math.log(2 * math.pi) + math.log(18 / 4000)
    return -torch.stack(
        [(law.log_prob(image.flatten()).sum(1) + log_normal).logsumexp(0) for image in pixels]
    )


def _mean_bound(model: VAE, pixels: Tensor, importance_samples: int) -> tuple[Tensor, Tensor]:
    """Mean and standard error, (B,), of the bound over independent draws."""
    generator = torch.Generator().manual_seed(importance_samples)
    draws = model.nll(
        pixels.repeat(REPEATS, 1, 1, 1), generator=generator, importance_samples=importance_samples
    ).nats.view(REPEATS, -1)
    return draws.mean(0), draws.std(0) / math.sqrt(REPEATS)


def test_bounds_tighten_towards_the_integral_from_above() -> None:
    """Exact ≤ K=64 ≤ K=8 ≤ K=1 in expectation over all 81 images; a missing −ln K or wrong KL breaks it."""
    model, pixels = _small(), every_image(SHAPE, LEVELS)
    exact = _integrated_nats(model, pixels)
    assert float((-exact).exp().sum()) == pytest.approx(1, abs=1e-9)
    gaps = []
    for K in (1, 8, 64):
        mean, error = _mean_bound(model, pixels, K)
        assert bool((mean - exact > -5 * error).all()), K
        gaps.append(float((mean - exact).mean()))
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert gaps[2] < 0.35 * gaps[0]


def test_importance_weights_average_to_the_probability() -> None:
    """E[(1/K) Σ w] = P(pixels) whatever the posterior: unbiased, checked on each of 81 images."""
    model, pixels = _small(), every_image(SHAPE, LEVELS)
    with torch.no_grad():  # a posterior close to the prior keeps the weights' variance finite and small
        for parameter in model.encoder.last.parameters():
            parameter.mul_(0.05)
    generator, n = torch.Generator().manual_seed(3), 4000
    nats = model.nll(pixels.repeat(n, 1, 1, 1), generator=generator).nats.view(n, -1)
    weights = (-nats).exp()
    error = weights.std(0) / math.sqrt(n)
    assert bool(((weights.mean(0) - (-_integrated_nats(model, pixels)).exp()).abs() < 5 * error).all())


def test_bound_sums_to_less_than_one() -> None:
    """Σ exp(−bound) ≤ 1 over all images: otherwise it is no bound."""
    mean, _ = _mean_bound(_small(latent=2), every_image(SHAPE, LEVELS), 1)
    assert 0 < float((-mean).exp().sum()) < 1


def test_parts_add_up_and_single_sample_is_the_elbo() -> None:
    model, pixels = _small(), every_image(SHAPE, LEVELS)[:5]
    one = model.nll(pixels, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(one.breakdown["reconstruction"] + one.breakdown["kl"], one.nats)
    many = model.nll(pixels, generator=torch.Generator().manual_seed(0), importance_samples=10)
    torch.testing.assert_close(
        many.breakdown["reconstruction"] + many.breakdown["kl"], many.breakdown["elbo"]
    )
    assert bool((many.nats <= many.breakdown["elbo"]).all())
    assert (one.kind, many.kind) == ("bound", "bound")
    assert "ELBO, K=1 " in one.protocol
    assert "importance-weighted bound, K=10 " in many.protocol


def test_loss_is_the_elbo_in_nats_a_dimension() -> None:
    """Closed-form KL in training and sampled KL in evaluation estimate one number."""
    model, pixels = _small(), every_image(SHAPE, LEVELS)
    losses = torch.stack([model.loss(pixels.repeat(50, 1, 1, 1)) for _ in range(20)]).detach()
    mean, error = _mean_bound(model, pixels, 1)
    tolerance = 5 * math.hypot(float(losses.std()) / math.sqrt(20), float(error.mean()) / 9) + 1e-3
    assert float(losses.mean()) * 4 == pytest.approx(float(mean.mean()), abs=4 * tolerance)


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


def test_sample_does_not_depend_on_its_batch() -> None:
    model = randomise(VAE(width=32)).float()
    together, alone = model.sample(5, None, Seeds(0, range(5))), model.sample(1, None, Seeds(0, [3]))
    assert torch.equal(together[3:4], alone)
    assert not torch.equal(together[0], together[1])


def test_learns_digits_better_than_histograms() -> None:
    """A few seconds of training beat 64 separate histograms; importance samples tighten the bound."""
    torch.manual_seed(0)
    model, pixels = train(VAE(width=128), steps=300, learning_rate=3e-3), split()[1]
    assert isinstance(model, VAE)
    elbo = bits(model.nll(pixels, generator=torch.Generator().manual_seed(0)).nats, model)
    tighter = model.nll(pixels, generator=torch.Generator().manual_seed(0), importance_samples=32)
    assert bits(tighter.nats, model) < elbo - 0.02
    assert elbo < PER_PIXEL_HISTOGRAM_BITS - 0.2


def test_bad_input_is_one_sentence() -> None:
    model = VAE()
    pixels = split()[1][:2]
    with pytest.raises(ValueError, match="importance_samples must be a whole number, at least 1: got 0"):
        model.nll(pixels, importance_samples=0)
    with pytest.raises(ValueError, match="is unconditional: leave the labels out"):
        model.sample(2, None, Seeds(0, range(2)), torch.zeros(2))
    torch.nn.init.constant_(model.network.first.bias, float("nan"))
    with pytest.raises(NonFiniteSamples, match="image 0"):
        model.sample(2, None, Seeds(0, range(2)))
