"""Autoregressive transformer over pixels: exact likelihood, one softmax a pixel.

Shapes: B batch, D = H·W·C pixels in raster order (channels fastest), L of them, K levels,
N causal neighbours, E embedding, P = D + 1 places (the last stands for "outside the image").
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Likelihood
from models.networks.transformer import CausalTransformer, KeyValueCache
from models.unconditional import UnconditionalModel, at_least_one

if TYPE_CHECKING:
    from models.samplers import Sampler
    from models.seeds import Seeds


class AutoregressiveTransformer(UnconditionalModel):
    """P(k) = Π_i P(k_i | k_<i), each factor a softmax over K levels: sums to one exactly.

    Token i carries pixel i's causal neighbourhood (pixels before i within `radius`, as PixelCNN's masked
    convolution sees them, van den Oord et al. 2016) and its position; causal attention brings the
    neighbourhoods of all earlier pixels (Parmar et al. 2018, Child et al. 2019). Neighbourhoods are what
    lets a small model learn from little data; attention is what makes its context the whole past.

    shape    (C, H, W)                    levels    K
    width    embedding E                  depth     transformer blocks
    heads    attention heads, divide E    radius    reach of the neighbourhood, pixels
    dropout  while training               backend   attention backend, see `kernels.attention`
    """

    family = "autoregressive"
    native_sampler = "ancestral"

    def __init__(
        self,
        shape: tuple[int, int, int] = (1, 8, 8),
        levels: int = 17,
        *,
        width: int = 48,
        depth: int = 2,
        heads: int = 4,
        radius: int = 3,
        dropout: float = 0.1,
        backend: str = "auto",
    ) -> None:
        super().__init__(shape, levels)
        at_least_one(width=width, depth=depth, heads=heads, radius=radius)
        neighbours_DN = causal_neighbours(shape, radius)
        self.neighbours_DN: Tensor
        self.register_buffer("neighbours_DN", neighbours_DN, persistent=False)
        stream = CausalTransformer(width, depth, heads, dropout=dropout, backend=backend)
        self.network = PixelTransformer(self.dims, neighbours_DN.shape[1], levels, width, stream, dropout)

    def loss(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """−ln P(k)/D in nats a dimension, mean over the batch; without randomness but for dropout."""
        self.check_pixels(pixels, condition)
        return self._nats_BD(pixels).mean()

    @torch.no_grad()
    def nll(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Likelihood:
        """−Σ_i ln P(k_i | k_<i), exact."""
        self.check_pixels(pixels, condition)
        self.check_levels(pixels)
        return Likelihood(
            self._nats_BD(pixels).double().sum(1), "exact", f"softmax over {self.levels} levels"
        )

    @torch.no_grad()
    def sample(
        self, n: int, sampler: Sampler | None, seeds: Seeds, condition: Tensor | None = None
    ) -> Tensor:
        """Pixel after pixel by inverse CDF of one uniform a pixel and image; D network calls."""
        self.check_sampling(sampler, condition)
        u_BD = seeds.per_image((self.dims,), "uniform", self.device).double()
        dtype = next(self.parameters()).dtype
        x_BP = torch.zeros(n, self.dims + 1, device=self.device, dtype=dtype)
        levels_BD = torch.zeros(n, self.dims, dtype=torch.uint8, device=self.device)
        finite_B = torch.ones(n, dtype=torch.bool, device=self.device)
        cache = KeyValueCache()
        for i in range(self.dims):
            context_B1N = x_BP[:, self.neighbours_DN[i : i + 1]]
            logits_BK = self.network(context_B1N, i, cache)[:, 0]
            finite_B &= logits_BK.isfinite().all(1)
            levels_BD[:, i] = inverse_cdf(logits_BK, u_BD[:, i])
            x_BP[:, i] = self.signed(levels_BD[:, i])
        self.check_finite(finite_B)
        return self._from_raster(levels_BD)

    def logits(self, pixels: Tensor) -> Tensor:
        """(B, D, K): logits of pixel i in raster order given the pixels before it, in one pass."""
        x_BP = F.pad(self.signed(self._to_raster(pixels)), (0, 1))
        return self.network(x_BP[:, self.neighbours_DN], 0)

    def _nats_BD(self, pixels: Tensor) -> Tensor:
        logits_BKD = self.logits(pixels).transpose(1, 2)
        return F.cross_entropy(logits_BKD, self._to_raster(pixels).long(), reduction="none")

    def _to_raster(self, pixels: Tensor) -> Tensor:
        return pixels.permute(0, 2, 3, 1).flatten(1)

    def _from_raster(self, levels_BD: Tensor) -> Tensor:
        C, H, W = self.shape
        return levels_BD.view(-1, H, W, C).permute(0, 3, 1, 2).contiguous()


class PixelTransformer(nn.Module):
    """Neighbourhoods and positions in, logits out; one call is one evaluation."""

    def __init__(self, D: int, N: int, K: int, width: int, stream: CausalTransformer, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Linear(N, width)
        self.position_DE = nn.Parameter(0.02 * torch.randn(D, width))
        self.dropout = nn.Dropout(dropout)
        self.stream = stream
        self.head = nn.Linear(width, K)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, context_BLN: Tensor, start: int, cache: KeyValueCache | None = None) -> Tensor:
        """Logits (B, L, K) of the pixels start … start + L − 1 in raster order."""
        place_LE = self.position_DE[start : start + context_BLN.shape[1]]
        x_BLE = self.dropout(self.embed(context_BLN) + place_LE)
        return self.head(self.stream(x_BLE, cache))


def causal_neighbours(shape: tuple[int, int, int], radius: int) -> Tensor:
    """(D, N) raster indices of the pixels before each one within `radius`; D where outside the image."""
    C, H, W = shape
    around = itertools.product(range(-radius, 1), range(-radius, radius + 1), range(C))
    offsets = [offset for offset in around if offset < (0, 0, C - 1)]
    return torch.tensor(
        [
            # Tuples compare in raster order: within a pixel only the channels before c are known.
            [
                _raster(h + dh, w + dw, c_from, shape, known=(dh, dw, c_from) < (0, 0, c))
                for dh, dw, c_from in offsets
            ]
            for h, w, c in itertools.product(range(H), range(W), range(C))
        ]
    )


def _raster(h: int, w: int, c: int, shape: tuple[int, int, int], known: bool) -> int:
    """Raster index of a pixel, or D for one outside the image or not known yet."""
    C, H, W = shape
    inside = 0 <= h < H and 0 <= w < W
    return (h * W + w) * C + c if inside and known else C * H * W


def inverse_cdf(logits_BK: Tensor, u_B: Tensor) -> Tensor:
    """The level k with F(k−1) ≤ u < F(k) under softmax(logits), as uint8; float64 inside."""
    cdf_BK = logits_BK.double().softmax(-1).cumsum(-1)
    return (cdf_BK[:, :-1] <= u_B[:, None]).sum(-1).to(torch.uint8)
