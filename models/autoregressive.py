"""Autoregressive transformer over pixels: exact likelihood, one softmax a pixel; labels and guidance.

Shapes: B batch, D = H·W·C pixels in raster order (channels fastest), L of them, K levels,
N causal neighbours, E embedding, P = D + 1 places (the last stands for "outside the image"),
R rows of a network call: the batch, or twice the batch where both predictions of guidance are made.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Likelihood
from models.conditioning import check_share, labels
from models.guidance import guide
from models.networks.transformer import CausalTransformer, KeyValueCache
from models.unconditional import UnconditionalModel, at_least_one

if TYPE_CHECKING:
    from models.samplers import Sampler
    from models.seeds import Seeds


class AutoregressiveModel(UnconditionalModel):
    """P(k | y) = Π_i P(k_i | k_<i, y): the loss, the likelihood and the guidance of such products.

    classes            of labels y; 0: the model is unconditional
    condition_dropout  share of the labels replaced by the null label in training
    """

    law: str
    """The law of one pixel, in words, for the protocol of the likelihood."""

    def __init__(
        self, shape: tuple[int, int, int], levels: int, classes: int, condition_dropout: float
    ) -> None:
        super().__init__(shape, levels)
        check_share(condition_dropout)
        self.conditioning = labels(classes)
        self.condition_dropout = condition_dropout

    @abstractmethod
    def _nats_BD(self, pixels: Tensor, label_B: Tensor) -> Tensor:
        """−ln P(k_i | k_<i, y), in any order of i."""

    def loss(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """−ln P(k | y)/D in nats a dimension, mean over the batch; random: labels dropped, dropout."""
        self.check_pixels(pixels, condition)
        given_B = self._labels(condition, len(pixels))
        label_B = self.conditioning.dropped(given_B, self.condition_dropout, generator)
        return self._nats_BD(pixels, label_B).mean()

    @torch.no_grad()
    def nll(
        self, pixels: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Likelihood:
        """−Σ_i ln P(k_i | k_<i, y), exact; without a condition y is the null label."""
        self.check_pixels(pixels, condition)
        self.check_levels(pixels)
        nats_B = self._nats_BD(pixels, self._labels(condition, len(pixels))).double().sum(1)
        given = "" if condition is None else ", given the label"
        return Likelihood(nats_B, "exact", self.law + given, floor=0.0)

    def check_condition(self, condition: Tensor | None) -> None:
        """ValueError where labels are given to a model without classes; their range is checked on use."""
        if self.conditioning.kind == "none":
            super().check_condition(condition)

    def _labels(self, condition: Tensor | None, n: int) -> Tensor:
        return self.conditioning.given(condition, n, self.device, type(self).__name__)

    def _guided_labels(
        self, n: int, sampler: Sampler | None, seeds: Seeds, condition: Tensor | None, guidance: float
    ) -> Tensor:
        """(R,) labels to evaluate: the given ones, the null ones at w = 0, both at any other w but 1."""
        self.check_sampling(sampler, condition)
        if n != len(seeds.images):
            raise ValueError(f"{n} images need {n} seeds: got {len(seeds.images)}")
        if guidance != 1.0 and self.conditioning.kind == "none":
            raise ValueError(f"{type(self).__name__} is unconditional: leave guidance out")
        given_B, null_B = self._labels(condition, n), self.conditioning.null(n, self.device)
        if guidance in (0.0, 1.0):
            return given_B if guidance else null_B
        return torch.cat([given_B, null_B])


class AutoregressiveTransformer(AutoregressiveModel):
    """P(k) = Π_i P(k_i | k_<i), each factor a softmax over K levels: sums to one exactly.

    Token i carries pixel i's causal neighbourhood (pixels before i within `radius`, as PixelCNN's masked
    convolution sees them, van den Oord et al. 2016) and its position; causal attention brings the
    neighbourhoods of all earlier pixels (Parmar et al. 2018, Child et al. 2019). Neighbourhoods are what
    lets a small model learn from little data; attention is what makes its context the whole past.

    shape    (C, H, W)                    levels    K
    width    embedding E                  depth     transformer blocks
    heads    attention heads, divide E    radius    reach of the neighbourhood, pixels
    dropout  while training               backend   attention backend, see `kernels.attention`
    classes  of labels, 0: none           condition_dropout  share of labels dropped in training

    A label is added to every token. Guidance: logits u + w·(c − u), then the softmax.
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
        classes: int = 0,
        condition_dropout: float = 0.1,
    ) -> None:
        super().__init__(shape, levels, classes, condition_dropout)
        at_least_one(width=width, depth=depth, heads=heads, radius=radius)
        self.law = f"softmax over {levels} levels"
        neighbours_DN = causal_neighbours(shape, radius)
        self.neighbours_DN: Tensor
        self.register_buffer("neighbours_DN", neighbours_DN, persistent=False)
        stream = CausalTransformer(width, depth, heads, dropout=dropout, backend=backend)
        N = neighbours_DN.shape[1]
        self.network = PixelTransformer(self.dims, N, levels, width, stream, dropout, classes)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        sampler: Sampler | None,
        seeds: Seeds,
        condition: Tensor | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """Pixel after pixel by inverse CDF of one uniform a pixel and image; D network calls."""
        label_R = self._guided_labels(n, sampler, seeds, condition, guidance)
        u_BD = seeds.per_image((self.dims,), "uniform", self.device).double()
        dtype = next(self.parameters()).dtype
        x_RP = torch.zeros(len(label_R), self.dims + 1, device=self.device, dtype=dtype)
        levels_BD = torch.zeros(n, self.dims, dtype=torch.uint8, device=self.device)
        finite_B = torch.ones(n, dtype=torch.bool, device=self.device)
        cache = KeyValueCache()
        for i in range(self.dims):
            context_R1N = x_RP[:, self.neighbours_DN[i : i + 1]]
            logits_BK = guided(self.network(context_R1N, i, cache, label_R)[:, 0], n, guidance)
            finite_B &= logits_BK.isfinite().all(1)
            levels_BD[:, i] = inverse_cdf(logits_BK, u_BD[:, i])
            x_RP[:, i] = self.signed(levels_BD[:, i]).repeat(len(label_R) // n)
        self.check_finite(finite_B)
        return self._from_raster(levels_BD)

    def logits(self, pixels: Tensor, condition: Tensor | None = None) -> Tensor:
        """(B, D, K): logits of pixel i in raster order given the pixels before it, in one pass."""
        return self._logits_BDK(pixels, self._labels(condition, len(pixels)))

    def _logits_BDK(self, pixels: Tensor, label_B: Tensor) -> Tensor:
        x_BP = F.pad(self.signed(self._to_raster(pixels)), (0, 1))
        return self.network(x_BP[:, self.neighbours_DN], 0, None, label_B)

    def _nats_BD(self, pixels: Tensor, label_B: Tensor) -> Tensor:
        logits_BKD = self._logits_BDK(pixels, label_B).transpose(1, 2)
        return F.cross_entropy(logits_BKD, self._to_raster(pixels).long(), reduction="none")

    def _to_raster(self, pixels: Tensor) -> Tensor:
        return pixels.permute(0, 2, 3, 1).flatten(1)

    def _from_raster(self, levels_BD: Tensor) -> Tensor:
        C, H, W = self.shape
        return levels_BD.view(-1, H, W, C).permute(0, 3, 1, 2).contiguous()


class PixelTransformer(nn.Module):
    """Neighbourhoods and positions in, logits out; one call is one evaluation."""

    def __init__(
        self, D: int, N: int, K: int, width: int, stream: CausalTransformer, dropout: float, classes: int = 0
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(N, width)
        self.position_DE = nn.Parameter(0.02 * torch.randn(D, width))
        self.dropout = nn.Dropout(dropout)
        self.stream = stream
        self.head = nn.Linear(width, K)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.label = nn.Embedding(classes + 1, width) if classes else None
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=0.02)

    def forward(
        self,
        context_BLN: Tensor,
        start: int,
        cache: KeyValueCache | None = None,
        label_B: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, L, K) of the pixels start … start + L − 1 in raster order."""
        x_BLE = self.embed(context_BLN) + self.position_DE[start : start + context_BLN.shape[1]]
        if self.label is not None:
            x_BLE = x_BLE + self.label(label_B)[:, None]
        x_BLE = self.dropout(x_BLE)
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


def guided(logits_RK: Tensor, n: int, guidance: float) -> Tensor:
    """(n, K): u + w·(c − u) where R = 2n rows hold c, then u; else the n rows as they are."""
    if len(logits_RK) == n:
        return logits_RK
    conditional_BK, unconditional_BK = logits_RK.chunk(2)
    return guide(unconditional_BK, conditional_BK, guidance)


def inverse_cdf(logits_BK: Tensor, u_B: Tensor) -> Tensor:
    """The level k with F(k−1) ≤ u < F(k) under softmax(logits), as uint8; float64 inside."""
    cdf_BK = logits_BK.double().softmax(-1).cumsum(-1)
    return (cdf_BK[:, :-1] <= u_B[:, None]).sum(-1).to(torch.uint8)
