"""Scaled dot-product attention with its backend named, and the plain-PyTorch twin of all of them.

Shapes: B batch, H heads, L queries, S keys, D size of a head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

SDPA_BACKENDS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
BACKENDS = ("auto", "reference", *SDPA_BACKENDS)


def attention(
    q_BHLD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, *, causal: bool = False, backend: str = "auto"
) -> Tensor:
    """softmax(q·kᵀ/√D)·v, shape (B, H, L, D) (Vaswani et al. 2017, equation 1).

    causal   query i sees keys 0…i; needs as many queries as keys
    backend  `auto` (PyTorch's choice), `reference` (the twin), or exactly one of `math`, `flash`,
             `efficient`, `cudnn`: another one is never put in its place

    Raises ValueError where shapes disagree, or the backend is unknown or cannot run these tensors.
    """
    _check_shapes(q_BHLD, k_BHSD, v_BHSD, causal)
    if backend == "reference":
        return reference_attention(q_BHLD, k_BHSD, v_BHSD, causal=causal)
    if backend == "auto":
        return F.scaled_dot_product_attention(q_BHLD, k_BHSD, v_BHSD, is_causal=causal)
    if backend not in SDPA_BACKENDS:
        raise ValueError(f"attention backend {backend!r} is unknown: use one of {', '.join(BACKENDS)}")
    try:
        with sdpa_kernel(SDPA_BACKENDS[backend]):
            return F.scaled_dot_product_attention(q_BHLD, k_BHSD, v_BHSD, is_causal=causal)
    except RuntimeError as error:
        if not _is_refusal(error):
            raise
        where = f"{q_BHLD.dtype} tensors with heads of {q_BHLD.shape[-1]} on {q_BHLD.device.type}"
        raise ValueError(
            f"attention backend {backend!r} cannot run {where}: use auto, math or reference"
        ) from error


def reference_attention(q_BHLD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, *, causal: bool = False) -> Tensor:
    """The definition, written out: scores and softmax in float32 (float64 stays float64), output as q."""
    wide = torch.promote_types(q_BHLD.dtype, torch.float32)
    scores_BHLS = q_BHLD.to(wide) @ k_BHSD.to(wide).transpose(-1, -2) / math.sqrt(q_BHLD.shape[-1])
    if causal:
        L, S = scores_BHLS.shape[-2:]
        seen_LS = torch.ones(L, S, dtype=torch.bool, device=q_BHLD.device).tril()
        scores_BHLS = scores_BHLS.masked_fill(~seen_LS, -math.inf)
    return (scores_BHLS.softmax(-1) @ v_BHSD.to(wide)).to(q_BHLD.dtype)


def _check_shapes(q_BHLD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, causal: bool) -> None:
    q, k, v = tuple(q_BHLD.shape), tuple(k_BHSD.shape), tuple(v_BHSD.shape)
    if len(q) != 4 or k != v or len(k) != 4 or q[:2] != k[:2] or q[3] != k[3]:
        raise ValueError(f"attention needs q (B, H, L, D) and k, v (B, H, S, D): got {q}, {k} and {v}")
    if causal and q[2] != k[2]:
        raise ValueError(f"causal attention needs as many queries as keys: got {q[2]} and {k[2]}")


def _is_refusal(error: RuntimeError) -> bool:
    """Whether PyTorch said that no enabled backend fits, as opposed to any other failure."""
    text = str(error).lower()
    return "no viable backend" in text or "no available kernel" in text
