"""MM-DiT, the network of Stable Diffusion 3 (Esser et al. 2024, 2403.03206).

Two streams of tokens, text and image, with weights of their own meet in one attention over both:

    c = MLP(t) + MLP(pooled)
    q, k, v = [text's, image's]  →  attention over all tokens  →  split
    each stream:  x ← x + γ₁·proj(its part),  x ← x + γ₂·MLP(mod₂ norm x)

The last block drops its text stream after attention. Parameters carry the published names, so that
published weights load by name (`models.published_weights`).

Shapes: B batch, C channels, H height, W width, p patch, N = (H/p)·(W/p) image tokens, L text tokens,
E embedding, A attention heads, D = E/A size of a head, S side of the table of positions.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from kernels.adaln import gated_residual, layer_norm_modulate
from kernels.joint_attention import joint_attention
from models.names import unknown
from models.networks.dit import MLP, Attention, FinalLayer, check_transformer
from models.networks.embeddings import (
    PatchEmbedding,
    TimeEmbedding,
    VectorEmbedding,
    check_patches,
    grid_positions,
    initialise,
    modulation,
    unpatchify,
)
from models.times import shifted

QK_NORMS = (None, "rms")


def resolution_shift(t: Tensor, tokens: int, base_tokens: int) -> Tensor:
    """k t/(1 + (k − 1) t) with k = √(tokens/base_tokens): the time of equal noise at another resolution.

    An image of more tokens shows the same content through more noise, so that training and sampling
    move towards t = 1 (section 5.3.2).
    """
    return shifted(t, math.sqrt(tokens / base_tokens))


class Stream(nn.Module):
    """One modality's half of a joint block.

    The modulation is split into shift, scale, gate of attention, those of the MLP and, where `dual`, those
    of the second attention. With `pre_only` there are just shift and scale: it gives queries, keys and
    values and takes nothing back.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        expansion: float,
        dropout: float,
        qk_norm: str | None,
        *,
        dual: bool = False,
        pre_only: bool = False,
    ) -> None:
        super().__init__()
        self.dual = dual
        self.parts = 2 if pre_only else 9 if dual else 6
        self.attn = Attention(width, heads, dropout, qk_norm, output=not pre_only)
        if dual:
            self.attn2 = Attention(width, heads, dropout, qk_norm)
        if not pre_only:
            self.mlp = MLP(width, int(expansion * width), dropout)
        self.adaLN_modulation = modulation(width, self.parts)

    def modulations(self, c_BE: Tensor) -> tuple[Tensor, ...]:
        """Shifts, scales and gates, (B, 1, E) each."""
        return self.adaLN_modulation(c_BE)[:, None].chunk(self.parts, 2)

    def enter(self, x_BNE: Tensor, m: tuple[Tensor, ...], backend: str) -> Tensor:
        """Queries, keys and values of this stream for the joint attention, (B, N, 3, A, D)."""
        return self.attn.packed(layer_norm_modulate(x_BNE, m[0], m[1], backend=backend))

    def leave(self, x_BNE: Tensor, mixed_BAND: Tensor, m: tuple[Tensor, ...], backend: str) -> Tensor:
        """x with what attention and MLP add to it."""
        out_BNE = gated_residual(x_BNE, self.attn.project(mixed_BAND), m[2], backend=backend)
        if self.dual:
            y_BNE = self.attn2(layer_norm_modulate(x_BNE, m[6], m[7], backend=backend), backend)
            out_BNE = gated_residual(out_BNE, y_BNE, m[8], backend=backend)
        y_BNE = self.mlp(layer_norm_modulate(out_BNE, m[3], m[4], backend=backend))
        return gated_residual(out_BNE, y_BNE, m[5], backend=backend)


class JointBlock(nn.Module):
    """Both streams through one attention; the order of tokens is text, image."""

    def __init__(
        self,
        width: int,
        heads: int,
        expansion: float,
        dropout: float,
        qk_norm: str | None,
        *,
        dual: bool,
        pre_only: bool,
    ) -> None:
        super().__init__()
        self.pre_only = pre_only
        self.context_block = Stream(width, heads, expansion, dropout, qk_norm, pre_only=pre_only)
        self.x_block = Stream(width, heads, expansion, dropout, qk_norm, dual=dual)

    def forward(
        self, context_BLE: Tensor, x_BNE: Tensor, c_BE: Tensor, backend: str
    ) -> tuple[Tensor, Tensor]:
        """Same shapes; a `pre_only` block hands the text stream on as it came."""
        m_context, m_x = self.context_block.modulations(c_BE), self.x_block.modulations(c_BE)
        text = self.context_block.enter(context_BLE, m_context, backend)
        image = self.x_block.enter(x_BNE, m_x, backend)
        of_image, of_text = self.x_block.attn.norms, self.context_block.attn.norms
        weights = None if of_image is None or of_text is None else (*of_image, *of_text)
        mixed_x, mixed_context = joint_attention(
            image, text, weights=weights, order="text-first", backend=backend
        )
        if not self.pre_only:
            context_BLE = self.context_block.leave(context_BLE, mixed_context, m_context, backend)
        return context_BLE, self.x_block.leave(x_BNE, mixed_x, m_x, backend)


