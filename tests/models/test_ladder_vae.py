"""The ladder VAE: its bounds bound, tighten with K, and its free bits stay in the loss.

Shapes: B images, Z latent dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from models.base import NonFiniteSamples
from models.ladder_vae import LadderVAE
from models.seeds import Seeds
from tests.models.digits import PER_PIXEL_HISTOGRAM_BITS, bits, every_image, randomise, split, train

SHAPE, LEVELS = (1, 2, 2), 3
REPEATS = 100


def _small(latents: Sequence[int] = (1, 1), **options: Any) -> LadderVAE:
    torch.manual_seed(0)
    model = randomise(LadderVAE(SHAPE, LEVELS, latents=latents, width=6, depth=1, **options))
    assert isinstance(model, LadderVAE)
    return model


@torch.no_grad()
def _integrated_nats(model: LadderVAE, pixels: Tensor, points: int = 121) -> Tensor:
    """−ln ∫∫ N(w_2) N(w_1) p(pixels|w) dw by the trapezium rule, w the latents in units of their priors."""
    axis = torch.linspace(-6, 6, points, dtype=torch.float64)
    w = torch.cartesian_prod(axis, axis)
    raw, _ = model.network(w)
    log_normal = -0.5 * w.square().sum(1) - math.log(2 * math.pi) + 2 * math.log(12 / (points - 1))
    law = model.decode(raw)
    return -torch.stack(
        [(law.log_prob(image.flatten()).sum(1) + log_normal).logsumexp(0) for image in pixels]
    )


def _mean_bound(model: LadderVAE, pixels: Tensor, importance_samples: int) -> tuple[Tensor, Tensor]:
    """Mean and standard error, (B,), of the bound over independent draws."""
    generator = torch.Generator().manual_seed(importance_samples)
    draws = model.nll(
        pixels.repeat(REPEATS, 1, 1, 1), generator=generator, importance_samples=importance_samples
    ).nats.view(REPEATS, -1)
    return draws.mean(0), draws.std(0) / math.sqrt(REPEATS)


def test_bounds_tighten_towards_the_integral_from_above() -> None:
    """Exact ≤ K=64 ≤ K=8 ≤ K=1 in expectation over all 81 images; a layer's KL left out breaks it."""
    model, pixels = _small(), every_image(SHAPE, LEVELS)
    exact = _integrated_nats(model, pixels)
    assert float((-exact).exp().sum()) == pytest.approx(1, abs=1e-6)
    gaps = []
    for K in (1, 8, 64):
        mean, error = _mean_bound(model, pixels, K)
        assert bool((mean - exact > -5 * error).all()), K
        gaps.append(float((mean - exact).mean()))
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert gaps[2] < 0.5 * gaps[0]


def test_importance_weights_average_to_the_probability() -> None:
    """E[w] = P(pixels) whatever the posterior: unbiased on each of 81 images, through both layers."""
    model, pixels, n = _small(), every_image(SHAPE, LEVELS), 3000
    with torch.no_grad():  # posteriors close to the prior keep the weights' variance finite and small
        for layer in model.network.layers:
            for parameter in layer.posterior.last.parameters():
                parameter.mul_(0.1)
    generator = torch.Generator().manual_seed(3)
    weights = (-model.nll(pixels.repeat(n, 1, 1, 1), generator=generator).nats.view(n, -1)).exp()
    wrong = weights.mean(0) - (-_integrated_nats(model, pixels)).exp()
    assert bool((wrong.abs() < 5 * weights.std(0) / math.sqrt(n)).all())


def test_the_posterior_of_a_layer_depends_on_the_layers_above_and_on_the_image() -> None:
    """Top-down inference: layer 1 moves with the noise of layer 2, the top layer with the image only."""
    model, pixels = _small((2, 3)), every_image(SHAPE, LEVELS)[[7, 70]]
    features = model.features(pixels)
    noise = torch.zeros(2, 5, dtype=torch.float64)
    other = noise.clone()
    other[:, :3] = 1  # the top layer, of 3, comes first
    _, (top, first) = model.network(noise, features)
    _, (top_moved, first_moved) = model.network(other, features)
    assert (top.w_BZ.shape, first.w_BZ.shape) == ((2, 3), (2, 2))
    assert torch.equal(top.mean_BZ, top_moved.mean_BZ)
    assert bool((first.mean_BZ != first_moved.mean_BZ).all())
    assert bool((top.mean_BZ[0] != top.mean_BZ[1]).all())


def test_without_an_image_every_layer_is_its_prior() -> None:
    """Posterior equal to the prior costs no nats: the divergence of each layer is relative to its prior."""
    model, pixels = _small((2, 3, 1)), every_image(SHAPE, LEVELS)[:9]
    with torch.no_grad():
        for layer in model.network.layers:
            for parameter in layer.posterior.last.parameters():
                parameter.zero_()
    found = model.nll(pixels, generator=torch.Generator().manual_seed(0))
    for layer in ("kl 1", "kl 2", "kl 3"):
        torch.testing.assert_close(found.breakdown[layer], torch.zeros(9, dtype=torch.float64))
    noise = torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.network(noise)[0], model.network(noise, model.features(pixels))[0])


