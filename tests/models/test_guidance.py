"""Protects guidance: one convention, its methods against their formulas, and what each evaluation costs."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.denoiser import PREDICTIONS, Denoiser
from models.flow_matching import RectifiedFlow
from models.grids import grid
from models.guidance import Guidance, guide
from models.paths import PATHS, path
from models.predictions import conversion
from models.samplers import sampler
from models.seeds import Seeds
from tests.models.oracles import GaussianOracle, isotropic, latents


class TwoClasses(nn.Module):
    """The exact prediction of N(±1, 0.25) for the labels 1 and 0; label 2, the null, is N(0, 1.25)."""

    def __init__(self, name: str, kind: str) -> None:
        super().__init__()
        laws = ((-1.0, 0.25), (1.0, 0.25), (0.0, 1.25))
        self.oracles = nn.ModuleList(isotropic(path(name), kind, mean, variance) for mean, variance in laws)
        self.rows = 0

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        self.rows += len(x)
        said = torch.stack([oracle(x, t) for oracle in self.oracles])
        return said[label, torch.arange(len(x))]


def _denoiser(guidance: float | Guidance, name: str = "cosine", kind: str = "v", n: int = 6) -> Denoiser:
    label = torch.ones(n, dtype=torch.int64)
    return Denoiser(TwoClasses(name, kind), path(name), kind, (label,), null=(label + 1,), guidance=guidance)


def _rows(chain: Denoiser) -> int:
    network = chain.network
    assert isinstance(network, TwoClasses)
    return network.rows


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("name", sorted(PATHS))
def test_guiding_any_prediction_guides_x0(name: str, kind: str) -> None:
    """Predictions are linear in x̂_0 at fixed x_t, so u + w(c − u) is the same statement in each."""
    x, t = latents(6, 4, 1.0), 0.4
    guided = _denoiser(3.0, name, kind)(x, t).x0
    c, u = (_denoiser(w, name, kind)(x, t).x0 for w in (1.0, 0.0))
    assert torch.allclose(guided, guide(u, c, 3.0), atol=1e-9)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(("w", "cost"), [(1.0, 1), (0.0, 1), (2.0, 2)])
def test_a_guided_evaluation_is_two(w: float, cost: int, batched: bool) -> None:
    chain = _denoiser(Guidance(w, batched=batched))
    times = grid("shared", chain.path, 5)
    sampler("ddim", 5)(chain, latents(6, 4, 1.0), times)
    assert _rows(chain) == 6 * 5 * cost


def test_two_calls_say_what_one_batch_says() -> None:
    x = latents(6, 4, 1.0)
    times = grid("shared", path("cosine"), 5)
    ends = [sampler("heun", 5)(_denoiser(Guidance(2.0, batched=b)), x, times) for b in (True, False)]
    assert torch.allclose(*ends, atol=1e-12)


def test_outside_its_interval_guidance_is_neither_applied_nor_paid_for() -> None:
    """Of ten noise levels the three inside [0.2, 2] cost two."""
    chain = _denoiser(Guidance(2.0, low=0.2, high=2.0))
    times = grid("shared", chain.path, 10)
    inside = sum(0.2 <= chain.path.sigma(t) / chain.path.alpha(t) <= 2.0 for t in times[:-1])
    states: dict[float, Tensor] = {}
    x = latents(6, 4, 1.0)
    sampler("ddim", 10)(chain, x, times, callback=lambda _, s, state: states.update({s: state}))
    assert 0 < inside < 10
    assert _rows(chain) == 6 * (10 + inside)
    plain: dict[float, Tensor] = {}
    sampler("ddim", 10)(_denoiser(1.0), x, times, callback=lambda _, s, state: plain.update({s: state}))
    first = next(i for i, t in enumerate(times) if chain.path.sigma(t) / chain.path.alpha(t) <= 2.0)
    assert torch.equal(states[times[first]], plain[times[first]])
    assert not torch.allclose(states[times[first + 1]], plain[times[first + 1]], atol=1e-3)


@pytest.mark.parametrize("name", ["cosine", "rectified-flow", "edm"])
def test_cfg_plus_plus_renoises_with_the_unconditional_noise(name: str) -> None:
    """Chung et al. 2024, algorithm 2, by hand on any path: x_s = α_s x̂_0(guided by λ) + σ_s ε̂(u)."""
    chain = _denoiser(Guidance(0.6, "cfg++"), name)
    times, p = grid("shared", chain.path, 6), chain.path
    x = latents(6, 4, p.sigma(times[0]))
    found = sampler("ddim", 6)(chain, x, times)
    for t, s in itertools.pairwise(times):
        c, u = (_denoiser(w, name)(x, t) for w in (1.0, 0.0))
        x = p.alpha(s) * guide(u.x0, c.x0, 0.6) + p.sigma(s) * u.epsilon
    assert torch.allclose(found, x, atol=1e-8)


def test_rescaling_gives_the_guided_prediction_the_spread_of_the_conditional_one() -> None:
    rule = Guidance(4.0, rescale=1.0)
    u, c = torch.randn(5, 3, 4, 4), 2.0 + 3.0 * torch.randn(5, 3, 4, 4)
    guided, _ = rule.combine(u, c, 4.0, u, (0.0, 1.0))
    assert torch.allclose(guided.std((1, 2, 3)), c.std((1, 2, 3)), rtol=1e-5)
    half, _ = Guidance(4.0, rescale=0.5).combine(u, c, 4.0, u, (0.0, 1.0))
    assert torch.allclose(half, 0.5 * (guided + guide(u, c, 4.0)), atol=1e-5)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_apg_without_its_options_is_the_update_across_the_conditional_x0(kind: str) -> None:
    """Sadat et al. 2024: what is added to x̂_0(c) is orthogonal to it; with η = 1 all of it is added."""
    x, t = latents(6, 4, 1.0), 0.5
    plain = _denoiser(3.0, kind=kind)(x, t).x0
    c = _denoiser(1.0, kind=kind)(x, t).x0
    whole = _denoiser(Guidance(3.0, "apg", parallel=1.0), kind=kind)(x, t).x0
    across = _denoiser(Guidance(3.0, "apg"), kind=kind)(x, t).x0
    assert torch.allclose(whole, plain, atol=1e-9)
    assert torch.allclose(((across - c) * c).flatten(1).sum(1), torch.zeros(6, dtype=x.dtype), atol=1e-9)
    assert not torch.allclose(across, plain, atol=1e-3)


def test_apg_bounds_its_update_and_remembers_the_last() -> None:
    u, c = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    c[:, 0, 0, 0], x = 10.0, torch.zeros(2, 1, 2, 2)
    bounded, _ = Guidance(2.0, "apg", parallel=1.0, bound=0.5).combine(u, c, 2.0, x, (0.0, 1.0))
    assert torch.allclose((bounded - c).flatten(1).norm(dim=1), torch.full((2,), 0.5))
    rule = Guidance(2.0, "apg", parallel=1.0, momentum=-0.5)
    _, past = rule.combine(u, c, 2.0, x, (0.0, 1.0))
    second, _ = rule.combine(u, c, 2.0, x, (0.0, 1.0), past)
    assert torch.allclose(second - c, 0.5 * (c - u))


def test_momentum_lives_as_long_as_one_trajectory() -> None:
    """The second run starts anew, and the momentum matters within a run."""
    times, x = grid("shared", path("cosine"), 6), latents(6, 4, 1.0)
    chain = _denoiser(Guidance(3.0, "apg", momentum=-0.5))
    first, second = (sampler("ddim", 6)(chain, x, times) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.allclose(first, sampler("ddim", 6)(_denoiser(Guidance(3.0, "apg")), x, times), atol=1e-3)


def test_guidance_pushes_towards_the_condition() -> None:
    """Of two classes, samples of class 1 move away from class 0 as w grows; with w = 1 they are N(1, ¼)."""
    times = grid("shared", path("cosine"), 50)
    x = latents(2000, 4, 1.0)
    means = [float(sampler("heun", 50)(_denoiser(w, n=2000), x, times).mean()) for w in (0.0, 1.0, 2.0, 4.0)]
    assert means[0] == pytest.approx(0.0, abs=0.03)
    assert means[1] == pytest.approx(1.0, abs=0.03)
    assert means[1] < means[2] < means[3]


def test_autoguidance_extrapolates_from_a_weaker_network() -> None:
    """A weak model that is too wide: going away from it, w = 2 is narrower than the model alone."""
    p, calls = path("cosine"), []
    strong, weak = isotropic(p, variance=0.25), isotropic(p, variance=0.5)
    weak.register_forward_pre_hook(lambda *_: calls.append(1))
    chain = Denoiser(strong, p, "v", guidance=Guidance(2.0, "autoguidance"), weaker=weak)
    times, x = grid("shared", p, 40), latents(4000, 4, 1.0)
    found = sampler("heun", 40)(chain, x, times)
    assert len(calls) == 79
    assert float(found.std()) < float(sampler("heun", 40)(Denoiser(strong, p, "v"), x, times).std()) - 0.05
    t, y = 0.5, latents(4, 4, 1.0)
    wanted = guide(Denoiser(weak, p, "v")(y, t).x0, Denoiser(strong, p, "v")(y, t).x0, 2.0)
    assert torch.allclose(chain(y, t).x0, wanted, atol=1e-12)


def test_models_take_every_kind_of_guidance() -> None:
    """A labelled flow with each method; autoguidance also where nothing is told."""
    torch.manual_seed(0)
    model, weak = (RectifiedFlow((1, 4, 4), 17, channels=8, multipliers=(1,), classes=2) for _ in range(2))
    for module in (model, weak):
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.1)
    label, seeds = torch.tensor([0, 1, 1]), range(3)
    heun = sampler("heun", 3)
    plain = model.eval().trajectory(3, heun, Seeds(0, seeds), label)
    for rule in (Guidance(3.0), Guidance(1.0, "cfg++"), Guidance(3.0, "apg")):
        assert not torch.equal(model.trajectory(3, heun, Seeds(0, seeds), label, rule), plain)
    auto = Guidance(3.0, "autoguidance", weaker=weak.eval())
    guided = model.trajectory(3, heun, Seeds(0, seeds), label, auto)
    assert not torch.allclose(guided, plain, atol=1e-3)
    assert model.sample(3, heun, Seeds(0, seeds), label, auto).dtype == torch.uint8
    with pytest.raises(ValueError, match="needs a weaker model"):
        model.sample(3, heun, Seeds(0, seeds), label, Guidance(3.0, "autoguidance"))
    other = RectifiedFlow((1, 4, 4), 17, channels=8, multipliers=(1,))
    with pytest.raises(ValueError, match="path, prediction, shape and condition"):
        model.sample(3, heun, Seeds(0, seeds), label, Guidance(3.0, "autoguidance", weaker=other))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "cfgpp"}, "Did you mean 'cfg"),
        ({"weight": -1.0}, "0 or more"),
        ({"weight": math.nan}, "0 or more"),
        ({"weight": 2.0, "method": "cfg++"}, "from 0 to 1"),
        ({"low": 2.0, "high": 1.0}, "low < high"),
        ({"rescale": 1.5}, "from 0 to 1"),
        ({"weight": 2.0, "momentum": 0.5}, "belong to the guidance method apg"),
        ({"weight": 2.0, "method": "apg", "bound": -1.0}, "bound of 0 or more"),
        ({"wieght": 2.0}, "Did you mean 'weight'"),
    ],
)
def test_bad_guidance_gets_one_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Guidance.of(options)


def test_guidance_says_what_it_is_but_for_its_weight() -> None:
    assert str(Guidance.of(2)) == ""
    assert str(Guidance.of({"weight": 2, "method": "apg", "momentum": -0.5})) == "apg β=-0.5"
    assert str(Guidance(2.0, low=0.2, rescale=0.7, batched=False)) == "σ/α 0.2–∞ rescale 0.7 two calls"


def test_cfg_plus_plus_needs_a_step() -> None:
    with pytest.raises(ValueError, match="sampler of fixed steps"):
        _denoiser(Guidance(0.5, "cfg++"))(latents(6, 4, 1.0), 0.5)


def test_conversions_of_every_pair_come_back() -> None:
    """From any prediction to x_0 and ε and back, to rounding, at times from the clearest to the noisiest."""
    for name in PATHS:
        p = path(name)
        for t in (1e-3, 0.2, 0.7, 0.99):
            oracle = GaussianOracle(p, "v", torch.full((4,), 0.3).double(), 0.25 * torch.eye(4).double())
            x = latents(5, 4, 1.0)
            for kind in PREDICTIONS:
                oracle.kind = kind
                said = oracle(x, torch.full((5,), t, dtype=torch.float64))
                views = conversion(kind, p, t)
                x0, epsilon = (pair[0] * x + pair[1] * said for pair in (views.x0, views.epsilon))
                assert torch.allclose(p.alpha(t) * x0 + p.sigma(t) * epsilon, x, atol=1e-9)
