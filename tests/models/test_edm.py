"""Protects EDM: its preconditioning and weights are the paper's, and untrained it is a Gaussian model."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from models.edm import EDM, LogNormalNoise, Preconditioned
from models.likelihood.probability_flow import Flow, flow_log_density
from models.paths import ExplodingPath
from models.samplers import sampler
from models.seeds import Seeds
from models.times import draw_times
from tests.models.digits import PER_PIXEL_HISTOGRAM_BITS, bits, split, train
from tests.models.oracles import latents, normal_like

SHAPE, SIGMA_DATA = (1, 2, 2), 0.5


def _model(**options: object) -> EDM:
    return EDM(SHAPE, 17, channels=8, timesteps=8, dropout=0.0, **options)  # type: ignore[arg-type]


class _Recorder(nn.Module):
    """Remembers what F sees and says something that depends on it."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.seen = (x, t)
        return torch.sin(3 * x[:, :1]) + t.view(-1, 1, 1, 1)


@pytest.mark.parametrize("sigma", [1e-3, 0.05, 0.5, 7.0, 148.0])
def test_denoiser_is_the_preconditioned_network(sigma: float) -> None:
    """D = x − σε̂ is c_skip x + c_out F(c_in x; c_noise), Karras et al. 2022, table 1."""
    inner, path = _Recorder(), ExplodingPath()
    network = Preconditioned(inner, path, SIGMA_DATA)
    x = 0.3 + (SIGMA_DATA**2 + sigma**2) ** 0.5 * normal_like(0)(torch.empty(5, 1, 2, 2).double())
    t = torch.full((5,), sigma / path.sigma_max, dtype=torch.float64)
    found = x - sigma * network(x, t)
    seen, time = inner.seen
    total = sigma**2 + SIGMA_DATA**2
    assert torch.allclose(seen, x / total**0.5)
    assert torch.allclose(time, torch.full_like(time, 0.5 + 0.4 * (0.25 * math.log(sigma))))
    said = torch.sin(3 * seen) + time.view(-1, 1, 1, 1)
    wanted = SIGMA_DATA**2 / total * x + sigma * SIGMA_DATA / total**0.5 * said
    assert torch.allclose(found, wanted, atol=1e-9)


@pytest.mark.parametrize("sigma", [0.01, 1.0, 50.0])
def test_network_sees_and_should_say_unit_variance(sigma: float) -> None:
    """For data of variance σ_d²: Var(c_in x) = 1, and Var of the wanted F = (x_0 − c_skip x)/c_out is 1."""
    n = 100_000
    x_0 = SIGMA_DATA * normal_like(0)(torch.empty(n, 1, 1, 1).double())
    x = x_0 + sigma * normal_like(1)(x_0)
    inner = _Recorder()
    t = torch.full((n,), sigma / 150.0, dtype=torch.float64)
    Preconditioned(inner, ExplodingPath(), SIGMA_DATA)(x, t)
    assert float(inner.seen[0].var()) == pytest.approx(1.0, rel=0.02)
    total = sigma**2 + SIGMA_DATA**2
    wanted = (x_0 - SIGMA_DATA**2 / total * x) / (sigma * SIGMA_DATA / total**0.5)
    assert float(wanted.var()) == pytest.approx(1.0, rel=0.02)


