"""What comes before joint attention, fused: norms of queries and keys, rotation, and joining the streams.

For the q, k, v that an image's and a text's projection give, in one pass over memory,

    q̂ = R(position)·(q/√(mean(q²) + ε)·w)   and so for k, with weights of their own for each stream;   v̂ = v

and all tokens side by side in one tensor each, which any attention can take. The norm is RMSNorm over a head
(Zhang and Sennrich 2019, arXiv 1910.07467; of queries and keys: Henry et al. 2020, arXiv 2010.04245), the
rotation that of RoFormer (Su et al. 2021, arXiv 2104.09864) on neighbouring pairs of columns, with the
position in each of an image's directions (FLUX, Qwen-Image). Both may be left out.

Shapes: B batch, N image tokens, L text tokens, J = N + L, A heads, D size of a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.attention import chosen_backend
from kernels.attention_op import DTYPES, empty_heads_last, heads_last
from kernels.launch import INTERPRETED, require_triton

ORDERS = ("image-first", "text-first")
Weights = tuple[Tensor, Tensor, Tensor, Tensor]
"""w of image queries, image keys, text queries, text keys, (D,) each."""


def prepare(
    image_BN3AD: Tensor,
    text_BL3AD: Tensor | None = None,
    *,
    weights: Weights | None = None,
    rotation: tuple[Tensor, Tensor] | None = None,
    order: str = "image-first",
    eps: float = 1e-6,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """Joint q̂, k̂, v̂, (B, A, J, D) each, lying in memory as (B, J, A, D).

    image, text  fused projections as (B, tokens, 3, A, D) in the order q, k, v, with any strides; no text,
                 or text of no tokens, prepares one stream
    weights      of the norms; None is no norm
    rotation     cos and sin of the angles, float32 (J, D/2), in the joint order: see `rotation_2d`
    order        `image-first` (Stable Diffusion 3 as diffusers has it) or `text-first` (FLUX)
    backend      of attention, as everywhere: `triton` is one kernel, any other plain PyTorch

    Raises ValueError where shapes disagree or `triton` cannot run these tensors.
    """
    if text_BL3AD is None:
        text_BL3AD = image_BN3AD[:, :0]
    _check(image_BN3AD, text_BL3AD, weights, rotation, order)
    first, second = (image_BN3AD, text_BL3AD) if order == "image-first" else (text_BL3AD, image_BN3AD)
    w = list(weights or ())
    w = w if order == "image-first" else w[2:] + w[:2]
    cos_JP, sin_JP = rotation or (None, None)
    if chosen_backend(backend) != "triton":
        return reference_prepare(first, second, w, cos_JP, sin_JP, eps)
    require_triton(image_BN3AD, "preparing joint attention")
    if image_BN3AD.dtype not in DTYPES:
        raise ValueError(
            f"preparing joint attention by triton takes float16, bfloat16 or float32: got {image_BN3AD.dtype}"
        )
    return prepare_forward(first, second, w, cos_JP, sin_JP, eps)


def reference_prepare(
    first_BN3AD: Tensor,
    second_BL3AD: Tensor,
    weights: Sequence[Tensor],
    cos_JP: Tensor | None,
    sin_JP: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The definition, in float32 (float64 stays float64), for streams and weights in the joint order."""
    joint = []
    for part in range(3):
        streams = [stream[:, :, part].transpose(1, 2) for stream in (first_BN3AD, second_BL3AD)]
        if part < 2 and weights:
            streams = [_rms(x, w, eps) for x, w in zip(streams, weights[part::2], strict=True)]
        x_BAJD = torch.cat(streams, 2)
        joint.append(x_BAJD if part == 2 or cos_JP is None else rotate(x_BAJD, cos_JP, sin_JP))
    return joint[0], joint[1], joint[2]


def rotate(x_BAJD: Tensor, cos_JP: Tensor, sin_JP: Tensor | None) -> Tensor:
    """Columns 2p and 2p + 1 turned by the angle of pair p."""
    assert sin_JP is not None
    wide = torch.promote_types(x_BAJD.dtype, torch.float32)
    even, odd = x_BAJD.to(wide).unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos_JP.to(wide), sin_JP.to(wide)
    turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1)
    return turned.flatten(-2).to(x_BAJD.dtype)


