"""Fused attention as an operator of PyTorch: Triton on a GPU, its plain-PyTorch twin on the CPU.

`torch.ops.noisebench.attention_forward` gives the output and the log-sum-exp in units of log 2, from which
`torch.ops.noisebench.attention_backward` makes the probabilities again. Both are opaque to the compiler,
differentiable once, and deterministic.

Shapes: B batch, H heads, L queries, S keys, D size of a head.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kernels.launch import INTERPRETED

LARGEST_HEAD = 128
"""Columns of a head: more would need other tiles."""
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
"""What the Triton kernels compute in; float32 with IEEE products, not TF32."""


@torch.library.custom_op("noisebench::attention_forward", mutates_args=(), device_types="cuda")
def attention_forward(
    q_BHLD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, key_lengths_B: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor]:
    """softmax(q·kᵀ/√D)·v (B, H, L, D), lying in memory as (B, L, H, D), and log2 Σ_j 2^(s_ij) (B, H, L).

    Strides may be any: rows of D columns that are not contiguous are copied first.
    """
    from kernels.jit.attention import launch_forward

    return launch_forward(q_BHLD, k_BHSD, v_BHSD, key_lengths_B, causal)


@torch.library.custom_op("noisebench::attention_backward", mutates_args=(), device_types="cuda")
def attention_backward(
    do_BHLD: Tensor,
    dlse_BHL: Tensor | None,
    q_BHLD: Tensor,
    k_BHSD: Tensor,
    v_BHSD: Tensor,
    o_BHLD: Tensor,
    lse_BHL: Tensor,
    key_lengths_B: Tensor | None,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, lying in memory as (B, L, H, D) and (B, S, H, D), from those of o and lse."""
    from kernels.jit.attention import launch_backward

    return launch_backward(do_BHLD, dlse_BHL, q_BHLD, k_BHSD, v_BHSD, o_BHLD, lse_BHL, key_lengths_B, causal)


@attention_forward.register_kernel("cpu")
def forward_twin(
    q_BHLD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, key_lengths_B: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor]:
    """The same in plain PyTorch; in a process that interprets Triton, the kernel itself."""
    if INTERPRETED and q_BHLD.dtype in DTYPES:
        from kernels.jit.attention import launch_forward

        return launch_forward(q_BHLD, k_BHSD, v_BHSD, key_lengths_B, causal)
    s_BHLS = scores(q_BHLD, k_BHSD, key_lengths_B, causal)
    lse_BHL = s_BHLS.logsumexp(-1)
    o_BHLD = probabilities(s_BHLS, lse_BHL) @ v_BHSD.to(s_BHLS.dtype)
    return heads_last(o_BHLD.to(q_BHLD.dtype)), lse_BHL / math.log(2)


