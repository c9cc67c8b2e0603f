"""The probability flow of a network that predicts the velocity, from a time after the data on.

Shapes: B batch, C channels, H height, W width, P probes.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from models.denoiser import Denoiser
from models.likelihood.probability_flow import Flow, flow_log_density


class Later(nn.Module):
    """The velocity in a time s that runs from 0 to 1 while the network's t runs from `start` to 1."""

    def __init__(self, network: nn.Module, start: float) -> None:
        super().__init__()
        self.network, self.start = network, start

    def forward(self, x_BCHW: Tensor, s_B: Tensor, *condition: Tensor) -> Tensor:
        """dx/ds = (1 − start)·dx/dt."""
        span = 1.0 - self.start
        return span * self.network(x_BCHW, self.start + span * s_B, *condition)


def log_density(
    denoiser: Denoiser,
    x_BCHW: Tensor,
    flow: Flow,
    generator: torch.Generator | None = None,
    start: float = 0.0,
    each: bool = False,
) -> Tensor:
    """ln p_start(x), (B,) float64 nats: of what the flow from N(0, σ(1)²) at t = 1 leaves at t = start.

    denoiser  of a network that predicts the velocity
    each      (P, B), one row a probe
    """
    if start:
        denoiser = replace(denoiser, network=Later(denoiser.network, start))
    return flow_log_density(denoiser, x_BCHW, flow, generator, each)
