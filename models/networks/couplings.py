"""Couplings, the squeeze and their chain: the invertible layers of normalizing flows.

Shapes: B batch, C channels, H height, W width, F features of a coupling network. Every layer maps x
(B, C, H, W) to y of as many elements and ln|det ∂y/∂x| (B,); `inverse` maps y to x and ln|det ∂x/∂y|.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shape = tuple[int, int, int]
Mask = Callable[[Shape, int], Tensor]


class Chain(nn.Module):
    """A bijection of R^D: layers applied in turn, or in reverse the inverse of each.

    shape  (C, H, W) of what the last layer gives
    """

    def __init__(self, layers: list[nn.Module], shape: Shape) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.z_shape = shape

    def forward(self, x_BCHW: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        """z in the shape of x and ln|det ∂z/∂x| (B,); with `inverse`, x of z and ln|det ∂x/∂z|."""
        shape, total_B = x_BCHW.shape, x_BCHW.new_zeros(len(x_BCHW))
        steps: list[Any] = list(self.layers)
        if inverse:
            x_BCHW = x_BCHW.reshape(-1, *self.z_shape)
            steps = [layer.inverse for layer in reversed(steps)]
        for layer in steps:
            x_BCHW, log_det_B = layer(x_BCHW)
            total_B = total_B + log_det_B
        return x_BCHW.reshape(shape), total_B


class CouplingNetwork(nn.Module):
    """Residual convolutions with a learned value a position; its last layer starts at zero.

    The values a position carry what convolutions cannot see: that corners differ from the centre.

    shape  (C, H, W) of the input        outputs  channels of the output
    last   size of the last convolution, odd; 1 where `outputs` are many
    """

    def __init__(
        self, shape: Shape, outputs: int, features: int, depth: int, dropout: float, last: int = 3
    ) -> None:
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
        self.last = nn.Conv2d(features, outputs, last, padding=last // 2)
        self.bias_CHW = nn.Parameter(torch.zeros(outputs, H, W))
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
        self.network = CouplingNetwork((C, H, W), 2 * C, features, depth, dropout)

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
        return bounded(raw_BCHW) * transformed_CHW, t_BCHW * transformed_CHW


def bounded(raw: Tensor) -> Tensor:
    """The logarithm of a scale, 2·tanh(raw/2): raw itself near zero, and within ±2 whatever raw is."""
    return 2 * torch.tanh(raw / 2)


class Elementwise(nn.Module):
    """y = x·e^s + t with one s and t an element: lets every pixel find its own range."""

    def __init__(self, shape: Shape) -> None:
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


def checkerboard(shape: Shape, parity: int) -> Tensor:
    """(C, H, W) mask: one where h + w + parity is even."""
    C, H, W = shape
    rows, columns = torch.arange(H)[:, None], torch.arange(W)[None, :]
    return ((rows + columns + parity) % 2 == 0).float().expand(C, H, W).clone()


def channelwise(shape: Shape, parity: int) -> Tensor:
    """(C, H, W) mask: the first half of the channels, or with odd parity the second."""
    C = shape[0]
    first_C = (torch.arange(C) < C // 2).float()
    chosen_C = 1 - first_C if parity % 2 else first_C
    return chosen_C[:, None, None].expand(*shape).clone()


def coupling_chain(
    shape: Shape, scales: int, couplings: int, coupling: Callable[[Tensor], nn.Module]
) -> Chain:
    """Couplings by checkerboard, then per further scale a squeeze and couplings by channel and by
    checkerboard; nothing is factored out between the scales, so z has every dimension.

    coupling  makes the layer of a mask     couplings  of a scale and kind of mask
    """
    kinds = list(mask_kinds(shape, scales))
    layers: list[nn.Module] = [Elementwise(shape)]
    for mask, inner in kinds:
        if mask is None:
            layers.append(Squeeze())
            continue
        layers += [coupling(mask(inner, i)) for i in range(couplings)]
    last = kinds[-1][1]
    return Chain([*layers, Elementwise(last)], last)


def mask_kinds(shape: Shape, scales: int) -> Iterator[tuple[Mask | None, Shape]]:
    """Kind of mask (None: a squeeze) and shape of each group of layers; stops where H or W is odd."""
    C, H, W = shape
    for scale in range(scales):
        if scale > 0:
            if H % 2 or W % 2:
                return
            C, H, W = 4 * C, H // 2, W // 2
            yield None, (C, H, W)
            yield channelwise, (C, H, W)
        if H * W > 1 or scale == 0:
            yield (checkerboard if H * W > 1 else channelwise), (C, H, W)
