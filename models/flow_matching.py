"""Rectified flow (Liu et al. 2022, 2209.03003; flow matching on the straight path, Lipman et al. 2022).

Trained on uniformly dequantised levels, so that its probability flow has an honest density: with
y = 2(k + u)/K − 1 and scale s = 2/K a dimension, −ln P(k) ≤ E_u[−ln p(y)] − D ln s.

Shapes: B batch, C channels, H height, W width, K levels, D = C·H·W.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from models import paths
from models.base import Likelihood
from models.gaussian import GaussianPathModel, Times
from models.likelihood.probability_flow import Flow, flow_log_density
from models.networks.unet import UNet


class RectifiedFlow(GaussianPathModel):
    """A U-Net that predicts the velocity ε − x_0 along straight lines."""

    family: ClassVar[str] = "flow matching"

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        *,
        times: Times = "uniform",
        channels: int = 32,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 1,
        attention: bool = True,
        octaves: Sequence[int] = (),
        dropout: float = 0.1,
    ) -> None:
        network = UNet(shape, channels, multipliers, blocks, attention, tuple(octaves), dropout)
        super().__init__(shape, levels, network, paths.path("rectified-flow"), "velocity", times)

    def encode(self, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        """Levels with uniform noise of their own width."""
        u = torch.rand(pixels.shape, generator=generator, device=pixels.device)
        return self.dequantise(pixels, u)

    def decode(self, x_0: Tensor) -> Tensor:
        """The level whose interval x_0 is in."""
        return self.quantise(x_0)

    def nll(
        self,
        pixels: Tensor,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
        solver: str = "dopri5",
        rtol: float = 1e-5,
        atol: float = 1e-5,
        steps: int | None = None,
        divergence: str = "hutchinson",
        probes: int = 1,
        dequantisation_samples: int = 1,
    ) -> Likelihood:
        """The probability flow's −ln p(y) − D ln s; the mean over samples of the dequantisation."""
        self.check_pixels(pixels)
        if dequantisation_samples < 1:
            raise ValueError("Dequantisation needs one or more samples.")
        flow = Flow(solver, rtol, atol, steps, divergence, probes)
        denoiser, offset = self.denoiser(condition), -self.dims * math.log(2.0 / self.levels)
        nats = torch.stack(
            [
                offset - flow_log_density(denoiser, self.encode(pixels, generator), flow, generator)
                for _ in range(dequantisation_samples)
            ]
        )
        protocol = f"{flow.protocol}, uniform dequantisation×{dequantisation_samples}, s=2/{self.levels}"
        return Likelihood(nats.mean(0), "estimate", protocol)
