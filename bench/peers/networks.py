"""Networks that both sides are given: one that knows the truth, to compare results, one that costs, to time.

A peer asks its network in its own words. `by_noise` and `towards_data` translate, within what is metered, so
that no translation is charged to the peer.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.paths import ExplodingPath

IMAGE = (1, 8, 8)
"""Shape of what the small network samples."""


class Mlp(nn.Module):
    """Three layers on the flat image beside an embedding of the time; 115,264 weights as it comes."""

    def __init__(self, width: int = 256, embedding: int = 64) -> None:
        super().__init__()
        self.frequencies: Tensor
        steps = torch.arange(embedding // 2) / (embedding // 2)
        self.register_buffer("frequencies", 1000.0 * torch.exp(-math.log(10000.0) * steps))
        size = math.prod(IMAGE)
        self.layers = nn.Sequential(
            nn.Linear(size + embedding, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, size),
        )

    def forward(self, x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """A bounded function of x at time t (B,) or, for the whole batch, ()."""
        angles = t_B.expand(len(x_BCHW)).view(-1, 1) * self.frequencies
        joined = torch.cat([x_BCHW.flatten(1), angles.cos(), angles.sin()], 1)
        said: Tensor = self.layers(joined).tanh()
        return said.view(x_BCHW.shape)


def small_network(seed: int = 0) -> Mlp:
    """The network of the timings, with weights by seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Mlp().eval().requires_grad_(False)


Network = Callable[..., Tensor]


def by_noise(network: Network, path: ExplodingPath) -> Network:
    """D(x, σ) as k-diffusion asks for it, of a network that predicts x_0 at time t = σ/σ_max."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return network(x, sigma / path.sigma_max)

    return denoise


def towards_data(network: Network) -> Network:
    """u(x, τ) with τ = 1 − t, whose velocity points at the data, of a network with ours; τ is ()."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return -network(x, (1.0 - t).expand(len(x)))

    return velocity
