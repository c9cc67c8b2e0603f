"""Diffusion on the pixel levels themselves: likelihood by the variational bound of the ancestral chain.

x_0 = 2k/(K−1) − 1 stands at the levels. The bound runs the chain down a grid of T steps to a discretised
Gaussian; its reverse variances are fitted once after training, or were learned by the network. It works on
every Gaussian path; a subclass says how the network is trained.

Shapes: B batch, C channels, H height, W width, K levels, T steps of the bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from models.base import Likelihood
from models.conditioning import labels
from models.gaussian import GaussianPathModel
from models.grids import START_LOG_SNR, GridTimes
from models.likelihood.discretised_gaussian import discretised_gaussian_nats
from models.likelihood.variational_bound import (
    Variance,
    reverse_variances,
    squared_error_moments,
    variational_bound,
)
from models.networks.backbone import backbone
from models.paths import GaussianPath
from models.times import TimeLaw

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


class ReverseChainModel(GaussianPathModel):
    """A network that denoises pixel levels, with the bound of its chain.

    timesteps  T of the bound; its reverse variances are fitted for these times
    finest     σ/α where the decoder takes over, in units of half the distance of two levels
    variance   the bound's own: `optimal` is fitted by `calibrate`
    classes    labels it is conditioned on, 0 for none
    others     as for `models.gaussian.GaussianPathModel`
    """

    moments: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        network: nn.Module,
        path: GaussianPath,
        prediction: str,
        times: TimeLaw,
        *,
        timesteps: int,
        finest: float,
        variance: Variance = "optimal",
        classes: int = 0,
        condition_dropout: float = 0.1,
    ) -> None:
        if timesteps < 2 or finest <= 0:
            raise ValueError("The bound needs two or more timesteps and a finest noise above 0.")
        super().__init__(
            shape,
            levels,
            network,
            path,
            prediction,
            times,
            clip=True,
            conditioning=labels(classes),
            condition_dropout=condition_dropout,
        )
        self.bound_variance: Variance = variance
        self.grid = bound_grid(self.path, timesteps, finest / (levels - 1))
        self.register_buffer("moments", torch.full((timesteps, *shape), torch.nan))

    def encode(self, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        """Levels at their places in [−1, 1]."""
        return self.to_signed(pixels)

    def decode(self, x_0: Tensor) -> Tensor:
        """The nearest level."""
        return self.to_pixels(x_0)

    @torch.no_grad()
    def calibrate(self, pixels: Tensor, generator: torch.Generator | None = None) -> None:
        """Fit E(x_0 − x̂_0)² of each time and entry, each time on other images of the training set.

        Entries have their own variance because a dark border is far more certain than the strokes; on the
        digits this is worth 0.03 bits a dimension over one variance for all.
        """
        self.check_pixels(pixels)
        noise = _noise(generator)
        denoiser = self.denoiser(clip=True, n=min(CALIBRATION, len(pixels)))
        for index, t in enumerate(self.grid[:-1]):
            order = torch.randperm(len(pixels), generator=generator, device=pixels.device)[:CALIBRATION]
            x_0 = self.encode(pixels[order], None)
            own = squared_error_moments(denoiser, x_0, (t, 0.0), noise)[0]
            self.moments[index] = (1.0 - SHARED) * own + SHARED * own.mean()

    @torch.no_grad()
    def nll(
        self,
        pixels: Tensor,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
        variance: Variance | None = None,
    ) -> Likelihood:
        """The full variational bound with one draw of noise for each image and time.

        variance  small, large, optimal or learned; None: the model's own
        """
        self.check_pixels(pixels)
        variance = variance or self.bound_variance
        found = variational_bound(
            self.denoiser(condition, clip=True, n=len(pixels)),
            self.encode(pixels, None),
            self.grid,
            reverse_variances(
                self.path, self.grid, variance, self._fitted() if variance == "optimal" else None
            ),
            lambda mean, spread: discretised_gaussian_nats(pixels, mean, spread, self.levels),
            _noise(generator),
        )
        parts = {name: getattr(found, name) for name in ("prior", "diffusion", "reconstruction")}
        return Likelihood(found.total, "bound", self._protocol(variance), parts)

    def _fitted(self) -> Tensor:
        """The moments, refused before `calibrate`."""
        if bool(self.moments.isnan().any()):
            raise ValueError(
                "Optimal variances are not fitted: call calibrate(pixels) with training images first."
            )
        return self.moments

    def _protocol(self, variance: Variance) -> str:
        name, finest = type(self.path).__name__, self.path.log_snr(self.grid[-2])
        return (
            f"variational bound, T={len(self.grid) - 1}, {variance} variances, {name} from log-SNR "
            f"{START_LOG_SNR:g} to {finest:.2f}, discretised Gaussian decoder, one draw a time"
        )


def pixel_backbone(
    network: str,
    shape: tuple[int, int, int],
    levels: int,
    options: dict[str, Any],
    classes: int = 0,
    channels_out: int | None = None,
) -> nn.Module:
    """A backbone for pixel levels; a U-Net gets Fourier features with the distance of two as period."""
    if network == "unet":
        options = {"octaves": level_octaves(levels), **options}
    return backbone(network, shape, options, classes=classes, channels_out=channels_out)


def level_octaves(levels: int) -> tuple[int, int]:
    """The n for which sin 2ⁿπx has the distance of two levels as period, and twice it."""
    level = round(math.log2(levels - 1)) if levels > 2 else 1
    return level - 1, level


def _noise(generator: torch.Generator | None) -> Callable[[Tensor], Tensor]:
    """Standard normal noise like x from one generator."""
    return lambda x: torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
