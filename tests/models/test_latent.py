"""Latent diffusion: its bits are those of the pixels, its autoencoder stays as it was trained.

Shapes: B images, D_z latent dimensions.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models import paths
from models.autoencoder import Autoencoder
from models.base import NonFiniteSamples
from models.latent import LatentDiffusion
from models.samplers import sampler
from models.seeds import Seeds
from models.vae import VAE, normal_like
from tests.models.digits import every_image, randomise, split, train
from tests.models.oracles import GaussianOracle

SHAPE, LEVELS, SMALL = (1, 2, 4), 3, {"latent": 2, "channels": 4}
MEAN = torch.tensor([0.3, -0.2, 0.1, 0.5], dtype=torch.float64)
"""Of the unscaled latents (2, 1, 2), D_z = 4."""


def _oracle_model(scale: float) -> tuple[LatentDiffusion, Tensor]:
    """Random decoder and posterior, and the exact velocity where z ~ N(MEAN, Σ): x_0 ~ N(s·MEAN, s²·Σ)."""
    teacher = randomise(Autoencoder(SHAPE, LEVELS, **SMALL), std=0.4)
    teacher.scale.fill_(scale)
    model = LatentDiffusion(SHAPE, LEVELS, autoencoder=SMALL, patch=1, width=16, depth=1).double().eval()
    model.learn_from(teacher, every_image(SHAPE, LEVELS)[:1])
    root = 0.3 * torch.eye(4, dtype=torch.float64) + 0.2
    covariance = root @ root.T
    path = paths.path("rectified-flow")
    model.network = GaussianOracle(path, "velocity", scale * MEAN, scale**2 * covariance)
    return model, covariance


def _nats(model: LatentDiffusion, pixels: Tensor, **options: Any) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return model.nll(pixels, None, generator, rtol=1e-8, atol=1e-8, divergence="exact", **options).nats


@torch.no_grad()
def _closed_form(model: LatentDiffusion, covariance: Tensor, pixels: Tensor) -> Tensor:
    """−ln p(k|z) − ln N(z; MEAN, Σ) + ln q(z|k) for the z that the same generator gives."""
    mean, log_std = model.autoencoder.encode(pixels)
    z = mean + log_std.exp() * normal_like(mean, torch.Generator().manual_seed(7))
    prior = torch.distributions.MultivariateNormal(MEAN, covariance).log_prob(z.flatten(1))
    posterior = torch.distributions.Normal(mean, log_std.exp()).log_prob(z).flatten(1).sum(1)
    return posterior - prior - model.autoencoder.log_likelihood(pixels, z)


@pytest.mark.parametrize("scale", [1.0, 0.18215, 3.0])
def test_bits_are_those_of_the_closed_form_whatever_the_scale(scale: float) -> None:
    """Gaussian latents: the number does not depend on the units of the path; without D_z ln s it would."""
    model, covariance = _oracle_model(scale)
    pixels = every_image(SHAPE, LEVELS)[::1000]
    found = _nats(model, pixels)
    torch.testing.assert_close(found, _closed_form(model, covariance, pixels), atol=1e-5, rtol=0)


def test_the_bound_bounds() -> None:
    """Σ_k exp(−bound) ≤ 1 over all 6561 images, as for any bound of a distribution."""
    model, covariance = _oracle_model(1.0)
    nats = _closed_form(model, covariance, every_image(SHAPE, LEVELS))
    assert 0 < float((-nats).exp().sum()) < 1


def test_parts_add_up_and_samples_of_the_posterior_are_averaged() -> None:
    model, _ = _oracle_model(2.0)
    pixels = every_image(SHAPE, LEVELS)[:1].repeat(400, 1, 1, 1)
    options: dict[str, Any] = {"solver": "rk4", "steps": 4}
    one, four = (
        model.nll(pixels, None, torch.Generator().manual_seed(0), posterior_samples=n, **options)
        for n in (1, 4)
    )
    for found in (one, four):
        parts = [found.breakdown[name] for name in ("reconstruction", "prior", "entropy")]
        torch.testing.assert_close(torch.stack(parts).sum(0), found.nats)
        assert found.kind == "estimate"
    assert float(one.nats.std() / four.nats.std()) == pytest.approx(2.0, rel=0.25)
    assert "rk4 4 steps" in four.protocol
    assert "posterior×4" in four.protocol


def test_latents_are_scaled_samples_of_the_posterior() -> None:
    """encode: mean s·m and deviation s·σ of q over many draws."""
    model, _ = _oracle_model(3.0)
    pixels = every_image(SHAPE, LEVELS)[1234:1235].repeat(4000, 1, 1, 1)
    x_0 = model.encode(pixels, torch.Generator().manual_seed(0))
    mean, log_std = model.autoencoder.encode(pixels[:1])
    std = 3 * log_std[0].exp()
    assert bool(((x_0.mean(0) - 3 * mean[0]).abs() < 5 * std / math.sqrt(4000)).all())
    torch.testing.assert_close(x_0.std(0), std, rtol=0.06, atol=0)
    torch.testing.assert_close(model.decode(3 * mean), model.to_pixels(model.autoencoder.decode(mean).mean))


@pytest.fixture(scope="module")
def teacher() -> Autoencoder:
    """A small autoencoder after a few seconds on the digits, with its scale."""
    torch.manual_seed(0)
    model = train(Autoencoder(channels=16), steps=150, learning_rate=4e-3)
    assert isinstance(model, Autoencoder)
    model.calibrate(split()[0])
    return model


@pytest.fixture(scope="module")
def trained(teacher: Autoencoder) -> LatentDiffusion:
    """A small network on its latents after a few seconds."""
    torch.manual_seed(0)
    model = LatentDiffusion(autoencoder={"channels": 16}, width=48, depth=2)
    model.learn_from(teacher, split()[0])
    assert isinstance(train(model, steps=250, learning_rate=4e-3, batch_size=64), LatentDiffusion)
    return model


def test_training_leaves_the_autoencoder_alone(teacher: Autoencoder, trained: LatentDiffusion) -> None:
    """Neither gradients nor weight decay move it, dropout stays off in it, and the scale comes along."""
    for name, value in teacher.state_dict().items():
        assert torch.equal(trained.autoencoder.state_dict()[name], value), name
    assert float(trained.autoencoder.scale) != 1.0
    assert not any(p.requires_grad for p in trained.autoencoder.parameters())
    assert all(p.requires_grad for p in trained.network.parameters())
    trained.train()
    assert trained.network.training
    assert not any(module.training for module in trained.autoencoder.modules())
    trained.eval()


def test_samples_look_like_digits_on_average(trained: LatentDiffusion) -> None:
    """The mean image follows that of the data; an image does not depend on its batch."""
    together = trained.sample(96, sampler("euler", 12), Seeds(0, range(96)))
    assert (together.shape, together.dtype) == ((96, 1, 8, 8), torch.uint8)
    means = torch.stack([together.float().mean(0).flatten(), split()[0].float().mean(0).flatten()])
    assert float(torch.corrcoef(means)[0, 1]) > 0.9
    alone = trained.sample(1, sampler("euler", 12), Seeds(0, [3]))
    assert int((alone.int() - together[3:4].int()).abs().max()) <= 1


def test_a_trained_prior_is_worth_its_bits(teacher: Autoencoder, trained: LatentDiffusion) -> None:
    """On test images the learned p(z) costs less than the autoencoder's own N(0, I)."""
    pixels, options = split()[1][:64], {"solver": "rk4", "steps": 8}
    learned = trained.nll(pixels, None, torch.Generator().manual_seed(0), **options).nats
    gain = teacher.nll(pixels, None, torch.Generator().manual_seed(0)).nats - learned
    assert float(gain.mean()) > 5 * float(gain.std()) / 8