def test_parts_add_up_and_the_number_of_samples_is_told() -> None:
    model, pixels = _small(), every_image(SHAPE, LEVELS)[:5]
    one = model.nll(pixels, generator=torch.Generator().manual_seed(0))
    many = model.nll(pixels, generator=torch.Generator().manual_seed(0), importance_samples=10)
    for found in (one, many):
        parts = [found.breakdown[name] for name in ("reconstruction", "kl 1", "kl 2")]
        torch.testing.assert_close(torch.stack(parts).sum(0), found.breakdown["elbo"])
        assert found.kind == "bound"
    torch.testing.assert_close(one.breakdown["elbo"], one.nats)
    assert bool((many.nats <= many.breakdown["elbo"]).all())
    assert "ELBO, K=1 " in one.protocol
    assert "importance-weighted bound, K=10 " in many.protocol


def test_loss_without_free_bits_is_the_elbo_in_nats_a_dimension() -> None:
    """Closed-form KL in training and sampled KL in evaluation estimate one number."""
    model, pixels = _small(free_bits=0.0), every_image(SHAPE, LEVELS)
    losses = torch.stack([model.loss(pixels.repeat(50, 1, 1, 1)) for _ in range(20)]).detach()
    mean, error = _mean_bound(model, pixels, 1)
    tolerance = 5 * math.hypot(float(losses.std()) / math.sqrt(20), float(error.mean()) / 9) + 1e-3
    assert float(losses.mean()) * 4 == pytest.approx(float(mean.mean()), abs=4 * tolerance)


def test_free_bits_are_in_the_loss_and_never_in_the_likelihood() -> None:
    """λ nats for each of 3 dimensions where the posterior says nothing; the bound does not know λ."""
    pixels = every_image(SHAPE, LEVELS)
    charged, free = _small((1, 2), free_bits=0.0), _small((1, 2), free_bits=0.3)
    for model in (charged, free):
        for layer in model.network.layers:
            torch.nn.init.zeros_(layer.posterior.last[1].weight)
            torch.nn.init.zeros_(layer.posterior.last[1].bias)
    losses = [float(m.loss(pixels, None, torch.Generator().manual_seed(0)).detach()) for m in (charged, free)]
    assert losses[1] - losses[0] == pytest.approx(3 * 0.3 / 4, abs=1e-5)
    nats = [m.nll(pixels, generator=torch.Generator().manual_seed(0)).nats for m in (charged, free)]
    assert torch.equal(nats[0], nats[1])


def test_samples_have_the_probabilities_of_the_model() -> None:
    """Frequencies of single pixels over 20 000 samples against the integral over both layers."""
    model, n = _small(), 20_000
    samples = model.float().sample(n, None, Seeds(0, range(n))).flatten(1).long()
    images = every_image(SHAPE, LEVELS)
    p = (-_integrated_nats(model.double(), images)).exp()
    for pixel in range(4):
        expected = torch.stack([p[images.flatten(1)[:, pixel] == level].sum() for level in range(LEVELS)])
        shares = torch.bincount(samples[:, pixel], minlength=LEVELS).double() / n
        torch.testing.assert_close(shares, expected, atol=0.015, rtol=0)


def test_sample_does_not_depend_on_its_batch() -> None:
    model = randomise(LadderVAE(width=32)).float()
    together, alone = model.sample(5, None, Seeds(0, range(5))), model.sample(1, None, Seeds(0, [3]))
    assert together.shape == (5, 1, 8, 8)
    assert together.dtype == torch.uint8
    assert torch.equal(together[3:4], alone)
    assert not torch.equal(together[0], together[1])


def test_learns_digits_better_than_histograms_with_both_layers() -> None:
    """A few seconds of training beat 64 separate histograms, and neither layer is switched off."""
    torch.manual_seed(0)
    model, pixels = train(LadderVAE(width=96), steps=200, learning_rate=2e-3), split()[1]
    assert isinstance(model, LadderVAE)
    found = model.nll(pixels, generator=torch.Generator().manual_seed(0), importance_samples=16)
    assert bits(found.nats, model) < bits(found.breakdown["elbo"], model) - 0.01
    assert bits(found.nats, model) < PER_PIXEL_HISTOGRAM_BITS - 0.1
    assert min(bits(found.breakdown[name], model) for name in ("kl 1", "kl 2")) > 0.01


def test_bad_input_is_one_sentence() -> None:
    model, pixels = LadderVAE(width=16), split()[1][:2]
    with pytest.raises(ValueError, match="a ladder has two layers of latents or more: got \\[16\\]"):
        LadderVAE(latents=(16,))
    with pytest.raises(ValueError, match="latents\\[1\\] must be a whole number, at least 1: got 0"):
        LadderVAE(latents=(16, 0))
    with pytest.raises(ValueError, match="free_bits"):
        LadderVAE(free_bits=-0.1)
    with pytest.raises(ValueError, match="importance_samples must be a whole number, at least 1: got 0"):
        model.nll(pixels, importance_samples=0)
    with pytest.raises(ValueError, match="is unconditional: leave the labels out"):
        model.sample(2, None, Seeds(0, range(2)), torch.zeros(2))
    with pytest.raises(ValueError, match="cannot be guided"):
        model.sample(2, None, Seeds(0, range(2)), guidance=2.0)
    torch.nn.init.constant_(model.network.last[1].bias, float("nan"))
    with pytest.raises(NonFiniteSamples, match="image 0"):
        model.sample(2, None, Seeds(0, range(2)))
