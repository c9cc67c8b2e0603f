"""Denoising diffusion (Ho et al. 2020, 2006.11239) on the pixel levels themselves.

Trained on x_0 = 2k/(K−1) − 1; its likelihood is the variational bound of the ancestral chain with a
discretised Gaussian at the end, whose reverse variances are fitted once after training.

Shapes: B batch, C channels, H height, W width, K levels, T steps of the bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from models import paths
from models.base import Likelihood
from models.gaussian import GaussianPathModel, Times
from models.grids import START_LOG_SNR, Grid
from models.likelihood.discretised_gaussian import discretised_gaussian_nats
from models.likelihood.variational_bound import (
    Variance,
    reverse_variances,
    squared_error_moments,
    variational_bound,
)
from models.networks.unet import UNet
from models.paths import GaussianPath

CALIBRATION = 256
"""Training images each reverse variance is fitted on."""

SHARED = 0.1
"""Share of the mean over all entries in each entry's variance: one that is constant in training may vary."""


def bound_grid(path: GaussianPath, steps: int, finest: float) -> Grid:
    """The times of a bound of T steps; the last step, from noise `finest` = σ/α to 0, is the decoder's.

    The others lie evenly in u = σ/(α + σ), the time of the straight path, down from log-SNR −10.
    """
    first = 1.0 / (1.0 + math.exp(0.5 * START_LOG_SNR))
    last = finest / (1.0 + finest)
    levels = [first + (last - first) * i / max(1, steps - 1) for i in range(steps)]
    return (*(path.t_of_log_snr(2.0 * math.log((1.0 - u) / u)) for u in levels), 0.0)


class DDPM(GaussianPathModel):
    """A U-Net that denoises pixel levels.

    path        name of a Gaussian path
    prediction  what the network says, see `models.denoiser`
    times       law of the training times, see `models.gaussian.draw_times`
    timesteps   T of the bound; its reverse variances are fitted for these times
    finest      σ/α where the decoder takes over, in units of half the distance of two levels
    octaves     Fourier features of the input; by default with that distance as period, and twice it
    channels …  of the U-Net
    """

    family: ClassVar[str] = "diffusion"
    moments: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        path: str = "cosine",
        prediction: str = "v",
        times: Times = "uniform",
        timesteps: int = 192,
        finest: float = 0.8,
        channels: int = 32,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 1,
        attention: bool = True,
        octaves: Sequence[int] | None = None,
        dropout: float = 0.1,
    ) -> None:
        if timesteps < 2 or finest <= 0:
            raise ValueError("The bound needs two or more timesteps and a finest noise above 0.")
        level = round(math.log2(levels - 1)) if levels > 2 else 1
        waves = (level - 1, level) if octaves is None else tuple(octaves)
        network = UNet(shape, channels, multipliers, blocks, attention, waves, dropout)
        super().__init__(shape, levels, network, paths.path(path), prediction, times, clip=True)
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
        denoiser = self.denoiser(clip=True)
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
        variance: Variance = "optimal",
    ) -> Likelihood:
        """The full variational bound with one draw of noise for each image and time."""
        self.check_pixels(pixels)
        found = variational_bound(
            self.denoiser(condition, clip=True),
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


def _noise(generator: torch.Generator | None) -> Callable[[Tensor], Tensor]:
    """Standard normal noise like x from one generator."""
    return lambda x: torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
