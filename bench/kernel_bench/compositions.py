"""The operations written in plain PyTorch, as people write them: what fused kernels are compared with.

In float64 they are the truth; in the dtype of a case, PyTorch's own low-precision answer; compiled, what a
user gets from `torch.compile` for nothing.

Shapes: B batch, H heads, N tokens (I image, T text), D size of a head, E = H·D.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bench.kernel_bench.problems import Call, Problem

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(B, H, N, D) queries, keys and values to (B, H, N, D)."""

EPS = 1e-6
SCORES_AT_ONCE = 2**26
"""Scores that the exact attention holds at a time: half a GiB in float64."""


def eager_attention(q_BHND: Tensor, k_BHND: Tensor, v_BHND: Tensor) -> Tensor:
    """softmax(q·kᵀ/√D)·v, every step in the dtype of q, all N² scores in memory."""
    scores_BHNN = (q_BHND * q_BHND.shape[-1] ** -0.5) @ k_BHND.transpose(-1, -2)
    return scores_BHNN.softmax(-1) @ v_BHND


def chunked_attention(q_BHND: Tensor, k_BHND: Tensor, v_BHND: Tensor) -> Tensor:
    """`eager_attention` a few heads at a time, scores computed again for the gradient: fits any card."""
    heads = max(1, SCORES_AT_ONCE // q_BHND.shape[2] ** 2)
    flat = [x_BHND.flatten(0, 1).split(heads) for x_BHND in (q_BHND, k_BHND, v_BHND)]
    parts = [checkpoint(eager_attention, *some, use_reentrant=False) for some in zip(*flat, strict=True)]
    return torch.cat(parts).view_as(q_BHND)


def rms_norm(x_D: Tensor, weight_D: Tensor) -> Tensor:
    """x/√(mean x² + ε)·w over the last dimension (Zhang & Sennrich 2019, 1910.07467)."""
    return F.rms_norm(x_D, x_D.shape[-1:], weight_D, EPS)


def rotate(x_BHND: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Pairs of neighbouring columns turned by their angles, in float32 or wider (2104.09864)."""
    wide = torch.promote_types(x_BHND.dtype, torch.float32)
    cos_Nd, sin_Nd = (part.to(wide) for part in rope)
    a, b = x_BHND.to(wide).unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((a * cos_Nd - b * sin_Nd, a * sin_Nd + b * cos_Nd), -1)
    return turned.flatten(-2).to(x_BHND.dtype)


def modulate(x_BNE: Tensor, scale_BE: Tensor, shift_BE: Tensor) -> Tensor:
    """LayerNorm(x)·(1 + scale) + shift, the norm without weights (Peebles & Xie 2023, 2212.09748)."""
    normed = F.layer_norm(x_BNE, x_BNE.shape[-1:], eps=EPS)
    return normed * (1 + scale_BE[:, None]) + shift_BE[:, None]


def gated_residual(x_BNE: Tensor, y_BNE: Tensor, gate_BE: Tensor) -> Tensor:
    """x + gate·y."""
    return x_BNE + gate_BE[:, None] * y_BNE


def joined(problem: Problem, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of both streams: normalised by head, put together, rotated."""
    given = dict(zip(problem.names, inputs, strict=True))
    streams = ("text", "image") if problem.shape.text_first else ("image", "text")
    found = []
    for index, x in enumerate("qkv"):
        parts = [given[stream][:, :, index].transpose(1, 2) for stream in streams]
        if problem.shape.qk_norm and x != "v":
            parts = [
                rms_norm(part, given[f"w{x}_{stream}"]) for part, stream in zip(parts, streams, strict=True)
            ]
        whole_BHND = torch.cat(parts, 2)
        turned = problem.rope is not None and x != "v"
        found.append(rotate(whole_BHND, problem.rope) if turned and problem.rope else whole_BHND)
    return found[0], found[1], found[2]


def parted(problem: Problem, o_BHND: Tensor) -> tuple[Tensor, Tensor]:
    """The result of each stream, image and text."""
    I, T = problem.shape.image, problem.shape.text  # noqa: E741
    if problem.shape.text_first:
        text, image = o_BHND.split((T, I), 2)
    else:
        image, text = o_BHND.split((I, T), 2)
    return image, text


def composition(problem: Problem, attend: Attend = eager_attention) -> Call:
    """The problem's operation in plain PyTorch, with `attend` where it has an attention."""
    if problem.operation == "attention":
        return lambda *inputs: (attend(*inputs),)
    if problem.operation == "joint-attention":
        return lambda *inputs: parted(problem, attend(*joined(problem, inputs)))
    plain = ELEMENTWISE[problem.operation]
    return lambda *inputs: (plain(*inputs),)


ELEMENTWISE: dict[str, Callable[..., Tensor]] = {
    "modulate": modulate,
    "gated-residual": gated_residual,
    "rms-norm": rms_norm,
}
"""The operations without an attention."""
