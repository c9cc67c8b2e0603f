"""The discrete-time variational sum of any model on a Gaussian path, whatever it was trained as.

The chain starts at places x_k of the levels, goes through T times of the path and ends in a discretised
Gaussian over the levels; see `models.likelihood.variational_bound` for its terms. A network that was trained
on dequantised levels is told the middles of their intervals: any start that is a function of the levels
gives a bound. What the network says of x_0 is clamped to the range of the levels, which can only gain.

Shapes: B batch, C channels, H height, W width, K levels, T steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.base import Likelihood
from models.grids import START_LOG_SNR, GridTimes
from models.likelihood.discretised_gaussian import discretised_gaussian_nats
from models.likelihood.variational_bound import (
    VARIANCES,
    Bound,
    Variance,
    floor_nats,
    reverse_variances,
    squared_error_moments,
    variational_bound,
)
from models.names import unknown
from models.paths import GaussianPath

if TYPE_CHECKING:
    from models.gaussian import GaussianPathModel

CALIBRATION = 256
"""Training images each reverse variance is fitted on."""

SHARED = 0.1
"""Share of the mean over all entries in each entry's variance: one that is constant in training may vary."""


def bound_grid(path: GaussianPath, steps: int, finest: float) -> GridTimes:
    """The times of a bound of T steps; the last step, from noise `finest` = σ/α to 0, is the decoder's.

    The others lie evenly in u = σ/(α + σ), the time of the straight path, down from log-SNR −10.
    """
    first = 1.0 / (1.0 + math.exp(0.5 * START_LOG_SNR))
    last = finest / (1.0 + finest)
    levels = [first + (last - first) * i / max(1, steps - 1) for i in range(steps)]
    return (*(path.t_of_log_snr(2.0 * math.log((1.0 - u) / u)) for u in levels), 0.0)


@dataclass(frozen=True)
class VariationalSum:
    """The estimator `variational`: the whole sum, one draw of noise for each image and time.

    variance  of the reverse steps: small, large, optimal or learned; None: the model's own
    """

    variance: Variance | None = None

    def __post_init__(self) -> None:
        if self.variance is not None and self.variance not in VARIANCES:
            raise ValueError(unknown("variance of the bound", self.variance, VARIANCES))

    @torch.no_grad()
    def __call__(
        self,
        model: GaussianPathModel,
        pixels: Tensor,
        condition: Tensor | None,
        generator: torch.Generator | None,
    ) -> Likelihood:
        """The bound of each image; breakdown: prior, diffusion, reconstruction."""
        reach, grid = model.reach_of_bounds(), model.chain_grid()
        kind: Variance = self.variance or model.bound_variance
        check_variance(model, kind)
        variances = reverse_variances(model.path, grid, kind, fitted(model) if kind == "optimal" else None)
        found = variational_bound(
            model.denoiser(condition, clip=True, n=len(pixels)),
            reach * model.to_signed(pixels),
            grid,
            variances,
            lambda mean, spread: discretised_gaussian_nats(
                pixels, mean.double() / reach, spread / reach**2, model.levels
            ),
            noise_from(generator),
            reach,
        )
        parts = {name: getattr(found, name) for name in ("prior", "diffusion", "reconstruction")}
        floor = floor_nats(model.path, grid, variances, reach / (model.levels - 1), model.dims)
        log_snr = [float(model.path.log_snr(t)) for t in grid[:-1]]
        said = protocol(model, grid, kind)
        return ChainLikelihood(
            found.total, "bound", said, parts, floor, terms=found, grid=grid, log_snr=log_snr
        )


@dataclass(frozen=True)
class ChainLikelihood(Likelihood):
    """A likelihood with the term of every step, `terms.diffusion_TB`, and the log-SNRs they go between."""

    terms: Bound = field(kw_only=True)
    grid: Sequence[float] = field(kw_only=True)
    log_snr: Sequence[float] = field(kw_only=True)


@torch.no_grad()
def calibrate(model: GaussianPathModel, pixels: Tensor, generator: torch.Generator | None) -> None:
    """Fit E(x_0 − x̂_0)² of each time and entry, each time on other images of the training set.

    Entries have their own variance because a dark border is far more certain than the strokes; on the
    digits this is worth 0.03 bits a dimension over one variance for all.
    """
    model.check_pixels(pixels)
    noise, reach = noise_from(generator), model.reach_of_bounds()
    denoiser = model.denoiser(clip=True, n=min(CALIBRATION, len(pixels)))
    for index, t in enumerate(model.chain_grid()[:-1]):
        order = torch.randperm(len(pixels), generator=generator, device=pixels.device)[:CALIBRATION]
        x_0 = reach * model.to_signed(pixels[order])
        own = squared_error_moments(denoiser, x_0, (t, 0.0), noise, reach)[0]
        model.moments[index] = (1.0 - SHARED) * own + SHARED * own.mean()


def fitted(model: GaussianPathModel) -> Tensor:
    """The moments, refused before `calibrate`."""
    if bool((model.moments < 0).any()):
        raise ValueError(
            "Optimal variances are not fitted: call calibrate(pixels) with training images first."
        )
    return model.moments


def check_variance(model: GaussianPathModel, kind: Variance) -> None:
    """ValueError where the network was not built to say its variance."""
    if kind == "learned" and model.bound_variance != "learned":
        raise ValueError(
            f"This {type(model).__name__} has learned no variance: use small, large or optimal, "
            "or train it with variance learned."
        )


def protocol(model: GaussianPathModel, grid: Sequence[float], kind: Variance) -> str:
    """In words, for the record."""
    name, finest = type(model.path).__name__, model.path.log_snr(grid[-2])
    return (
        f"variational bound, T={len(grid) - 1}, {kind} variances, {name} from log-SNR "
        f"{START_LOG_SNR:g} to {finest:.2f}, discretised Gaussian decoder, one draw a time"
    )


def noise_from(generator: torch.Generator | None) -> Callable[[Tensor], Tensor]:
    """Standard normal noise like x from one generator."""
    return lambda x: torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
