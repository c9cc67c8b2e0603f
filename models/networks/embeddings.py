"""What diffusion transformers are fed: patches, their positions, and the time.

Shapes: B batch, C channels, H height, W width, p patch, N = (H/p)·(W/p) patches, E embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LONGEST = 10_000.0
"""Longest period of a sinusoid, in units of 2π of what it encodes."""

FREQUENCIES = 256
"""Size of the sinusoidal code of the time, as published."""


def check_patches(shape: tuple[int, int, int], patch: int) -> None:
    """ValueError where an image does not divide into patches."""
    if patch < 1 or shape[1] % patch or shape[2] % patch:
        raise ValueError(
            f"patches of {patch}x{patch} do not tile images of {shape[1]}x{shape[2]}: "
            "choose a patch that divides height and width"
        )


def sinusoid(t_B: Tensor, dims: int) -> Tensor:
    """(B, dims): cosines, then sines, of t·10000^(−2i/dims) (Vaswani et al. 2017), float32 or wider."""
    t_B = t_B.to(torch.promote_types(t_B.dtype, torch.float32))
    exponent = torch.arange(dims // 2, device=t_B.device, dtype=t_B.dtype) / (dims // 2)
    angle = t_B[:, None] * LONGEST**-exponent
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def grid_positions(rows: int, columns: int, dims: int) -> Tensor:
    """(rows·columns, dims) float32 in raster order: the code of the column, then that of the row.

    Each is half of the dimensions: sines, then cosines, of the integer position at frequencies
    10000^(−4i/dims). The column comes first, as in the published weights of ViT-MAE, DiT and SD3.
    """
    if dims % 4:
        raise ValueError(f"2-D positions need a width divisible by 4: got {dims}")
    frequencies = LONGEST ** -(torch.arange(dims // 4, dtype=torch.float64) / (dims // 4))

    def code(count: int) -> Tensor:
        angle = torch.arange(count, dtype=torch.float64)[:, None] * frequencies
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    column = code(columns).expand(rows, columns, dims // 2)
    row = code(rows)[:, None].expand(rows, columns, dims // 2)
    return torch.cat([column, row], dim=2).flatten(0, 1).float()


class TimeEmbedding(nn.Module):
    """MLP of the sinusoids of scale·t: (B,) to (B, E).

    scale  what t in [0, 1] is multiplied by; 1000 where weights were trained on discrete timesteps
    """

    def __init__(self, width: int, scale: float = 1000.0) -> None:
        super().__init__()
        self.scale = scale
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t_B: Tensor) -> Tensor:
        """In the precision of the weights."""
        return self.mlp(sinusoid(self.scale * t_B, FREQUENCIES).to(next(self.parameters()).dtype))


class VectorEmbedding(nn.Module):
    """MLP of a vector of `inputs` numbers: (B, inputs) to (B, E)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, vector_BV: Tensor) -> Tensor:
        return self.mlp(vector_BV)


class LabelEmbedding(nn.Module):
    """A table of `classes` labels and the null label, which is the last: (B,) int64 to (B, E)."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        self.embedding_table = nn.Embedding(classes + 1, width)

    def forward(self, label_B: Tensor) -> Tensor:
        return self.embedding_table(label_B)


class PatchEmbedding(nn.Module):
    """One linear map of each patch: (B, C, H, W) to (B, N, E), patches in raster order."""

    def __init__(self, channels: int, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.proj(x_BCHW).flatten(2).transpose(1, 2)


def unpatchify(tokens_BNP: Tensor, channels: int, patch: int, rows: int, columns: int) -> Tensor:
    """(B, rows·columns, p·p·C) to (B, C, rows·p, columns·p); within a token the channel runs fastest."""
    grid = tokens_BNP.view(-1, rows, columns, patch, patch, channels)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(-1, channels, rows * patch, columns * patch)


def modulation(width: int, parts: int) -> nn.Sequential:
    """c to `parts` vectors of size E, all 0 before training: adaLN-Zero."""
    return nn.Sequential(nn.SiLU(), nn.Linear(width, parts * width))


def initialise(network: nn.Module) -> None:
    """The published start: linear maps Xavier with bias 0, embeddings of time and condition N(0, 0.02²).

    Modulations start at 0, so that every block starts as the identity; so does the final linear map, so
    that the network says exactly 0.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        if "adaLN_modulation" in name or name == "final_layer.linear":
            nn.init.zeros_(module.weight)
        elif "embedder.mlp" in name:
            nn.init.normal_(module.weight, std=0.02)
        else:
            nn.init.xavier_uniform_(module.weight.view(len(module.weight), -1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
