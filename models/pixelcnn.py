"""PixelCNN: gated causal convolutions, an exact likelihood, and sampling with a cache a pixel.

Shapes: B batch, C channels, H height, W width, D = C·H·W, F features, K levels,
R rows of a network call: the batch, or twice the batch where both predictions of guidance are made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.autoregressive import AutoregressiveModel, guided, inverse_cdf
from models.names import unknown
from models.networks.pixelcnn import MixtureHead, PixelCache, PixelCNNNetwork, SoftmaxHead
from models.unconditional import at_least_one

if TYPE_CHECKING:
    from models.samplers import Sampler
    from models.seeds import Seeds

LIKELIHOODS = ("softmax", "mixture")


class PixelCNN(AutoregressiveModel):
    """P(k) = Π_hw Π_c P(k_hwc | earlier pixels, earlier channels of the pixel): sums to one exactly.

    Convolutions in a vertical and a horizontal stack without a blind spot make the features of a pixel from
    the pixels before it (van den Oord et al. 2016b, 1606.05328); from these comes the law of its channels,
    one after the other: a softmax each, or a mixture of discretised logistics (Salimans et al. 2017,
    "PixelCNN++", 1701.05517), which knows that levels are ordered. There is no down- or up-sampling.

    shape       (C, H, W)                        levels    K
    likelihood  `softmax` or `mixture`           components  of the mixture
    features    F of each stack                  depth     layers of each stack
    radius      reach of one convolution: the features see r·(depth + 1) + 1 rows up
    dropout     while training                   classes   of labels, 0: none
    condition_dropout  share of labels dropped in training

    A label adds a bias in every gate (van den Oord et al. 2016b, equation 4). Guidance acts on the
    log-probabilities of the levels: ln p(k) = u_k + w·(c_k − u_k) + constant.
    """

    family = "autoregressive"
    native_sampler = "ancestral"

    def __init__(
        self,
        shape: tuple[int, int, int] = (1, 8, 8),
        levels: int = 17,
        *,
        likelihood: str = "softmax",
        components: int = 5,
        features: int = 32,
        depth: int = 3,
        radius: int = 2,
        dropout: float = 0.2,
        classes: int = 0,
        condition_dropout: float = 0.1,
    ) -> None:
        super().__init__(shape, levels, classes, condition_dropout)
        at_least_one(components=components, features=features, depth=depth, radius=radius)
        if likelihood not in LIKELIHOODS:
            raise ValueError(unknown("likelihood", likelihood, LIKELIHOODS))
        self.network = PixelCNNNetwork(shape, features, depth, radius, classes, dropout)
        self.head: SoftmaxHead | MixtureHead
        if likelihood == "softmax":
            self.law = f"softmax over {levels} levels"
            self.head = SoftmaxHead(shape[0], levels, features)
        else:
            self.law = f"mixture of {components} discretised logistics over {levels} levels"
            self.head = MixtureHead(shape[0], levels, features, components)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        sampler: Sampler | None,
        seeds: Seeds,
        condition: Tensor | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """Pixel after pixel by inverse CDF of one uniform a channel, pixel and image; H·W network calls.

        Each call computes one pixel (and the row above at the start of a row) from cached activations.
        """
        label_R = self._guided_labels(n, sampler, seeds, condition, guidance)
        C, H, W = self.shape
        copies = len(label_R) // n
        u_BHWC = seeds.per_image((H, W, C), "uniform", self.device).double()
        dtype = next(self.parameters()).dtype
        x_RCHW = torch.zeros(len(label_R), C, H, W, device=self.device, dtype=dtype)
        levels_BHWC = torch.zeros(n, H, W, C, dtype=torch.int64, device=self.device)
        finite_B = torch.ones(n, dtype=torch.bool, device=self.device)
        cache = PixelCache()
        for h in range(H):
            for w in range(W):
                features_RF = self.network(x_RCHW, label_R, cache)[:, 0, 0]
                for c in range(C):
                    earlier_RC = levels_BHWC[:, h, w, :c].repeat(copies, 1)
                    logits_BK = guided(self.head.log_probs(features_RF, earlier_RC), n, guidance)
                    finite_B &= logits_BK.isfinite().all(1)
                    levels_BHWC[:, h, w, c] = inverse_cdf(logits_BK, u_BHWC[:, h, w, c]).long()
                x_RCHW[:, :, h, w] = self.signed(levels_BHWC[:, h, w]).to(dtype).repeat(copies, 1)
        self.check_finite(finite_B)
        return levels_BHWC.permute(0, 3, 1, 2).to(torch.uint8).contiguous()

    def log_probs(self, pixels: Tensor, condition: Tensor | None = None) -> Tensor:
        """(B, H, W, C, K): ln P(k | earlier pixels and channels) of every level k, in one pass."""
        features_BHWF = self.network(self.signed(pixels), self._labels(condition, len(pixels)))
        levels_BHWC = pixels.permute(0, 2, 3, 1).long()
        channels = range(self.shape[0])
        return torch.stack([self.head.log_probs(features_BHWF, levels_BHWC[..., :c]) for c in channels], 3)

    def _nats_BD(self, pixels: Tensor, label_B: Tensor) -> Tensor:
        features_BHWF = self.network(self.signed(pixels), label_B)
        return -self.head.log_prob(features_BHWF, pixels.permute(0, 2, 3, 1).long()).flatten(1)
