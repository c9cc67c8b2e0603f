"""Protects the one entry to likelihoods: per-image nats, split errors, failures with an address."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.errors import CellFailed
from bench.metrics.bits import evaluate_nll
from bench.metrics.nll import OF_DRAWS, OF_PROBES, doubled_steps, standard_errors
from models.base import Likelihood
from models.flow_matching import RectifiedFlow
from models.likelihood.flow import SampledLikelihood
from tests.bench.toys import Histogram
from tests.models.digits import randomise

SHAPE, LEVELS = (1, 2, 2), 4


def _pixels(n: int) -> Tensor:
    return torch.randint(LEVELS, (n, *SHAPE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


class Noisy(Histogram):
    """Nats with a known variance of data (9), dequantisation (4) and probes (1)."""

    def nll(
        self,
        pixels: Tensor,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
        M: int = 1,
        P: int = 1,
        bad: int = -1,
    ) -> Likelihood:
        self.network(pixels)
        n = len(pixels)
        data = 3.0 * torch.randn(n, generator=torch.Generator().manual_seed(int(pixels.sum())))
        draws = (
            data + 2.0 * torch.randn(M, 1, n, generator=generator) + torch.randn(M, P, n, generator=generator)
        ).double()
        nats = draws.mean((0, 1))
        if bad >= 0:
            nats[bad] = math.nan
        return SampledLikelihood(nats, "estimate", "known noise", {}, draws)


def test_the_error_is_split_into_its_known_parts() -> None:
    """M = 4, P = 2: variances 9, 4/4 and 1/8 of n images, each in bits per dimension."""
    n, unit = 8192, 4 * math.log(2.0)
    found = evaluate_nll(Noisy(SHAPE, LEVELS), _pixels(n), batch=256, M=4, P=2)
    wanted = {"total": 9 + 1 + 1 / 8, "data": 9.0, "dequantisation": 1.0, "probes": 1 / 8}
    assert set(found.errors) == set(wanted)
    for name, variance in wanted.items():
        assert found.errors[name] == pytest.approx(math.sqrt(variance / n) / unit, rel=0.04), name
    mean, low, high = found.bits
    assert high - low == pytest.approx(2 * 1.96 * found.errors["total"])
    assert low < mean < high


def test_repeats_split_what_one_draw_cannot() -> None:
    """With one draw the error is whole, and the protocol says so; with repeats it is in two."""
    model, n, unit = Noisy(SHAPE, LEVELS), 2048, 4 * math.log(2.0)
    once = evaluate_nll(model, _pixels(n), batch=256)
    assert set(once.errors) == {"total"}
    assert "not split" in once.protocol
    again = evaluate_nll(model, _pixels(n), batch=256, repeats=5)
    assert again.errors["dequantisation"] == pytest.approx(math.sqrt(5 / 5 / n) / unit, rel=0.06)
    assert "mean of 5 repeats" in again.protocol
    assert again.nfe == 5 * once.nfe == 5.0


def test_images_that_are_not_finite_are_named_and_not_dropped() -> None:
    with pytest.raises(CellFailed, match=r"not finite for 4 of 256 images: 515, 579, 643, 707"):
        evaluate_nll(Noisy(SHAPE, LEVELS), _pixels(256), shard=2, bad=3)


def test_an_image_has_the_same_number_in_any_call_that_holds_its_shard() -> None:
    """The seed is the shard's: three shards at once, or the second alone."""
    model, pixels = Noisy(SHAPE, LEVELS), _pixels(600)
    whole = evaluate_nll(model, pixels, seed=3)
    second = evaluate_nll(model, pixels[256:512], seed=3, shard=1)
    assert np.array_equal(whole.nats[256:512], second.nats)
    assert not np.array_equal(whole.nats, evaluate_nll(model, pixels, seed=4).nats)


def _flow() -> RectifiedFlow:
    model = RectifiedFlow(SHAPE, LEVELS, channels=4, multipliers=(1,), attention=False, dropout=0.0)
    return randomise(model, 0.3).float().eval()  # type: ignore[return-value]


def test_a_flow_tells_everything_in_its_protocol() -> None:
    options: dict[str, Any] = {"solver": "rk4", "steps": 3, "probes": 2, "dequantisation_samples": 3}
    found = evaluate_nll(_flow(), _pixels(16), seed=7, batch=8, estimator="ode", **options)
    for part in (
        "ode rk4 3 steps, rademacher×2, uniform dequantisation×3, s=2/4",
        "n=16, seed 7, batch 8, float32, NFE mean 36 max 36",
        "data",
        "dequantisation",
        "probes",
    ):
        assert part in found.protocol
    assert found.nats.shape == found.arrays[OF_DRAWS].shape == found.arrays[OF_PROBES].shape == (16,)


def test_adaptive_batches_differ_in_cost_and_the_largest_is_told() -> None:
    found = evaluate_nll(_flow(), _pixels(24), batch=8, rtol=1e-3, atol=1e-3)
    assert 0 < found.nfe <= found.nfe_max


def test_twice_the_steps_is_the_same_question() -> None:
    """Same dequantisation and probes, so that only the solver differs: the difference shrinks with steps."""
    found = [
        doubled_steps(_flow(), _pixels(8), solver="heun", steps=n, batch=8, estimator="ode") for n in (2, 16)
    ]
    assert 0 <= found[1]["value"] < found[0]["value"]
    assert found[0]["low"] <= found[0]["value"] <= found[0]["high"]


def test_bounds_have_draws_of_noise() -> None:
    model = _flow()
    model.calibrate(_pixels(64), torch.Generator().manual_seed(0))
    found = evaluate_nll(model, _pixels(8), repeats=2, estimator="continuous", draws=4)
    assert found.kind == "bound"
    assert set(found.errors) == {"total", "data", "draws of noise"}
    assert set(found.arrays) == {"nats", "prior", "diffusion", "reconstruction", OF_DRAWS}


def test_errors_of_one_image_are_zero_and_not_nan() -> None:
    assert standard_errors({"nats": np.ones(1)}, 4, "draws") == {"total": 0.0}


def test_bad_requests_get_one_sentence() -> None:
    with pytest.raises(ValueError, match="one or more images"):
        evaluate_nll(Histogram(SHAPE, LEVELS), _pixels(0))
    with pytest.raises(ValueError, match="Did you mean 'steps'"):
        evaluate_nll(_flow(), _pixels(2), step=3)