class MMDiT(nn.Module):
    """`network(x_BCHW, t_B, context_BLT, pooled_BV)` → (B, channels_out, H, W); exactly 0 before training.

    shape          (C, H, W); any H and W that patches tile and the table of positions holds are taken
    patch          side of a patch in pixels
    width, depth   E, a multiple of 4, and the number of joint blocks; 64·depth in the published family
    heads          A, divides E; depth in the published family
    context_width  T, size of a text token              pooled_width  V, size of the pooled text vector
    channels_out   channels of what it says, C unless given
    qk_norm        `rms` (SD3.5) or None (SD3)
    dual_blocks    first blocks with a second attention among image tokens alone (13 in SD3.5-medium)
    positions      S; the middle of the table is used for images of fewer patches
    time_scale     what t is multiplied by before the sinusoids; 1000 as in the published weights
    expansion      hidden units of an MLP in units of E
    dropout        on attention's output and an MLP's hidden units, while training
    backend        of attention, see `kernels.attention`; `triton` is also that of adaLN and norms
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
        context_width: int = 64,
        pooled_width: int = 64,
        channels_out: int | None = None,
        qk_norm: str | None = "rms",
        dual_blocks: int = 0,
        positions: int | None = None,
        time_scale: float = 1000.0,
        expansion: float = 4.0,
        dropout: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_patches(shape, patch)
        check_transformer(width, depth, heads)
        if qk_norm not in QK_NORMS:
            raise ValueError(unknown("qk_norm", qk_norm, ["rms"], "Or give none (null)."))
        if not 0 <= dual_blocks <= depth:
            raise ValueError(f"dual_blocks must be 0 to the depth {depth}: got {dual_blocks}")
        self.patch, self.backend, self.channels_out = patch, backend, channels_out or shape[0]
        self.positions = positions or max(shape[1], shape[2]) // patch
        self.x_embedder = PatchEmbedding(shape[0], patch, width)
        self.t_embedder = TimeEmbedding(width, time_scale)
        self.y_embedder = VectorEmbedding(pooled_width, width)
        self.context_embedder = nn.Linear(context_width, width)
        self.register_buffer("pos_embed", grid_positions(self.positions, self.positions, width)[None])
        self.joint_blocks = nn.ModuleList(
            JointBlock(
                width, heads, expansion, dropout, qk_norm, dual=i < dual_blocks, pre_only=i == depth - 1
            )
            for i in range(depth)
        )
        self.final_layer = FinalLayer(width, patch, self.channels_out)
        initialise(self)
        self._check_fits(shape[1] // patch, shape[2] // patch)

    def forward(self, x_BCHW: Tensor, t_B: Tensor, context_BLT: Tensor, pooled_BV: Tensor) -> Tensor:
        """Times in [0, 1]; the text as tokens and as one vector an image."""
        check_patches((x_BCHW.shape[1], x_BCHW.shape[2], x_BCHW.shape[3]), self.patch)
        rows, columns = x_BCHW.shape[2] // self.patch, x_BCHW.shape[3] // self.patch
        c_BE = self.t_embedder(t_B) + self.y_embedder(pooled_BV)
        x_BNE = self.x_embedder(x_BCHW) + self.cropped_positions(rows, columns)
        context_BLE = self.context_embedder(context_BLT)
        for block in self.joint_blocks:
            context_BLE, x_BNE = block(context_BLE, x_BNE, c_BE, self.backend)
        return unpatchify(
            self.final_layer(x_BNE, c_BE, self.backend), self.channels_out, self.patch, rows, columns
        )

    def cropped_positions(self, rows: int, columns: int) -> Tensor:
        """(1, rows·columns, E) from the middle of the table."""
        self._check_fits(rows, columns)
        S = self.positions
        top, left = (S - rows) // 2, (S - columns) // 2
        table_1SSE = self.pos_embed.view(1, S, S, -1)
        return table_1SSE[:, top : top + rows, left : left + columns].flatten(1, 2)

    def _check_fits(self, rows: int, columns: int) -> None:
        if max(rows, columns) > self.positions:
            raise ValueError(
                f"images of {rows}x{columns} patches do not fit a table of {self.positions}x{self.positions} "
                "positions: build the network with larger positions"
            )
