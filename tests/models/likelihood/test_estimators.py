"""Protects that every estimator works on every Gaussian-path model: exact networks give the known bits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.diffusion import DDPM
from models.edm import EDM
from models.flow_matching import FlowMatching, RectifiedFlow
from models.gaussian import GaussianPathModel
from models.latent import LatentDiffusion
from models.likelihood.chain import ChainLikelihood
from models.likelihood.flow import SampledLikelihood
from models.paths import GaussianPath
from models.predictions import combination
from models.reflow import ReflowedFlow
from models.vdm import VDM
from tests.models.digits import every_image

SHAPE, LEVELS = (1, 1, 2), 4
IMAGES = every_image(SHAPE, LEVELS)
TINY: dict[str, Any] = {"channels": 4, "multipliers": (1,), "attention": False, "dropout": 0.0}
EXACT: dict[str, Any] = {"estimator": "ode", "divergence": "exact"}


class Uniform(nn.Module):
    """The exact prediction for independent, equally likely levels; for `wide` they are dequantised."""

    def __init__(self, path: GaussianPath, kind: str, wide: bool = False) -> None:
        super().__init__()
        self.path, self.kind, self.wide = path, kind, wide
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, t_B: Tensor) -> Tensor:
        t = t_B.double().view(-1, 1, 1, 1)
        alpha, sigma = self.path.alpha(t).clamp(min=1e-6), self.path.sigma(t)
        clean, noise = x.double() / alpha, (sigma / alpha).clamp(min=1e-6)
        x_0 = self._continuous(clean, noise) if self.wide else self._levels(clean, noise)
        p, q = combination(self.kind, self.path, t)
        return (p * x_0 + q * (clean - x_0) / noise).to(x.dtype)

    def _levels(self, clean: Tensor, noise: Tensor) -> Tensor:
        places = 2.0 * torch.arange(LEVELS, dtype=torch.float64) / (LEVELS - 1) - 1.0
        logits = -0.5 * ((clean[..., None] - places) / noise[..., None]).square()
        return (logits.softmax(-1) * places).sum(-1)

    def _continuous(self, clean: Tensor, noise: Tensor) -> Tensor:
        """Mean of N(clean, noise²) cut to [−1, 1]."""
        low, high = (-1.0 - clean) / noise, (1.0 - clean) / noise
        density = [(-0.5 * z.square()).exp() / math.sqrt(2.0 * math.pi) for z in (low, high)]
        mass = (torch.special.ndtr(high) - torch.special.ndtr(low)).clamp(min=1e-12)
        return (clean + noise * (density[0] - density[1]) / mass).clamp(-1.0, 1.0)


def _with(model: GaussianPathModel, kind: str, wide: bool = False) -> GaussianPathModel:
    model.network = Uniform(model.path, kind, wide)
    model.eval().calibrate(IMAGES.repeat(16, 1, 1, 1), torch.Generator().manual_seed(5))
    return model


def _models() -> dict[str, GaussianPathModel]:
    return {
        "ddpm v": _with(DDPM(SHAPE, LEVELS, **TINY), "v"),
        "ddpm epsilon": _with(DDPM(SHAPE, LEVELS, prediction="epsilon", **TINY), "epsilon"),
        "ddpm x0, linear": _with(DDPM(SHAPE, LEVELS, prediction="x0", path="linear-vp", **TINY), "x0"),
        "edm": _with(EDM(SHAPE, LEVELS, **TINY), "epsilon"),
        "rectified flow": _with(RectifiedFlow(SHAPE, LEVELS, **TINY), "velocity", wide=True),
    }


MODELS = _models()


def _bits(model: GaussianPathModel, repeats: int, **options: Any) -> tuple[float, float]:
    """Mean bits per dimension of all images, and its standard error."""
    many = IMAGES.repeat(repeats, 1, 1, 1)
    nats = model.nll(many, None, torch.Generator().manual_seed(0), **options).nats
    bits = nats / (model.dims * math.log(2.0))
    return float(bits.mean()), float(bits.std()) / math.sqrt(len(bits))


@pytest.mark.parametrize("name", MODELS)
def test_bounds_of_exact_networks_lie_just_above_the_entropy(name: str) -> None:
    """Equally likely levels have log₂ 4 bits: both bounds hold, and cost less than 0.1 bits here."""
    for estimator in ("variational", "continuous"):
        bits, error = _bits(MODELS[name], 64, estimator=estimator)
        assert -4 * error < bits - 2.0 < 0.1 + 4 * error, estimator


@pytest.mark.parametrize("name", MODELS)
def test_flows_of_exact_networks_have_the_entropy(name: str) -> None:
    """Each from its own start, by its own dequantisation; any slip of scale, α or start moves it further."""
    bits, _ = _bits(MODELS[name], 16, **EXACT)
    assert bits == pytest.approx(2.0, abs=0.012)


@pytest.mark.parametrize("name", MODELS)
def test_a_bound_is_not_below_the_estimate(name: str) -> None:
    estimate, spread = _bits(MODELS[name], 16, **EXACT)
    for estimator in ("variational", "continuous"):
        bound, error = _bits(MODELS[name], 64, estimator=estimator)
        assert bound >= estimate - 3 * math.hypot(spread, error)


def test_every_model_keeps_its_own_estimator() -> None:
    kinds = {
        name: model.nll(IMAGES[:2], None, torch.Generator().manual_seed(0)) for name, model in MODELS.items()
    }
    assert [found.kind for found in kinds.values()] == ["bound"] * 4 + ["estimate"]
    assert kinds["rectified flow"].protocol == (
        "ode dopri5 rtol=1e-05 atol=1e-05 per image, rademacher×1, uniform dequantisation×1, s=2/4"
    )
    vdm = VDM(SHAPE, LEVELS, **TINY).eval()
    assert "learned log-SNR" in vdm.nll(IMAGES[:2], draws=2).protocol


def test_vdm_takes_the_other_estimators_at_the_ends_of_its_schedule() -> None:
    vdm = VDM(SHAPE, LEVELS, **TINY).eval()
    generator = torch.Generator().manual_seed(0)
    vdm.calibrate(IMAGES, generator)
    chain = vdm.nll(IMAGES, None, generator, estimator="variational")
    assert f"to {-float(vdm.schedule.limits()[0].detach()):.2f}" in chain.protocol
    flow = vdm.nll(IMAGES, None, generator, estimator="ode", solver="rk4", steps=8)
    assert "from t=0.02 to log-SNR -10, truncated-normal" in flow.protocol
    assert bool((chain.nats.isfinite() & flow.nats.isfinite()).all())


@pytest.mark.parametrize("name", ["ddpm v", "edm"])
def test_uniform_noise_costs_models_of_levels_more_and_importance_weighting_gives_it_back(name: str) -> None:
    """Their density within a level is a bell, not flat: K draws inside the logarithm close the gap."""
    options = EXACT | {"dequantisation": "uniform"}
    one, _ = _bits(MODELS[name], 16, **options)
    many, error = _bits(MODELS[name], 16, importance_samples=8, **options)
    assert one > many + 0.03
    assert many > 2.0 - 3 * error
    found = MODELS[name].nll(IMAGES, importance_samples=8, **options)
    assert "uniform dequantisation×1, importance-weighted K=8, s=2/3" in found.protocol


def test_the_start_of_a_flow_can_be_chosen_and_is_told() -> None:
    found = MODELS["edm"].nll(IMAGES[:1], start=0.5, **EXACT)
    assert f"from t={0.5 / 3 / 150.0:.3g} to log-SNR -10" in found.protocol
    with pytest.raises(ValueError, match="starts at a noise above 0"):
        MODELS["edm"].nll(IMAGES[:1], start=0.0, dequantisation="uniform", **EXACT)
    with pytest.raises(ValueError, match="set start above 0"):
        MODELS["edm"].nll(IMAGES[:1], start=0.0, **EXACT)


def test_equal_steps_converge_at_the_order_of_the_solver() -> None:
    """In ln σ/α the density of levels is resolved: rk4 with 20 and 40 steps against dopri5 at 1e-8."""
    model = MODELS["ddpm v"]
    generator = torch.Generator()

    def nats(**options: Any) -> Tensor:
        return model.nll(IMAGES, None, generator.manual_seed(0), **EXACT, **options).nats

    fine = nats(rtol=1e-6, atol=1e-6)
    errors = [float((nats(solver="rk4", steps=n) - fine).abs().mean()) for n in (20, 40)]
    assert errors[1] < 0.2 * errors[0]
    assert errors[1] < 0.005


def test_draws_of_dequantisation_and_probes_are_kept() -> None:
    found = MODELS["rectified flow"].nll(
        IMAGES, solver="rk4", steps=4, probes=3, dequantisation_samples=2, estimator="ode"
    )
    assert isinstance(found, SampledLikelihood)
    assert found.draws is not None
    assert found.draws.shape == (2, 3, 16)
    assert torch.allclose(found.draws.mean((0, 1)), found.nats)


def test_terms_of_every_step_are_kept() -> None:
    model = MODELS["ddpm v"]
    found = model.nll(IMAGES)
    assert isinstance(found, ChainLikelihood)
    assert found.terms is not None
    assert found.terms.diffusion_TB.shape == (len(found.grid) - 2, 16)
    assert torch.allclose(found.terms.diffusion_TB.sum(0), found.breakdown["diffusion"])


def test_a_learned_variance_is_no_part_of_the_field() -> None:
    """A network that says 2C channels: the flow and the continuous bound take the first C."""
    model = DDPM(SHAPE, LEVELS, objective="hybrid", variance="learned", timesteps=8, **TINY).eval()
    exact = Uniform(model.path, "v")
    model.network = _Doubled(exact)
    for options in (EXACT, {"estimator": "continuous", "draws": 8}):
        found, plain = (
            m.nll(IMAGES, None, torch.Generator().manual_seed(0), **options).nats
            for m in (model, MODELS["ddpm v"])
        )
        assert torch.allclose(found, plain)


class _Doubled(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([self.network(x, t), torch.full_like(x, 7.0)], 1)


def test_what_cannot_be_is_refused_in_one_sentence() -> None:
    tied = FlowMatching(SHAPE, LEVELS, coupling="optimal-transport", **TINY)
    again = ReflowedFlow(SHAPE, LEVELS, couples=4, **TINY)
    for model in (tied, again):
        for estimator in ("variational", "continuous"):
            with pytest.raises(ValueError, match="independent noise: use estimator ode"):
                model.nll(IMAGES, estimator=estimator)
            with pytest.raises(ValueError, match="independent noise: use estimator ode"):
                model.check_likelihood(estimator)
        assert model.nll(IMAGES, estimator="ode", solver="euler", steps=2).kind == "estimate"
        model.calibrate(IMAGES)  # nothing to fit, and no error
    with pytest.raises(ValueError, match="flow of its latents: use estimator ode"):
        LatentDiffusion().nll(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), estimator="variational")
    plain = DDPM(SHAPE, LEVELS, **TINY)
    for options, words in (
        ({"estimator": "oed"}, "Did you mean 'ode'"),
        ({"estimator": "ode", "step": 3}, "Did you mean 'steps'"),
        ({"estimator": "ode", "dequantisation": "unifrom"}, "Did you mean 'uniform'"),
        ({"estimator": "ode", "importance_samples": 4}, "noise of probes inside the logarithm"),
        ({"estimator": "continuous", "draws": 0}, "one or more draws"),
        ({"variance": "learned"}, "has learned no variance"),
        ({"variance": "lrned"}, "Did you mean 'learned'"),
        ({}, "call calibrate"),
    ):
        with pytest.raises(ValueError, match=words):
            plain.nll(IMAGES, **options)
