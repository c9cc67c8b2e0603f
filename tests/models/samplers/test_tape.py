"""Protects the recording of samplers: vectors are exact algebra, and programs are what their formulas say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.denoiser import PREDICTIONS, Denoiser
from models.gaussian_path import GaussianPath
from models.grids import grid
from models.guidance import NONE
from models.paths import RectifiedFlowPath, path
from models.samplers import Sampler, plan, sampler
from models.samplers.program import Combine, Evaluate, run
from models.samplers.tape import Tape, Vector
from tests.models.oracles import denoiser, isotropic, latents, normal_like

NUMBERS = st.floats(-4, 4)


@given(NUMBERS, NUMBERS, NUMBERS)
def test_vectors_are_linear(a: float, b: float, c: float) -> None:
    """Σ c_i r_i with the values 2 and 5 put in for the registers is the same arithmetic on numbers."""
    x, y = Vector({0: 1.0}), Vector({1: 1.0})

    def value(vector: Vector) -> float:
        return sum(weight * (2.0, 5.0)[register] for register, weight in vector.terms.items())

    found = a * (x + b * y) - (y - x * c) / 2.0 + -x
    assert value(found) == pytest.approx(a * (2 + b * 5) - (5 - 2 * c) / 2 - 2, abs=1e-12)
    assert not (x - x).terms, "what cancels needs no operation"


def _by_hand(x: Tensor, network: Denoiser, times: Sequence[float]) -> Tensor:
    """DPM-Solver++(2M) as its paper writes it, on tensors."""
    p, past, last = network.path, None, 0.0
    for t, s in pairwise(times):
        x0 = network(x, t).x0
        if s == 0:
            return x0
        h = 0.5 * (p.log_snr(s) - p.log_snr(t))
        used = x0 if past is None else (1 + h / (2 * last)) * x0 - h / (2 * last) * past
        x = p.sigma(s) / p.sigma(t) * x - p.alpha(s) * (torch.tensor(-h).exp() - 1) * used
        past, last = x0, h
    return x


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_recorded_sampler_is_its_formula(prediction: str) -> None:
    oracle = isotropic(path("linear-vp"), prediction)
    times, x = grid("shared", oracle.path, 9), latents(4, 4, 1.0)
    found = sampler("dpmpp-2m", 9)(denoiser(oracle), x, times)
    assert torch.allclose(found, _by_hand(x, denoiser(oracle), times), atol=1e-6)


def test_nothing_is_computed_that_is_not_needed() -> None:
    """A sampler of one's own: half a state and a velocity that nobody reads cost nothing."""

    def wasteful(x: Vector, denoise: Tape, times: Sequence[float]) -> Iterator[Vector]:
        for t, s in pairwise(times):
            found = denoise(x, t)
            _ = 0.5 * x + found.velocity
            x = x + (s - t) * found.velocity
            yield x

    tape = Tape(path("rectified-flow"), "velocity", False, NONE, (0.9, 0.4, 0.0))
    recorded = tape.record(wasteful)
    assert [type(op) for op in recorded.operations if isinstance(op, Evaluate | Combine)] == [
        Evaluate,
        Combine,
    ] * 2
    assert recorded.times == (0.9, 0.4)
    assert recorded.size <= 3, "registers are used again"


def test_the_input_is_not_written_over() -> None:
    oracle = isotropic(path("cosine"))
    x = latents(4, 4, 1.0)
    before = x.clone()
    for name in ("euler", "unipc", "edm", "ddpm"):
        times = grid("shared", oracle.path, 4)
        sampler(name, 4)(denoiser(oracle), x, times, noise=normal_like(0))
        assert torch.equal(x, before)


def test_a_coefficient_that_is_not_finite_is_refused() -> None:
    def broken(x: Vector, denoise: Tape, times: Sequence[float]) -> Iterator[Vector]:
        for t, _ in pairwise(times):
            x = float("inf") * denoise(x, t).x0
            yield x

    with pytest.raises(ValueError, match="not finite at step 1"):
        Tape(path("cosine"), "v", False, NONE, (0.5, 0.0)).record(broken)


def test_programs_are_remembered_for_paths_that_are_values_only() -> None:
    """A path that keeps a table no dataclass knows of must not be mistaken for another of its class."""

    class _Steeper(RectifiedFlowPath):
        """Not a dataclass of its own: equal to any other of its class, whatever its power."""

        def sigma(self, t: Any) -> Any:
            return t ** POWER[0]

    POWER = [1.0]
    times, chosen = (0.9, 0.5, 0.0), Sampler("ddim", 2)

    def planned(p: GaussianPath) -> Any:
        return plan(chosen, Denoiser(isotropic(p), p, "v"), times)

    assert planned(path("cosine")) is planned(path("cosine"))
    first = planned(_Steeper())
    POWER[0] = 2.0
    assert planned(_Steeper()) != first


def test_times_of_a_run_may_be_given() -> None:
    oracle = isotropic(path("cosine"))
    times, x = grid("shared", oracle.path, 3), latents(2, 4, 1.0)
    recorded = plan(Sampler("euler", 3), denoiser(oracle), times)
    rows = [torch.full((2,), t, dtype=torch.float64) for t in recorded.times]
    found = run(recorded, denoiser(oracle), x, torch.randn_like, None, rows)
    assert torch.equal(found, sampler("euler", 3)(denoiser(oracle), x, times))
