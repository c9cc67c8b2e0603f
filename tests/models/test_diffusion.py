"""Protects the diffusion model: it learns digits, its bound is honest, its failures have an address."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.base import NonFiniteSamples
from models.denoiser import target
from models.diffusion import DDPM, bound_grid, min_snr_weight
from models.likelihood.discretised_gaussian import discretised_gaussian_nats
from models.likelihood.variational_bound import reverse_variances, variational_bound
from models.paths import PATHS, path
from models.samplers import sampler
from models.seeds import Seeds
from models.times import draw_times
from tests.models.digits import every_image

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


TINY, LEVELS = (1, 1, 2), 4
IMAGES = every_image(TINY, LEVELS)


def _tiny(seed: int = 0, **options: object) -> DDPM:
    """Two pixels of four levels, random weights, 1 or 2 channels out."""
    model = DDPM(
        TINY, LEVELS, channels=4, multipliers=(1,), attention=False, dropout=0.0, timesteps=6, **options
    )  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return model.eval()


@pytest.mark.parametrize("variance", ["learned", "small", "large"])
def test_vlb_objective_is_the_bound_in_expectation(variance: str) -> None:
    """Random steps of the chain times T, decoder and prior included, against the sum over all steps; the
    network says x_0 within [−1, 1], so the clamp of `nll` changes nothing."""
    model = _tiny(prediction="x0", objective="vlb", variance=variance)
    pixels = IMAGES.repeat(1500, 1, 1, 1)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        found = model.nll(pixels, None, torch.Generator().manual_seed(0))
        unclamped = variational_bound(
            model.denoiser(),
            model.encode(pixels, None),
            model.grid,
            reverse_variances(model.path, model.grid, variance),  # type: ignore[arg-type]
            lambda mean, spread: discretised_gaussian_nats(pixels, mean, spread, LEVELS),
            lambda x: torch.randn(x.shape, generator=noise),
        )
        generator = torch.Generator().manual_seed(1)
        losses = [float(model.loss(pixels, None, generator)) for _ in range(8)]
    assert torch.allclose(found.nats, unclamped.total)
    assert f"{variance} variances" in found.protocol
    wanted = float(found.nats.mean()) / model.dims
    assert sum(losses) / 8 == pytest.approx(wanted, rel=0.015)


@pytest.mark.parametrize("variance", ["learned", "small", "large"])
def test_learned_and_fixed_variances_never_get_more_than_all_probability(variance: str) -> None:
    """Σ exp(−bound) ≤ 1 over the whole image space for a network that knows nothing."""
    model = _tiny(seed=2, objective="vlb", variance=variance)
    nats = model.nll(IMAGES.repeat(256, 1, 1, 1), None, torch.Generator().manual_seed(0)).nats
    assert 0 < float((-nats.view(256, -1).mean(0)).exp().sum()) <= 1.0


def _gradient(model: DDPM) -> Tensor:
    """Of the last layer: row 0 says the mean, row 1 the variance."""
    model.zero_grad()
    model.loss(IMAGES.repeat(8, 1, 1, 1), None, torch.Generator().manual_seed(0)).backward()
    weight = model.network.last.weight  # type: ignore[union-attr]
    assert weight.grad is not None
    return weight.grad.clone()


def test_the_bound_of_the_hybrid_objective_leaves_the_mean_alone() -> None:
    """Nichol & Dhariwal 2021: L_vlb trains the variances only, L_simple the mean only."""
    light, heavy = (
        _gradient(_tiny(objective="hybrid", variance="learned", vlb_weight=w)) for w in (0.001, 1.0)
    )
    assert torch.allclose(light[0], heavy[0], rtol=1e-5)
    assert torch.allclose(1000 * light[1], heavy[1], rtol=1e-3)
    assert float(light[0].abs().max()) > 0 < float(light[1].abs().max())


def test_the_vlb_objective_has_finite_gradients_everywhere() -> None:
    """The decoder's open ends are infinite inside; the mean is trained by it too."""
    found = _gradient(_tiny(objective="vlb", variance="learned"))
    assert bool(found.isfinite().all())
    assert float(found[0].abs().max()) > 0 < float(found[1].abs().max())


def test_the_hybrid_is_the_simple_loss_at_the_times_of_the_bound_plus_the_weighted_bound() -> None:
    """Two weights of the bound tell its part apart; what is left is the squared error."""
    generator = torch.Generator()
    values = [
        float(
            _tiny(objective="hybrid", variance="learned", vlb_weight=w)
            .loss(IMAGES, None, generator.manual_seed(3))
            .detach()
        )
        for w in (0.5, 1.0)
    ]
    model = _tiny(objective="hybrid", variance="learned")
    generator.manual_seed(3)
    assert model.chain is not None
    t_B = model.chain.time[model.chain.draw(16, generator)].float()
    t, x_0 = t_B.view(-1, 1, 1, 1), model.encode(IMAGES, None)
    epsilon = torch.randn(x_0.shape, generator=generator)
    x_t = model.path.alpha(t) * x_0 + model.path.sigma(t) * epsilon
    said = model.network(x_t, t_B)[:, :1]
    simple = (said - target("v", model.path, t, x_0, epsilon)).square().mean().detach()
    assert 2 * values[0] - values[1] == pytest.approx(float(simple), rel=1e-4)


