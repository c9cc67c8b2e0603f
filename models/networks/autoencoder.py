"""Convolutional halves of an autoencoder: images to a smaller grid of features, and back.

The shape of Rombach et al. 2022 (2112.10752), without its attention: residual blocks, halvings on the way
down, doublings on the way up.

Shapes: B batch, C channels in, H height, W width, f factor of each side.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

GROUP = 8
"""Channels of a group in a normalisation."""


class Block(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm x))))) at one width; it is x before training."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.norm_in, self.norm_out = _norm(channels), _norm(channels)
        self.conv_in = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_out = nn.Conv2d(channels, channels, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Same shape."""
        h = self.conv_in(functional.silu(self.norm_in(x_BCHW)))
        return x_BCHW + self.conv_out(self.dropout(functional.silu(self.norm_out(h))))


class Encoder(nn.Module):
    """(B, inputs, H, W) to (B, outputs, H/f, W/f).

    channels  of the full-size features; each halving doubles them, up to four times
    factor    f, a power of two that divides H and W
    blocks    residual blocks at each size
    """

    def __init__(
        self, inputs: int, outputs: int, channels: int, factor: int, blocks: int, dropout: float
    ) -> None:
        super().__init__()
        wide = widths(channels, factor)
        layers: list[nn.Module] = [nn.Conv2d(inputs, channels, 3, padding=1)]
        for level, width in enumerate(wide):
            if level:
                layers.append(nn.Conv2d(wide[level - 1], width, 2, stride=2))
            layers += [Block(width, dropout) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers)
        self.last = _last(wide[-1], outputs)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Features, near zero before training."""
        return self.last(self.layers(x_BCHW))


class Decoder(nn.Module):
    """(B, inputs, H/f, W/f) to (B, outputs, H, W): the encoder's sizes in reverse."""

    def __init__(
        self, inputs: int, outputs: int, channels: int, factor: int, blocks: int, dropout: float
    ) -> None:
        super().__init__()
        wide = widths(channels, factor)[::-1]
        layers: list[nn.Module] = [nn.Conv2d(inputs, wide[0], 3, padding=1)]
        for level, width in enumerate(wide):
            if level:
                layers.append(nn.ConvTranspose2d(wide[level - 1], width, 2, stride=2))
            layers += [Block(width, dropout) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers)
        self.last = _last(channels, outputs)

    def forward(self, z_BCHW: Tensor) -> Tensor:
        """Features, near zero before training."""
        return self.last(self.layers(z_BCHW))


def widths(channels: int, factor: int) -> list[int]:
    """Channels at full size, at half, … at 1/f: doubled with each halving, four times at most."""
    if not isinstance(factor, int) or factor < 1 or factor & (factor - 1):
        raise ValueError(f"factor must be a power of two, 1, 2, 4 …: got {factor!r}")
    if channels > GROUP and channels % GROUP:
        raise ValueError(f"channels must be at most {GROUP} or a multiple of {GROUP}: got {channels}")
    return [channels * min(4, 2**level) for level in range(factor.bit_length())]


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // GROUP), channels)


def _last(channels: int, outputs: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, outputs, 3, padding=1)
    nn.init.normal_(conv.weight, std=0.02)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return nn.Sequential(_norm(channels), nn.SiLU(), conv)