def test_state_dict_round_trip(trained: LatentDiffusion) -> None:
    """The constructor and the saved weights alone give the same model, the autoencoder's scale included."""
    again = LatentDiffusion(autoencoder={"channels": 16}, width=48, depth=2).eval()
    again.load_state_dict(trained.state_dict())
    seeds = [Seeds(0, range(4)), Seeds(0, range(4))]
    images = [m.sample(4, sampler("heun", 3), s) for m, s in zip((trained, again), seeds, strict=True)]
    assert torch.equal(*images)


@pytest.mark.parametrize("network", ["dit", "unet"])
def test_labels_reach_the_network(network: str) -> None:
    """Classes change samples and likelihoods, guidance mixes; no label is the null label."""
    options: dict[str, Any] = {"width": 16, "depth": 1} if network == "dit" else {"channels": 8}
    model = LatentDiffusion(autoencoder={"channels": 8}, classes=10, network=network, **options)
    randomise(model, std=0.15).float()
    pixels, label = split()[0][:3], torch.tensor([3, 3, 3])
    assert model.loss(pixels, label, torch.Generator().manual_seed(0)).ndim == 0
    found = [
        model.nll(pixels, c, torch.Generator().manual_seed(0), solver="euler", steps=2).nats
        for c in (None, torch.tensor([10, 10, 10]), label)
    ]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    ends = [model.trajectory(3, sampler("euler", 2), Seeds(0, range(3)), label, w) for w in (0.0, 1.0, 3.0)]
    assert not torch.allclose(ends[0], ends[1])
    assert not torch.allclose(ends[1], ends[2])


