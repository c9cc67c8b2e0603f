"""TarFlow's bijection: each token is shifted and scaled by what a causal transformer makes of those before.

Shapes: B batch, C channels, H height, W width, L tokens, P = C·size² values of a token, E embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.networks.couplings import Elementwise
from models.networks.transformer import CausalTransformer, KeyValueCache

LARGEST_LOG_SCALE = 3.0
"""Bound of |α| in one block: the inverse multiplies by e^α token after token, and one wild value would
reach all that follow."""

PLACE_STD = 0.8
"""Of the codes of places at the start, about that of the embedded values: where codes are faint, attention
needs most of a short training to learn whom to look at."""


@dataclass
class Place:
    """Where the sequential inverse stands: in which block, at which token, and what it has seen there."""

    block: int
    token: int = 0
    cache: KeyValueCache = field(default_factory=KeyValueCache)


class TarFlowBlocks(nn.Module):
    """z = f(x) of images, block after block, each on the reversed sequence of the one before.

    A learned scale and shift of every element comes first: it finds the range of the data at once.

    shape    (C, H, W)                    patch    size of the squares that are the tokens
    blocks   of the flow                  width    embedding E of each block's transformer
    depth    layers of each transformer   heads    attention heads, divide E
    classes  labels 0…classes−1 and the null label `classes`; 0 for none
    dropout  while training               backend  attention backend, see `kernels.attention`
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        patch: int,
        blocks: int,
        width: int,
        depth: int,
        heads: int,
        *,
        classes: int = 0,
        dropout: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.shape, self.patch = shape, patch
        self.tokens = (shape[1] // patch) * (shape[2] // patch)
        size = shape[0] * patch**2
        self.elementwise = Elementwise(shape)
        nn.init.constant_(self.elementwise.s_CHW, -1.0)  # the logit of dequantised levels is about 3 wide
        self.blocks = nn.ModuleList(
            NextToken(self.tokens, size, width, depth, heads, classes, dropout, backend)
            for _ in range(blocks)
        )

    def forward(
        self, x: Tensor, label_B: Tensor | None = None, place: Place | None = None
    ) -> tuple[Tensor, Tensor]:
        """z in the shape of x_BCHW and ln|det ∂z/∂x| (B,): all tokens at once, one evaluation.

        With a `place`, x_B1P is the token there, and the answer is μ and α, (B, 1, P) each, of the token
        after it: one evaluation too, of which the inverse needs blocks·(L − 1), one after the other.
        """
        if place is not None:
            found: tuple[Tensor, Tensor] = self.blocks[place.block](x, label_B, place.token, place.cache)
            return found
        x, log_det_B = self.elementwise(x)
        x_BLP = self.to_tokens(x)
        for index in range(len(self.blocks)):
            x_BLP, block_B = self._transform(x_BLP, label_B, index)
            log_det_B = log_det_B + block_B
        return self.to_image(x_BLP), log_det_B

    def _transform(self, x_BLP: Tensor, label_B: Tensor | None, index: int) -> tuple[Tensor, Tensor]:
        """z_i = (x_i − μ_i(x_<i))·exp(−α_i(x_<i)), z_0 = x_0; ln|det| = −Σ α."""
        x_BLP = self.order(x_BLP, index)
        mu_BLP, alpha_BLP = self.blocks[index](x_BLP[:, :-1], label_B, 0, None)
        rest_BLP = (x_BLP[:, 1:] - mu_BLP) * (-alpha_BLP).exp()
        z_BLP = torch.cat([x_BLP[:, :1], rest_BLP], 1)
        return self.order(z_BLP, index), -alpha_BLP.flatten(1).sum(1)

    def order(self, x_BLP: Tensor, index: int) -> Tensor:
        """The sequence as a block reads it, or back: every other block reads it from its end."""
        return x_BLP.flip(1) if index % 2 else x_BLP

    def to_tokens(self, x_BCHW: Tensor) -> Tensor:
        """Squares of pixels in raster order: (B, C, H, W) to (B, L, P)."""
        return functional.unfold(x_BCHW, self.patch, stride=self.patch).transpose(1, 2)

    def to_image(self, x_BLP: Tensor) -> Tensor:
        """The image of its squares: (B, L, P) to (B, C, H, W)."""
        return functional.fold(x_BLP.transpose(1, 2), self.shape[1:], self.patch, stride=self.patch)


class NextToken(nn.Module):
    """μ and α of each next token from the tokens up to here.

    A token is embedded with its place and the label of its image. The head starts at zero, so that the
    flow starts as the identity.
    """

    def __init__(
        self,
        tokens: int,
        size: int,
        width: int,
        depth: int,
        heads: int,
        classes: int,
        dropout: float,
        backend: str,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(size, width)
        self.place_LE = nn.Parameter(PLACE_STD * torch.randn(tokens - 1, width))
        self.classes = classes
        if classes:
            self.label = nn.Embedding(classes + 1, width)
            nn.init.normal_(self.label.weight, std=0.02)
        self.dropout = nn.Dropout(dropout)
        self.stream = CausalTransformer(width, depth, heads, dropout=dropout, backend=backend)
        self.head = nn.Linear(width, 2 * size)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, x_BLP: Tensor, label_B: Tensor | None, start: int, cache: KeyValueCache | None
    ) -> tuple[Tensor, Tensor]:
        """(B, L, P) each, of the tokens start + 1 … start + L, from the tokens start … start + L − 1."""
        x_BLE = self.embed(x_BLP) + self.place_LE[start : start + x_BLP.shape[1]]
        if self.classes:
            null_B = torch.full((len(x_BLP),), self.classes, dtype=torch.int64, device=x_BLP.device)
            x_BLE = x_BLE + self.label(null_B if label_B is None else label_B)[:, None]
        mu_BLP, raw_BLP = self.head(self.stream(self.dropout(x_BLE), cache)).chunk(2, -1)
        return mu_BLP, LARGEST_LOG_SCALE * torch.tanh(raw_BLP / LARGEST_LOG_SCALE)
