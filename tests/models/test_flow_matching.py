"""Protects flow matching on every path: it learns digits, and its bits account for the dequantisation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.flow_matching import STARTS, FlowMatching, RectifiedFlow, log_density
from models.gaussian import GaussianPathModel
from models.likelihood.probability_flow import Flow, flow_log_density
from models.samplers import sampler
from models.seeds import Seeds
from tests.models.oracles import MEAN, VARIANCE, denoiser, isotropic, latents

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
        for options in ({"solver": "rk4", "steps": 20}, {"rtol": 1e-4, "atol": 1e-4})
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


def _tiny(kind: type[FlowMatching] = FlowMatching, **options: Any) -> FlowMatching:
    return kind((1, 2, 2), 17, **{"channels": 8, "dropout": 0.0, **options}).eval()


class _Recorder(nn.Module):
    """Says 0 and remembers what it was asked."""

    def forward(self, x: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        self.x, self.t, self.condition = x, t, condition
        return torch.zeros_like(x)


def _pixels(n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(17, (n, 1, 2, 2), generator=generator, dtype=torch.uint8)


def test_rectified_flow_is_flow_matching_on_straight_lines() -> None:
    """The same loss, to the bit, as the shared loss of Gaussian paths: stored results keep their meaning."""
    torch.manual_seed(0)
    model = _tiny(RectifiedFlow)
    nn.init.normal_(model.network.last.weight)  # type: ignore[union-attr,arg-type]
    other = _tiny()
    other.load_state_dict(model.state_dict())
    losses = [
        loss(_pixels(16), None, torch.Generator().manual_seed(0))
        for loss in (model.loss, other.loss, lambda *given: GaussianPathModel.loss(model, *given))
    ]
    assert losses[0] == losses[1] == losses[2]
    for name, value in (("path", "cosine"), ("coupling", "optimal-transport")):
        with pytest.raises(ValueError, match=f"leave {name} out, or take FlowMatching"):
            _tiny(RectifiedFlow, **{name: value})


@pytest.mark.parametrize("path", STARTS)
@pytest.mark.parametrize("t", [0.05, 0.4, 0.9])
def test_the_analytic_velocity_leaves_the_irreducible_error(path: str, t: float) -> None:
    """Gaussian data: the loss at the true field is Var(α'x_0 + σ'ε | x_t), and δ² more if off by δ."""
    model = _tiny(path=path)
    generator = torch.Generator().manual_seed(0)
    x_0, epsilon = (torch.randn(100_000, 1, 1, 4, generator=generator).double() for _ in range(2))
    x_0 = MEAN + VARIANCE**0.5 * x_0
    oracle = isotropic(model.path, "velocity")
    times = torch.full((len(x_0),), t, dtype=torch.float64)
    a, s, da, ds = (
        f(t) for f in (model.path.alpha, model.path.sigma, model.path.alpha_dot, model.path.sigma_dot)
    )
    noise = da**2 * VARIANCE + ds**2
    left = noise - (a * da * VARIANCE + s * ds) ** 2 / (a**2 * VARIANCE + s**2)
    for off in (0.0, 0.3):
        model.network = _Shifted(oracle, off)
        found = float(model.regression(x_0, epsilon, times))
        assert found == pytest.approx(left + off**2, abs=0.02 * noise + 1e-3)


class _Shifted(nn.Module):
    def __init__(self, network: nn.Module, off: float) -> None:
        super().__init__()
        self.network, self.off = network, off

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.network(x, t) + self.off


@pytest.mark.parametrize(("path", "start"), [*STARTS.items(), ("rectified-flow", 0.3)])
def test_density_of_a_known_flow_is_the_closed_form_at_the_start(path: str, start: float) -> None:
    """Exact divergence, float64: ln N(x; αm, α²s² + σ²); linear-vp ends at α = 0.007: 0.005 nats off."""
    model = _tiny(path=path)
    assert path != "linear-vp" or model.start == start
    oracle = isotropic(model.path, "velocity")
    x = MEAN + VARIANCE**0.5 * latents(6, 4, 1.0)
    flow = Flow(rtol=1e-7, atol=1e-7, divergence="exact")
    found = log_density(denoiser(oracle), x, flow, start=start)
    a, s = model.path.alpha(start), model.path.sigma(start)
    law = torch.distributions.Normal(a * MEAN, (a**2 * VARIANCE + s**2) ** 0.5)
    assert torch.allclose(
        found, law.log_prob(x).flatten(1).sum(1), atol=0.01 if path == "linear-vp" else 1e-5
    )
    if not start:
        assert torch.equal(found, flow_log_density(denoiser(oracle), x, flow))


def test_the_start_of_a_singular_path_is_kept_and_told() -> None:
    """linear-vp: no training time and no density below 0.001, where σ' is without bound."""
    model = _tiny(path="linear-vp")
    times = model.draw_times(5000, torch.Generator().manual_seed(0))
    assert 1e-3 <= float(times.min()) < 1.5e-3
    with torch.no_grad():
        assert float(model.loss(_pixels(64), None, torch.Generator().manual_seed(0))) < 60
    found = model.nll(_pixels(2), solver="heun", steps=8)
    assert "heun 8 steps, rademacher×1 from t=0.001, uniform" in found.protocol
    assert "from t" not in _tiny(path="cosine").nll(_pixels(2), solver="heun", steps=2).protocol
    pixels = model.sample(3, sampler("heun", 3), Seeds(0, range(3)))
    assert tuple(pixels.shape) == (3, 1, 2, 2)


