"""Diffusion on the pixel levels themselves: likelihood by the variational bound of the ancestral chain.

x_0 = 2k/(K−1) − 1 stands at the levels. The bound runs the chain down a grid of T steps to a discretised
Gaussian; its reverse variances are fitted once after training, or were learned by the network. It works on
every Gaussian path; a subclass says how the network is trained.

Shapes: B batch, C channels, H height, W width, K levels, T steps of the bound.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from models.conditioning import labels
from models.gaussian import GaussianPathModel
from models.likelihood.chain import bound_grid
from models.likelihood.variational_bound import Variance
from models.networks.backbone import backbone
from models.paths import GaussianPath
from models.times import TimeLaw

__all__ = ["ReverseChainModel", "bound_grid", "level_octaves", "pixel_backbone"]


class ReverseChainModel(GaussianPathModel):
    """A network that denoises pixel levels, with the bound of its chain.

    timesteps  T of the bound; its reverse variances are fitted for these times
    finest     σ/α where the decoder takes over, in units of half the distance of two levels
    variance   the bound's own: `optimal` is fitted by `calibrate`
    classes    labels it is conditioned on, 0 for none
    others     as for `models.gaussian.GaussianPathModel`
    """

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
        self.timesteps, self.finest = timesteps, finest
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

    def encode(self, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        """Levels at their places in [−1, 1]."""
        return self.to_signed(pixels)

    def decode(self, x_0: Tensor) -> Tensor:
        """The nearest level."""
        return self.to_pixels(x_0)

    @property
    def reach(self) -> float:
        """The levels reach from −1 to 1."""
        return 1.0

    def chain_grid(self) -> tuple[float, ...]:
        """The grid that the reverse variances belong to."""
        return self.grid


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
