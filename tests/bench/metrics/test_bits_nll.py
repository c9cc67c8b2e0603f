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
from bench.metrics.marginal_nll import evaluate_marginal_nll
from bench.metrics.nll import OF_DRAWS, OF_PROBES, check_possible, standard_errors
from bench.metrics.solver_ladder import ladder
from models.base import Likelihood
from models.conditioning import labels
from models.denoiser import combination
from models.diffusion import DDPM
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
        return SampledLikelihood(nats, "estimate", "known noise", {}, None, draws)


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


def test_a_ladder_of_steps_asks_the_same_question() -> None:
    """Same dequantisation and probes, so that only the solver differs: the difference shrinks with steps."""
    options: dict[str, Any] = {"estimator": "ode", "solver": "heun", "steps": 8}
    known = {**RectifiedFlow.likelihood_options("ode"), **options}
    rungs = ladder(_flow(), _pixels(8), known, batch=8, **options)
    assert [rung["setting"] for rung in rungs] == ["2 steps", "4 steps", "8 steps", "16 steps"]
    assert [rung["own"] for rung in rungs] == [False, False, True, False]
    assert [rung["nfe"] for rung in rungs] == [4, 8, 16, 32]
    sizes = [abs(rung["difference"]) for rung in rungs]
    assert sizes[0] > sizes[2] > sizes[3] == 0.0
    assert all(rung["low"] <= rung["difference"] <= rung["high"] for rung in rungs)


def test_a_ladder_of_tolerances_ends_at_a_tenth() -> None:
    options: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}
    known = {**RectifiedFlow.likelihood_options(), **options}
    rungs = ladder(_flow(), _pixels(4), known, batch=4, **options)
    names = [f"tolerance {t}" for t in ("0.01", "0.001", "0.0001", "1e-05")]
    assert [rung["setting"] for rung in rungs] == names
    assert [rung["own"] for rung in rungs] == [False, False, True, False]
    assert rungs[0]["nfe"] < rungs[3]["nfe"]


def test_the_terms_of_a_sum_are_kept_with_their_noise_levels() -> None:
    model = _flow()
    model.calibrate(_pixels(64), torch.Generator().manual_seed(0))
    found = evaluate_nll(model, _pixels(300), estimator="variational")
    assert found.terms is not None
    terms, log_snr = found.terms
    assert terms.shape == (300, len(log_snr) - 1)
    assert np.allclose(terms.sum(1), found.arrays["diffusion"], rtol=1e-4)
    assert list(log_snr) == sorted(log_snr)
    assert evaluate_nll(model, _pixels(8), estimator="continuous", draws=2).terms is None


class TwoLabels(Histogram):
    """P(x | c) of pixels that are 0 under label 0 and uniform under label 1."""

    conditioning = labels(2)

    def nll(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Likelihood:
        self.network(pixels)
        assert condition is not None
        zero = torch.where((pixels == 0).flatten(1).all(1), 0.0, math.inf)
        uniform = torch.full((len(pixels),), self.dims * math.log(self.levels))
        return Likelihood(torch.where(condition == 0, zero, uniform).double(), "exact", "toy", floor=0.0)


def test_labels_are_summed_out() -> None:
    """−ln(¼·[x = 0] + ¾·4⁻⁴); an image that is impossible under one label is named as not finite."""
    model, pixels = TwoLabels(SHAPE, LEVELS), _pixels(8)
    with pytest.raises(CellFailed, match="not finite"):
        evaluate_marginal_nll(model, pixels)
    zeros = torch.zeros_like(pixels[:3])
    found = evaluate_marginal_nll(model, zeros, torch.tensor([0.25, 0.75]))
    assert found.nats == pytest.approx(np.full(3, -math.log(0.25 + 0.75 * 4.0**-4)))
    assert (found.kind, found.nfe) == ("exact", 2.0)
    assert "summed over 2 labels" in found.protocol
    with pytest.raises(ValueError, match="shares that add up to 1"):
        evaluate_marginal_nll(model, zeros, torch.tensor([0.5, 0.6]))
    with pytest.raises(ValueError, match="told no label"):
        evaluate_marginal_nll(Histogram(SHAPE, LEVELS), zeros)


def test_what_cannot_be_is_a_bug_and_said_so() -> None:
    nats = np.array([3.0, 1.9, 4.0])
    check_possible(nats, 1.9, "bound")
    with pytest.raises(CellFailed, match=r"bug: 1 of 3 images .* the 2 of a certain image, image 513 1.9"):
        check_possible(nats, 2.0, "bound", first=512)
    noisy = np.random.default_rng(0).normal(-1.0, 1.0, 100)
    check_possible(noisy + 1.0, None, "bound")  # single images may scatter below 0
    with pytest.raises(CellFailed, match=r"more than certain.*bug: please report"):
        check_possible(noisy, None, "bound")
    with pytest.raises(CellFailed, match=r"more than certain.*take more steps"):
        check_possible(noisy, None, "estimate")


@pytest.mark.parametrize("variance", ["small", "large", "optimal"])
def test_a_certain_network_meets_the_floor_of_its_variances(variance: str) -> None:
    """Every pixel an outermost level, known for certain: the sum is the floor and its prior, to rounding."""
    model = DDPM(SHAPE, LEVELS, network="dit", patch=1, width=8, depth=1, heads=1, timesteps=40).eval()
    pixels = (3 * (_pixels(64) > 1)).to(torch.uint8)
    model.calibrate(pixels, torch.Generator().manual_seed(0))
    for rows in pixels[:4].split(1):
        model.network = Known(model.to_signed(rows), model)
        generator = torch.Generator().manual_seed(0)
        found = model.nll(rows, None, generator, estimator="variational", variance=variance)
        above = found.nats - found.breakdown["prior"]
        assert found.floor is not None
        assert float(above) == pytest.approx(found.floor, rel=1e-5, abs=1e-6)


class Known(torch.nn.Module):
    """Predicts what makes x̂_0 the known image, on the path and in the prediction of a model."""

    def __init__(self, x_0: Tensor, model: DDPM) -> None:
        super().__init__()
        self.x_0 = torch.nn.Parameter(x_0, requires_grad=False)
        self.path, self.kind = model.path, model.prediction

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        t = t.double().view(-1, 1, 1, 1)
        epsilon = (x - self.path.alpha(t) * self.x_0) / self.path.sigma(t)
        p, q = combination(self.kind, self.path, t)
        return p * self.x_0 + q * epsilon


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
