"""Gated causal convolutions in a vertical and a horizontal stack, and what turns features into colours.

Shapes: B batch, C channels, H height, W width, F features, K levels, r radius; R rows and S columns of the
stretch of an image that one call covers: all of it, one row, or one pixel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.discretised_mixture import DiscretisedMixture, parameters

ROWS, COLUMNS = 1, 2
"""The axes of a stretch (B, R, S, F) along which the vertical and the horizontal stack run."""


class PixelCache:
    """What sampling keeps of the pixels so far: the last r inputs of every convolution, and the links.

    Each row of the vertical stack and each pixel of the horizontal stack is computed once, so that all H·W
    steps together cost one full pass. `place` is the raster index of the next pixel.
    """

    def __init__(self) -> None:
        self.place = 0
        self.links: list[Tensor] = []
        self.past: dict[int, dict[CausalConv, Tensor]] = {ROWS: {}, COLUMNS: {}}


class CausalConv(nn.Module):
    """A convolution that sees the current row or pixel and the r before it; zeros stand outside the image.

    axis  ROWS: kernel (r+1) x (2r+1), the rows h−r…h and columns w−r…w+r; COLUMNS: 1 x (r+1), w−r…w
    """

    def __init__(self, inputs: int, outputs: int, radius: int, axis: int) -> None:
        super().__init__()
        self.radius, self.axis = radius, axis
        wide = (radius + 1, 2 * radius + 1) if axis == ROWS else (1, radius + 1)
        self.conv = nn.Conv2d(inputs, outputs, wide, padding=(0, radius) if axis == ROWS else 0)

    def forward(self, x_BRSF: Tensor, cache: PixelCache | None) -> Tensor:
        past = cache.past[self.axis].get(self) if cache else None
        if past is None:
            size = list(x_BRSF.shape)
            size[self.axis] = self.radius
            past = x_BRSF.new_zeros(size)
        joined = torch.cat([past, x_BRSF], self.axis)
        if cache:
            cache.past[self.axis][self] = joined.narrow(self.axis, -self.radius, self.radius)
        return self.conv(joined.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class GatedBlock(nn.Module):
    """x + W·(tanh a ⊙ σ(b)), (a, b) = conv(norm(x)) + V[label] + link (van den Oord et al. 2016b, eq. 4).

    The residual stream and the norm of each pixel over its features are additions to the published block.
    """

    def __init__(self, features: int, radius: int, axis: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.conv = CausalConv(features, 2 * features, radius, axis)
        self.out = nn.Linear(features, features)
        self.dropout = nn.Dropout(dropout)
        self.label = nn.Embedding(classes + 1, 2 * features) if classes else None
        if self.label is not None:
            nn.init.zeros_(self.label.weight)

    def forward(
        self, x_BRSF: Tensor, label_B: Tensor, link: Tensor | None, cache: PixelCache | None
    ) -> Tensor:
        y = self.conv(self.norm(x_BRSF), cache)
        if self.label is not None:
            y = y + self.label(label_B)[:, None, None]
        if link is not None:
            y = y + link
        a, b = y.chunk(2, -1)
        return x_BRSF + self.out(self.dropout(a.tanh() * b.sigmoid()))


class PixelCNNNetwork(nn.Module):
    """(B, C, H, W) to features (B, H, W, F), those of a pixel made of the pixels before it alone.

    The vertical stack holds at (h, w) what the rows above h say; it sees them in full width, hence no blind
    spot. The horizontal stack adds the pixels to the left, and takes a link from the vertical one in every
    layer (van den Oord et al. 2016b, 1606.05328, figure 2). With n = r·(depth + 1), pixel (h, w) sees row h
    from w−1−n to w−1, and the rows from h−1−n to h−1 in columns w−n to w+n.

    features  F                            depth    layers, after a first convolution in each stack
    radius    r                            classes  of labels; 0: none, and the labels are ignored
    dropout   on what each branch adds to the stream, while training
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        features: int,
        depth: int,
        radius: int,
        classes: int,
        dropout: float,
    ) -> None:
        super().__init__()
        C, H, W = shape
        self.first_vertical = CausalConv(C, features, radius, ROWS)
        self.first_horizontal = CausalConv(C, features, radius, COLUMNS)
        # A value a place carries what convolutions cannot see: that corners differ from the centre.
        self.place_2HWF = nn.Parameter(0.02 * torch.randn(2, H, W, features))
        options = (classes, dropout)
        self.vertical = nn.ModuleList(GatedBlock(features, radius, ROWS, *options) for _ in range(depth))
        self.links = nn.ModuleList(nn.Linear(features, 2 * features) for _ in range(depth))
        self.horizontal = nn.ModuleList(GatedBlock(features, radius, COLUMNS, *options) for _ in range(depth))
        self.norm = nn.LayerNorm(features)

    def forward(self, x_BCHW: Tensor, label_B: Tensor, cache: PixelCache | None = None) -> Tensor:
        """With a `cache`, features (B, 1, 1, F) of its next pixel alone; it is updated."""
        x_BHWC = x_BCHW.permute(0, 2, 3, 1)
        if cache is not None:
            return self._next(x_BHWC, label_B, cache)
        above, left = F.pad(x_BHWC, (0, 0, 0, 0, 1, -1)), F.pad(x_BHWC, (0, 0, 1, -1))
        links = self._from_above(above, self.place_2HWF[0], label_B, None)
        return self._from_left(left, self.place_2HWF[1], links, label_B, None)

    def _next(self, x_BHWC: Tensor, label_B: Tensor, cache: PixelCache) -> Tensor:
        """One pixel of the horizontal stack, after one row of the vertical stack where a row begins."""
        h, w = divmod(cache.place, x_BHWC.shape[2])
        nothing = torch.zeros_like(x_BHWC[:, :1])
        vertical_HWF, horizontal_HWF = self.place_2HWF
        if w == 0:
            cache.past[COLUMNS].clear()
            above = x_BHWC[:, h - 1 : h] if h else nothing
            cache.links = self._from_above(above, vertical_HWF[h : h + 1], label_B, cache)
        left = x_BHWC[:, h : h + 1, w - 1 : w] if w else nothing[:, :, :1]
        links = [link[:, :, w : w + 1] for link in cache.links]
        cache.place += 1
        return self._from_left(left, horizontal_HWF[h : h + 1, w : w + 1], links, label_B, cache)

    def _from_above(
        self, above_BRWC: Tensor, place_RWF: Tensor, label_B: Tensor, cache: PixelCache | None
    ) -> list[Tensor]:
        """The links (B, R, W, 2F) of each layer, from the rows above each one."""
        v_BRWF, links = self.first_vertical(above_BRWC, cache) + place_RWF, []
        for block, link in zip(self.vertical, self.links, strict=True):
            v_BRWF = block(v_BRWF, label_B, None, cache)
            links.append(link(v_BRWF))
        return links

    def _from_left(
        self,
        left_BRSC: Tensor,
        place_RSF: Tensor,
        links: list[Tensor],
        label_B: Tensor,
        cache: PixelCache | None,
    ) -> Tensor:
        """Features (B, R, S, F), from the pixels to the left of each one and the links."""
        h_BRSF = self.first_horizontal(left_BRSC, cache) + place_RSF
        for block, link in zip(self.horizontal, links, strict=True):
            h_BRSF = block(h_BRSF, label_B, link, cache)
        return self.norm(h_BRSF)


