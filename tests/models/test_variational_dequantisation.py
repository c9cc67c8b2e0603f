"""Variational dequantisation of flows: a bound of the bits still, tighter than uniform noise, and trained.

Shapes: B batch, C channels, H height, W width, D = C·H·W, K levels, M dequantisation samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from models.continuous_flow import FFJORD
from models.dequantised_flow import DequantisedFlow
from models.glow import Glow
from models.normalizing_flow import RealNVP
from models.seeds import Seeds
from models.spline_flow import SplineFlow
from models.tarflow import TarFlow
from tests.models.digits import bits, every_image, randomise, split, train
from tests.models.flows import bin_probabilities, check_reported_likelihood, perturbed

FLOWS: dict[Callable[..., DequantisedFlow], dict[str, Any]] = {
    RealNVP: {"features": 6, "couplings": 2},
    Glow: {"features": 6, "steps": 2},
    SplineFlow: {"features": 6, "couplings": 1, "bins": 4},
    TarFlow: {"patch": 1, "blocks": 2, "width": 8, "heads": 2},
    FFJORD: {"features": 6, "blocks": 1},
}
VARIATIONAL: dict[str, Any] = {
    "dequantisation": "variational",
    "dequantiser": {"couplings": 2, "features": 6},
}
FIXED = {"solver": "rk4", "steps": 4, "divergence": "exact"}


def _flow(kind: Callable[..., Any], shape: tuple[int, int, int] = (1, 4, 4), levels: int = 4) -> Any:
    """From the start, of one seed."""
    torch.manual_seed(0)
    return kind(shape, levels, **FLOWS[kind], **VARIATIONAL)


def _uniform(kind: Callable[..., Any], **options: Any) -> Any:
    torch.manual_seed(0)
    return kind((1, 4, 4), 4, **FLOWS[kind], **options)


def _pixels(n: int, levels: int = 4, shape: tuple[int, int, int] = (1, 4, 4)) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(levels, (n, *shape), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("kind", FLOWS)
def test_starts_where_uniform_noise_does(kind: Callable[..., Any]) -> None:
    """The same weights of the flow, the same loss of the same noise; and q is trained from there."""
    learned, uniform, pixels = _flow(kind), _uniform(kind), _pixels(20)
    for name, value in uniform.state_dict().items():
        assert torch.equal(learned.state_dict()[name], value)
    torch.manual_seed(1)
    loss = learned.loss(pixels, None, torch.Generator().manual_seed(2))
    torch.manual_seed(1)
    wanted = uniform.loss(pixels, None, torch.Generator().manual_seed(2))
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), abs=1e-5)
    loss.backward()
    moved = [float(layer.network.last.weight.grad.abs().max()) for layer in learned.dequantiser.layers]
    assert min(moved) > 1e-6


@pytest.mark.parametrize("kind", FLOWS)
def test_uniform_is_the_default_and_has_no_more_weights(kind: Callable[..., Any]) -> None:
    default, named = _uniform(kind), _uniform(kind, dequantisation="uniform")
    assert default.state_dict().keys() == named.state_dict().keys()
    assert not any(name.startswith("dequantiser") for name in default.state_dict())
    assert any(name.startswith("dequantiser") for name in _flow(kind).state_dict())


@torch.no_grad()
def test_noise_of_the_whole_likelihood_is_that_of_the_dequantiser() -> None:
    """−ln p(y) + ln q(u|k) − D·ln s from its parts, of the u that was drawn, in loss and likelihood."""
    model, pixels = randomise(_flow(RealNVP), 0.2), _pixels(30)
    assert isinstance(model, RealNVP)
    assert model.dequantiser is not None
    u_0 = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(3)).double() + 2.0**-25
    u, _ = model.dequantiser(model.signed(pixels), u_0)
    log_q = model.dequantiser.log_density(model.signed(pixels), u)
    wanted = log_q - model.log_density(model.dequantise(pixels, u)) - 16 * math.log(2 / 4)
    nats = model.nll(pixels, None, torch.Generator().manual_seed(3)).nats
    torch.testing.assert_close(nats, wanted, atol=1e-6, rtol=1e-7)
    loss = model.loss(pixels, None, torch.Generator().manual_seed(3))
    assert float(loss) * 16 == pytest.approx(float(wanted.mean()), rel=1e-6)
    assert float(log_q.abs().mean()) > 0.1


def test_likelihoods_are_the_masses_of_the_bins() -> None:
    """E_q[p/q] is the density integrated over each bin of two pixels, whatever q is."""
    model = _flow(RealNVP, (1, 1, 2), levels=3)
    randomise(model, 0.3)
    check_reported_likelihood(
        model, every_image((1, 1, 2), 3), bin_probabilities(model, panel=0.5, end=20), draws=8000
    )


@pytest.mark.parametrize("kind", FLOWS)
def test_the_bound_sums_to_less_than_one(kind: Callable[..., Any]) -> None:
    """Over all 2×2 images of 4 levels, with random q; many samples come closer to one than one does."""
    model, images, rounds = _flow(kind, (1, 2, 2)), every_image((1, 2, 2), 4), 8
    randomise(model, 0.2)
    fixed = FIXED if kind is FFJORD else {}
    sums = []
    for M in (1,) if kind is FFJORD else (1, 4, 24):
        found = model.nll(
            images.repeat(rounds, 1, 1, 1),
            None,
            torch.Generator().manual_seed(M),
            dequantisation_samples=M,
            **fixed,
        )
        sums.append(float((-found.nats.view(rounds, -1).mean(0)).exp().sum()))
    assert sums == sorted(sums)
    assert sums[-1] < 1.0
    assert sums[0] < (1.0 if kind is FFJORD else 0.9 * sums[-1])


@pytest.mark.parametrize("levels", [2, 256])
@torch.no_grad()
def test_ends_of_the_bins_stay_inside_the_cube(levels: int) -> None:
    """Wild weights push u to either end of its bin, at the lowest level and the highest."""
    model = perturbed(_flow(RealNVP, levels=levels), std=0.0)
    pixels = torch.tensor([0, levels - 1], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    for push in (-1000.0, 1000.0):
        for layer in model.dequantiser.layers:
            layer.network.bias_CHW[1] = push
        y, log_q = model.dequantised(pixels, torch.Generator().manual_seed(0))
        assert -1 < float(y.min()) < float(y.max()) < 1
        assert torch.equal(model.quantise(y), pixels)
        assert bool((log_q.isfinite() & model.log_density(y).isfinite()).all())


def test_trains_to_no_worse_than_uniform_noise() -> None:
    """A few seconds of the digits, one seed: better on the same images by over two standard errors."""
    found = []
    for options in ({}, VARIATIONAL):
        torch.manual_seed(0)
        model = train(RealNVP(features=16, couplings=2, **options), steps=120, learning_rate=4e-3)
        generator = torch.Generator().manual_seed(0)
        found.append(model.nll(split()[1], None, generator, dequantisation_samples=4).nats)  # type: ignore[call-arg]
    gain = found[0] - found[1]
    assert float(gain.mean()) > 2 * float(gain.std()) / math.sqrt(len(gain))
    assert bits(gain, model) > 0.02


@pytest.mark.parametrize("kind", FLOWS)
def test_the_protocol_says_how(kind: Callable[..., Any]) -> None:
    model, pixels = _flow(kind).eval(), _pixels(4)
    fixed = FIXED if kind is FFJORD else {}
    found = model.nll(pixels, None, torch.Generator().manual_seed(0), dequantisation_samples=3, **fixed)
    assert found.nats.dtype == torch.float64
    if kind is FFJORD:
        assert found.kind == "estimate"
        assert "variational dequantisation×3, s=2/4" in found.protocol
        return
    assert found.kind == "exact"
    bound = "variational dequantisation ×3, s=2/4: an upper bound of the bits of the levels"
    assert bound in found.protocol
    assert bool((found.nats <= found.breakdown["single"]).all())


@pytest.mark.parametrize("kind", FLOWS)
def test_samples_are_those_of_the_flow_alone(kind: Callable[..., Any]) -> None:
    """q is of training and likelihood only."""
    learned, uniform = _flow(kind).eval(), _uniform(kind).eval()
    perturbed(learned.dequantiser, 0.5)
    seeds = Seeds(0, range(3))
    assert torch.equal(learned.sample(3, None, seeds), uniform.sample(3, None, Seeds(0, range(3))))


def test_a_conditional_flow_is_told_its_labels_beside() -> None:
    torch.manual_seed(0)
    model = perturbed(TarFlow((1, 4, 4), 4, **FLOWS[TarFlow], **VARIATIONAL, classes=3), 0.2)
    pixels, label = _pixels(6), torch.arange(6) % 3
    model.loss(pixels, label, torch.Generator().manual_seed(0)).backward()
    one, other = (model.nll(pixels, c, torch.Generator().manual_seed(0)).nats for c in (label, 2 - label))
    assert bool((one - other).abs().max() > 1e-3)


@pytest.mark.parametrize("kind", FLOWS)
def test_unknown_names_get_the_nearest(kind: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"Unknown dequantisation 'variatonal'\. Did you mean 'variational'"):
        kind((1, 4, 4), 4, dequantisation="variatonal")
    with pytest.raises(
        ValueError, match=r"Unknown option of the dequantiser 'feature'\. Did you mean 'features'"
    ):
        kind((1, 4, 4), 4, dequantisation="variational", dequantiser={"feature": 4})
    with pytest.raises(ValueError, match="couplings must be a whole number, at least 1: got 0"):
        kind((1, 4, 4), 4, dequantisation="variational", dequantiser={"couplings": 0})
    with pytest.raises(ValueError, match="dequantiser is for variational dequantisation: choose that"):
        kind((1, 4, 4), 4, dequantiser={"features": 4})