def rotation_2d(
    height: int,
    width: int,
    axes: Sequence[int],
    *,
    text: int = 0,
    order: str = "image-first",
    theta: float = 10_000.0,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """cos and sin, (J, D/2) each, for an image of height × width tokens and `text` tokens at position 0.

    axes   columns of a head for each coordinate (index, row, column), even, their sum D: FLUX has 16, 56, 56;
           the index is 0 everywhere
    angle  position·θ^(−2i/d) for pair i of a coordinate with d columns

    Raises ValueError where an axis is odd.
    """
    if len(axes) != 3 or any(d % 2 for d in axes):
        raise ValueError(f"axes are three even numbers of columns, such as (16, 56, 56): got {tuple(axes)}")
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    positions_N3 = torch.stack([torch.zeros_like(rows), rows, columns], -1).view(-1, 3)
    nowhere_L3 = positions_N3.new_zeros(text, 3)
    both = [positions_N3, nowhere_L3] if order == "image-first" else [nowhere_L3, positions_N3]
    positions_J3 = torch.cat(both).double()
    angles = []
    for axis, d in enumerate(axes):
        rates = theta ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
        angles.append(positions_J3[:, axis, None] * rates)
    angles_JP = torch.cat(angles, 1)
    return angles_JP.cos().float().to(device), angles_JP.sin().float().to(device)


def _rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)
    return F.rms_norm(x.to(wide), x.shape[-1:], weight.to(wide), eps).to(x.dtype)