def test_laws_of_training_times_are_options() -> None:
    """logit-normal has its median at σ(location); a shift of k moves t = ½ to k/(k + 1)."""
    for options, median in (
        ({"times": "logit-normal", "time_location": 1.0, "time_scale": 0.5}, 1 / (1 + math.exp(-1.0))),
        ({"time_shift": 3.0}, 0.75),
        ({}, 0.5),
    ):
        model = _tiny(**options)
        model.network = _Recorder()
        model.parameters = lambda: iter([torch.zeros(1)])  # type: ignore[assignment,method-assign,return-value]
        model.loss(_pixels(999), None, torch.Generator().manual_seed(0))
        assert float(model.network.t.median()) == pytest.approx(median, abs=2e-3)


def test_coupling_by_transport_shortens_the_lines_and_keeps_the_noise() -> None:
    """The same generator: the mean squared velocity falls; at t → 1 states are the draws permuted."""
    losses, states = [], []
    for coupling in ("independent", "optimal-transport"):
        model = _tiny(coupling=coupling, times="logit-normal", time_location=30.0, time_scale=0.01)
        losses.append(model.loss(_pixels(256), None, torch.Generator().manual_seed(0)).item())
        recorder = _Recorder()
        model.network.forward = recorder.forward  # type: ignore[method-assign]
        model.loss(_pixels(256), None, torch.Generator().manual_seed(0))
        states.append(recorder.x)
    assert losses[1] < 0.8 * losses[0]
    assert torch.allclose(states[0].flatten().sort().values, states[1].flatten().sort().values, atol=1e-5)
    assert not torch.allclose(states[0], states[1], atol=0.1)


def test_a_conditional_flow_transports_within_labels() -> None:
    """One image of each label: nothing may change places, and the loss is that of independent noise."""
    losses = []
    for coupling in ("independent", "optimal-transport"):
        model = _tiny(coupling=coupling, classes=16, condition_dropout=0.5)
        losses.append(model.loss(_pixels(16), torch.arange(16), torch.Generator().manual_seed(0)))
    assert losses[0] == losses[1]
    pixels = model.sample(4, sampler("euler", 2), Seeds(0, range(4)), torch.arange(4), guidance=2.0)
    assert tuple(pixels.shape) == (4, 1, 2, 2)


def test_unknown_options_name_the_nearest() -> None:
    for options, nearest in (
        ({"path": "cosin"}, "cosine"),
        ({"coupling": "optimal_transport"}, "optimal-transport"),
        ({"times": "logit_normal"}, "logit-normal"),
    ):
        with pytest.raises(ValueError, match=f"Did you mean '{nearest}'"):
            _tiny(**options)
