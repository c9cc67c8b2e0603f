"""Affine couplings and the squeeze: the invertible layers of a RealNVP.

Shapes: B batch, C channels, H height, W width, F features of a coupling network. Every layer maps x
(B, C, H, W) to y of as many elements and ln|det ∂y/∂x| (B,); `inverse` maps y to x and ln|det ∂x/∂y|.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CouplingNetwork(nn.Module):
    """Residual convolutions with a learned value a position; its last layer starts at zero.

    The values a position carry what convolutions cannot see: that corners differ from the centre.
    """

    def __init__(self, shape: tuple[int, int, int], features: int, depth: int, dropout: float) -> None:
        super().__init__()
        C, H, W = shape
        self.first = nn.Conv2d(C, features, 3, padding=1)
        self.place_FHW = nn.Parameter(torch.zeros(features, H, W))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(1, features),
                nn.Conv2d(features, features, 3, padding=1),
                nn.SiLU(),
                nn.Dropout(dropout),
                nn.Conv2d(features, features, 1),
            )
            for _ in range(depth)
        )
        self.last = nn.Conv2d(features, 2 * C, 3, padding=1)
        self.bias_CHW = nn.Parameter(torch.zeros(2 * C, H, W))
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        h_BFHW = self.first(x_BCHW) + self.place_FHW
        for block in self.blocks:
            h_BFHW = h_BFHW + block(h_BFHW)
        return self.last(F.silu(h_BFHW)) + self.bias_CHW


class AffineCoupling(nn.Module):
    """y = m·x + (1 − m)·(x·e^s + t), s and t from the kept part m·x; ln|det| = Σ (1 − m)·s.

    Dinh et al. 2017 ("RealNVP"), equations 7 to 9. s is bounded by 2·tanh(·/2), so that one layer scales
    by at most e², in both directions.

    mask  (C, H, W) of ones (kept, and seen by the network) and zeros (transformed)
    """

    def __init__(self, mask_CHW: Tensor, features: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.mask_CHW: Tensor
        self.register_buffer("mask_CHW", mask_CHW.float(), persistent=False)
        C, H, W = mask_CHW.shape
        self.network = CouplingNetwork((C, H, W), features, depth, dropout)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        s_BCHW, t_BCHW = self._scale_and_shift(x_BCHW)
        return x_BCHW * s_BCHW.exp() + t_BCHW, s_BCHW.flatten(1).sum(1)

    def inverse(self, y_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        s_BCHW, t_BCHW = self._scale_and_shift(y_BCHW)
        return (y_BCHW - t_BCHW) * (-s_BCHW).exp(), -s_BCHW.flatten(1).sum(1)

    def _scale_and_shift(self, kept_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """s and t, zero on the kept part, which is the same in x and y."""
        raw_BCHW, t_BCHW = self.network(kept_BCHW * self.mask_CHW).chunk(2, 1)
        transformed_CHW = 1 - self.mask_CHW
        return 2 * torch.tanh(raw_BCHW / 2) * transformed_CHW, t_BCHW * transformed_CHW


class Elementwise(nn.Module):
    """y = x·e^s + t with one s and t an element: lets every pixel find its own range."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.s_CHW = nn.Parameter(torch.zeros(shape))
        self.t_CHW = nn.Parameter(torch.zeros(shape))

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        return x_BCHW * self.s_CHW.exp() + self.t_CHW, self.s_CHW.sum().expand(len(x_BCHW))

    def inverse(self, y_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        return (y_BCHW - self.t_CHW) * (-self.s_CHW).exp(), -self.s_CHW.sum().expand(len(y_BCHW))


class Squeeze(nn.Module):
    """Two by two pixels become four channels: (C, H, W) to (4C, H/2, W/2); a permutation, ln|det| = 0."""

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        return F.pixel_unshuffle(x_BCHW, 2), x_BCHW.new_zeros(len(x_BCHW))

    def inverse(self, y_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        return F.pixel_shuffle(y_BCHW, 2), y_BCHW.new_zeros(len(y_BCHW))


def checkerboard(shape: tuple[int, int, int], parity: int) -> Tensor:
    """(C, H, W) mask: one where h + w + parity is even."""
    C, H, W = shape
    rows, columns = torch.arange(H)[:, None], torch.arange(W)[None, :]
    return ((rows + columns + parity) % 2 == 0).float().expand(C, H, W).clone()


def channelwise(shape: tuple[int, int, int], parity: int) -> Tensor:
    """(C, H, W) mask: the first half of the channels, or with odd parity the second."""
    C = shape[0]
    first_C = (torch.arange(C) < C // 2).float()
    chosen_C = 1 - first_C if parity % 2 else first_C
    return chosen_C[:, None, None].expand(*shape).clone()
