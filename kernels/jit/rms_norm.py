"""Kernels of RMSNorm: a program holds whole rows, so that a row is read once in either direction.

With x̂ = x·r, r = (mean(x²) + ε)^−½ and g = ∂/∂y:

    y = x̂·w      ∂/∂x = r·(g·w − x̂·mean(g·w·x̂))      ∂/∂w = Σ_rows g·x̂

r is computed again in the backward pass, which has to read x in any case.

Shapes: A, B, C leading dimensions, D columns, P programs.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.configurations import CAPABILITIES, HEAD_SIZES
from kernels.rms_norm import empty_as
from kernels.shipped import Shipped

DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
FORWARD_ELEMENTS, BACKWARD_ELEMENTS = 4096, 2048
"""Elements of a tile: 32 or 16 a thread, four 16-byte loads of bfloat16 under way in each forward."""
WARPS = 4
PROGRAMS = 512
"""Most programs of a backward launch, each with a row of partial sums; the same on every card."""


@triton.jit
def inverse_rms(x, eps, D: tl.constexpr):
    """r of each row of a tile, (rows, 1)."""
    return tl.rsqrt(tl.sum(x * x, 1, keep_dims=True) * (1.0 / D) + eps)


@triton.jit
def gradient_of_normed(x_hat, r, gw, D: tl.constexpr):
    """∂/∂x of a tile from g·w; columns from D on must hold 0 in both."""
    inner = tl.sum(gw * x_hat, 1, keep_dims=True) * (1.0 / D)
    return r * tl.fma(x_hat, -inner, gw)


@triton.jit
def row_offsets(row, b, c, stride_a, stride_b, stride_c, UNIT: tl.constexpr):
    """Where rows of a flat index begin, for leading dimensions (A, b, c); int64."""
    row = row.to(tl.int64)
    return (row // (b * c) * stride_a + row // c % b * stride_b + row % c * stride_c) * UNIT


@triton.jit
def forward_kernel(
    x_ptr, w_ptr, y_ptr, rows, b, c, x_a, x_b, x_c, y_a, y_b, y_c, eps,
    D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, UNIT: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """ROWS rows; strides in units of UNIT elements, which lets the compiler see their alignment."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = (row < rows)[:, None] & (column < D)[None, :]
    at = row_offsets(row, b, c, x_a, x_b, x_c, UNIT)[:, None] + column[None, :]
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    y = x * inverse_rms(x, eps, D)
    if WEIGHTED:
        y *= tl.load(w_ptr + column, mask=column < D, other=0.0).to(tl.float32)[None, :]
    at = row_offsets(row, b, c, y_a, y_b, y_c, UNIT)[:, None] + column[None, :]
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def backward_kernel(
    g_ptr, x_ptr, w_ptr, dx_ptr, dw_ptr, rows, b, c, g_a, g_b, g_c, x_a, x_b, x_c, dx_a, dx_b, dx_c, eps,
    D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, UNIT: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """Every P-th group of ROWS rows; row p of dw (P, D) gets this program's part of the sum over rows."""
    column = tl.arange(0, WIDTH)
    if WEIGHTED:
        w = tl.load(w_ptr + column, mask=column < D, other=0.0).to(tl.float32)[None, :]
        dw = tl.zeros((ROWS, WIDTH), tl.float32)
    for group in range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0)):
        row = tl.cast(group, tl.int64) * ROWS + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & (column < D)[None, :]
        at = row_offsets(row, b, c, x_a, x_b, x_c, UNIT)[:, None] + column[None, :]
        x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
        at = row_offsets(row, b, c, g_a, g_b, g_c, UNIT)[:, None] + column[None, :]
        g = tl.load(g_ptr + at, mask=inside, other=0.0).to(tl.float32)
        r = inverse_rms(x, eps, D)
        x_hat = x * r
        if WEIGHTED:
            dw = tl.fma(g, x_hat, dw)
            g *= w
        dx = gradient_of_normed(x_hat, r, g, D)
        at = row_offsets(row, b, c, dx_a, dx_b, dx_c, UNIT)[:, None] + column[None, :]
        tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=inside)
    if WEIGHTED:
        tl.store(dw_ptr + tl.program_id(0) * D + column, tl.sum(dw, 0), mask=column < D)