def test_a_value_that_is_not_finite_is_refused(trained: LatentDiffusion) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return x / 0

    model = LatentDiffusion(autoencoder={"channels": 16})
    model.network = Broken()
    with pytest.raises(NonFiniteSamples, match="image 0 of the batch, step 1"):
        model.sample(2, sampler("euler", 3), Seeds(0, range(2)))


def test_bad_input_is_one_sentence(teacher: Autoencoder) -> None:
    pixels = split()[0]
    with pytest.raises(ValueError, match="autoencoder 'latents'\\. Did you mean 'latent'"):
        LatentDiffusion(autoencoder={"latents": 3})
    with pytest.raises(ValueError, match="network 'did'\\. Did you mean 'dit'"):
        LatentDiffusion(network="did")
    for other, options in (
        (teacher, {"latent": 3, "channels": 16}),
        (teacher, {}),
        (VAE(), {"channels": 16}),
    ):
        with pytest.raises(ValueError, match="built for another autoencoder"):
            LatentDiffusion(autoencoder=options).learn_from(other, pixels)
    model = LatentDiffusion(autoencoder={"channels": 16})
    with pytest.raises(ValueError, match="posterior_samples must be a whole number"):
        model.nll(pixels[:2], posterior_samples=0)
    with pytest.raises(ValueError, match="17 levels"):
        model.nll(pixels[:2] + 17)
    with pytest.raises(ValueError, match="unconditional"):
        model.loss(pixels[:2], torch.zeros(2, dtype=torch.int64))


def test_builds_without_data() -> None:
    """On the meta device, as options are checked: nothing is computed and no value is read."""
    with torch.device("meta"):
        model = LatentDiffusion((3, 32, 32), 256, autoencoder={"factor": 4}, classes=10)
    assert model.state_shape == (2, 8, 8)
    assert next(model.parameters()).device.type == "meta"


def test_what_is_prepared_once_gives_the_same_loss() -> None:
    """The encoder's output in place of the pixels: the noise is drawn as before, so the loss is the same."""
    teacher = randomise(Autoencoder(SHAPE, LEVELS, **SMALL), std=0.4)
    model = LatentDiffusion(SHAPE, LEVELS, autoencoder=SMALL, patch=1, width=16, depth=1).eval()
    pixels = every_image(SHAPE, LEVELS)[::97]
    model.learn_from(teacher, pixels)
    prepared = model.prepare(pixels)
    assert prepared.shape == (len(pixels), 4, 1, 2)
    losses = [model.loss(each, None, torch.Generator().manual_seed(3)) for each in (pixels, prepared)]
    assert torch.equal(losses[0], losses[1])
    with pytest.raises(ValueError, match="built for images of"):
        model.loss(prepared[:, :3])
