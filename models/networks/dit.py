"""DiT: a transformer over patches of the image (Peebles & Xie 2023, 2212.09748), adaLN-Zero variant.

    c = time + label;  block:  x ← x + γ₁·attention(mod₁ norm x),  x ← x + γ₂·MLP(mod₂ norm x)

with mod x = x·(1 + scale) + shift, and all shifts, scales and gates γ linear in SiLU(c). Parameters carry
the published names, so that published weights load by name (`models.published_weights`).

Shapes: B batch, C channels, H height, W width, p patch, N = (H/p)·(W/p) tokens, E embedding,
A attention heads, D = E/A size of a head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.adaln import gated_residual, layer_norm_modulate
from kernels.attention import attention
from kernels.rms_norm import rms_norm
from models.names import unknown
from models.networks.embeddings import (
    LabelEmbedding,
    PatchEmbedding,
    TimeEmbedding,
    check_patches,
    grid_positions,
    initialise,
    modulation,
    unpatchify,
)


class Size(NamedTuple):
    """A published size."""

    depth: int
    width: int
    heads: int


SIZES = {"S": Size(12, 384, 6), "B": Size(12, 768, 12), "L": Size(24, 1024, 16), "XL": Size(28, 1152, 16)}
PATCHES = (2, 4, 8)


def preset(name: str) -> dict[str, int]:
    """Options of a published DiT: a size S, B, L or XL and its patch, as `XL/2`."""
    valid = {f"{size}/{patch}": (size, patch) for size in SIZES for patch in PATCHES}
    if name not in valid:
        raise ValueError(unknown("DiT", name, valid))
    size, patch = valid[name]
    return {**SIZES[size]._asdict(), "patch": patch}


class Attention(nn.Module):
    """Projections of multi-head attention, (B, N, E) to (B, N, E), each usable alone.

    qk_norm  None, or `rms`: queries and keys of a head divided by their root mean square (ε = 10⁻⁶) and
             multiplied by a learned vector
    output   whether there is a projection of the result
    """

    def __init__(
        self, width: int, heads: int, dropout: float = 0.0, qk_norm: str | None = None, output: bool = True
    ) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        normalise = qk_norm == "rms"
        self.ln_q = nn.RMSNorm(width // heads, eps=1e-6) if normalise else nn.Identity()
        self.ln_k = nn.RMSNorm(width // heads, eps=1e-6) if normalise else nn.Identity()
        if output:
            self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def packed(self, x_BNE: Tensor) -> Tensor:
        """Queries, keys and values before their norms, (B, N, 3, A, D)."""
        B, N, E = x_BNE.shape
        return self.qkv(x_BNE).view(B, N, 3, self.heads, E // self.heads)

    @property
    def norms(self) -> tuple[Tensor, Tensor] | None:
        """Weights of the norms of queries and keys, where there are any."""
        if isinstance(self.ln_q, nn.RMSNorm) and isinstance(self.ln_k, nn.RMSNorm):
            return self.ln_q.weight, self.ln_k.weight
        return None

    def project(self, mixed_BAND: Tensor) -> Tensor:
        """The heads' results side by side, through the projection: (B, N, E)."""
        return self.dropout(self.proj(mixed_BAND.transpose(1, 2).flatten(2)))

    def forward(self, x_BNE: Tensor, backend: str) -> Tensor:
        """Every token sees every token."""
        q_BAND, k_BAND, v_BAND = self.packed(x_BNE).permute(2, 0, 3, 1, 4).unbind(0)
        if self.norms is not None:
            weights = self.norms
            q_BAND = rms_norm(q_BAND, weights[0], backend=backend)
            k_BAND = rms_norm(k_BAND, weights[1], backend=backend)
        return self.project(attention(q_BAND, k_BAND, v_BAND, backend=backend))


class MLP(nn.Module):
    """W₂·GELU(W₁·x) with the tanh form of GELU: (B, N, E) to (B, N, E)."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BNE: Tensor) -> Tensor:
        """Dropout on the hidden units."""
        return self.fc2(self.dropout(F.gelu(self.fc1(x_BNE), approximate="tanh")))


class Block(nn.Module):
    """A DiT block; the modulation is split into shift, scale, gate of attention, then those of the MLP."""

    def __init__(self, width: int, heads: int, expansion: float, dropout: float) -> None:
        super().__init__()
        self.attn = Attention(width, heads, dropout)
        self.mlp = MLP(width, int(expansion * width), dropout)
        self.adaLN_modulation = modulation(width, 6)

    def forward(self, x_BNE: Tensor, c_BE: Tensor, backend: str) -> Tensor:
        """Same shape."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(c_BE)[:, None].chunk(6, 2)
        y_BNE = self.attn(layer_norm_modulate(x_BNE, shift, scale, backend=backend), backend)
        x_BNE = gated_residual(x_BNE, y_BNE, gate, backend=backend)
        y_BNE = self.mlp(layer_norm_modulate(x_BNE, shift_mlp, scale_mlp, backend=backend))
        return gated_residual(x_BNE, y_BNE, gate_mlp, backend=backend)