def launch_forward(x_D: Tensor, weight_D: Tensor | None, eps: float) -> Tensor:
    """RMSNorm of x, laid out in memory as x is."""
    y_D = empty_as(x_D)
    x_ABCD, y_ABCD = _by_rows(x_D), _by_rows(y_D)
    constants = _constants(x_ABCD, FORWARD_ELEMENTS, [x_ABCD, y_ABCD], weight_D)
    rows, strides = _rows(x_ABCD), _strides([x_ABCD, y_ABCD], constants["UNIT"])
    if rows:
        grid = (triton.cdiv(rows, constants["ROWS"]),)
        weight = x_D if weight_D is None else weight_D.contiguous()
        forward_kernel[grid](
            x_ABCD, weight, y_ABCD, rows, *x_ABCD.shape[1:3], *strides, eps, **constants, num_warps=WARPS
        )
    return y_D


def launch_backward(
    grad_D: Tensor, x_D: Tensor, weight_D: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Gradients of x and w; the second is empty without w."""
    dx_D = empty_as(x_D)
    tensors = [_by_rows(each) for each in (grad_D, x_D, dx_D)]
    constants = _constants(tensors[1], BACKWARD_ELEMENTS, tensors, weight_D)
    rows, strides = _rows(tensors[1]), _strides(tensors, constants["UNIT"])
    programs = min(PROGRAMS, triton.cdiv(rows, constants["ROWS"]))
    partial_PD = x_D.new_empty(programs, x_D.shape[-1], dtype=torch.float32)
    weight = x_D if weight_D is None else weight_D.contiguous()
    if rows:
        g, x, dx = tensors
        backward_kernel[(programs,)](
            g, x, weight, dx, partial_PD, rows, *x.shape[1:3], *strides, eps, **constants, num_warps=WARPS
        )
    return dx_D, x_D.new_empty(0) if weight_D is None else partial_PD.sum(0).to(weight_D.dtype)


def _by_rows(x_D: Tensor) -> Tensor:
    """x as (A, B, C, D) with rows whole in memory; a copy where its strides do not allow that view."""
    x_D = x_D if x_D.stride(-1) == 1 else x_D.contiguous()
    if x_D.ndim > 4:
        return x_D.reshape(-1, *x_D.shape[-3:])
    return x_D[(None,) * (4 - x_D.ndim)]


def _rows(x_ABCD: Tensor) -> int:
    return x_ABCD.shape[0] * x_ABCD.shape[1] * x_ABCD.shape[2]


def _strides(tensors: list[Tensor], unit: int) -> list[int]:
    return [stride // unit for x_ABCD in tensors for stride in x_ABCD.stride()[:3]]


def tile(D: int, elements: int) -> dict[str, int]:
    """Columns of a tile, a power of two, and the rows that go with them."""
    width = triton.next_power_of_2(D)
    return {"D": D, "WIDTH": width, "ROWS": max(1, elements // width)}


def unit(tensors: list[Tensor]) -> int:
    """8 where all strides but the last are multiples of it, so that 16-byte loads are seen to be aligned.

    Triton itself looks only for multiples of 16 in an argument, which a head of 72 or 88 is not.
    """
    return 8 if all(stride % 8 == 0 for x in tensors for stride in x.stride()[:-1]) else 1


def _constants(x_ABCD: Tensor, elements: int, tensors: list[Tensor], weight_D: Tensor | None) -> dict:
    return {
        **tile(x_ABCD.shape[-1], elements), "UNIT": unit(tensors), "WEIGHTED": weight_D is not None,
    }  # fmt: skip


def shipped() -> list[Shipped]:
    """Both directions with a weight, of the dtype of x, for every head size, dtype and architecture."""
    return [
        _shipped(backward, D, dtype, capability)
        for backward in (False, True)
        for D in HEAD_SIZES
        for dtype in DTYPES
        for capability in CAPABILITIES
    ]


def _shipped(backward: bool, D: int, dtype: str, capability: int) -> Shipped:
    kernel = backward_kernel if backward else forward_kernel
    constants = {**tile(D, BACKWARD_ELEMENTS if backward else FORWARD_ELEMENTS), "UNIT": 8, "WEIGHTED": True}
    return Shipped(
        name=f"rms_norm {'backward' if backward else 'forward'} d{D} {dtype} sm{capability}",
        kernel=kernel,
        types=argument_types(kernel, constants, dtype, {"dw_ptr"}),
        constants=constants,
        capability=capability,
        num_warps=WARPS,
        num_stages=3,
        backward=backward,
    )


def argument_types(kernel: Any, constants: dict, dtype: str, wide: set[str]) -> dict[str, str]:
    """Pointers to `dtype` (to float32 for those in `wide`), a float32 eps, int32 for all else."""

    def kind(name: str) -> str:
        if name.endswith("_ptr"):
            return "*fp32" if name in wide else f"*{DTYPES[dtype]}"
        return "fp32" if name == "eps" else "i32"

    return {name: kind(name) for name in kernel.arg_names if name not in constants}