class SoftmaxHead(nn.Module):
    """A softmax a channel over K levels: logits_c = W_c·SiLU(features + Σ_{j<c} E_cj[k_j])."""

    def __init__(self, channels: int, levels: int, features: int) -> None:
        super().__init__()
        self.levels = levels
        self.earlier = nn.ModuleList(nn.Embedding(c * levels, features) for c in range(1, channels))
        heads = [nn.Linear(features, levels) for _ in range(channels)]
        for head in heads:
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        self.to_levels = nn.ModuleList(heads)

    def log_prob(self, features: Tensor, levels: Tensor) -> Tensor:
        """ln P(k_c | k_<c), (…, C), of levels (…, C) given features (…, F)."""
        channels = range(levels.shape[-1])
        each = [self.log_probs(features, levels[..., :c]).gather(-1, levels[..., c, None]) for c in channels]
        return torch.cat(each, -1)

    def log_probs(self, features: Tensor, levels: Tensor) -> Tensor:
        """ln P(k | k_<c) of every level k of the next channel, (…, K), given those before it (…, c)."""
        c = levels.shape[-1]
        if c:
            tables = torch.arange(c, device=levels.device) * self.levels
            features = features + self.earlier[c - 1](levels + tables).sum(-2)
        return self.to_levels[c](F.silu(features)).log_softmax(-1)


class MixtureHead(nn.Module):
    """A `DiscretisedMixture` of M components whose parameters are a linear map of SiLU(features).

    It starts with means spread over [−1, 1] and scales as wide as their distance.
    """

    def __init__(self, channels: int, levels: int, features: int, components: int) -> None:
        super().__init__()
        self.channels, self.levels = channels, levels
        self.to_parameters = nn.Linear(features, parameters(components, channels))
        nn.init.normal_(self.to_parameters.weight, std=0.02)
        nn.init.zeros_(self.to_parameters.bias)
        means, scales = self.to_parameters.bias.detach()[components:].split(components * channels)[:2]
        means.copy_(torch.linspace(-1, 1, components + 2)[1:-1].repeat_interleave(channels))
        scales.fill_(-1.5)

    def log_prob(self, features: Tensor, levels: Tensor) -> Tensor:
        """ln P(k_c | k_<c), (…, C), of levels (…, C) given features (…, F)."""
        return self._law(features).log_prob(levels)

    def log_probs(self, features: Tensor, levels: Tensor) -> Tensor:
        """ln P(k | k_<c) of every level k of the next channel, (…, K), given those before it (…, c)."""
        return self._law(features).log_probs(levels)

    def _law(self, features: Tensor) -> DiscretisedMixture:
        return DiscretisedMixture.of(self.to_parameters(F.silu(features)), self.channels, self.levels)