class FinalLayer(nn.Module):
    """(B, N, E) to the p·p·C numbers of each patch, by a linear map that starts at 0."""

    def __init__(self, width: int, patch: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, patch * patch * channels)
        self.adaLN_modulation = modulation(width, 2)

    def forward(self, x_BNE: Tensor, c_BE: Tensor, backend: str) -> Tensor:
        shift, scale = self.adaLN_modulation(c_BE)[:, None].chunk(2, 2)
        return self.linear(layer_norm_modulate(x_BNE, shift, scale, backend=backend))


class DiT(nn.Module):
    """`network(x_BCHW, t_B, label_B)` → (B, channels_out, H, W); it says exactly 0 before training.

    patch         side of a patch in pixels, divides H and W
    width, depth  E, a multiple of 4, and the number of blocks
    heads         A, divides E
    channels_out  channels of what it says: C unless given, 2C where a variance is learned
    classes       labels 0…classes−1 and the null label `classes`; 0 for a network that is told no label
    time_scale    what t is multiplied by before the sinusoids; 1000 as in the published weights
    expansion     hidden units of an MLP in units of E
    dropout       on attention's output and an MLP's hidden units, while training
    backend       of attention, see `kernels.attention`; `triton` is also that of adaLN and norms
    """

    pos_embed: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        patch: int = 2,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        *,
        channels_out: int | None = None,
        classes: int = 0,
        time_scale: float = 1000.0,
        expansion: float = 4.0,
        dropout: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_patches(shape, patch)
        check_transformer(width, depth, heads)
        self.shape, self.patch, self.classes, self.backend = tuple(shape), patch, classes, backend
        self.channels_out = channels_out or shape[0]
        self.rows, self.columns = shape[1] // patch, shape[2] // patch
        self.x_embedder = PatchEmbedding(shape[0], patch, width)
        self.t_embedder = TimeEmbedding(width, time_scale)
        if classes:
            self.y_embedder = LabelEmbedding(classes, width)
        self.register_buffer("pos_embed", grid_positions(self.rows, self.columns, width)[None])
        self.blocks = nn.ModuleList(Block(width, heads, expansion, dropout) for _ in range(depth))
        self.final_layer = FinalLayer(width, patch, self.channels_out)
        initialise(self)

    def forward(self, x_BCHW: Tensor, t_B: Tensor, label_B: Tensor | None = None) -> Tensor:
        """Images of the constructor's shape, times in [0, 1] and labels, (B,); None: the null label."""
        if tuple(x_BCHW.shape[1:]) != self.shape:
            raise ValueError(f"this DiT was built for images of {self.shape}: got {tuple(x_BCHW.shape[1:])}")
        c_BE = self._condition(t_B, label_B)
        x_BNE = self.x_embedder(x_BCHW) + self.pos_embed
        for block in self.blocks:
            x_BNE = block(x_BNE, c_BE, self.backend)
        tokens = self.final_layer(x_BNE, c_BE, self.backend)
        return unpatchify(tokens, self.channels_out, self.patch, self.rows, self.columns)

    def _condition(self, t_B: Tensor, label_B: Tensor | None) -> Tensor:
        c_BE = self.t_embedder(t_B)
        if not self.classes:
            if label_B is not None:
                raise ValueError("this DiT knows no labels: build it with classes, or leave them out")
            return c_BE
        if label_B is None:
            label_B = torch.full((len(t_B),), self.classes, device=t_B.device)
        return c_BE + self.y_embedder(label_B)


def check_transformer(width: int, depth: int, heads: int) -> None:
    """ValueError where the embedding does not divide into heads, or a size is below 1."""
    if min(width, depth, heads) < 1:
        raise ValueError(f"width, depth and heads must be 1 or more: got {width}, {depth} and {heads}")
    if width % heads or width % 4:
        raise ValueError(
            f"width {width} is not divisible by {heads} heads and by 4: choose a common multiple of them"
        )
