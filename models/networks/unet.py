"""A small U-Net with residual blocks, time embedding and attention at its lowest level.

After Ho et al. 2020 (2006.11239) in shape; the Fourier features of the input are those of Kingma et al.
2021 (2107.00630, §5.2): where the noise is finer than the levels of a pixel they let the network tell
which level it sees.

Shapes: B batch, C channels, H height, W width, L = H·W, E embedding, G groups of a normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

GROUP = 8
"""Channels of a group in a normalisation."""


def time_features(t_B: Tensor, width: int, longest: float = 10_000.0) -> Tensor:
    """(B, width): cos and sin of 1000·t at geometric frequencies from 1 to 1/`longest`."""
    exponent = torch.arange(width // 2, device=t_B.device, dtype=t_B.dtype) / (width // 2)
    angle = 1000.0 * t_B[:, None] * longest**-exponent
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def fourier_features(x_BCHW: Tensor, octaves: Sequence[int]) -> Tensor:
    """x with sin(2ⁿπx) and cos(2ⁿπx) for each octave n: (B, C(1 + 2·len(octaves)), H, W)."""
    waves = [wave for n in octaves for wave in _waves(2.0**n * math.pi * x_BCHW)]
    return torch.cat([x_BCHW, *waves], dim=1)


def _waves(angle: Tensor) -> tuple[Tensor, Tensor]:
    return angle.sin(), angle.cos()


class ResidualBlock(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm x))))), its inner normalisation scaled and shifted by the time."""

    def __init__(self, inputs: int, outputs: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(max(1, inputs // GROUP), inputs)
        self.conv_in = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * outputs)
        self.norm_out = nn.GroupNorm(max(1, outputs // GROUP), outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, x_BCHW: Tensor, embedding_BE: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H, W)."""
        h = self.conv_in(functional.silu(self.norm_in(x_BCHW)))
        scale, shift = self.modulation(embedding_BE)[:, :, None, None].chunk(2, dim=1)
        h = functional.silu(torch.addcmul(shift, self.norm_out(h), 1.0 + scale))
        return self.skip(x_BCHW) + self.conv_out(self.dropout(h))


class AttentionBlock(nn.Module):
    """x + attention over all positions, one head of at most 64 channels or several."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // 64)
        self.norm = nn.GroupNorm(max(1, channels // GROUP), channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Same shape."""
        batch, channels, height, width = x_BCHW.shape
        parts = self.qkv(self.norm(x_BCHW)).view(batch, 3, self.heads, channels // self.heads, height * width)
        q, k, v = parts.transpose(-1, -2).unbind(1)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return x_BCHW + self.out(mixed.transpose(-1, -2).reshape(batch, channels, height, width))


class UNet(nn.Module):
    """`network(x_BCHW, t_B, label_B)` → (B, channels_out, H, W); it says exactly 0 before training.

    channels     width of the first level; level i has channels·multipliers[i]
    multipliers  one a level; each level halves height and width, so both must divide by 2^(levels − 1)
    blocks       residual blocks a level, on the way down and on the way up
    attention    attention at the lowest level
    octaves      Fourier features of the input: none, or the n of sin 2ⁿπx
    dropout      inside residual blocks
    channels_out channels of what it says; by default those of x
    classes      labels 0…classes−1 and the null label `classes`, whose embedding joins that of the time;
                 0 for a network that is told no label
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        channels: int = 32,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 1,
        attention: bool = True,
        octaves: Sequence[int] = (),
        dropout: float = 0.0,
        channels_out: int | None = None,
        classes: int = 0,
    ) -> None:
        super().__init__()
        _check(shape, channels, multipliers, blocks)
        self.octaves, self.width = tuple(octaves), channels
        widths = [channels * m for m in multipliers]
        embedding = 2 * channels
        self.embed = nn.Sequential(
            nn.Linear(channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.classes = classes
        if classes:
            self.label = nn.Embedding(classes + 1, embedding)
            nn.init.normal_(self.label.weight, std=0.5)
        self.first = nn.Conv2d(shape[0] * (1 + 2 * len(self.octaves)), channels, 3, padding=1)
        self.down, self.up, self.shrink, self.grow = (nn.ModuleList() for _ in range(4))
        for level, width in enumerate(widths):
            before = widths[max(0, level - 1)]
            self.down.append(_stack(width, width, blocks, embedding, dropout))
            self.shrink.append(nn.Conv2d(before, width, 3, stride=2, padding=1) if level else nn.Identity())
        for level, width in list(enumerate(widths))[::-1]:
            inputs = width if level == len(widths) - 1 else 2 * width
            self.up.append(_stack(inputs, width, blocks, embedding, dropout))
            self.grow.append(nn.Conv2d(width, widths[level - 1], 3, padding=1) if level else nn.Identity())
        self.attention = AttentionBlock(widths[-1]) if attention else nn.Identity()
        self.norm = nn.GroupNorm(max(1, channels // GROUP), channels)
        self.last = nn.Conv2d(channels, channels_out or shape[0], 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x_BCHW: Tensor, t_B: Tensor, label_B: Tensor | None = None) -> Tensor:
        """(B, C, H, W), times in [0, 1] of shape (B,) and labels (B,); no label is the null label."""
        embedding = self.embed(time_features(t_B, self.width))
        if self.classes:
            null = torch.full_like(t_B, self.classes, dtype=torch.int64)
            embedding = embedding + self.label(null if label_B is None else label_B)
        h, skips = self.first(fourier_features(x_BCHW, self.octaves)), []
        for shrink, stack in zip(self.shrink, self.down, strict=True):
            h = _run(stack, shrink(h), embedding)
            skips.append(h)
        h = self.attention(skips.pop())
        for grow, stack in zip(self.grow, self.up, strict=True):
            h = _run(stack, h, embedding)
            if skips:
                h = functional.interpolate(h, scale_factor=2.0, mode="nearest")
                h = torch.cat([grow(h), skips.pop()], dim=1)
        return self.last(functional.silu(self.norm(h)))


def _stack(inputs: int, outputs: int, blocks: int, embedding: int, dropout: float) -> nn.ModuleList:
    return nn.ModuleList(
        ResidualBlock(outputs if i else inputs, outputs, embedding, dropout) for i in range(blocks)
    )


def _run(stack: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
    for block in stack.children():
        h = block(h, embedding)
    return h


def _check(shape: tuple[int, int, int], channels: int, multipliers: Sequence[int], blocks: int) -> None:
    if channels < 2 or channels % 2 or (channels > GROUP and channels % GROUP):
        raise ValueError(f"A U-Net's channels are 2, 4, 6 or a multiple of {GROUP}, and not {channels}.")
    if not multipliers or min(multipliers) < 1 or blocks < 1:
        raise ValueError("A U-Net needs one or more blocks and multipliers, each one or more.")
    factor = 2 ** (len(multipliers) - 1)
    if shape[1] % factor or shape[2] % factor:
        raise ValueError(
            f"A U-Net of {len(multipliers)} levels needs height and width divisible by {factor}, "
            f"and images are {shape[1]}x{shape[2]}: give fewer multipliers."
        )
