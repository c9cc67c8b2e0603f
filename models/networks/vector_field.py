"""A small field f(x, t) of convolutions, smooth and quick to differentiate twice.

Training a continuous flow by likelihood differentiates a product with the Jacobian of f, so a field has no
normalisation over a group, whose second derivative is slow, and SiLU instead of a kinked activation.

Shapes: B batch, C channels, H height, W width, F features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class VectorField(nn.Module):
    """(x_BCHW, t_B) → the shape of x: residual convolutions, each scaled and shifted by the time.

    Where height and width are even, two by two pixels are taken for four channels first, which quarters
    the positions and doubles what a convolution sees. A learned value a position tells corners from the
    centre. The last layer starts at zero, so that the flow starts as the identity.

    features  F      blocks  residual blocks
    """

    def __init__(self, shape: tuple[int, int, int], features: int, blocks: int) -> None:
        super().__init__()
        self.squeeze = 2 if shape[1] % 2 == 0 and shape[2] % 2 == 0 else 1
        C, H, W = shape[0] * self.squeeze**2, shape[1] // self.squeeze, shape[2] // self.squeeze
        self.first = nn.Conv2d(C, features, 3, padding=1)
        self.place_FHW = nn.Parameter(torch.zeros(features, H, W))
        self.embed = nn.Sequential(nn.Linear(1, features), nn.SiLU())
        self.blocks = nn.ModuleList(TimedBlock(features) for _ in range(blocks))
        self.last = nn.Conv2d(features, C, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        embedding_BF = self.embed(t_B[:, None])
        h_BFHW = self.first(functional.pixel_unshuffle(x_BCHW, self.squeeze)) + self.place_FHW
        for block in self.blocks:
            h_BFHW = block(h_BFHW, embedding_BF)
        return functional.pixel_shuffle(self.last(functional.silu(h_BFHW)), self.squeeze)


class TimedBlock(nn.Module):
    """h + conv(SiLU((1 + a(t))·conv(SiLU h) + b(t)))."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(features, features, 3, padding=1)
        self.modulation = nn.Linear(features, 2 * features)
        self.outer = nn.Conv2d(features, features, 1)

    def forward(self, h_BFHW: Tensor, embedding_BF: Tensor) -> Tensor:
        a, b = self.modulation(embedding_BF)[:, :, None, None].chunk(2, 1)
        inner_BFHW = self.inner(functional.silu(h_BFHW))
        return h_BFHW + self.outer(functional.silu((1 + a) * inner_BFHW + b))
