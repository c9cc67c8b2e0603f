"""Norm, rotation and joining of two streams in one launch, and the gradients in another.

A program owns a tile of tokens of one stream and one head, and makes its q̂, k̂ and v̂. With r the inverse
root mean square of a row and x̂ = x·r:

    forward   y = x̂·w,  z_c = y_c·cos_p + s_c·y_c'·sin_p,   p = c div 2,  c' the other of the pair, s = −1, +1
    backward  g_c = dz_c·cos_p − s_c·dz_c'·sin_p,  dw = Σ_rows g·x̂,  dx = r·(g·w − x̂·mean(g·w·x̂))

Weight gradients are a row for each program, summed afterwards: the same bits every time.

Shapes: B batch, N and L tokens of the first and second stream, J = N + L, A heads, D size of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention_op import empty_heads_last
from kernels.configurations import CAPABILITIES, HEAD_SIZES
from kernels.jit.attention import TRITON_TYPES
from kernels.shipped import Shipped

ROWS, WARPS = 32, 4
"""Tokens of a tile: a quarter of a warp's 16-byte loads each, bound by memory."""


@triton.jit
def load_rows(ptr, row_stride, rows_left, ROWS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr):
    """A tile (ROWS, WIDTH) in float32, zero outside."""
    rows, columns = tl.arange(0, ROWS)[:, None], tl.arange(0, WIDTH)[None, :]
    inside = (rows < rows_left) & (columns < D)
    return tl.load(ptr + rows * row_stride + columns, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def load_partners(ptr, row_stride, rows_left, ROWS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr):
    """The same tile with the columns of each pair exchanged; what was just read is in the cache."""
    rows, columns = tl.arange(0, ROWS)[:, None], (tl.arange(0, WIDTH) ^ 1)[None, :]
    inside = (rows < rows_left) & (columns < D)
    return tl.load(ptr + rows * row_stride + columns, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def load_weight(ptr, D: tl.constexpr, WIDTH: tl.constexpr, PARTNER: tl.constexpr):
    """w as (1, WIDTH), its pairs exchanged where PARTNER."""
    columns = tl.arange(0, WIDTH)
    if PARTNER:
        columns = columns ^ 1
    return tl.load(ptr + columns, mask=columns < D, other=0.0).to(tl.float32)[None, :]


@triton.jit
def load_angles(ptr, j_start, rows_left, ROWS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr):
    """cos or sin of each column's pair, (ROWS, WIDTH)."""
    rows, columns = tl.arange(0, ROWS)[:, None], tl.arange(0, WIDTH)[None, :]
    inside = (rows < rows_left) & (columns < D)
    return tl.load(ptr + (j_start + rows) * (D // 2) + columns // 2, mask=inside, other=0.0)


@triton.jit
def store_rows(x, ptr, row_stride, rows_left, ROWS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr):
    """Write a tile in the dtype of the pointer, rows and columns that are there."""
    rows, columns = tl.arange(0, ROWS)[:, None], tl.arange(0, WIDTH)[None, :]
    inside = (rows < rows_left) & (columns < D)
    tl.store(ptr + rows * row_stride + columns, x.to(ptr.dtype.element_ty), mask=inside)


@triton.jit
def prepared(
    ptr, w_ptr, cos, sin, row_stride, rows_left, eps,
    ROWS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, NORMED: tl.constexpr, TURNED: tl.constexpr,
):  # fmt: skip
    """Queries or keys of a tile, normed and turned."""
    y = load_rows(ptr, row_stride, rows_left, ROWS, D, WIDTH)
    r = tl.rsqrt(tl.sum(y * y, 1) / D + eps)[:, None]
    if NORMED:
        y = y * r * load_weight(w_ptr, D, WIDTH, False)
    if TURNED:
        partner = load_partners(ptr, row_stride, rows_left, ROWS, D, WIDTH)
        if NORMED:
            partner = partner * r * load_weight(w_ptr, D, WIDTH, True)
        sign = (tl.arange(0, WIDTH) % 2 * 2 - 1).to(tl.float32)[None, :]
        y = tl.fma(y, cos, sign * partner * sin)
    return y


@triton.jit
def returned(
    x_ptr, dz_ptr, w_ptr, dw_ptr, cos, sin, x_row, dz_row, rows_left, eps,
    ROWS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, NORMED: tl.constexpr, TURNED: tl.constexpr,
):  # fmt: skip
    """Gradient of queries or keys of a tile; that of the weight goes to `dw_ptr`."""
    g = load_rows(dz_ptr, dz_row, rows_left, ROWS, D, WIDTH)
    if TURNED:
        partner = load_partners(dz_ptr, dz_row, rows_left, ROWS, D, WIDTH)
        sign = (tl.arange(0, WIDTH) % 2 * 2 - 1).to(tl.float32)[None, :]
        g = tl.fma(g, cos, -(sign * partner * sin))
    if NORMED:
        x = load_rows(x_ptr, x_row, rows_left, ROWS, D, WIDTH)
        r = tl.rsqrt(tl.sum(x * x, 1) / D + eps)[:, None]
        x_hat = x * r
        columns = tl.arange(0, WIDTH)
        tl.store(dw_ptr + columns, tl.sum(g * x_hat, 0), mask=columns < D)
        g *= load_weight(w_ptr, D, WIDTH, False)
        inner = (tl.sum(g * x_hat, 1) / D)[:, None]
        g = r * tl.fma(x_hat, -inner, g)
    return g


@triton.jit
def prepare_kernel(
    first_ptr, second_ptr, q_ptr, k_ptr, v_ptr, cos_ptr, sin_ptr,
    w1q_ptr, w1k_ptr, w2q_ptr, w2k_ptr, eps,
    first_batch, first_row, first_part, first_head, second_batch, second_row, second_part, second_head,
    joint_batch, joint_head, joint_row, A, N, L,
    D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, NORMED: tl.constexpr, TURNED: tl.constexpr,
):  # fmt: skip
    """q̂, k̂, v̂ of one tile; program (tile of the first stream, then of the second; batch·A + head)."""
    tile, first_tiles = tl.program_id(0), tl.cdiv(N, ROWS)
    batch, head = (tl.program_id(1) // A).to(tl.int64), (tl.program_id(1) % A).to(tl.int64)
    if tile < first_tiles:
        start, length, j_start = tile * ROWS, N, tile * ROWS
        x_ptr = first_ptr + batch * first_batch + head * first_head + start.to(tl.int64) * first_row
        row, part, wq_ptr, wk_ptr = first_row, first_part, w1q_ptr, w1k_ptr
    else:
        start, length, j_start = (tile - first_tiles) * ROWS, L, (tile - first_tiles) * ROWS + N
        x_ptr = second_ptr + batch * second_batch + head * second_head + start.to(tl.int64) * second_row
        row, part, wq_ptr, wk_ptr = second_row, second_part, w2q_ptr, w2k_ptr
    left = length - start
    cos, sin = 0.0, 0.0
    if TURNED:
        cos = load_angles(cos_ptr, j_start, left, ROWS, D, WIDTH)
        sin = load_angles(sin_ptr, j_start, left, ROWS, D, WIDTH)
    to = batch * joint_batch + head * joint_head + j_start.to(tl.int64) * joint_row
    q = prepared(x_ptr, wq_ptr, cos, sin, row, left, eps, ROWS, D, WIDTH, NORMED, TURNED)
    store_rows(q, q_ptr + to, joint_row, left, ROWS, D, WIDTH)
    k = prepared(x_ptr + part, wk_ptr, cos, sin, row, left, eps, ROWS, D, WIDTH, NORMED, TURNED)
    store_rows(k, k_ptr + to, joint_row, left, ROWS, D, WIDTH)
    v = load_rows(x_ptr + 2 * part, row, left, ROWS, D, WIDTH)
    store_rows(v, v_ptr + to, joint_row, left, ROWS, D, WIDTH)


@triton.jit
def prepare_backward_kernel(
    dq_ptr, dk_ptr, dv_ptr, first_ptr, second_ptr, dfirst_ptr, dsecond_ptr, dw_ptr, cos_ptr, sin_ptr,
    w1q_ptr, w1k_ptr, w2q_ptr, w2k_ptr, eps,
    dq_batch, dq_head, dq_row, dk_batch, dk_head, dk_row, dv_batch, dv_head, dv_row,
    first_batch, first_row, first_part, first_head, second_batch, second_row, second_part, second_head,
    A, N, L,
    D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, NORMED: tl.constexpr, TURNED: tl.constexpr,
):  # fmt: skip
    """Gradients of one tile of a projection, written contiguous as (B, tokens, 3, A, D)."""
    tile, first_tiles = tl.program_id(0), tl.cdiv(N, ROWS)
    batch, head = (tl.program_id(1) // A).to(tl.int64), (tl.program_id(1) % A).to(tl.int64)
    if tile < first_tiles:
        start, length, j_start = tile * ROWS, N, tile * ROWS
        x_ptr = first_ptr + batch * first_batch + head * first_head + start.to(tl.int64) * first_row
        row, part, wq_ptr, wk_ptr, dx_ptr = first_row, first_part, w1q_ptr, w1k_ptr, dfirst_ptr
    else:
        start, length, j_start = (tile - first_tiles) * ROWS, L, (tile - first_tiles) * ROWS + N
        x_ptr = second_ptr + batch * second_batch + head * second_head + start.to(tl.int64) * second_row
        row, part, wq_ptr, wk_ptr, dx_ptr = second_row, second_part, w2q_ptr, w2k_ptr, dsecond_ptr
    left, dx_row = length - start, 3 * A * D
    dx_ptr += (batch * length + start) * dx_row + head * D
    cos, sin = 0.0, 0.0
    if TURNED:
        cos = load_angles(cos_ptr, j_start, left, ROWS, D, WIDTH)
        sin = load_angles(sin_ptr, j_start, left, ROWS, D, WIDTH)
    dw_ptr += (tile.to(tl.int64) * tl.num_programs(1) + tl.program_id(1)) * 2 * D
    j = j_start.to(tl.int64)
    dz_ptr = dq_ptr + batch * dq_batch + head * dq_head + j * dq_row
    dq = returned(
        x_ptr, dz_ptr, wq_ptr, dw_ptr, cos, sin, row, dq_row, left, eps, ROWS, D, WIDTH, NORMED, TURNED
    )
    store_rows(dq, dx_ptr, dx_row, left, ROWS, D, WIDTH)
    dz_ptr = dk_ptr + batch * dk_batch + head * dk_head + j * dk_row
    dk = returned(
        x_ptr + part, dz_ptr, wk_ptr, dw_ptr + D, cos, sin, row, dk_row, left, eps,
        ROWS, D, WIDTH, NORMED, TURNED,
    )  # fmt: skip
    store_rows(dk, dx_ptr + A * D, dx_row, left, ROWS, D, WIDTH)
    dv = load_rows(dv_ptr + batch * dv_batch + head * dv_head + j * dv_row, dv_row, left, ROWS, D, WIDTH)
    store_rows(dv, dx_ptr + 2 * A * D, dx_row, left, ROWS, D, WIDTH)


def launch_forward(
    first: Tensor,
    second: Tensor,
    weights: Sequence[Tensor],
    cos: Tensor | None,
    sin: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `kernels.prepare.prepare_forward`."""
    first, second = (x if x.stride(-1) == 1 else x.contiguous() for x in (first, second))
    (B, N, _, A, D), L = first.shape, second.shape[1]
    q, k, v = (empty_heads_last(first.new_empty(B, A, N + L, D)) for _ in range(3))
    if q.numel():
        prepare_kernel[(_tiles(N, L), B * A)](
            first, second, q, k, v, *_angles(first, cos, sin), *_weights(first, weights), eps,
            *first.stride()[:4], *second.stride()[:4], *q.stride()[:3], A, N, L,
            **constants(D, bool(weights), cos is not None), num_warps=WARPS,
        )  # fmt: skip
    return q, k, v


def launch_backward(
    gradients: tuple[Tensor, Tensor, Tensor],
    first: Tensor,
    second: Tensor,
    weights: Sequence[Tensor],
    cos: Tensor | None,
    sin: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `kernels.prepare.prepare_backward`."""
    first, second = (x if x.stride(-1) == 1 else x.contiguous() for x in (first, second))
    dq, dk, dv = (x if x.stride(-1) == 1 else x.contiguous() for x in gradients)
    (B, N, _, A, D), L = first.shape, second.shape[1]
    dfirst, dsecond = first.new_empty(first.shape), second.new_empty(second.shape)
    tiles = _tiles(N, L)
    dw = first.new_zeros(tiles, B * A, 2, D, dtype=torch.float32)
    if dq.numel():
        prepare_backward_kernel[(tiles, B * A)](
            dq, dk, dv, first, second, dfirst, dsecond, dw, *_angles(first, cos, sin),
            *_weights(first, weights), eps,
            *(stride for x in (dq, dk, dv) for stride in x.stride()[:3]),
            *first.stride()[:4], *second.stride()[:4], A, N, L,
            **constants(D, bool(weights), cos is not None), num_warps=WARPS,
        )  # fmt: skip
    if not weights:
        return dfirst, dsecond, first.new_zeros(0, D, dtype=torch.float32)
    of_first = triton.cdiv(N, ROWS)
    sums = [part.sum((0, 1)) for part in (dw[:of_first], dw[of_first:])]
    return dfirst, dsecond, torch.cat(sums)


def _tiles(N: int, L: int) -> int:
    return triton.cdiv(N, ROWS) + triton.cdiv(L, ROWS)


def _angles(like: Tensor, cos: Tensor | None, sin: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    if cos is None or sin is None:
        return None, None
    return cos.float().contiguous(), sin.float().contiguous()


def _weights(like: Tensor, weights: Sequence[Tensor]) -> list[Tensor | None]:
    return [w.contiguous() for w in weights] or [None] * 4


def constants(D: int, normed: bool, turned: bool) -> dict[str, Any]:
    """What the kernels are compiled for."""
    width = triton.next_power_of_2(D)
    return {"D": D, "WIDTH": width, "ROWS": ROWS, "NORMED": normed, "TURNED": turned}


def shipped() -> list[Shipped]:
    """Norm and rotation for every head size, dtype and architecture; without one or both at two sizes."""
    every = [
        one(backward, D, dtype, at, True, True)
        for backward, D, dtype, at in product((False, True), HEAD_SIZES, TRITON_TYPES, CAPABILITIES)
    ]
    some = [
        one(backward, D, torch.bfloat16, 90, normed, turned)
        for backward, D in product((False, True), (64, 128))
        for normed, turned in ((True, False), (False, True), (False, False))
    ]
    return every + some


def one(backward: bool, D: int, dtype: torch.dtype, at: int, normed: bool, turned: bool) -> Shipped:
    """One of them, on weights of the dtype of the streams."""
    kernel = prepare_backward_kernel if backward else prepare_kernel
    fixed = constants(D, normed, turned)
    if not normed:
        fixed |= dict.fromkeys(("w1q_ptr", "w1k_ptr", "w2q_ptr", "w2k_ptr"))
    if not turned:
        fixed |= {"cos_ptr": None, "sin_ptr": None}
    special = {"cos_ptr": "*fp32", "sin_ptr": "*fp32", "dw_ptr": "*fp32", "eps": "fp32"}
    pointer = f"*{TRITON_TYPES[dtype]}"
    types = {n: special.get(n, pointer if n.endswith("_ptr") else "i32") for n in kernel.arg_names}
    notes = "" if normed and turned else " norm" * normed + " rotation" * turned or " plain"
    return Shipped(
        name=f"prepare {'backward' if backward else 'forward'} d{D} {str(dtype)[6:]} sm{at}{notes}",
        kernel=kernel,
        types={n: t for n, t in types.items() if n not in fixed},
        constants=fixed,
        capability=at,
        num_warps=WARPS,
        num_stages=3,
        divisible=tuple(n for n in kernel.arg_names if n.endswith(("_batch", "_row", "_part", "_head"))),
        backward=backward,
    )
