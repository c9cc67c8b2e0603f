"""Protects the adaptive solver: orders, tolerances, and that no image depends on its batch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.flow_matching import RectifiedFlow
from models.likelihood.adaptive import LOST, PAIRS, Pair, TooStiff, solve_adaptive
from models.likelihood.probability_flow import Flow, flow_log_density
from models.paths import path
from tests.models.oracles import MEAN, VARIANCE, denoiser, isotropic, latents


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_meets_its_conditions_of_order(name: str) -> None:
    """Σ b c^(k−1) = 1/k up to the order, rows sum to their times, the error estimate loses exactly one."""
    pair: Pair = PAIRS[name]
    b = [*pair.rows[-1], 0.0]
    for row, c in zip(pair.rows, pair.times, strict=True):
        assert sum(row) == pytest.approx(c, abs=1e-14)
    for k in range(1, pair.order + 1):
        moment = sum(w * c ** (k - 1) for w, c in zip(b, pair.times, strict=True))
        assert moment == pytest.approx(1 / k, abs=1e-14)
        estimate = sum(e * c ** (k - 1) for e, c in zip(pair.error, pair.times, strict=True))
        assert (abs(estimate) < 1e-14) == (k < pair.order)


@pytest.mark.parametrize("solver", PAIRS)
@pytest.mark.parametrize(("start", "end"), [(0.0, 2.0), (2.0, 0.0)])
def test_the_tolerance_is_kept_forwards_and_backwards(solver: str, start: float, end: float) -> None:
    """dy/dt = λ y with rates from 0 to 20: within 20 tolerances of the closed form for each rate."""
    rates = torch.tensor([0.0, -1.0, 1.0, 5.0, -20.0], dtype=torch.float64)
    if end < start:
        rates = -rates
    y = torch.ones(5, 3, dtype=torch.float64)
    for tolerance in (1e-4, 1e-8):
        (found,) = solve_adaptive(
            lambda t, s: (rates[:, None] * s[0],), (y,), solver, tolerance, tolerance, start, end
        )
        wanted = torch.exp(rates * (end - start))[:, None].expand(5, 3)
        assert float(((found - wanted) / (1 + wanted)).abs().max()) < 20 * tolerance


def test_each_image_is_told_its_own_time() -> None:
    """dy/dt = 3t² with a wild and a calm image: both end at their integral although their steps differ."""
    seen: list[Tensor] = []

    def field(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.append(t.clone())
        size = torch.tensor([1.0, 0.0], dtype=torch.float64)
        return ((size * torch.cos(40 * t) + 3 * t**2)[:, None],)

    (found,) = solve_adaptive(
        field, (torch.zeros(2, 1, dtype=torch.float64),), "dopri5", 1e-8, 1e-8, 0.0, 1.0
    )
    assert found[:, 0].tolist() == pytest.approx([math.sin(40.0) / 40 + 1, 1.0], abs=1e-7)
    assert any(float(t[0]) != float(t[1]) for t in seen)


@pytest.mark.parametrize("solver", PAIRS)
def test_an_image_does_not_depend_on_its_batch(solver: str) -> None:
    """Float64 and an exact network: whoever the others are, the number is the same to rounding."""
    oracle, x = isotropic(path("cosine"), "velocity"), MEAN + VARIANCE**0.5 * latents(33, 4, 1.0)
    x[-1] *= 30.0  # needs other steps than the rest
    for tolerance in (1e-4, 1e-6):
        flow = Flow(solver, tolerance, tolerance, divergence="exact")
        alone, among, with_wild = (
            float(flow_log_density(denoiser(oracle), x[rows], flow)[0])
            for rows in (slice(0, 1), slice(0, 32), slice(0, 33))
        )
        assert among == pytest.approx(alone, abs=1e-12)
        assert with_wild == pytest.approx(alone, abs=1e-12)


def test_the_number_of_a_network_does_not_depend_on_the_batch() -> None:
    """Single precision, a U-Net with random weights that are not small: 1e-6 nats a dimension."""
    model = RectifiedFlow((1, 8, 8), 17, channels=8).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    pixels = torch.randint(17, (4, 1, 8, 8), generator=generator, dtype=torch.uint8)

    def nats(rest: Tensor) -> float:
        rows, noise = torch.cat([pixels[:1], rest]), torch.Generator().manual_seed(1)
        # The noise of the first image comes first: it is the same whatever follows.
        found = model.nll(rows, None, noise, rtol=1e-4, atol=1e-4, divergence="exact")
        return float(found.nats[0])

    others = [torch.zeros_like(pixels[1:]), pixels[1:]]
    first, second = (nats(rest) for rest in others)
    assert abs(first - second) / 64 < 1e-6


def test_an_image_without_numbers_is_nan_and_the_others_arrive() -> None:
    """NaN from a place on, at once, or infinite from the start."""

    def field(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (torch.where(state[0] > 2.0, torch.nan, state[0]),)

    start = torch.tensor([[1.5], [0.1], [3.0], [torch.inf]])
    (found,) = solve_adaptive(field, (start,), "dopri5", 1e-5, 1e-5, 0.0, 1.0)
    assert found.isnan()[:, 0].tolist() == [True, False, True, True]
    assert float(found[1]) == pytest.approx(0.1 * math.e, rel=1e-5)
    assert LOST > 1


def test_a_flow_that_never_arrives_is_told_with_image_and_time() -> None:
    """dy/dt = y² leaves every bound at t = 1."""
    with pytest.raises(TooStiff, match=r"image 1 of the batch is too stiff: it is at t=1 "):
        solve_adaptive(
            lambda t, s: (s[0] ** 2,),
            (torch.tensor([[0.1], [1.0]], dtype=torch.float64),),
            "dopri5",
            1e-8,
            1e-8,
            0.0,
            2.0,
        )