def test_loss_is_the_weighted_error_of_the_denoiser() -> None:
    """E λ(σ)‖D − x_0‖² against the same draws seen through the denoiser."""
    model = _model(sigma_data=SIGMA_DATA)
    pixels = torch.randint(0, 17, (64, *SHAPE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    loss = model.loss(pixels, None, torch.Generator().manual_seed(5)).detach()
    generator = torch.Generator().manual_seed(5)
    t = draw_times(64, model.times, generator, torch.device("cpu"))
    sigma = (150.0 * t).view(-1, 1, 1, 1)
    x_0 = model.to_signed(pixels)
    x = x_0 + sigma * torch.randn(x_0.shape, generator=generator)
    error = model.denoiser()(x, t).x0 - x_0
    weight = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
    assert float(loss) == pytest.approx(float((weight * error.square()).mean().detach()), rel=1e-3)


def test_training_noise_is_log_normal() -> None:
    """ln σ ~ N(P_mean, P_std²); σ beyond the path's end is its end."""
    law = LogNormalNoise(ExplodingPath(), -0.7, 1.3)
    log_sigma = (150.0 * draw_times(20_000, law, torch.Generator().manual_seed(0), torch.device("cpu"))).log()
    assert float(log_sigma.mean()) == pytest.approx(-0.7, abs=0.01)
    assert float(log_sigma.std()) == pytest.approx(1.3, rel=0.01)
    assert float(LogNormalNoise(ExplodingPath(), 9.0, 1.0).quantile(torch.tensor(0.5))) == 1.0


def test_untrained_it_is_a_gaussian_of_the_spread_of_the_data() -> None:
    """F = 0 is the exact denoiser of N(0, σ_d²): the flow's density in closed form, from σ = 0 on."""
    model = _model(sigma_data=SIGMA_DATA)
    x = latents(4, 4, SIGMA_DATA).view(4, 1, 2, 2).float()
    flow = Flow("dopri5", 1e-6, 1e-6, divergence="exact")
    found = flow_log_density(model.denoiser(), x, flow)
    spread = SIGMA_DATA * 150.0 / math.hypot(SIGMA_DATA, 150.0)  # the prior has no data's variance in it
    wanted = torch.distributions.Normal(0.0, spread).log_prob(x.double()).flatten(1).sum(1)
    assert torch.allclose(found, wanted, atol=2e-3)


def test_untrained_samples_have_the_spread_of_the_data() -> None:
    """From σ(t_0) = e⁵ down by a sampler of the probability flow: N(0, σ_d²)."""
    model = _model(sigma_data=0.2)
    assert model.path.sigma(model.grid[0]) == pytest.approx(math.exp(5.0))
    found = model.sample(256, sampler("heun", 20), Seeds(0, range(256)))
    assert float(model.to_signed(found).std()) == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "euler", "heun"])
def test_every_sampler_runs_and_a_sample_does_not_depend_on_its_batch(name: str) -> None:
    model = _model()
    together = model.sample(3, sampler(name, 4), Seeds(0, [0, 1, 2]))
    assert together.shape == (3, *SHAPE)
    if name != "ddpm":
        alone = model.sample(1, sampler(name, 4), Seeds(0, [2]))
        assert torch.equal(alone[0], together[2])


def test_a_short_training_beats_the_histogram_and_travels() -> None:
    """2.430 bits is what 64 histograms take; the bound is below it after seconds, in another copy too."""
    torch.manual_seed(0)
    model = train(EDM((1, 8, 8), 17, channels=16, timesteps=32), 200, 4e-3)
    assert isinstance(model, EDM)
    pixels, test = split()
    model.calibrate(pixels, torch.Generator().manual_seed(0))
    found = model.nll(test[:90], None, torch.Generator().manual_seed(0))
    assert found.kind == "bound"
    assert bits(found.nats, model) < PER_PIXEL_HISTOGRAM_BITS
    assert "ExplodingPath" in found.protocol
    other = EDM((1, 8, 8), 17, channels=16, timesteps=32).eval()
    other.load_state_dict(model.state_dict())
    again = other.nll(test[:90], None, torch.Generator().manual_seed(0))
    assert torch.equal(found.nats, again.nats)


def test_labels_reach_the_network_and_guidance_works() -> None:
    model = EDM((1, 8, 8), 17, channels=8, timesteps=4, classes=10)
    label = torch.tensor([3, 7])
    assert model.loss(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), label).isfinite()
    found = model.sample(2, sampler("ddim", 3), Seeds(0, [0, 1]), label, guidance=2.0)
    assert found.shape == (2, 1, 8, 8)


def test_the_transformer_fits_in_too() -> None:
    model = EDM((1, 8, 8), 17, network="dit", width=16, depth=1, heads=2, timesteps=4)
    assert model.loss(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).isfinite()


def test_bad_requests_get_one_sentence() -> None:
    with pytest.raises(ValueError, match="sigma_data lies above 0"):
        _model(sigma_data=0.0)
    with pytest.raises(ValueError, match=r"148\.5 or more"):
        _model(sigma_max=80.0)
    with pytest.raises(ValueError, match="spread of the training noise"):
        _model(p_std=0.0)
    with pytest.raises(ValueError, match="Did you mean 'channels'"):
        EDM(SHAPE, 17, chanels=8)