@pytest.mark.parametrize("name", sorted(PATHS))
@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v", "velocity"])
def test_min_snr_weights_the_error_of_the_data_by_the_capped_ratio(name: str, prediction: str) -> None:
    """weight × (error of the prediction)² = min(SNR, γ) × (error of x_0)², whatever is predicted; and the
    published forms for ε, x_0 and v where the variance is preserved (Hang et al. 2023)."""
    p, t, cap = path(name), torch.linspace(0.02, 0.98, 25, dtype=torch.float64), 5.0
    weight, snr = min_snr_weight(prediction, p, t, cap), p.log_snr(t).exp()
    capped = snr.clamp(max=cap)
    wrong_x0 = torch.full_like(t, 0.3)
    wrong_epsilon = -p.alpha(t) / p.sigma(t) * wrong_x0
    error = target(prediction, p, t, wrong_x0, wrong_epsilon)
    assert torch.allclose(weight * error.square(), capped * wrong_x0.square(), rtol=1e-9)
    published = {"epsilon": capped / snr, "x0": capped, "v": capped / (snr + 1)}
    if prediction in published and name not in ("rectified-flow", "edm"):
        assert torch.allclose(weight, published[prediction], rtol=1e-9)


def test_min_snr_weights_the_loss_and_is_finite_at_both_ends() -> None:
    model, plain = _tiny(weighting="min-snr", snr_cap=3.0), _tiny()
    t = torch.tensor([1e-6, 0.5, 1 - 1e-6])
    weight = model.weight(t)
    assert weight is not None
    assert bool(weight.isfinite().all())
    assert plain.weight(t) is None
    assert torch.equal(weight, min_snr_weight("v", model.path, t, 3.0))
    weighted = float(model.loss(IMAGES, None, torch.Generator().manual_seed(0)).detach())
    generator = torch.Generator().manual_seed(0)
    t_B = draw_times(16, model.times, generator, torch.device("cpu"))
    t, x_0 = t_B.view(-1, 1, 1, 1), model.encode(IMAGES, None)
    epsilon = torch.randn(x_0.shape, generator=generator)
    said = model.network(model.path.alpha(t) * x_0 + model.path.sigma(t) * epsilon, t_B)
    error = (said - target("v", model.path, t, x_0, epsilon)).square()
    wanted = float((min_snr_weight("v", model.path, t, 3.0) * error).mean().detach())
    assert weighted == pytest.approx(wanted, rel=1e-5)
    assert weighted != pytest.approx(float(error.mean().detach()), rel=0.05)


def test_learned_variances_are_used_by_likelihood_and_sampler() -> None:
    """And asked of a model that has none, they are refused."""
    model = _tiny(objective="hybrid", variance="learned")
    assert "learned variances" in model.nll(IMAGES).protocol
    assert model.sample(2, sampler("ddpm", 3, variance="learned"), Seeds(0, [0, 1])).shape == (2, *TINY)
    for refused in (
        lambda: _tiny().nll(IMAGES, variance="learned"),
        lambda: _tiny().sample(2, sampler("ddpm", 3, variance="learned"), Seeds(0, [0, 1])),
    ):
        with pytest.raises(ValueError, match="learned no variance"):
            refused()


def test_the_steps_of_the_bound_are_drawn_evenly() -> None:
    model = _tiny(objective="vlb", variance="small")
    assert model.chain is not None
    steps = model.chain.draw(60, torch.Generator().manual_seed(0))
    assert torch.bincount(steps, minlength=6).tolist() == pytest.approx([10] * 6, abs=1)
    assert not any("chain" in name for name in model.state_dict()), "they follow from path and grid"


@pytest.mark.parametrize(
    "name", ["cosine", "linear-vp", "rectified-flow", "edm", "linear-vp-zero", "sigmoid"]
)
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "hybird"}, "Did you mean 'hybrid'"),
        ({"variance": "lerned"}, "Did you mean 'learned'"),
        ({"weighting": "min-snrs"}, "Did you mean 'min-snr'"),
        ({"variance": "learned"}, "simple never trains a variance"),
        ({"objective": "hybrid"}, "set variance to learned"),
        ({"objective": "vlb"}, "learned, small or large"),
        ({"objective": "vlb", "variance": "small", "weighting": "min-snr"}, "leave weighting out"),
        ({"objective": "vlb", "variance": "small", "times": "logit-normal"}, "leave times uniform"),
        ({"snr_cap": 0.0}, "above 0"),
        ({"vlb_weight": -1.0}, "above 0"),
    ],
)
def test_choices_that_contradict_each_other_get_one_sentence(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        DDPM((1, 8, 8), 17, channels=8, **options)  # type: ignore[arg-type]