@torch.library.custom_op("noisebench::prepare", mutates_args=(), device_types="cuda")
def prepare_forward(
    first_BN3AD: Tensor,
    second_BL3AD: Tensor,
    weights: Sequence[Tensor],
    cos_JP: Tensor | None,
    sin_JP: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """q̂, k̂, v̂ of streams in the joint order, with their four weights or none."""
    from kernels.jit.prepare import launch_forward

    return launch_forward(first_BN3AD, second_BL3AD, weights, cos_JP, sin_JP, eps)


@torch.library.custom_op("noisebench::prepare_backward", mutates_args=(), device_types="cuda")
def prepare_backward(
    dq_BAJD: Tensor,
    dk_BAJD: Tensor,
    dv_BAJD: Tensor,
    first_BN3AD: Tensor,
    second_BL3AD: Tensor,
    weights: Sequence[Tensor],
    cos_JP: Tensor | None,
    sin_JP: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of both projections, contiguous, and of the weights, float32 (4, D) or (0, D)."""
    from kernels.jit.prepare import launch_backward

    gradients = (dq_BAJD, dk_BAJD, dv_BAJD)
    return launch_backward(gradients, first_BN3AD, second_BL3AD, weights, cos_JP, sin_JP, eps)


@prepare_forward.register_kernel("cpu")
def _forward_on_cpu(
    first_BN3AD: Tensor,
    second_BL3AD: Tensor,
    weights: Sequence[Tensor],
    cos_JP: Tensor | None,
    sin_JP: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    if INTERPRETED and first_BN3AD.dtype in DTYPES:
        from kernels.jit.prepare import launch_forward

        return launch_forward(first_BN3AD, second_BL3AD, weights, cos_JP, sin_JP, eps)
    q, k, v = reference_prepare(first_BN3AD, second_BL3AD, weights, cos_JP, sin_JP, eps)
    return heads_last(q.clone()), heads_last(k.clone()), heads_last(v.clone())


@prepare_backward.register_kernel("cpu")
def _backward_on_cpu(
    dq_BAJD: Tensor,
    dk_BAJD: Tensor,
    dv_BAJD: Tensor,
    first_BN3AD: Tensor,
    second_BL3AD: Tensor,
    weights: Sequence[Tensor],
    cos_JP: Tensor | None,
    sin_JP: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    gradients = (dq_BAJD, dk_BAJD, dv_BAJD)
    if INTERPRETED and first_BN3AD.dtype in DTYPES:
        from kernels.jit.prepare import launch_backward

        return launch_backward(gradients, first_BN3AD, second_BL3AD, weights, cos_JP, sin_JP, eps)
    return reference_backward(gradients, first_BN3AD, second_BL3AD, weights, cos_JP, sin_JP, eps)


def reference_backward(
    gradients: tuple[Tensor, Tensor, Tensor],
    first_BN3AD: Tensor,
    second_BL3AD: Tensor,
    weights: Sequence[Tensor],
    cos_JP: Tensor | None,
    sin_JP: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """g = Rᵀ·dz, dw = Σ g·x̂, dx = r·(g·w − x̂·mean(g·w·x̂)) with x̂ = x·r, r = (mean(x²) + ε)^−½."""
    wide = torch.promote_types(first_BN3AD.dtype, torch.float32)
    streams = (first_BN3AD, second_BL3AD)
    dstreams = [torch.zeros_like(x, memory_format=torch.contiguous_format) for x in streams]
    dw_WD = first_BN3AD.new_zeros(len(weights), first_BN3AD.shape[-1], dtype=wide)
    for part, dz_BAJD in enumerate(gradients):
        g_BAJD = dz_BAJD.to(wide)
        if part < 2 and cos_JP is not None and sin_JP is not None:
            g_BAJD = rotate(g_BAJD, cos_JP, -sin_JP)
        split = g_BAJD.transpose(1, 2).split([x.shape[1] for x in streams], 1)
        for index, (x_BN3AD, g_BNAD) in enumerate(zip(streams, split, strict=True)):
            if part < 2 and weights:
                x, w = x_BN3AD[:, :, part].to(wide), weights[2 * index + part].to(wide)
                r = (x.square().mean(-1, keepdim=True) + eps).rsqrt()
                dw_WD[2 * index + part] = (g_BNAD * x * r).sum((0, 1, 2))
                gw = g_BNAD * w
                g_BNAD = r * (gw - x * r * (gw * x * r).mean(-1, keepdim=True))
            dstreams[index][:, :, part] = g_BNAD.to(x_BN3AD.dtype)
    return dstreams[0], dstreams[1], dw_WD


@prepare_forward.register_fake
def _fake_forward(
    first_BN3AD: Tensor,
    second_BL3AD: Tensor,
    weights: Sequence[Tensor],
    cos_JP: Tensor | None,
    sin_JP: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    B, N, _, A, D = first_BN3AD.shape
    like = first_BN3AD.new_empty(B, A, N + second_BL3AD.shape[1], D)
    return empty_heads_last(like), empty_heads_last(like), empty_heads_last(like)


@prepare_backward.register_fake
def _fake_backward(
    dq_BAJD: Tensor,
    dk_BAJD: Tensor,
    dv_BAJD: Tensor,
    first_BN3AD: Tensor,
    second_BL3AD: Tensor,
    weights: Sequence[Tensor],
    cos_JP: Tensor | None,
    sin_JP: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    wide = torch.promote_types(first_BN3AD.dtype, torch.float32)
    dw_WD = first_BN3AD.new_empty(len(weights), first_BN3AD.shape[-1], dtype=wide)
    return first_BN3AD.new_empty(first_BN3AD.shape), second_BL3AD.new_empty(second_BL3AD.shape), dw_WD


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    first_BN3AD, second_BL3AD, weights, cos_JP, sin_JP, ctx.eps = inputs
    ctx.save_for_backward(first_BN3AD, second_BL3AD, cos_JP, sin_JP, *weights)


def _gradients(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
    first_BN3AD, second_BL3AD, cos_JP, sin_JP, *weights = ctx.saved_tensors
    first, second, dw_WD = prepare_backward(
        *gradients, first_BN3AD, second_BL3AD, weights, cos_JP, sin_JP, ctx.eps
    )
    dw = [row.to(weight.dtype) for row, weight in zip(dw_WD.unbind(0), weights, strict=True)]
    return first, second, dw, None, None, None


prepare_forward.register_autograd(_gradients, setup_context=_keep)


def _check(
    image: Tensor,
    text: Tensor,
    weights: Weights | None,
    rotation: tuple[Tensor, Tensor] | None,
    order: str,
) -> None:
    if order not in ORDERS:
        raise ValueError(f"order {order!r} is unknown: use one of {', '.join(ORDERS)}")
    shapes = tuple(image.shape), tuple(text.shape)
    of_text = (*shapes[1][:1], *shapes[1][2:])
    if image.ndim != 5 or image.shape[2] != 3 or of_text != (*shapes[0][:1], *shapes[0][2:]):
        raise ValueError(
            f"joint attention needs image (B, N, 3, A, D) and text (B, L, 3, A, D): got {shapes[0]} and "
            f"{shapes[1]}"
        )
    if image.dtype != text.dtype:
        raise ValueError(f"joint attention needs streams of one dtype: got {image.dtype} and {text.dtype}")
    tokens, D = image.shape[1] + text.shape[1], image.shape[-1]
    if weights is not None and [tuple(w.shape) for w in weights] != [(D,)] * 4:
        got = [tuple(w.shape) for w in weights]
        raise ValueError(f"weights of the norms are four of shape ({D},), or None: got {got}")
    if rotation is not None and [tuple(r.shape) for r in rotation] != [(tokens, math.ceil(D / 2))] * 2:
        got = [tuple(r.shape) for r in rotation]
        raise ValueError(f"rotation is cos and sin of shape ({tokens}, {D // 2}): got {got}")
    if rotation is not None and D % 2:
        raise ValueError(f"a rotation turns pairs of columns, and a head of {D} has an odd one: leave it out")