@attention_backward.register_kernel("cpu")
def backward_twin(
    do_BHLD: Tensor,
    dlse_BHL: Tensor | None,
    q_BHLD: Tensor,
    k_BHSD: Tensor,
    v_BHSD: Tensor,
    o_BHLD: Tensor,
    lse_BHL: Tensor,
    key_lengths_B: Tensor | None,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """dv = pᵀ·do, ds = p·(do·vᵀ − Σ do·o + dlse·log2 e), dq = ds·k/√D, dk = dsᵀ·q/√D."""
    if INTERPRETED and q_BHLD.dtype in DTYPES:
        from kernels.jit.attention import launch_backward

        return launch_backward(
            do_BHLD, dlse_BHL, q_BHLD, k_BHSD, v_BHSD, o_BHLD, lse_BHL, key_lengths_B, causal
        )
    s_BHLS = scores(q_BHLD, k_BHSD, key_lengths_B, causal)
    wide, scale = s_BHLS.dtype, q_BHLD.shape[-1] ** -0.5
    q, k, v, do, o = (x.to(wide) for x in (q_BHLD, k_BHSD, v_BHSD, do_BHLD, o_BHLD))
    p_BHLS = probabilities(s_BHLS, lse_BHL * math.log(2))
    delta_BHL = (do * o).sum(-1)
    if dlse_BHL is not None:
        delta_BHL = delta_BHL - dlse_BHL * math.log2(math.e)
    ds_BHLS = p_BHLS * (do @ v.mT - delta_BHL[..., None])
    gradients = (scale * (ds_BHLS @ k), scale * (ds_BHLS.mT @ q), p_BHLS.mT @ do)
    dq, dk, dv = (heads_last(x.to(q_BHLD.dtype)) for x in gradients)
    return dq, dk, dv


def scores(
    q_BHLD: Tensor,
    k_BHSD: Tensor,
    key_lengths_B: Tensor | None,
    causal: bool,
    unmasked_B111: Tensor | None = None,
) -> Tensor:
    """q·kᵀ/√D in float32 (float64 stays float64), −∞ where the key is not seen: (B, H, L, S).

    Samples of `unmasked` see all keys all the same.
    """
    wide = torch.promote_types(q_BHLD.dtype, torch.float32)
    s_BHLS = q_BHLD.to(wide) @ k_BHSD.to(wide).mT / math.sqrt(q_BHLD.shape[-1])
    seen = seen_keys(s_BHLS.shape[-2], s_BHLS.shape[-1], key_lengths_B, causal, q_BHLD.device)
    if seen is None:
        return s_BHLS
    return s_BHLS.masked_fill(~(seen if unmasked_B111 is None else seen | unmasked_B111), -math.inf)


def seen_keys(
    queries: int, keys: int, key_lengths_B: Tensor | None, causal: bool, device: torch.device
) -> Tensor | None:
    """Which keys each query sees, for broadcasting to (B, H, L, S); None where all see all."""
    seen = torch.ones(queries, keys, dtype=torch.bool, device=device).tril() if causal else None
    if key_lengths_B is None:
        return seen
    theirs = (torch.arange(keys, device=device) < key_lengths_B[:, None])[:, None, None, :]
    return theirs if seen is None else theirs & seen


def probabilities(s_BHLS: Tensor, lse_BHL: Tensor) -> Tensor:
    """exp(s − lse); zeros where a query sees no key."""
    return (s_BHLS - lse_BHL.nan_to_num(neginf=0.0)[..., None]).exp()


def heads_last(x_BHLD: Tensor) -> Tensor:
    """The same tensor, in memory (B, L, H, D), as the projection after attention wants it."""
    return x_BHLD.transpose(1, 2).contiguous().transpose(1, 2)


def empty_heads_last(like_BHLD: Tensor) -> Tensor:
    """Uninitialised, of that shape, in memory (B, L, H, D)."""
    B, H, L, D = like_BHLD.shape
    return like_BHLD.new_empty(B, L, H, D).transpose(1, 2)


@attention_forward.register_fake
def _fake_forward(
    q_BHLD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, key_lengths_B: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(q_BHLD.dtype, torch.float32)
    return empty_heads_last(q_BHLD), q_BHLD.new_empty(q_BHLD.shape[:3], dtype=wide)


@attention_backward.register_fake
def _fake_backward(
    do_BHLD: Tensor,
    dlse_BHL: Tensor | None,
    q_BHLD: Tensor,
    k_BHSD: Tensor,
    v_BHSD: Tensor,
    o_BHLD: Tensor,
    lse_BHL: Tensor,
    key_lengths_B: Tensor | None,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return empty_heads_last(q_BHLD), empty_heads_last(k_BHSD), empty_heads_last(v_BHSD)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q_BHLD, k_BHSD, v_BHSD, key_lengths_B, ctx.causal = inputs
    ctx.save_for_backward(q_BHLD, k_BHSD, v_BHSD, *output, key_lengths_B)
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, do_BHLD: Tensor | None, dlse_BHL: Tensor | None) -> tuple[Tensor | None, ...]:
    q_BHLD, k_BHSD, v_BHSD, o_BHLD, lse_BHL, key_lengths_B = ctx.saved_tensors
    if do_BHLD is None:
        if dlse_BHL is None:
            return None, None, None, None, None
        do_BHLD = torch.zeros_like(o_BHLD)
    gradients = attention_backward(
        do_BHLD, dlse_BHL, q_BHLD, k_BHSD, v_BHSD, o_BHLD, lse_BHL, key_lengths_B, ctx.causal
    )
    return *gradients, None, None


attention_forward.register_autograd(_gradients, setup_context=_keep)
